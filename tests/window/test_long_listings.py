"""Long and interrupted listings: they continue where they stopped, are bounded, and give the right numbers."""

from collections.abc import Callable
from random import Random
from zlib import crc32

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import conversation
from support.conversation import make_batch, page_of
from support.world import LOOKBACK, NOW, SEEN_AT_ONCE, SEEN_BY_THE_SWEEP, World, essence, oracle, recent

from inkit_exporter.api.batches import Batch, Page, PageRequest
from inkit_exporter.api.errors import BadResponse, PageRefused, QueryRefused, RequestTimeout
from inkit_exporter.paging.pagination import Pagination
from inkit_exporter.window.plan import Plan

Answer = Callable[[PageRequest], Page]
STALE_AFTER = 300.0


def new_plan(*, resync_interval: float = 600.0, lookback: float = LOOKBACK, max_batches: int = 10**6) -> Plan:
    return conversation.new_plan(
        interval=10.0, lookback=lookback, resync_interval=resync_interval, max_batches=max_batches
    )


class Breaking:
    """Answers a number of requests and fails the next one."""

    def __init__(self, answer: Answer, after: int) -> None:
        self.answer = answer
        self.left = after
        self.asked: list[int] = []

    def __call__(self, request: PageRequest) -> Page:
        self.asked.append(request.number)
        if not self.left:
            raise RequestTimeout("no complete answer within 30s")
        self.left -= 1
        return self.answer(request)


def poll(plan: Plan, answer: Answer, now: float = NOW) -> bool:
    """Poll, and interrupt the plan after a failed request, as the poller does. Return whether the poll was complete."""
    try:
        conversation.converse(plan, answer, now)
    except RequestTimeout:
        plan.break_off(now)
        return False
    return True


def serve(listing: list[Batch], size: int) -> Answer:
    return lambda request: page_of(listing, request.number, size)


def batches(number: int, *, age: float = 0.0) -> list[Batch]:
    return [make_batch(f"fb_{age:.0f}_{i}", "", NOW - age - 0.05 * i, "completed", {}) for i in range(number)]


def ids(found: list[Batch]) -> set[str]:
    return {batch.id for batch in found}


@pytest.mark.parametrize("ordered", [True, False])
def test_with_a_page_size_of_25_and_some_failures_a_listing_costs_little_more(ordered: bool) -> None:
    listing = batches(9900)
    if not ordered:
        Random(1).shuffle(listing)
    plan, requests, polls = new_plan(), 0, 0
    complete = False
    while not complete:
        failing = Breaking(serve(listing, 25), after=99)
        complete = poll(plan, failing, NOW + 10 * polls)
        requests, polls = requests + len(failing.asked), polls + 1
        assert polls < 10
    assert ids(plan.window.batches) == ids(listing)
    assert plan.mark.newest_first is ordered
    assert requests <= 396 + 4 * polls


def test_an_interrupted_listing_has_progress_until_it_is_complete() -> None:
    plan = new_plan()
    assert plan.progress is None
    for i, read in enumerate((60, 60 + 59, 60 + 59 + 59)):
        assert not poll(plan, Breaking(serve(batches(9900), 25), after=60), NOW + 10 * i)
        assert plan.progress == (read, 396)
    assert poll(plan, serve(batches(9900), 25), NOW + 40)
    assert plan.progress is None


@pytest.mark.parametrize(
    ("pagination", "pages"),
    [
        (Pagination(more=True), None),
        (Pagination(page_count=80), 80),
        (Pagination(more=True, total_count=777), 78),
    ],
)
def test_the_hints_give_the_number_of_pages_to_read(pagination: Pagination, pages: int | None) -> None:
    listing = batches(1000)[::-1]  # oldest first, so that times do not show the progress
    plan = new_plan()
    poll(plan, Breaking(lambda r: Page(listing[r.number * 10 - 10 : r.number * 10], pagination), after=3))
    assert plan.progress == (3, pages)


@pytest.mark.parametrize(("lookback", "most", "pages"), [(50.0, 10**6, 100), (1000.0, 600, 60)])
def test_with_newest_first_the_window_or_its_limit_gives_the_number_of_pages(
    lookback: float, most: int, pages: int
) -> None:
    plan = new_plan(lookback=lookback, max_batches=most)
    listing = batches(9000)  # 20 batches a second
    poll(plan, Breaking(serve(listing, 10), after=20))
    assert plan.progress is not None and plan.progress[0] == 20
    assert plan.progress[1] == pytest.approx(pages, abs=2)


def test_a_listing_interrupted_too_long_ago_starts_again() -> None:
    listing = batches(500)
    for wait, first in ((STALE_AFTER - 1, 19), (STALE_AFTER, 1)):
        plan = new_plan()
        poll(plan, Breaking(serve(listing, 10), after=19))
        again = Breaking(serve(listing, 10), after=100)
        assert poll(plan, again, NOW + wait)
        assert again.asked[0] == first
        assert ids(plan.window.batches) == ids(listing)


