"""Decoding and normalising: whatever the bytes, a batch or a named error."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkit_exporter.api.batches import (
    AT_ONCE_BYTES,
    DESTINATIONS,
    LABEL_LIMIT,
    OTHER,
    AccountLabels,
    Batch,
    Counts,
    Labels,
    MalformedBatch,
    MalformedPage,
    decode_page,
    make_batch,
    snake_case,
    split_page,
)

EXAMPLE = json.loads((Path(__file__).parent / "samples" / "documented_example.json").read_text())

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_the_documented_example() -> None:
    records, pagination = split_page(json.dumps(EXAMPLE).encode())
    assert (pagination.current_page, pagination.next_page, pagination.page_size, pagination.total_count) == (
        1,
        None,
        25,
        2,
    )
    first = make_batch(records[0], AccountLabels())
    assert first == Batch(
        EXAMPLE["items"][0]["id"],
        "Quarterly statements",
        1699326352.298042,
        "in_progress",
        {"inkit_storage": Counts(1, 1, 0, 0)},
    )
    assert not first.finished
    assert make_batch(records[1], AccountLabels()).finished


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
def test_snake_case(text: str, label: str) -> None:
    assert snake_case(text) == label


@given(st.text())
def test_snake_case_is_stable_and_has_nothing_to_escape(text: str) -> None:
    label = snake_case(text)
    assert snake_case(label) == label
    assert label and not set(label) & set(' "\\\n{},=')


@given(st.lists(st.text(max_size=80), max_size=200))
def test_labels_are_few_and_stay(texts: list[str]) -> None:
    labels = Labels(("completed",))
    first = [labels.of(text) for text in texts]
    assert len(set(first) - {OTHER}) <= LABEL_LIMIT
    assert all(len(label) <= 200 for label in first)
    assert [labels.of(text) for text in texts if labels.of(text) != OTHER] == [
        label for label in first if label != OTHER
    ]
    assert labels.of("Completed") == "completed"


def test_labels_end_at_their_limit_and_texts_at_theirs() -> None:
    labels = Labels(("completed",))
    assert [labels.of(f"status {i}") for i in range(LABEL_LIMIT)] == [
        *(f"status_{i}" for i in range(LABEL_LIMIT - 1)),
        OTHER,
    ]
    assert len(labels.admitted) == LABEL_LIMIT + 1
    assert Labels(()).of("x" * 64) == "x" * 64
    assert Labels(()).of("x" * 65) == OTHER


def test_what_is_documented_has_its_place_whoever_came_first() -> None:
    labels = AccountLabels()
    for i in range(LABEL_LIMIT):
        labels.destinations.of(f"stranger {i}")
        labels.statuses.of(f"stranger {i}")
    assert [labels.destinations.of(name) for name in DESTINATIONS] == list(DESTINATIONS)
    documented = ("in_progress", "completed", "failed", "cancelled")
    assert [labels.statuses.of(status) for status in documented] == list(documented)


names = st.dictionaries(st.sampled_from(["Box", "box", "BOX", "Drop Box", "drop_box", "sepire"]), st.integers(0, 9))


@given(names)
def test_names_that_become_one_label_are_added_up(counts: dict[str, int]) -> None:
    labelled = Labels(("sepire",)).of_keys({name: Counts(6 * n, n, 2 * n, 3 * n) for name, n in counts.items()})
    for label in labelled.keys() | {snake_case(name) for name in counts}:
        total = sum(n for name, n in counts.items() if snake_case(name) == label)
        assert labelled[label] == Counts(6 * total, total, 2 * total, 3 * total)


@given(st.sampled_from(["items", "metadata", "pagination", "next_page", "total_count", "page_size"]), json_values)
def test_a_page_with_anything_anywhere_is_decoded_or_refused(key: str, value: Any) -> None:
    page = {"items": [], "metadata": {"pagination": dict(EXAMPLE["metadata"]["pagination"])}}
    place: Any = page if key in page else page["metadata"] if key == "pagination" else page["metadata"]["pagination"]  # type: ignore[index]
    place[key] = value
    try:
        split_page(json.dumps(page).encode())
    except MalformedPage as error:
        assert str(error)


@given(st.sampled_from([*EXAMPLE["items"][0], "box"]), json_values)
def test_a_batch_with_anything_anywhere_is_decoded_or_refused(key: str, value: Any) -> None:
    record = EXAMPLE["items"][0] | ({"destinations": {"box": value}} if key == "box" else {key: value})
    try:
        batch = make_batch(json.dumps(record).encode(), AccountLabels())
    except MalformedBatch as error:
        assert str(error)
    else:
        for counts in batch.destinations.values():
            assert min(counts.count, counts.completed, counts.failed, counts.in_progress) >= 0
        assert len(batch.name) <= 200


def record(**changes: object) -> bytes:
    return json.dumps(EXAMPLE["items"][0] | changes).encode()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "text", ["2023-11-07T03:05:52.298042", "2023-11-07T03:05:52.298042Z", "2023-11-07T05:05:52.298042+02:00"]
)
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    assert make_batch(record(created_at=text), AccountLabels()).created_at == 1699326352.298042


def test_a_name_may_be_missing_and_is_cut_where_it_is_long() -> None:
    assert make_batch(record(name=None), AccountLabels()).name == ""
    assert make_batch(record(name="x" * 300), AccountLabels()).name == "x" * 200


def test_a_record_may_be_large_but_not_beyond_all_measure() -> None:
    longest = record(remark="x" * (AT_ONCE_BYTES - len(record(remark=""))))
    assert len(longest) == AT_ONCE_BYTES
    assert make_batch(longest, AccountLabels()).name == "Quarterly statements"
    with pytest.raises(MalformedBatch, match=f"^it has more than {AT_ONCE_BYTES} bytes$"):
        make_batch(longest + b" ", AccountLabels())
    counts = {"count": 1, "completed": 1, "failed": 0, "in_progress": 0}
    many = {f"place {i}": counts for i in range(1001)}
    with pytest.raises(MalformedBatch, match="more than 1000 destinations"):
        make_batch(record(destinations=many), AccountLabels())
    del many["place 1000"]
    assert (
        sum(one.count for one in make_batch(record(destinations=many), AccountLabels()).destinations.values()) == 1000
    )


def test_what_is_malformed_is_told_with_its_place() -> None:
    with pytest.raises(MalformedBatch, match=r"Expected `int`, got `str` - at `\$\.total`"):
        make_batch(record(total="1"), AccountLabels())
    body = json.dumps({"items": [EXAMPLE["items"][0] | {"total": "1"}], "metadata": EXAMPLE["metadata"]}).encode()
    with pytest.raises(MalformedPage, match=r"Expected `int`, got `str` - at `\$\.items\[0\]\.total`"):
        decode_page(body)
    with pytest.raises(MalformedPage, match="missing required field `metadata`"):
        split_page(b'{"items": []}')


@given(st.binary())
def test_any_bytes_are_refused_or_decoded(body: bytes) -> None:
    with pytest.raises(MalformedPage):
        split_page(body)
    with pytest.raises(MalformedBatch):
        make_batch(body, AccountLabels())


@pytest.mark.parametrize("body", [b'{"id": "\xff"}', rb'{"id": "\ud800"}', b'{"id": ' + b"[" * 10**6])
def test_text_that_is_no_text_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBatch):
        make_batch(body, AccountLabels())


@pytest.mark.parametrize(
    ("status", "in_progress", "finished"),
    [
        ("completed", 0, True),
        ("completed", 1, False),
        ("cancelled", 0, True),
        ("in_progress", 0, False),
        ("new", 0, False),
    ],
)
def test_finished_is_what_the_status_says_and_nothing_is_in_progress(
    status: str, in_progress: int, finished: bool
) -> None:
    batch = Batch("fb", "", 0.0, status, {"box": Counts(1, 0, 0, 0), "dropbox": Counts(1, 0, 0, in_progress)})
    assert batch.finished is finished
