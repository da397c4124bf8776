"""Listing against its oracle: whatever moves while the pages are read, what stays is counted once, and right."""

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkit_exporter.model import Batch, Counts, Page, Pagination
from inkit_exporter.window import Snapshot, Unreliable, Window, list_window

HORIZON = 100.0
STATUSES = ("completed", "in_progress", "failed", "brand_new")

batches = st.builds(
    lambda number, created, status, counts: Batch(
        f"fb_{number}",
        "",
        float(created),
        status,
        {name: Counts(a + b + c, a, b, c) for name, (a, b, c) in counts.items()},
    ),
    st.integers(0, 10**6),
    st.integers(90, 130),
    st.sampled_from(STATUSES),
    st.dictionaries(st.sampled_from(["box", "sepire"]), st.tuples(*[st.integers(0, 3)] * 3)),
)
listings = st.lists(batches, max_size=40, unique_by=lambda batch: batch.id).map(
    lambda found: sorted(found, key=lambda batch: -batch.created_at)
)


def page_of(listing: list[Batch], number: int, size: int) -> Page:
    start = (number - 1) * size
    following = number + 1 if start + size < len(listing) else None
    return Page(listing[start : start + size], Pagination(number, following, size, len(listing)))


def list_all(server: Callable[[int], Page], max_batches: int = 10**6) -> Window:
    listing = list_window(HORIZON, max_batches)
    number = next(listing)
    for _ in range(1000):
        try:
            number = listing.send(server(number))
        except StopIteration as done:
            window: Window = done.value
            return window
    raise AssertionError("asks for ever")


def oracle(found: list[Batch]) -> Snapshot:
    """The snapshot of a full listing, the slow and plain way."""
    documents: dict[tuple[str, str], Counts] = {}
    statuses: dict[str, int] = {}
    for batch in found:
        statuses[batch.status] = statuses.get(batch.status, 0) + 1
        for name, counts in batch.destinations.items():
            documents[name, batch.status] = documents.get((name, batch.status), Counts(0, 0, 0, 0)) + counts
    created = [batch.created_at for batch in found]
    unfinished = [batch.created_at for batch in found if not batch.finished]
    return Snapshot(documents, statuses, max(created, default=None), min(unfinished, default=None), truncated=False)


def without_zeros(snapshot: Snapshot) -> tuple[object, ...]:
    nothing = Counts(0, 0, 0, 0)
    return (
        {labels: counts for labels, counts in snapshot.documents.items() if counts != nothing},
        {status: number for status, number in snapshot.batches.items() if number},
        snapshot.newest_created,
        snapshot.oldest_unfinished_created,
    )


def recent(listing: list[Batch]) -> list[Batch]:
    return [batch for batch in listing if batch.created_at >= HORIZON]


@given(listings, st.integers(1, 10))
def test_an_ordered_list_gives_the_sums_of_the_recent(listing: list[Batch], size: int) -> None:
    window = list_all(lambda number: page_of(listing, number, size))
    assert window.ordered
    assert without_zeros(window.snapshot(None)) == without_zeros(oracle(recent(listing)))


@given(st.data(), st.lists(batches, max_size=40, unique_by=lambda batch: batch.id), st.integers(2, 10))
def test_a_list_in_any_order_gives_the_same_sums(data: st.DataObject, listing: list[Batch], size: int) -> None:
    listing = data.draw(st.permutations(listing))
    window = list_all(lambda number: page_of(listing, number, size))
    # A first page in order, all of it old, can't be told from the end of the window; every other disorder is noticed.
    if window.ordered:
        return
    assert without_zeros(window.snapshot(None)) == without_zeros(oracle(recent(listing)))


@given(st.data(), listings, st.integers(2, 6))
def test_batches_that_come_vanish_and_progress_between_the_pages(
    data: st.DataObject, listing: list[Batch], size: int
) -> None:
    """Of what is there from the first request to the last, nothing is missed, doubled, or invented."""
    server = list(listing)
    ids = count(10**7)
    ever = {batch.id for batch in server}

    def serve(number: int) -> Page:
        page = page_of(server, number, size)
        for _ in range(data.draw(st.integers(0, 2))):
            server.insert(0, Batch(f"fb_{next(ids)}", "", 200.0, "in_progress", {"box": Counts(1, 0, 0, 1)}))
            ever.add(server[0].id)
        if server and data.draw(st.integers(0, 3)) == 0:
            del server[data.draw(st.integers(0, len(server) - 1))]
        return page

    try:
        window = list_all(serve)
    except Unreliable:
        return
    missed = {batch.id for batch in recent(server) if batch.id in {b.id for b in listing}} - window.batches.keys()
    assert not missed
    assert window.batches.keys() <= ever
    assert without_zeros(window.snapshot(None)) == without_zeros(oracle(list(window.batches.values())))


@given(listings, st.integers(1, 10), st.integers(1, 12))
def test_max_batches_keeps_the_newest(listing: list[Batch], size: int, most: int) -> None:
    window = list_all(lambda number: page_of(listing, number, size), most)
    assert sorted(batch.created_at for batch in window.batches.values()) == sorted(
        batch.created_at for batch in recent(listing)[:most]
    )
    assert window.truncated == (len(recent(listing)) > most)


@given(st.lists(batches, max_size=60), st.integers(1, 20))
def test_sums_follow_every_change(changes: list[Batch], most: int) -> None:
    window = Window(most)
    for batch in changes:
        window.put(batch)
    window.cut()
    assert len(window.batches) <= most
    assert without_zeros(window.snapshot(None)) == without_zeros(oracle(list(window.batches.values())))


def test_a_page_size_that_grows_on_the_way_would_leave_a_gap_and_is_refused() -> None:
    listing = [Batch(f"fb_{i}", "", 200.0 - i, "completed", {}) for i in range(50)]
    with pytest.raises(Unreliable, match="page size grew from 5 to 10"):
        list_all(lambda number: page_of(listing, number, 5 if number == 1 else 10))


def test_combinations_seen_before_stay_at_zero() -> None:
    before = oracle([Batch("fb_1", "", 200.0, "failed", {"box": Counts(1, 0, 1, 0)})])
    snapshot = Window(10).snapshot(before)
    assert snapshot.documents == {("box", "failed"): Counts(0, 0, 0, 0)}
    assert snapshot.batches == {"failed": 0}
