"""A page's hints about the list, in every spelling."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkit_exporter.jsonbody import whole_number
from inkit_exporter.paging.pagination import Pagination, read_pagination

DOCUMENTED = {
    "current_page": 1,
    "next_page": 2,
    "page_count": 3,
    "page_size": 100,
    "prev_page": None,
    "total_count": 230,
}
EXPECTED = Pagination(more=True, page_count=3, page_size=100, total_count=230)


@pytest.mark.parametrize(
    "document",
    [
        {"metadata": {"pagination": DOCUMENTED, "sort": {"key": "created_at", "order": 1}}},
        {"metadata": DOCUMENTED},
        {"pagination": DOCUMENTED},
        {"meta": {"pagination": DOCUMENTED}},
        {"metadata": None, **DOCUMENTED},
        {"metadata": {"pagination": {key: str(value) for key, value in DOCUMENTED.items()}}},
        {"metadata": {"pagination": {key: float(value or 0) for key, value in DOCUMENTED.items()}}},
        {"metadata": {"pagination": DOCUMENTED | {"total_count": "2.3e2"}}},
    ],
    ids=str,
)
def test_hints_are_found_in_every_known_place_and_spelling(document: object) -> None:
    assert read_pagination(document, 1) == EXPECTED


@pytest.mark.parametrize(
    ("next_page", "more"),
    [
        (None, False),
        (False, False),
        (True, True),
        (3, True),
        (3.0, True),
        ("3", True),
        ("3e0", True),
        ("https://api.inkit.com/v1/invoke/batch?page_size=100&page=3", True),
        ("/v1/invoke/batch?page=3&sort=-created_at", True),
        ("?page=3", True),
        ("?page=3#end", True),
        ("https://[host]/v1/invoke/batch?page=3", True),
        ("https://[host]/v1/invoke/batch?page=1", None),
        ("cursor-abc", True),
        ({"page": 3}, True),
        ("", False),
        ([], False),
        (0, False),
        (2, None),
        (1, None),
        ("?page=1", None),
    ],
    ids=str,
)
def test_next_page_says_whether_another_page_follows(next_page: object, more: bool | None) -> None:
    assert read_pagination({"metadata": {"pagination": {"next_page": next_page}}}, 2).more is more


@pytest.mark.parametrize(
    "missing", [{}, None, [], "text", 7, {"metadata": []}, {"metadata": {"pagination": "none"}}], ids=str
)
def test_a_page_without_hints_has_empty_pagination(missing: object) -> None:
    assert read_pagination(missing, 1) == Pagination()


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        -1,
        1.5,
        "1.5",
        "-2",
        "two",
        "",
        "NaN",
        float("nan"),
        float("inf"),
        10**400,
        [],
        {},
        "1" * 5000,
    ],
    ids=repr,
)
def test_hints_that_are_not_whole_numbers_are_ignored(value: object) -> None:
    assert whole_number(value) is None


@given(st.integers(0, 2**53))
def test_all_spellings_of_a_number_mean_the_same(number: int) -> None:
    spellings: list[Any] = [number, float(number), str(number), f"{number}.0", f" {number} ", f"{number}e0"]
    assert {whole_number(value) for value in spellings} == {number}


@pytest.mark.parametrize(
    ("hints", "promised"),
    [
        (Pagination(), None),
        (Pagination(more=False), False),
        (Pagination(more=False, page_count=3), True),
        (Pagination(more=False, page_count=2, total_count=200), False),
        (Pagination(more=False, total_count=201), True),
        (Pagination(page_count=1, total_count=0), None),
        (Pagination(total_count=50), None),
        (Pagination(total_count=200), False),
    ],
    ids=str,
)
def test_another_page_follows_unless_all_hints_say_otherwise(hints: Pagination, promised: bool | None) -> None:
    """Page 2 ends with record 200. A count below the records already read is ignored."""
    assert hints.promises(2, 200) is promised
