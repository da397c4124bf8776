"""Polls against their oracle, the full listing: whatever happens at the API, the sums are right."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, count
from random import Random
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support import conversation
from support.conversation import Serve, make_batch, page_of, pages
from support.world import (
    LOOKBACK,
    NOTHING,
    NOW,
    SEEN_AT_ONCE,
    SEEN_BY_THE_SWEEP,
    World,
    essence,
    oracle,
    recent,
)

from inkit_exporter.api.batches import Batch, Counts, Page
from inkit_exporter.api.errors import BadResponse, PageRefused, QueryRefused
from inkit_exporter.paging.pagination import Pagination
from inkit_exporter.window.plan import Plan
from inkit_exporter.window.totals import Totals, TotalsTracker
from inkit_exporter.window.window import Snapshot, TopBatches, Window

CUTOFF = NOW - LOOKBACK
STATUSES = ("completed", "failed", "cancelled", "in_progress", "brand_new")

counts = st.tuples(*[st.integers(0, 3)] * 3).map(lambda n: Counts(sum(n), *n))
batches = st.builds(
    lambda number, age, status, destinations: make_batch(f"fb_{number}", "", NOW - age, status, destinations),
    st.integers(0, 10**6),
    st.integers(0, 12).map(lambda hundreds: hundreds * 100.0),
    st.sampled_from(STATUSES),
    st.dictionaries(st.sampled_from(["box", "sepire"]), counts),
)
unsorted = st.lists(batches, max_size=40, unique_by=lambda batch: batch.id)
listings = unsorted.map(lambda found: sorted(found, key=lambda batch: -batch.created_at))


def new_plan(max_batches: int = 10**6, *, lookback: float = LOOKBACK, resync_interval: float = 600.0) -> Plan:
    return conversation.new_plan(
        interval=10.0, lookback=lookback, resync_interval=resync_interval, max_batches=max_batches
    )


def new_window(max_batches: int) -> Window:
    return Window(max_batches, TotalsTracker(Totals()))


def poll(plan: Plan, serve: Serve, now: float = NOW) -> int:
    return conversation.poll(plan, serve, now)


def all_done(batch: Batch) -> bool:
    documents = [(c.count, c.completed + c.failed) for c in batch.destinations.values()]
    return documents != [] and all(0 < count <= done for count, done in documents)


class Changes:
    """The oracle for changes: when a poll last saw each batch change, and which batches have settled."""

    def __init__(self, resync_interval: float = 600.0) -> None:
        self.seen: dict[str, tuple[Batch, float]] = {}
        self.settled: set[str] = set()
        self.resync_interval = resync_interval

    def oldest(self, found: list[Batch], now: float) -> float | None:
        """Add a poll at that time, and return the oldest change of an unfinished batch."""
        before = self.seen
        self.seen = {
            batch.id: before[batch.id] if batch.id in before and before[batch.id][0] == batch else (batch, now)
            for batch in found
        }
        self.settled &= {batch_id for batch_id, seen in self.seen.items() if seen == before.get(batch_id)}
        self.settled |= {
            batch.id
            for batch, since in self.seen.values()
            if since + self.resync_interval <= now and all_done(batch) and not batch.finished
        }
        unfinished = {batch_id for batch_id, (batch, _) in self.seen.items() if not batch.finished} - self.settled
        return min((self.seen[batch_id][1] for batch_id in unfinished), default=None)


def settled_of(snapshot: Snapshot, found: list[Batch]) -> set[str]:
    """Return the batches that a snapshot counts as settled. All documents of each must be done."""
    shown = {batch.id for batch in snapshot.unfinished.batches}
    settled = [batch for batch in found if not batch.finished and batch.id not in shown]
    assert all(map(all_done, settled))
    return {batch.id for batch in settled}


@given(listings, st.integers(1, 10))
def test_an_ordered_list_gives_the_sums_of_the_recent_batches(listing: list[Batch], size: int) -> None:
    plan = new_plan()
    poll(plan, pages(listing, size))
    assert plan.mark.newest_first
    assert essence(plan.window.snapshot(None)) == essence(oracle(recent(listing)))


@given(st.data(), unsorted, st.integers(2, 10))
def test_a_list_in_any_order_gives_the_same_sums(data: st.DataObject, listing: list[Batch], size: int) -> None:
    listing = data.draw(st.permutations(listing))
    plan = new_plan()
    for _ in range(2):
        poll(plan, pages(listing, size))
        # If the first page is in order and entirely old, it looks like the end of the window. Other disorder shows.
        if plan.mark.newest_first:
            return
        assert essence(plan.window.snapshot(None)) == essence(oracle(recent(listing)))


@given(st.randoms(use_true_random=False), st.integers(1, 20), st.integers(2, 10))
def test_of_an_unordered_list_the_newest_batches_are_kept(chance: Random, most: int, size: int) -> None:
    listing = [make_batch(f"fb_{i}", "", NOW - i, "completed", {}) for i in range(60)]
    chance.shuffle(listing)
    listing[:2] = sorted(listing[:2], key=lambda batch: batch.created_at)  # else the first page might seem in order
    plan = new_plan(most)
    poll(plan, pages(listing, size))
    assert not plan.mark.newest_first
    assert [batch.created_at for batch in plan.window.batches] == [NOW - i for i in range(most)]
    assert plan.window.truncated


@given(st.data(), listings, st.integers(2, 6))
def test_batches_that_are_created_or_vanish_between_pages_cause_no_wrong_sums(
    data: st.DataObject, listing: list[Batch], size: int
) -> None:
    """The window has every batch that exists during the whole poll, and no batch twice or that never existed."""
    server = list(listing)
    ids = count(10**7)
    ever = {batch.id for batch in server}

    def serve(number: int) -> Page:
        page = page_of(server, number, size)
        for _ in range(data.draw(st.integers(0, 2))):
            server.insert(0, make_batch(f"fb_{next(ids)}", "", NOW + 1, "in_progress", {"box": Counts(1, 0, 0, 1)}))
            ever.add(server[0].id)
        if server and data.draw(st.integers(0, 3)) == 0:
            del server[data.draw(st.integers(0, len(server) - 1))]
        return page

    plan = new_plan()
    try:
        poll(plan, serve)
    except BadResponse:
        return
    held = {batch.id for batch in plan.window.batches}
    assert not {batch.id for batch in recent(server)} & {batch.id for batch in listing} - held
    assert held <= ever
    assert essence(plan.window.snapshot(None)) == essence(oracle(list(plan.window.batches)))


@given(listings, st.integers(1, 10), st.integers(1, 12))
def test_max_batches_keeps_the_newest_batches(listing: list[Batch], size: int, most: int) -> None:
    plan = new_plan(most)
    for _ in range(3):
        poll(plan, pages(listing, size))
        assert [b.created_at for b in plan.window.batches] == [b.created_at for b in recent(listing)[:most]]
        assert plan.window.snapshot(None).truncated is plan.window.truncated is (len(recent(listing)) > most)


def test_a_list_that_keeps_getting_shorter_fails_the_poll() -> None:
    listing = big_world(100)
    asked = 0

    def serve(request: int) -> Page:
        nonlocal asked
        asked += 1
        page = page_of(listing, request, 10)
        return replace(page, pagination=replace(page.pagination, total_count=10_000 - asked))

    with pytest.raises(BadResponse, match=r"^batches keep vanishing from the list while it is read$"):
        poll(new_plan(), serve)
    assert 100 < asked < 300


@given(st.lists(batches, max_size=60), st.integers(1, 20))
def test_sums_follow_every_change(changes: list[Batch], most: int) -> None:
    window = new_window(most)
    for batch in changes:
        window.upsert(batch, NOW)
    window.trim(CUTOFF)
    assert len(window.batches) <= most
    assert essence(window.snapshot(None)) == essence(oracle(list(window.batches)))


def test_excerpts_are_cut_and_have_the_total_number() -> None:
    listing = big_world(2500, unfinished=lambda i: i % 2 == 0)
    failed = {"box": Counts(1, 0, 1, 0)}
    listing[1:2400:2] = [make_batch(b.id, b.name, b.created_at, b.status, failed) for b in listing[1:2400:2]]
    window = new_window(2500)
    for one in listing:
        window.upsert(one, NOW)
    snapshot = window.snapshot(None)
    assert [b.id for b in snapshot.newest] == [f"fb_{i}" for i in range(500)]
    assert [b.id for b in snapshot.failing.batches] == [f"fb_{i}" for i in range(1, 1001, 2)]
    assert [b.id for b in snapshot.unfinished.batches] == [f"fb_{i}" for i in range(2498, 1498, -2)]
    assert (snapshot.failing.total, snapshot.unfinished.total) == (1200, 1250)


def test_a_page_size_that_grows_during_a_poll_fails_it() -> None:
    listing = [make_batch(f"fb_{i}", "", NOW - i, "completed", {}) for i in range(50)]
    with pytest.raises(BadResponse, match="page size grew from 5 to 10"):
        poll(new_plan(), lambda number: page_of(listing, int(number), 5 if number == 1 else 10))


def test_a_page_size_that_grows_while_a_part_of_the_list_is_read_leads_to_a_full_listing() -> None:
    listing = [make_batch(f"fb_{i}", "", NOW - i, "completed", {}) for i in range(50)]
    plan = new_plan()
    poll(plan, pages(listing[8:], 5))
    asked: list[int] = []

    def growing(number: int) -> Page:
        asked.append(number)
        return page_of(listing, number, 5 if len(asked) == 1 else 10)

    poll(plan, growing, NOW + 1)
    assert asked == [1, 2, 1, 2, 3, 4, 5]
    assert [batch.id for batch in plan.window.batches] == [batch.id for batch in listing]


def test_combinations_of_labels_seen_before_stay_at_zero() -> None:
    before = oracle([make_batch("fb_1", "", NOW, "failed", {"box": Counts(1, 0, 1, 0)})])
    snapshot = new_window(10).snapshot(before)
    assert snapshot.documents == {("box", "failed"): NOTHING}
    assert snapshot.batches == {"failed": 0}


def test_a_batch_counts_as_changed_when_it_is_new_or_different_or_returns() -> None:
    window = new_window(2)
    waits, moves = (make_batch(f"fb_{name}", "", NOW, "in_progress", {"box": Counts(2, 0, 0, 2)}) for name in "ab")

    def oldest_change() -> float | None:
        return window.snapshot(None).oldest_change

    assert oldest_change() is None
    for now in (NOW, NOW + 1):
        window.upsert(waits, now)
        window.upsert(moves, now)
    assert oldest_change() == NOW
    window.upsert(moves := replace(moves, destinations={"box": Counts(2, 0, 1, 1)}), NOW + 2)
    assert oldest_change() == NOW, "the other batch has not changed"
    snapshot = window.snapshot(None)
    assert snapshot.failing == TopBatches((moves,), 1, (NOW + 2,))
    assert snapshot.unfinished == TopBatches((moves, waits), 2, (NOW + 2, NOW))
    window.upsert(replace(waits, status="completed", final=True, destinations={}), NOW + 3)
    assert oldest_change() == NOW + 2
    window.upsert(replace(waits, status="in_progress"), NOW + 4)
    window.remove(moves.id)
    assert oldest_change() == NOW + 4
    window.upsert(moves, NOW + 5)
    window.remove(waits.id)
    assert oldest_change() == NOW + 5
    for i in (1, 2):
        window.upsert(make_batch(f"fb_{i}", "", NOW + i, "completed", {}), NOW + 6)
    window.trim(CUTOFF)
    assert oldest_change() is None
    window.upsert(moves, NOW + 7)
    assert oldest_change() == NOW + 7
    window.upsert(replace(moves, status="failed", final=True, destinations={}), NOW + 8)
    assert oldest_change() is None


def test_only_missing_batches_between_two_times_are_removed() -> None:
    window = new_window(10)
    for i in range(6):
        window.upsert(make_batch(f"fb_{i}", "", NOW - i, "completed", {}), NOW)
    window.remove_missing({"fb_2"}, newest=NOW - 1, oldest=NOW - 4)
    assert [batch.id for batch in window.batches] == ["fb_0", "fb_1", "fb_2", "fb_4", "fb_5"]


seeds = st.integers(0, 2**32)
sizes = st.integers(2, 12)


@given(seeds, st.lists(sizes, min_size=1, max_size=3), st.booleans(), sizes, st.integers(0, 60))
@settings(max_examples=200)
def test_after_every_poll_the_sums_match_a_full_listing(
    seed: int, sizes: list[int], ties: bool, parts: int, malformed: int
) -> None:
    """For the changes that each poll sees: batches that are created, progress, finish, or vanish unfinished.

    The page size may change between polls, pages may come in parts, and some records are unreadable.
    """
    world = World(Random(seed), ties=ties)
    resync_interval = 60.0 if seed % 2 else 600.0
    plan = new_plan(resync_interval=resync_interval)
    changes = Changes(resync_interval)

    def readable(batch: Batch) -> bool:
        return crc32(batch.id.encode()) % 100 >= malformed

    def serve(number: int) -> Iterator[Page]:
        page = page_of(world.batches, number, size)
        for start in range(0, max(1, len(page.batches)), parts):
            records = page.batches[start : start + parts]
            batches = [batch for batch in records if readable(batch)]
            more = start + parts < len(page.batches)
            yield Page(batches, page.pagination, invalid=len(records) - len(batches), more=more)

    for i in range(12):
        size = sizes[i % len(sizes)]
        for _ in range(world.chance.randint(0, 6)):
            world.happen(world.chance.choice(SEEN_AT_ONCE))
        world.now += 10
        poll(plan, serve, world.now)
        expected = [batch for batch in recent(world.batches, world.now) if readable(batch)]
        snapshot = plan.window.snapshot(None)
        assert snapshot.oldest_change == changes.oldest(expected, world.now)
        assert essence(snapshot) == essence(oracle(expected, changes.settled))
        world.settled = changes.settled


@given(seeds, st.integers(2, 12), st.booleans())
@settings(max_examples=40)
def test_changes_that_a_poll_does_not_see_are_counted_within_the_resync_interval(
    seed: int, size: int, ties: bool
) -> None:
    """Finished batches are deleted, reopened or changed, and batches change between the requests of a poll."""
    world = World(Random(seed), ties=ties)
    plan = new_plan()

    def changing(request: int) -> Page:
        if world.chance.random() < 0.3:
            world.happen(world.chance.choice((*SEEN_AT_ONCE[:2], *SEEN_AT_ONCE[3:], *SEEN_BY_THE_SWEEP)))
        return page_of(world.batches, request, size)

    for _ in range(8):
        for _ in range(world.chance.randint(0, 6)):
            world.happen(world.chance.choice(SEEN_AT_ONCE + SEEN_BY_THE_SWEEP))
        world.now += 10
        try:
            poll(plan, changing, world.now)
        except BadResponse:
            continue
    for _ in range(60):
        world.now += 10
        if world.chance.random() < 0.3:
            world.happen("create")
        poll(plan, pages(world.batches, size), world.now)
    snapshot, expected = plan.window.snapshot(None), recent(world.batches, world.now)
    assert essence(snapshot) == essence(oracle(expected, settled_of(snapshot, expected)))


@given(seeds, st.integers(2, 12), st.lists(st.sampled_from((-5000, -700, -30, 5, 30, 700, 5000)), max_size=6))
@example(seed=184, size=2, jumps=[-5000])  # the window now reaches back to times that were never listed
@settings(max_examples=200)
def test_after_the_clock_is_set_the_sums_match_a_full_listing_at_the_new_time(
    seed: int, size: int, jumps: list[int]
) -> None:
    """If the clock jumps ahead, batches leave the window. If it jumps back, they return and are not counted again."""
    world = World(Random(seed), ties=False)
    for _ in range(30):
        world.happen("create")
        world.now += world.chance.uniform(0, 60)
    plan = new_plan()
    poll(plan, pages(world.batches, size), world.now)
    plan.window.totals.counting = True
    there, skew = len(world.batches), 0
    changes = Changes()
    changes.oldest(recent(world.batches, world.now), world.now)
    for jump in (*jumps, -sum(jumps)):
        for _ in range(world.chance.randint(0, 6)):
            world.happen(world.chance.choice(("create", "progress", "finish")))
        world.now += 10
        skew += jump
        poll(plan, pages(world.batches, size), world.now + skew)
        plan.window.totals.counting = True
        expected = recent(world.batches, world.now + skew)
        snapshot = plan.window.snapshot(None)
        assert snapshot.oldest_change == changes.oldest(expected, world.now + skew)
        assert essence(snapshot) == essence(oracle(expected, changes.settled))
        world.settled = changes.settled
    assert plan.window.totals.totals.created.value <= len(world.batches) - there


def test_new_batches_count_although_the_clock_was_set_back_a_little() -> None:
    plan = new_plan()
    old = [make_batch(f"fb_{age}", "", NOW - age, "completed", {}) for age in (10, LOOKBACK + 2)]
    poll(plan, pages(old, 10), NOW)
    plan.window.totals.counting = True
    poll(plan, pages([make_batch("fb_new", "", NOW - 1, "completed", {}), *old], 10), NOW - 5)
    assert len(plan.window.batches) == 3
    assert plan.window.totals.totals.created.value == 1, "the batch from before the first window is no news"


@pytest.mark.parametrize("steps", [(5000, -100), (5000, 900, 0)], ids=str)
def test_after_the_clock_was_set_back_by_more_than_the_lookback_only_later_batches_are_new(
    steps: tuple[int, ...],
) -> None:
    plan = new_plan()
    listing: list[Batch] = []
    for skew in steps:
        poll(plan, pages(listing, 10), NOW + skew)
        plan.window.totals.counting = True
        listing = [make_batch(f"fb_{age}", "", NOW - age, "completed", {}) for age in (5, 500)]
    poll(plan, pages(listing, 10), NOW)
    assert plan.window.totals.totals.created.value == 0
    poll(plan, pages([make_batch("fb_new", "", NOW + 5, "completed", {}), *listing], 10), NOW + 10)
    assert plan.window.totals.totals.created.value == 1


@given(seeds, st.integers(2, 8), st.integers(5, 40))
@settings(max_examples=100)
def test_a_truncated_window_has_the_newest_batches_after_two_resync_intervals(seed: int, size: int, most: int) -> None:
    """The first resync notices deleted batches, and the second reads the batches that moved up at the end."""
    world = World(Random(seed), ties=False)
    plan = new_plan(most)
    for _ in range(10):
        for _ in range(world.chance.randint(0, 8)):
            world.happen(world.chance.choice(SEEN_AT_ONCE + SEEN_BY_THE_SWEEP))
        world.now += 10
        poll(plan, pages(world.batches, size), world.now)
    for _ in range(120):
        world.now += 10
        poll(plan, pages(world.batches, size), world.now)
    expected = recent(world.batches, world.now)
    snapshot = plan.window.snapshot(None)
    assert essence(snapshot) == essence(oracle(expected[:most], settled_of(snapshot, expected[:most])))
    assert plan.window.truncated == (len(expected) > most)


def big_world(number: int, *, unfinished: Callable[[int], bool] = lambda _: False) -> list[Batch]:
    return [
        make_batch(f"fb_{i}", "", NOW - i * LOOKBACK / number, "in_progress" if unfinished(i) else "completed", {})
        for i in range(number)
    ]


def test_a_poll_without_changes_costs_one_request_for_any_window() -> None:
    for number in (50, 500, 5000):
        plan = new_plan()
        listing = big_world(number)
        assert poll(plan, pages(listing, 100)) == -(-number // 100)
        requests = [poll(plan, pages(listing, 100), NOW + 1 + i / 100) for i in range(100)]
        assert requests == [1] * 100


def test_unfinished_batches_beyond_the_first_page_cost_one_request_for_each_of_their_pages() -> None:
    plan = new_plan()
    listing = big_world(5000, unfinished=lambda i: i in (1050, 2010, 2020, 2030, 3077))
    poll(plan, pages(listing, 100))
    asked: list[int] = []

    def serve(request: int) -> Page:
        asked.append(request)
        return page_of(listing, request, 100)

    assert poll(plan, serve, NOW + 0.1) == 4
    assert asked == [1, 11, 21, 31]


def test_unfinished_batches_of_the_same_time_cost_one_request_for_each_of_their_pages() -> None:
    plan = new_plan()
    listing = [make_batch(f"fb_{i:03}", "", NOW, "in_progress", {}) for i in range(300)]
    poll(plan, pages(listing, 10))
    assert poll(plan, pages(listing, 10), NOW + 1) == 30


@pytest.mark.parametrize(("gone", "requests"), [(0, 2), (40, 2), (60, 3), (1050, 11), (2500, 12)])
def test_an_unfinished_batch_is_found_after_others_vanished(gone: int, requests: int) -> None:
    """The poll reads its last page and earlier ones, until it finds the batch or the place where it must be."""
    for vanishes in (False, True):
        plan = new_plan()
        listing = big_world(5000, unfinished=lambda i: i == 3050)
        poll(plan, pages(listing, 100))
        left = listing[:100] + listing[100 + gone :]
        if vanishes:
            left.remove(listing[3050])
        assert poll(plan, pages(left, 100), NOW + 0.1) <= requests
        assert plan.window.snapshot(None).unfinished.total == (not vanishes)


def test_within_the_resync_interval_each_page_is_listed_at_an_even_cost() -> None:
    """A window of 1790 batches needs 198.9 a poll. The remainder of a page counts for the next poll."""
    listing = big_world(1790)
    plan = new_plan(lookback=10 * LOOKBACK, resync_interval=100.0)
    poll(plan, pages(listing, 100))
    asked: list[int] = []

    def serve(request: int) -> Page:
        asked.append(request)
        return page_of(listing, request, 100)

    costs = [poll(plan, serve, NOW + 10.0 * i) for i in range(1, 11)]
    assert set(asked) == set(range(1, 19))
    assert max(costs) <= 5
    assert sum(costs) <= 10 + 18 + 10, "the first page, each page once, and the last page of the previous poll"


@pytest.mark.parametrize(("number", "most"), [(50, 10**6), (500, 50)])
def test_a_window_that_fits_on_the_first_page_needs_no_resync(number: int, most: int) -> None:
    listing = big_world(number)
    plan = new_plan(most, lookback=10 * LOOKBACK, resync_interval=100.0)
    assert [poll(plan, pages(listing, 100), NOW + 10.0 * i) for i in range(50)] == [1] * 50


def test_pages_beyond_the_end_of_a_truncated_window_are_not_requested() -> None:
    listing = big_world(5000)
    plan = new_plan(1790, lookback=10 * LOOKBACK, resync_interval=100.0)
    assert poll(plan, pages(listing, 100)) == 18
    asked: set[int] = set()

    def serve(request: int) -> Page:
        asked.add(request)
        return page_of(listing, request, 100)

    for i in range(1, 40):
        assert poll(plan, serve, NOW + 10.0 * i) <= 5
    assert asked == set(range(1, 19))


@pytest.mark.parametrize(("size", "together"), [(2, 2), (2, 3), (3, 2), (3, 4), (4, 5)])
def test_batches_with_the_same_time_are_listed_again_when_others_vanish(size: int, together: int) -> None:
    listing = [make_batch(f"fb_{i:02}", "", NOW - i // together, "completed", {}) for i in range(12)]
    for above, gone in combinations(range(12), 2):
        for when in range(4):
            plan = new_plan(lookback=10 * LOOKBACK, resync_interval=60.0)
            left = list(listing)
            poll(plan, pages(left, size))
            for i in range(1, 15):
                if i == when + 1:
                    left = [batch for j, batch in enumerate(listing) if j not in (above, gone) and j >= when]
                poll(plan, pages(left, size), NOW + 10.0 * i)
            assert [batch.id for batch in plan.window.batches] == [batch.id for batch in left]


@pytest.mark.parametrize("gone", range(5, 31))
def test_however_many_batches_vanish_above_it_the_resync_finds_its_place_again(gone: int) -> None:
    listing = big_world(60)
    plan = new_plan(lookback=10 * LOOKBACK, resync_interval=100.0)
    poll(plan, pages(listing, 5))
    for i in range(1, 6):
        poll(plan, pages(listing, 5), NOW + 10.0 * i)
    del listing[5 : 5 + gone], listing[20]
    for i in range(6, 21):
        poll(plan, pages(listing, 5), NOW + 10.0 * i)
    assert [batch.id for batch in plan.window.batches] == [batch.id for batch in listing]


def test_a_list_that_repeats_its_last_page_forever_is_read_to_its_end() -> None:
    plan = new_plan()
    listing = [make_batch(f"fb_{i}", "", NOW, "completed", {}) for i in range(4)]

    def endless(request: int) -> Page:
        start = (request - 1) * 2
        items = listing[start : start + 2] or listing[-1:]
        return Page(items, Pagination(more=True, page_size=2, total_count=len(listing)))

    # Two pages, and one without a new batch.
    for i in range(3):
        assert poll(plan, endless, NOW + i) <= 3
        assert len(plan.window.batches) == 4


def test_pages_that_overlap_are_read_until_they_have_as_many_batches_as_the_first_page_promised() -> None:
    listing = [make_batch(f"fb_{i}", "", NOW - i, "completed", {}) for i in range(30)]

    def overlapping(number: int) -> Page:
        start = (number - 1) * 5
        hints = Pagination(more=number < 3, page_count=3, page_size=10, total_count=30)
        return Page(listing[start : start + 10], hints)

    assert poll(plan := new_plan(), overlapping) == 5
    assert len(plan.window.batches) == 30
    del listing[20:]
    assert poll(plan := new_plan(), overlapping) == 5, "after a page without a new batch, one is empty"
    assert (len(plan.window.batches), plan.mark.promised) == (20, 30)


def test_unreadable_records_count_as_read() -> None:
    """Each page has one readable and one unreadable record. The last page repeats forever."""
    listing = [make_batch(f"fb_{i}", "", NOW, "completed", {}) for i in range(4)]

    def serve(request: int, total: int) -> Page:
        number = min(request, 4)
        pagination = Pagination(more=True, page_size=2, total_count=total)
        return Page([listing[number - 1]], pagination, invalid=1 if number == request else 0)

    assert poll(plan := new_plan(), lambda request: serve(request, 8)) == 5
    assert len(plan.window.batches) == 4
    with pytest.raises(BadResponse, match=r"^page 7 repeats earlier pages, after 8 of 9 records$"):
        poll(new_plan(), lambda request: serve(request, 9))


HINTS: dict[str, Callable[[int, int, int], Pagination]] = {
    "none at all": lambda _number, _size, _total: Pagination(),
    "only next_page": lambda number, size, total: Pagination(more=number * size < total),
    "next_page is always null": lambda _number, size, total: Pagination(more=False, page_count=-(-total // size)),
    "only page_count": lambda _number, size, total: Pagination(page_count=-(-total // size)),
    "only total_count": lambda _number, _size, total: Pagination(total_count=total),
    "another page_size than the real one": lambda _number, _size, total: Pagination(page_size=100, total_count=total),
    "total_count is that of the page": lambda number, size, total: Pagination(
        page_count=-(-total // size), total_count=max(0, min(size, total - (number - 1) * size))
    ),
    "total_count is 0": lambda _number, _size, _total: Pagination(page_count=0, total_count=0),
    "page_count is 1": lambda number, size, total: Pagination(more=number * size < total, page_count=1),
    "next_page never ends": lambda _number, size, total: Pagination(more=True, total_count=total),
    "total_count is too large": lambda _number, _size, total: Pagination(total_count=total + 7),
    "page_count is too large": lambda _number, size, total: Pagination(page_count=-(-total // size) + 2),
}


@pytest.mark.parametrize("hints", HINTS.values(), ids=HINTS)
@given(listings, st.integers(1, 10), st.booleans())
@settings(max_examples=40)
def test_with_any_hints_the_whole_list_is_read(
    hints: Callable[[int, int, int], Pagination], listing: list[Batch], size: int, refuses: bool
) -> None:
    """Pages beyond the end of the list are empty or, if no hint promised them, refused."""
    plan = new_plan()
    last = -(-len(listing) // size)

    def serve(number: int) -> Page:
        page = Page(listing[(number - 1) * size : number * size], hints(number, size, len(listing)))
        promised = hints(last, size, len(listing)).promises(last, len(listing)) if last else None
        if refuses and number > max(1, last) and not promised:
            raise PageRefused("404")
        return page if page.batches else Page([], hints(number, size, len(listing)))

    for i in range(3):
        requests = poll(plan, serve, NOW + i)
        assert i or requests <= last + 2
        assert essence(plan.window.snapshot(None)) == essence(oracle(recent(listing, NOW + i)))


def test_a_wrong_hint_costs_one_request_per_resync_not_per_poll() -> None:
    """With one batch, a poll can only stop at the end of the list: no record is older than the known ones."""
    listing = [make_batch("fb_1", "", NOW, "completed", {})]
    plan = new_plan(resync_interval=100.0)

    def serve(number: int) -> Page:
        return Page(listing[(number - 1) : number], Pagination(total_count=9))

    requests = [poll(plan, serve, NOW + 10.0 * i) for i in range(30)]
    assert plan.mark.promised == 9
    assert max(requests) == 3
    assert sum(requests) <= 30 + 2 * 4
    listing.insert(0, make_batch("fb_2", "", NOW + 300, "completed", {}))
    poll(plan, serve, NOW + 301)
    assert len(plan.window.batches) == 2


def test_a_refused_page_that_a_hint_promised_fails_the_poll() -> None:
    listing = big_world(300)

    def serve(number: int) -> Page:
        if number == 2:
            raise PageRefused("the API answered 404")
        return page_of(listing, number, 100)

    with pytest.raises(PageRefused, match="404"):
        poll(new_plan(), serve)
    with pytest.raises(PageRefused, match="422"):
        poll(new_plan(), lambda number: (_ for _ in ()).throw(PageRefused("422")))


@pytest.mark.parametrize("refused", [PageRefused("404"), QueryRefused("422")], ids=["404", "422"])
def test_an_api_that_refuses_pages_beyond_max_batches_has_a_truncated_window(refused: PageRefused) -> None:
    """As those do that can't list more than their first 10,000 records."""
    listing = big_world(150)
    plan = new_plan(100, lookback=10 * LOOKBACK, resync_interval=100.0)

    def serve(number: int) -> Page:
        if number > 10:
            raise refused
        return page_of(listing, number, 10)

    for i in range(40):
        requests = poll(plan, serve, NOW + 10.0 * i)
        assert requests <= (11 if i == 0 else 5)
        assert [batch.id for batch in plan.window.batches] == [batch.id for batch in listing[:100]]
        assert plan.window.truncated
        assert plan.mark.promised is None
    del listing[5:60]
    for i in range(40, 60):
        poll(plan, serve, NOW + 10.0 * i)
    assert [batch.id for batch in plan.window.batches] == [batch.id for batch in listing]
    assert not plan.window.truncated


