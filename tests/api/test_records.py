"""Records: any bytes give batches or an error that names the problem."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.conversation import joined, read_parts

from inkit_exporter.api.batches import DESTINATIONS, AccountLabels, Batch, Counts, Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.records import AT_ONCE_BYTES
from inkit_exporter.jsonbody import snake_case
from inkit_exporter.labels import LABEL_LIMIT, OTHER, Labels
from inkit_exporter.paging.pagination import Pagination

NOW = 1_700_000_000.0
EXAMPLE = json.loads((Path(__file__).parent.parent / "samples" / "documented_example.json").read_text())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def read(body: bytes) -> Page:
    """Read a page as a whole, not in parts."""
    return joined(read_parts(body, AccountLabels(), NOW))


def page(*records: str) -> bytes:
    """Return the body of a page with these records."""
    return b'{"items": [%b], "metadata": %b}' % (
        ",".join(records).encode(),
        json.dumps(EXAMPLE["metadata"]).encode(),
    )


def record(**changes: object) -> str:
    return json.dumps(EXAMPLE["items"][0] | changes)


def test_the_documented_example_is_read() -> None:
    documented = read(json.dumps(EXAMPLE).encode())
    pagination = documented.pagination
    assert pagination == Pagination(more=False, page_count=1, page_size=25, total_count=2)
    first, second = documented.batches
    assert first == Batch(
        EXAMPLE["items"][0]["id"],
        "Quarterly statements",
        1699326352.298042,
        "in_progress",
        {"inkit_storage": Counts(1, 1, 0, 0)},
        final=False,
    )
    assert not first.finished
    assert second.finished


@pytest.mark.parametrize(("records", "destinations", "parts"), [(100, 9, 1), (200, 9, 2), (1000, 0, 1), (5, 1000, 3)])
def test_a_page_is_cut_into_parts_by_its_records_and_destinations(records: int, destinations: int, parts: int) -> None:
    counts = {"count": 1, "completed": 1, "failed": 0, "in_progress": 0}
    used = {f"place {i}": counts for i in range(destinations)}
    body = page(*[record(id=f"fb_{i}", destinations=used) for i in range(records)])
    read = list(read_parts(body, AccountLabels(), NOW))
    assert [part.more for part in read] == [True] * (parts - 1) + [False]
    assert [batch.id for part in read for batch in part.batches] == [f"fb_{i}" for i in range(records)]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("In Progress", "in_progress"),
        ("IN_PROGRESS", "in_progress"),
        ("in-progress", "in_progress"),
        ("  Completed\n", "completed"),
        ("Amazon S3", "amazon_s3"),
        ("DocuSign", "docusign"),
        ("Prêt à partir", "prêt_à_partir"),
        ("", "unknown"),
        ("!?", "unknown"),
    ],
)
def test_names_become_snake_case(text: str, label: str) -> None:
    assert snake_case(text) == label


@given(st.text())
def test_snake_case_is_stable_and_has_nothing_to_escape(text: str) -> None:
    label = snake_case(text)
    assert snake_case(label) == label
    assert label and not set(label) & set(' "\\\n{},=')


@given(st.lists(st.text(max_size=80), max_size=200))
def test_the_number_of_labels_is_limited_and_a_label_never_changes(texts: list[str]) -> None:
    labels = Labels(("completed",))
    first = [labels.of(text) for text in texts]
    assert len(set(first) - {OTHER}) <= LABEL_LIMIT
    assert all(len(label) <= 200 for label in first)
    assert [labels.of(text) for text in texts if labels.of(text) != OTHER] == [
        label for label in first if label != OTHER
    ]
    assert labels.of("Completed") == "completed"


def test_labels_are_limited_in_number_and_length() -> None:
    labels = Labels(("completed",))
    assert [labels.of(f"status {i}") for i in range(LABEL_LIMIT)] == [
        *(f"status_{i}" for i in range(LABEL_LIMIT - 1)),
        OTHER,
    ]
    assert labels.of("status 0") == "status_0"
    assert Labels(()).of("x" * 64) == "x" * 64
    assert Labels(()).of("x" * 65) == OTHER


def test_documented_names_have_labels_even_after_many_unknown_names() -> None:
    labels = AccountLabels()
    for i in range(LABEL_LIMIT):
        labels.destinations.of(f"stranger {i}")
        labels.statuses.of(f"stranger {i}")
    assert [labels.destinations.of(name) for name in DESTINATIONS] == list(DESTINATIONS)
    documented = ("in_progress", "completed", "failed", "cancelled")
    assert [labels.statuses.of(status) for status in documented] == list(documented)


names = st.dictionaries(st.sampled_from(["Box", "box", "BOX", "Drop Box", "drop_box", "sepire"]), st.integers(0, 9))


@given(names)
def test_the_counts_of_names_with_the_same_label_are_added_up(counts: dict[str, int]) -> None:
    labelled = Labels(("sepire",)).of_keys({name: Counts(6 * n, n, 2 * n, 3 * n) for name, n in counts.items()})
    for label in labelled.keys() | {snake_case(name) for name in counts}:
        total = sum(n for name, n in counts.items() if snake_case(name) == label)
        assert labelled[label] == Counts(6 * total, total, 2 * total, 3 * total)


@given(st.sampled_from(["items", "metadata", "pagination", "next_page", "total_count", "page_size"]), json_values)
def test_a_page_with_any_value_anywhere_is_decoded_or_refused(key: str, value: Any) -> None:
    page = {"items": [], "metadata": {"pagination": dict(EXAMPLE["metadata"]["pagination"])}}
    place: Any = page if key in page else page["metadata"] if key == "pagination" else page["metadata"]["pagination"]  # type: ignore[index]
    place[key] = value
    try:
        read(json.dumps(page).encode())
    except BadResponse as error:
        assert str(error)


@given(st.sampled_from([*EXAMPLE["items"][0], "box"]), json_values)
def test_a_batch_with_any_value_anywhere_is_decoded_or_refused(key: str, value: Any) -> None:
    record = EXAMPLE["items"][0] | ({"destinations": {"box": value}} if key == "box" else {key: value})
    try:
        batches = read(page(json.dumps(record), '{"id": 1, "created_at": 1699326352}')).batches
    except BadResponse as error:
        assert "Infinity" in json.dumps(record) or "NaN" in json.dumps(record), str(error)
        return
    for batch in batches:
        for counts in batch.destinations.values():
            assert min(counts.count, counts.completed, counts.failed, counts.in_progress) >= 0
        assert len(batch.name) <= 200


def only(record: str) -> Batch:
    """Return the batch of a page with only this record."""
    (batch,) = read(page(record)).batches
    return batch


def problem(record: str) -> str:
    """Return what is wrong with this record."""
    answer = read(page(record, '{"id": 1, "created_at": 1699326352}'))
    assert (len(answer.batches), answer.invalid) == (1, 1)
    (only,) = answer.problems
    return only


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "text", ["2023-11-07T03:05:52.298042", "2023-11-07T03:05:52.298042Z", "2023-11-07T05:05:52.298042+02:00"]
)
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    assert only(record(created_at=text)).created_at == 1699326352.298042


def test_a_name_may_be_missing_and_a_long_one_is_cut() -> None:
    assert only(record(name=None)).name == ""
    assert only(record(name="x" * 300)).name == "x" * 200


def test_a_record_may_be_large_up_to_a_limit() -> None:
    longest = record(remark="x" * (AT_ONCE_BYTES - len(record(remark=""))))
    assert len(longest) == AT_ONCE_BYTES
    assert only(longest).name == "Quarterly statements"
    larger = longest.replace("xx", "xxx", 1)
    assert problem(larger) == f"it has more than {AT_ONCE_BYTES} bytes"
    many = {f"place {i}": COUNTS for i in range(1001)}
    assert problem(record(destinations=many)) == "Expected `object` of length <= 1000 - at `$.destinations`"
    del many["place 1000"]
    assert sum(one.count for one in only(record(destinations=many)).destinations.values()) == 3000


def test_errors_of_malformed_records_name_the_place() -> None:
    answer = read(page(record(), record(created_at="yesterday"), record(), record(id=None)))
    assert (len(answer.batches), answer.invalid) == (2, 2)
    (no_time, no_id) = answer.problems.items()
    assert no_time == ("it is not a time - at `$.created_at`", 2)
    assert no_id == ("Expected `int | str`, got `null` - at `$.id`", 4)
    with pytest.raises(BadResponse, match="missing required field `items`"):
        read(b'{"metadata": {}}')


@pytest.mark.parametrize("bad", range(1, 4))
def test_a_page_is_refused_if_most_of_its_records_are_unreadable(bad: int) -> None:
    unreadable = [record(id=None)] * bad
    good = [record(id=f"fb_{i}") for i in range(bad)]
    assert read(page(*unreadable, *good)).invalid == bad
    with pytest.raises(
        BadResponse, match=rf"^page 1: {bad} of {2 * bad - 1} records can't be read as a batch; record 1: "
    ):
        read(page(*unreadable, *good[1:]))


COUNTS = {"count": 3, "completed": 1, "failed": 1, "in_progress": 1}
DEVIATIONS: dict[str, dict[str, Any]] = {
    "no total": {"total": None},
    "a name that is no text": {"name": {"en": "Invoices"}},
    "an id that is a number": {"id": 17},
    "no status": {"status": None},
    "a status that is a number": {"status": 3},
    "a status in camel case": {"status": "InProgress"},
    "no destinations": {"destinations": None},
    "destinations as an empty list": {"destinations": []},
    "unused destinations that are null": {"destinations": {"box": COUNTS, "sepire": None}},
    "unused destinations that are empty": {"destinations": {"box": COUNTS, "sepire": {}, "dropbox": []}},
    "unused destinations without numbers": {"destinations": {"box": COUNTS, "sepire": dict.fromkeys(COUNTS)}},
    "counts as text": {"destinations": {"box": {key: str(value) for key, value in COUNTS.items()}}},
    "counts with fractions": {"destinations": {"box": {key: float(value) for key, value in COUNTS.items()}}},
    "counts with exponents": {"destinations": {"box": COUNTS | {"count": "3e0"}}},
    "a destination's status of any kind": {"destinations": {"box": COUNTS | {"status": ["done"]}}},
    "unknown fields": {"remark": {"nested": [None]}},
    "a time with an offset": {"created_at": "2023-11-07T05:05:52.298042+02:00"},
    "a time with an offset without a colon": {"created_at": "2023-11-07T05:05:52.298042+0200"},
    "a time without a zone": {"created_at": "2023-11-07T03:05:52.298042"},
    "a time in lower case": {"id": 1, "created_at": "2023-11-07t03:05:52.298042z"},
    "a time with a blank": {"created_at": "2023-11-07 03:05:52.298042Z"},
    "a time with nanoseconds": {"created_at": "2023-11-07T03:05:52.298042123Z"},
    "a time in seconds since the epoch": {"created_at": 1699326352.298042},
    "a time in seconds as text": {"created_at": "1699326352.298042"},
}
NO_DOCUMENTS = {"no destinations", "destinations as an empty list"}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("deviation", DEVIATIONS)
def test_records_with_unusual_but_clear_values_are_read(deviation: str) -> None:
    changes = DEVIATIONS[deviation]
    answer = read(
        page(record(destinations={"box": COUNTS}, **changes) if "destinations" not in changes else record(**changes))
    )
    (batch,) = answer.batches
    assert (answer.invalid, answer.repaired) == (0, 0)
    assert batch.created_at == 1699326352.298042
    assert batch.destinations == ({} if deviation in NO_DOCUMENTS else {"box": Counts(3, 1, 1, 1)})
    assert batch.id == str(changes.get("id", EXAMPLE["items"][0]["id"]))
    assert batch.status == ("unknown" if deviation in ("no status", "a status that is a number") else "in_progress")


@pytest.mark.parametrize("field", ["total", "name", "status", "destinations"])
def test_unneeded_fields_may_be_missing(field: str) -> None:
    rest = {key: value for key, value in EXAMPLE["items"][0].items() if key != field}
    assert len(read(page(json.dumps(rest))).batches) == 1


counted = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)).map(
    lambda n: {"count": sum(n), "completed": n[0], "failed": n[1], "in_progress": n[2]}
)


@given(counted, st.sets(st.sampled_from([*COUNTS]), min_size=1))
def test_missing_counts_are_inferred_only_if_the_others_determine_them(
    counts: dict[str, int], missing: set[str]
) -> None:
    """The oracle tries all numbers: a missing count is determined if only one solution fits the given ones."""
    given = {key: value for key, value in counts.items() if key not in missing}
    fitting = {
        (total, *parts)
        for total in range(10)
        for parts in product(range(10), repeat=3)
        if sum(parts) == total and given.items() <= dict(zip(COUNTS, (total, *parts), strict=True)).items()
    }
    answer = read(page(record(destinations={"box": given}), record(id="fb_other")))
    if not given:
        assert (answer.batches[0].destinations, answer.invalid, answer.repaired) == ({}, 0, 0)
    elif len(fitting) == 1:
        assert (answer.batches[0].destinations["box"], answer.repaired) == (Counts(*counts.values()), 1)
    else:
        assert (answer.batches[0].destinations, answer.incomplete, answer.unreadable) == ({}, 1, {"box": 1})
        assert "too many counts are missing" in next(iter(answer.problems))


@pytest.mark.parametrize(
    ("destination", "problem"),
    [
        (3, "Expected `object | array | null`, got `int`"),
        ("box", "Expected `object | array | null`, got `str`"),
        ([3, 1, 1, 1], "Expected `array` of length <= 0"),
        (COUNTS | {"failed": True}, "Expected `int | null`, got `bool` - at `$.failed`"),
        (COUNTS | {"failed": -1}, "Expected `int` >= 0 - at `$.failed`"),
        (COUNTS | {"failed": 0.5}, "Expected `int | null`, got `float` - at `$.failed`"),
        (COUNTS | {"failed": "some"}, "Expected `int | null`, got `str` - at `$.failed`"),
        (COUNTS | {"count": 2**53 + 1}, "Expected `int` <= 9007199254740992 - at `$.count`"),
        (COUNTS | {"count": 10**400}, "Expected `int` <= 9007199254740992 - at `$.count`"),
        ({"completed": 1}, "too many counts are missing to infer them"),
        ({"count": 2, "completed": 1}, "too many counts are missing to infer them"),
        ({"status": "completed"}, "too many counts are missing to infer them"),
        ({"total": 3, "done": 3}, "too many counts are missing to infer them"),
    ],
    ids=str,
)
def test_an_unreadable_destination_is_left_out_and_counted(destination: object, problem: str) -> None:
    answer = read(page(record(), record(id="fb_2", destinations={"Drop Box": destination, "box": COUNTS})))
    assert answer.batches[1].destinations == {"box": Counts(3, 1, 1, 1)}
    assert (answer.invalid, answer.incomplete, answer.repaired) == (0, 1, 0)
    assert answer.unreadable == {"drop_box": 1}
    assert answer.problems == {f"{problem}, of destination drop_box": 2}
    assert answer.differences == {}


def test_an_unreadable_destination_is_left_out_of_each_record_and_named_once() -> None:
    bad = {"box": 1, "dropbox": COUNTS | {"count": None, "failed": None}, "sepire": COUNTS}
    answer = read(page(*[record(id=f"fb_{i}", destinations=bad) for i in range(3)]))
    assert (len(answer.batches), answer.incomplete, answer.unreadable) == (3, 3, {"box": 3, "dropbox": 3})
    assert list(answer.problems.values()) == [1, 1]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"id": 17}, "Expected `str`, got `int` - at `$.id`"),
        ({"created_at": 1699326352}, "Expected `datetime`, got `int` - at `$.created_at`"),
        (
            {"created_at": "2023-11-07T03:05:52"},
            "Expected `datetime` with a timezone component - at `$.created_at`",
        ),
        ({"status": None}, "Expected `str`, got `null` - at `$.status`"),
        ({"name": 3}, "Expected `str | null`, got `int` - at `$.name`"),
        ({"destinations": None}, "Expected `object`, got `null` - at `$.destinations`"),
        ({"destinations": {"box": {}}}, "Object missing required field `count` - at `$.destinations[...]`"),
        (
            {"destinations": {"box": COUNTS | {"failed": "1"}}},
            "Expected `int`, got `str` - at `$.destinations[...].failed`",
        ),
        (
            {"destinations": {"box": {"count": 3, "completed": 1, "in_progress": 1}}},
            "Object missing required field `failed` - at `$.destinations[...]`; a missing count was inferred",
        ),
        (
            {"id": 17, "destinations": {"box": COUNTS | {"failed": None}}},
            "Expected `int`, got `null` - at `$.destinations[...].failed`; a missing count was inferred",
        ),
    ],
    ids=str,
)
def test_deviations_from_the_documentation_are_reported_with_their_field(
    changes: dict[str, Any], difference: str
) -> None:
    answer = read(page(record(), record(**changes), record(**changes)))
    assert (len(answer.batches), answer.invalid, answer.incomplete) == (3, 0, 0)
    assert (answer.differences, answer.problems) == ({difference: 2}, {})


def test_counts_that_contradict_each_other_are_all_kept() -> None:
    assert only(record(destinations={"box": COUNTS | {"count": 1}})).destinations["box"] == Counts(1, 1, 1, 1)
    two_done_of_one = {"count": "1", "completed": 2, "failed": 0}
    assert only(record(destinations={"box": two_done_of_one})).destinations["box"] == Counts(1, 2, 0, 0)


def spelled(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, Any]]:
    """Draw a number and one of its spellings."""
    ways: list[Callable[[int], Any]] = [int, str, float, lambda n: f"{n}.0", lambda n: f"{n}e0", lambda n: f"{n}.00E+0"]
    return st.tuples(numbers, st.sampled_from(ways)).map(lambda pair: (pair[0], pair[1](pair[0])))


@st.composite
def destinations(draw: st.DrawFn) -> tuple[Counts | None, Any]:
    """Draw a destination's counts and how the API may write them. An unused destination has no counts."""
    if draw(st.booleans()) and draw(st.booleans()):
        return None, draw(st.sampled_from([None, {}, [], {"status": None}, dict.fromkeys(COUNTS)]))
    parts = [draw(spelled(st.integers(0, 10**6))) for _ in range(3)]
    total = draw(spelled(st.just(sum(number for number, _ in parts))))
    written: dict[str, Any] = dict(zip(COUNTS, (total[1], *(text for _, text in parts)), strict=True))
    for key in draw(st.lists(st.sampled_from([*COUNTS]), max_size=1)):
        written |= draw(st.sampled_from([{key: None}, {key: ...}]))
    known = {key: value for key, value in written.items() if value is not ...}
    return Counts(total[0], *(number for number, _ in parts)), draw(st.permutations([*known.items()]).map(dict))