@pytest.mark.parametrize("refusal", [PageRefused("404"), QueryRefused("422")], ids=["404", "422"])
def test_a_listing_continues_further_up_if_its_next_page_does_not_exist_any_more(refusal: PageRefused) -> None:
    listing = batches(500)
    plan = new_plan()
    poll(plan, Breaking(serve(listing, 10), after=40))
    del listing[200:]

    def answer(request: PageRequest) -> Page:
        if request.number > 20:
            raise refusal
        return page_of(listing, request.number, 10)

    assert poll(plan, answer, NOW + 1)
    assert poll(plan, answer, NOW + 2)
    assert ids(plan.window.batches) >= ids(listing)


def test_a_listing_of_which_nothing_is_left_starts_again_in_the_same_poll() -> None:
    plan = new_plan(max_batches=300)
    poll(plan, Breaking(serve(batches(500, age=100), 10), after=19))
    listing = batches(500)
    assert poll(plan, serve(listing, 10), NOW + 1)
    assert ids(plan.window.batches) == ids(listing[:300])


def test_a_listing_continues_where_no_batch_is_missed_if_the_list_shrinks_while_the_place_is_looked_for() -> None:
    listing = batches(500)
    plan = new_plan(resync_interval=100_000.0)
    poll(plan, Breaking(serve(listing, 10), after=19))
    del listing[50:110]
    asked: list[int] = []

    def answer(request: PageRequest) -> Page:
        page = page_of(listing, request.number, 10)
        if not asked:
            del listing[:10]
        asked.append(request.number)
        return Page(page.batches, Pagination(page.pagination.more))

    assert poll(plan, answer, NOW + 1)
    assert asked[0] == 19
    assert ids(plan.window.batches) >= ids(listing)


def test_a_page_that_keeps_failing_is_no_progress_and_the_listing_starts_again() -> None:
    listing = batches(500)
    plan = new_plan()
    poll(plan, Breaking(serve(listing, 10), after=19))
    for i in range(1, 40):
        stuck = Breaking(serve(listing, 10), after=1)  # the page before is read again
        assert not poll(plan, stuck, NOW + 10 * i)
        if stuck.asked[0] == 1:
            assert 10 * i == STALE_AFTER
            return
    raise AssertionError("the listing never started again")


def test_after_the_clock_was_set_back_the_window_is_listed_from_the_beginning() -> None:
    listing = batches(500)
    plan = new_plan()
    poll(plan, Breaking(serve(listing, 10), after=19))
    again = Breaking(serve(listing, 10), after=100)
    assert poll(plan, again, NOW - 20)
    assert again.asked[0] == 1


def test_40000_old_batches_in_another_order_are_all_read() -> None:
    listing = batches(300) + batches(40_000, age=2 * LOOKBACK)
    listing.sort(key=lambda batch: batch.created_at)
    plan = new_plan(max_batches=10_000)
    assert conversation.converse(plan, serve(listing, 25), NOW) == 1612
    assert ids(plan.window.batches) == ids(listing[-300:])


@pytest.mark.parametrize(
    ("said", "most"), [(Pagination(more=True, page_count=30, total_count=300), 45), (Pagination(more=True), 25)]
)
def test_an_endless_unordered_list_fails_the_poll_soon_after_its_announced_end(said: Pagination, most: int) -> None:
    asked = 0

    def endless(request: PageRequest) -> Page:
        nonlocal asked
        asked += 1
        start = request.number * 10
        return Page(
            [make_batch(f"fb_{i}", "", NOW - 500 + i / 100, "completed", {}) for i in range(start, start + 10)], said
        )

    with pytest.raises(BadResponse, match="in no order and too long to read; narrow it with filters, or raise"):
        conversation.converse(new_plan(max_batches=120), endless, NOW)
    assert asked <= most


def test_an_endless_list_of_old_batches_from_one_moment_fails() -> None:
    def endless(number: int) -> Page:
        return Page([make_batch(f"fb_{number}", "", NOW - 10 * LOOKBACK, "completed", {})], Pagination(more=True))

    with pytest.raises(BadResponse, match="too long to read"):
        conversation.poll(new_plan(max_batches=100), endless, NOW)


def test_an_unordered_list_of_billions_fails_at_its_first_page() -> None:
    page = Page(batches(10)[::-1], Pagination(more=True, page_count=10**9))
    asked = Breaking(lambda _: page, after=10)
    with pytest.raises(BadResponse, match="too long to read"):
        conversation.converse(new_plan(), asked, NOW)
    assert asked.asked == [1]