def test_an_unordered_list_of_which_the_api_refuses_pages_fails_the_poll() -> None:
    """The newest batches may be on those pages."""
    listing = big_world(150)[::-1]

    def serve(number: int) -> Page:
        if number > 10:
            raise PageRefused("404")
        return page_of(listing, number, 10)

    with pytest.raises(PageRefused):
        poll(new_plan(100), serve)


@pytest.mark.parametrize("invalid", [0, 1])
@pytest.mark.parametrize(
    "hints", [Pagination(more=True), Pagination(page_count=3, total_count=24), Pagination(more=True, total_count=24)]
)
def test_a_server_that_ignores_the_page_number_fails_the_poll(hints: Pagination, invalid: int) -> None:
    listing = big_world(24)
    with pytest.raises(BadResponse, match="repeats earlier"):
        poll(new_plan(), lambda _: Page(listing[: 10 - invalid], hints, invalid=invalid))


def test_an_empty_page_within_the_list_fails_the_poll() -> None:
    listing = big_world(30)

    def serve(number: int) -> Page:
        return Page([] if number == 2 else listing[10 * number - 10 : 10 * number], Pagination(total_count=30))

    with pytest.raises(BadResponse, match=r"^page 2 is empty, but page 3 is not$"):
        poll(new_plan(), serve)