@st.composite
def deviating(draw: st.DrawFn) -> tuple[Batch, dict[str, Any]]:
    """Draw a batch and a record that says the same, in unusual spellings."""
    moment = draw(st.datetimes(datetime(2015, 1, 2), datetime(2023, 11, 13)))
    utc = moment.replace(tzinfo=UTC)
    zone = timezone(timedelta(minutes=draw(st.integers(-14 * 60, 14 * 60))))
    times = [
        utc.isoformat(), utc.astimezone(zone).isoformat(), utc.astimezone(zone).isoformat(" "), moment.isoformat(),
        f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z", f"{moment:%Y-%m-%d %H:%M:%S.%f}000Z", f"{moment:%Y-%m-%d %H:%M:%S.%f} UTC",
        f"{moment:%Y-%m-%d %H:%M:%S.%f}+00", utc.timestamp(), str(utc.timestamp()),
    ]  # fmt: skip
    batch_id = draw(st.text("abc_019", min_size=1) | st.integers(0, 10**30))
    name = draw(st.sampled_from(["", "Invoices", None, 7, True, ["x"], {"en": "Invoices"}]))
    status = draw(
        st.sampled_from([("In Progress", "in_progress"), ("InProgress", "in_progress"), ("PDFFailed", "pdf_failed")])
        | st.sampled_from([(None, "unknown"), (3, "unknown"), ("", "unknown"), ("COMPLETED", "completed")])
    )
    used = draw(st.dictionaries(st.sampled_from(DESTINATIONS), destinations()))
    record: dict[str, Any] = {
        "id": batch_id,
        "created_at": draw(st.sampled_from(times)),
        "status": status[0],
        "destinations": {key: written for key, (_, written) in used.items()},
        "name": name,
        "total": draw(json_values.filter(lambda value: "NaN" not in json.dumps(value))),
    }
    if not used:
        record["destinations"] = draw(st.sampled_from([{}, [], None]))
    for key, default in (("name", None), ("status", None), ("destinations", None), ("total", ...)):
        if record[key] == default and draw(st.booleans()):
            del record[key]
    counts = {key: counts for key, (counts, _) in used.items() if counts}
    text = name if isinstance(name, str) else ""
    final = {"unknown": None, "in_progress": False}.get(status[1], True)
    return Batch(str(batch_id), text, utc.timestamp(), status[1], counts, final), record