@given(st.integers(0, 2**32), st.integers(2, 8), st.booleans(), st.integers(5, 20))
@example(seed=11550, size=5, ties=True, after=5)  # a batch from the future that is past when the listing continues
@settings(max_examples=50)
def test_a_poll_that_continues_a_listing_gives_the_numbers_of_a_full_one(
    seed: int, size: int, ties: bool, after: int
) -> None:
    """Between the polls, batches change in every way that a poll sees, so pages move by any number of places."""
    world = World(Random(seed), ties=ties)
    for _ in range(60):
        world.happen(world.chance.choice(("create", "create", "progress", "finish")))
    plan = new_plan(resync_interval=100_000.0)
    requests = 0
    for i in range(40):
        breaking = Breaking(serve(world.batches, size), after=after)
        complete = poll(plan, breaking, world.now)
        requests += len(breaking.asked)
        if complete:
            expected = oracle(recent(world.batches, world.now))
            assert essence(plan.window.snapshot(None)) == essence(expected)
            plan = new_plan(resync_interval=100_000.0)  # start again at another point of the history
            after = world.chance.randint(5, 20)
        for _ in range(world.chance.randint(0, 3)):
            world.happen(world.chance.choice([what for what in SEEN_AT_ONCE if what != "future" or i % 4 == 0]))
        world.now += 10


class Chaos:
    """An API that changes between requests and breaks every rule that the plan knows, until `calm` is set."""

    def __init__(self, world: World, order: str, refused: frozenset[str], hints: str, beyond: str) -> None:
        self.world = world
        self.order = order
        self.refused = refused
        self.hints = hints
        self.beyond = beyond
        self.calm = False
        self.requests = 0

    def listing(self, request: PageRequest) -> list[Batch]:
        order = self.order if "sort" in request.left_out or self.order != "by default" else "newest"
        if order == "newest" and not self.calm and self.world.chance.random() < 0.5:
            shuffled = list(self.world.batches)
            self.world.chance.shuffle(shuffled)
            return sorted(shuffled, key=lambda batch: -batch.created_at)  # batches of the same time in another order
        if order == "oldest":
            return self.world.batches[::-1]
        if order in ("any", "by default"):
            return sorted(self.world.batches, key=lambda batch: crc32(batch.id.encode()))
        return self.world.batches

    def __call__(self, request: PageRequest) -> Page:
        self.requests += 1
        chance = self.world.chance
        if not self.calm:
            if chance.random() < 0.3:
                self.world.happen(chance.choice((*SEEN_AT_ONCE[:2], *SEEN_AT_ONCE[4:], *SEEN_BY_THE_SWEEP)))
            if chance.random() < 0.1:
                raise RequestTimeout("no complete answer within 30s")
            if chance.random() < 0.05:
                raise QueryRefused("no reason", words="no reason")
        if self.refused - request.left_out:
            raise QueryRefused("refused", words="refused")
        size = 3 if "page_size" in request.left_out else 7
        if not self.calm:
            size = chance.choice((size, size, size, 3, 5))
        page = page_of(self.listing(request), request.number, size)
        if request.number > 1 and not page.batches and self.beyond != "empty":
            raise PageRefused("404") if self.beyond == "404" else QueryRefused("422")
        if self.hints == "none":
            return Page(page.batches, Pagination())
        return page if self.hints == "all" else Page(page.batches, Pagination(page_count=page.pagination.page_count))


@given(
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from(("newest", "oldest", "any", "by default")),
    st.sampled_from((set(), {"page_size"}, {"sort"}, {"page_size", "sort"})),
    st.tuples(st.sampled_from(("all", "page_count", "none")), st.sampled_from(("empty", "404", "422"))),
)
@settings(max_examples=40)
def test_any_mix_of_refusals_sizes_orders_and_failures_ends_with_the_right_numbers(
    seed: int, ties: bool, order: str, refused: set[str], hints_and_beyond: tuple[str, str]
) -> None:
    world = World(Random(seed), ties=ties)
    for _ in range(world.chance.randint(0, 60)):
        world.happen(world.chance.choice(("create", "create", "progress", "finish")))
    api = Chaos(world, order, frozenset(refused), *hints_and_beyond)
    plan = new_plan()

    def polls(number: int) -> int:
        """Poll this many times, and return how many polls were not complete."""
        failed = 0
        for _ in range(number):
            before = api.requests
            try:
                failed += not poll(plan, api, world.now)
            except BadResponse:
                plan.break_off(world.now)
                failed += 1
            pages = len(world.batches) // 3 + 1
            assert api.requests - before <= 12 * pages + 40
            world.now += 10
            if world.chance.random() < 0.3:
                world.happen("create")
        return failed

    polls(15)
    api.calm = True
    polls(int(STALE_AFTER) // 10 + 1)  # during this time, the plan does not try again to work around a refusal
    before = api.requests
    assert not polls(120), "two resync intervals: in one the plan forgets a wrong end, in the other it reaches the end"
    poll(plan, api, world.now)
    if order == "any" and plan.mark.newest_first and "sort" not in refused:
        return  # a first page that is in order and entirely old looks like the end of the window
    expected = oracle(recent(world.batches, world.now))
    assert essence(plan.window.snapshot(None))[:3] == essence(expected)[:3]
    pages = len(world.batches) // 3 + 2
    assert api.requests - before <= 121 * (2.5 * pages + 10)