def readable_or_not(readable: list[bool], size: int) -> Serve:
    """Return pages of batches whose destination `box` is readable as given. Their destination `sepire` is readable."""
    here = {"sepire": Counts(1, 1, 0, 0)}
    listing = [
        make_batch(f"fb_{i}", "", NOW - i, "completed", here | {"box": Counts(1, 1, 0, 0)} if good else here)
        for i, good in enumerate(readable)
    ]

    def serve(number: int) -> Page:
        page = page_of(listing, number, size)
        unreadable = sum("box" not in batch.destinations for batch in page.batches)
        return replace(page, incomplete=unreadable, unreadable=Counter(box=unreadable))

    return serve


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 12))
def test_a_poll_fails_if_most_records_of_a_destination_are_unreadable(readable: list[bool], size: int) -> None:
    plan = new_plan()
    serve = readable_or_not(readable, size)
    if 2 * sum(readable) >= len(readable):
        poll(plan, serve)
        return
    for _ in range(2):
        with pytest.raises(BadResponse, match=r"^most records of the destination box can't be read"):
            poll(plan, serve)


def test_an_unreadable_full_listing_is_repeated_and_a_poll_of_one_page_depends_only_on_that_page() -> None:
    plan = new_plan()
    with pytest.raises(BadResponse):
        poll(plan, readable_or_not([True, True, False, False, False], 2))
    assert poll(plan, readable_or_not([True, True, False, False], 2)) == 2
    assert poll(plan, readable_or_not([True, True, False, False], 2), NOW + 1) == 1
    with pytest.raises(BadResponse):
        poll(plan, readable_or_not([False, False, True, True], 2), NOW + 2)
    assert poll(plan, readable_or_not([True, True, True, True], 2), NOW + 3) == 1


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [2, 3, 0, 1], [0, 1, 3, 2], [0, 2, 1, 3]])
def test_disorder_is_noticed_within_a_page_and_between_pages(order: list[int]) -> None:
    plan = new_plan()
    listing = [make_batch(f"fb_{i}", "", NOW - i, "completed", {}) for i in order]
    assert poll(plan, pages(listing, 2)) == 2
    assert plan.mark.newest_first is False
    assert poll(plan, pages(listing, 2), NOW + 1) == 2
    assert essence(plan.window.snapshot(None)) == essence(oracle(listing))
    listing.sort(key=lambda batch: -batch.created_at)
    poll(plan, pages(listing, 2), NOW + 2)
    assert plan.mark.newest_first
    assert poll(plan, pages(listing, 2), NOW + 3) == 1


@pytest.mark.parametrize("total", [None, 5])
def test_pages_that_repeat_the_first_one_fail_the_poll(total: int | None) -> None:
    plan = new_plan()
    listing = [make_batch(f"fb_{i}", "", NOW, "completed", {}) for i in range(5)]
    poll(plan, pages(listing, 2))

    def stuck(request: int) -> Page:
        return Page(listing[:2], Pagination(more=True, page_size=2, total_count=total))

    with pytest.raises(BadResponse, match="repeats earlier"):
        poll(plan, stuck)
    assert len(plan.window.batches) == 5


def test_the_requests_of_a_resync_are_spread_over_the_interval_without_bursts() -> None:
    listing = big_world(6000)
    plan = new_plan(lookback=10 * LOOKBACK, resync_interval=600.0)
    assert poll(plan, pages(listing, 100)) == 60
    requests = [poll(plan, pages(listing, 100), NOW + 10.0 * i) for i in range(1, 61)]
    assert max(requests) <= 4
    assert 60 <= sum(requests) - 60 <= 140
    late = poll(plan, pages(listing, 100), NOW + 5610.0)
    assert late <= 6, "a delayed resync does not catch up at once"