@given(st.lists(deviating(), min_size=1, max_size=5))
@settings(max_examples=60)
def test_all_clear_spellings_of_a_record_give_the_same_batch(
    batches: list[tuple[Batch, dict[str, Any]]],
) -> None:
    answer = read(page(*[json.dumps(written) for _, written in batches]))
    assert (answer.invalid, answer.incomplete) == (0, 0), answer.problems
    for batch, (truth, _) in zip(answer.batches, batches, strict=True):
        assert abs(batch.created_at - truth.created_at) < 1e-6
        assert replace(batch, created_at=truth.created_at) == truth


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""}, {"id": None}, {"id": True}, {"id": "x" * 257}, {"id": 1.5},
        {"created_at": None}, {"created_at": True}, {"created_at": "2014-12-31T23:59:59Z"}, {"created_at": 1e300},
        {"created_at": "2023-11-16T00:00:00Z"}, {"created_at": 1699326352298}, {"created_at": ["2023-11-07"]},
        {"destinations": "box"}, {"destinations": 3}, {"destinations": [COUNTS]}, {"destinations": False},
    ],
    ids=str,
)  # fmt: skip
def test_unreadable_records_are_counted(changes: dict[str, Any]) -> None:
    answer = read(page(record(**changes), record(id="fb_good")))
    assert ([batch.id for batch in answer.batches], answer.invalid) == (["fb_good"], 1)
    assert list(answer.problems.values()) == [1]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (b"\xe9t\xe9", "\ufffdt\ufffd"),
        (b"Infinity, NaN", "Infinity, NaN"),
    ],
    ids=["not UTF-8", "NaN in a name"],
)
def test_a_page_with_invalid_utf_8_or_nan_in_unneeded_fields_is_read(written: bytes, name: str) -> None:
    odd = record(name="NAME", total=math.nan, remark=[-math.inf]).encode().replace(b"NAME", written)
    hints = b'{"pagination": {"total_count": NaN, "page_size": 1%b}}' % (b"0" * 5000)
    answer = read(b'{"items": [%b, %b], "metadata": %b}' % (odd, record(id="fb_2").encode(), hints))
    assert answer.batches[0].name == name
    assert (len(answer.batches), answer.invalid, answer.pagination) == (2, 0, Pagination())


@pytest.mark.parametrize(("length", "hints"), [(2**16, Pagination(page_count=3)), (2**16 + 1, Pagination())])
def test_a_pagination_beyond_64_kib_is_no_hint(length: int, hints: Pagination) -> None:
    metadata = json.dumps({"page_count": 3, "remark": ""})
    metadata = metadata.replace('""', '"' + "x" * (length - len(metadata)) + '"')
    assert len(metadata) == length
    assert read(f'{{"items": [], "metadata": {metadata}}}'.encode()).pagination == hints


def test_byte_order_marks_and_all_kinds_of_empty_lists_are_read() -> None:
    assert len(read(b"\xef\xbb\xbf" + page(record())).batches) == 1
    for empty in (
        b'{"items": []}',
        b'{"items": null}',
        b'{"items": [], "metadata": {"pagination": {"next_page": null}}}',
    ):
        assert read(empty).batches == []


@given(st.binary().filter(lambda body: b"items" not in body))
def test_random_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(BadResponse):
        read(body)


@pytest.mark.parametrize("text", [b'"\xff"', rb'"\ud800"', b"[" * 10**6])
def test_invalid_strings_and_deep_nesting_are_refused(text: bytes) -> None:
    try:
        assert read(b'{"items": [{"id": ' + text + b'}], "metadata": {}}').invalid == 1
    except BadResponse as error:
        assert str(error)
