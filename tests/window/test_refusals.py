"""Refused parameters are left out if the request then succeeds, and are tried again after a day."""

from itertools import count

import pytest
from support import conversation
from support.conversation import make_batch, page_of

from inkit_exporter.api.batches import DEFAULT_PAGE_SIZE, Batch, Page, PageRequest
from inkit_exporter.api.errors import PageRefused, QueryRefused
from inkit_exporter.paging.pagination import Pagination
from inkit_exporter.window.plan import Plan

NOW = 1_000_000.0
DAY = 86_400.0
BOTH = frozenset({"page_size", "sort"})


def new_plan() -> Plan:
    return conversation.new_plan(interval=60.0, lookback=DAY, resync_interval=3600.0)


def batches(number: int, until: float = NOW) -> list[Batch]:
    """Return batches, newest first, one a minute."""
    return [make_batch(f"fb_{until}_{i}", "", until - 60.0 * i, "completed", {}) for i in range(number)]


class Picky:
    """An API that refuses parameters from `first_page` on. Without `sort` it lists the oldest first."""

    def __init__(self, listing: list[Batch], refused: frozenset[str], *, first_page: int = 1) -> None:
        self.listing = listing
        self.refused = refused
        self.first_page = first_page
        self.hints = True
        self.beyond: type[PageRefused] | None = None
        self.asked: list[PageRequest] = []

    def __call__(self, request: PageRequest) -> Page:
        self.asked.append(request)
        if request.number >= self.first_page and self.refused - request.left_out:
            raise QueryRefused("refused", words="I don't know " + ", ".join(sorted(self.refused - request.left_out)))
        size = DEFAULT_PAGE_SIZE if "page_size" in request.left_out else 100
        page = page_of(self.listing[::-1] if "sort" in request.left_out else self.listing, request.number, size)
        if not page.batches and self.beyond and request.number > 1:
            raise self.beyond("no such page")
        return page if self.hints else Page(page.batches, Pagination())


def poll(plan: Plan, api: Picky, now: float = NOW) -> int:
    return conversation.converse(plan, api, now)


def held(plan: Plan) -> set[str]:
    return {batch.id for batch in plan.window.batches}


def right(api: Picky, now: float = NOW) -> set[str]:
    return {batch.id for batch in api.listing if batch.created_at >= now - DAY}


@pytest.mark.parametrize("first_page", [1, 2, 3])
@pytest.mark.parametrize("refused", [{"page_size"}, {"sort"}, BOTH], ids=lambda names: " and ".join(sorted(names)))
@pytest.mark.parametrize("hints", [True, False])
def test_parameters_refused_on_any_page_are_left_out_and_the_numbers_are_right(
    refused: set[str], first_page: int, hints: bool
) -> None:
    api = Picky(batches(360), frozenset(refused), first_page=first_page)
    api.hints = hints
    plan = new_plan()
    requests = poll(plan, api)
    assert held(plan) == right(api)
    assert plan.parameters.left_out == refused
    assert plan.parameters.reason == "I don't know " + ", ".join(sorted(refused))
    pages = -(-360 // (DEFAULT_PAGE_SIZE if "page_size" in refused else 100))
    assert requests <= first_page + 3 + pages + 1
    assert plan.mark.newest_first == ("sort" not in refused)


def test_a_page_that_does_not_exist_is_no_reason_to_stop_looking_for_the_refused_parameter() -> None:
    """Pages are not smaller without `page_size`, so the page that would have the same batches does not exist."""
    api = Picky(batches(360), frozenset({"sort"}), first_page=2)
    plan = new_plan()

    def serve(request: PageRequest) -> Page:
        if request.number > 4:
            raise PageRefused("404")
        return api(request)

    conversation.converse(plan, serve, NOW)
    assert plan.parameters.left_out == {"sort"}
    assert held(plan) == right(api)


@pytest.mark.parametrize("refused", [{"page_size"}, {"sort"}, BOTH], ids=lambda names: " and ".join(sorted(names)))
def test_a_poll_succeeds_when_a_parameter_is_first_refused(refused: set[str]) -> None:
    api = Picky(batches(360), frozenset())
    plan = new_plan()
    poll(plan, api)
    api.refused, api.listing = frozenset(refused), batches(3, NOW + 60) + api.listing
    assert poll(plan, api, NOW + 60) <= 4 + 16
    assert held(plan) == right(api, NOW + 60)


def test_without_sort_the_whole_list_is_read_even_if_its_order_looks_right() -> None:
    """The first pages are newest first and entirely older than the window."""
    api = Picky([], frozenset({"sort"}))
    old = batches(200, until=NOW - 2 * DAY)
    api.listing = (old + batches(150))[::-1]
    plan = new_plan()
    poll(plan, api)
    assert held(plan) == right(api)
    assert len(held(plan)) == 150
    assert not plan.mark.newest_first


def test_without_sort_a_list_that_is_newest_first_is_read_whole_only_once() -> None:
    api = Picky([], frozenset({"sort"}))
    listing = batches(150) + batches(200, until=NOW - 2 * DAY)
    api.listing = listing[::-1]
    plan = new_plan()
    assert poll(plan, api) == 3 + 4, "the refused request, two tries, and all four pages"
    assert plan.mark.newest_first
    assert poll(plan, api, NOW + 60) == 1


def test_a_refused_parameter_is_tried_again_after_a_day_and_on_demand() -> None:
    api = Picky(batches(300), frozenset({"page_size"}))
    plan = new_plan()
    for i in range(25):
        poll(plan, api, NOW + 3600.0 * i)
    again = [request for request in api.asked[2:] if "page_size" not in request.left_out]
    assert len(again) == 1, "one try, after 24 hours"
    assert plan.parameters.left_out == {"page_size"}
    api.refused = frozenset()
    poll(plan, api, NOW + 25 * 3600.0)
    assert plan.parameters.left_out == {"page_size"}
    plan.parameters.expire()
    api.asked.clear()
    poll(plan, api, NOW + 26 * 3600.0)
    assert not plan.parameters.left_out
    assert {request.left_out for request in api.asked} == {frozenset()}
    assert held(plan) == right(api, NOW + 26 * 3600.0)


def test_a_sort_that_is_refused_again_costs_two_requests_and_no_full_listing() -> None:
    api = Picky([], frozenset({"sort"}))
    api.listing = batches(300)[::-1]  # without `sort` the list is in order too
    plan = new_plan()
    poll(plan, api)
    plan.parameters.expire()
    assert poll(plan, api, NOW + 60) <= 2 + 2
    assert held(plan) == right(api, NOW + 60)


@pytest.mark.parametrize("page", [1, 2])
def test_if_leaving_out_parameters_does_not_help_the_poll_fails_and_few_polls_try_again(page: int) -> None:
    asked = count()

    def refuse(request: PageRequest) -> Page:
        next(asked)
        if request.number >= page:
            raise QueryRefused("the filters are wrong")
        return page_of(batches(300), request.number, 100)

    plan = new_plan()
    for i in range(10):
        with pytest.raises(QueryRefused, match="the filters are wrong"):
            conversation.converse(plan, refuse, NOW + 60.0 * i)
    assert next(asked) <= 10 * page + 2 * 3, "one try in five minutes"
    assert not plan.parameters.left_out


@pytest.mark.parametrize("beyond", [QueryRefused, PageRefused])
@pytest.mark.parametrize("hints", [True, False])
@pytest.mark.parametrize("number", [0, 1, 99, 100, 101, 300])
def test_a_refused_page_beyond_the_end_of_the_list_ends_it(number: int, hints: bool, beyond: type[PageRefused]) -> None:
    api = Picky(batches(number), frozenset())
    api.hints, api.beyond = hints, beyond
    plan = new_plan()
    for i in range(3):
        assert poll(plan, api, NOW + i) <= -(-number // 100) + 1 + 3
        assert held(plan) == right(api, NOW + i)
    assert not plan.parameters.left_out


def test_pages_without_refused_parameters_may_come_in_parts() -> None:
    api = Picky(batches(360), BOTH, first_page=2)
    plan = new_plan()

    def answer(request: PageRequest) -> list[Page]:
        page = api(request)
        starts = range(0, max(1, len(page.batches)), 10)
        return [
            Page(page.batches[start : start + 10], page.pagination, more=start + 10 < len(page.batches))
            for start in starts
        ]

    conversation.converse(plan, answer, NOW)
    assert held(plan) == right(api)


def test_refused_parameters_are_not_tried_again_during_a_poll() -> None:
    """Else the next pages would have another size or order than those already read."""
    api = Picky(batches(360), BOTH)
    plan = new_plan()
    poll(plan, api)

    def reload_meanwhile(request: PageRequest) -> Page:
        plan.parameters.expire()
        return api(request)

    plan = new_plan()
    assert conversation.converse(plan, reload_meanwhile, NOW) == 1 + 3 + 15
    assert held(plan) == right(api)
    api.asked.clear()
    poll(plan, api, NOW + 60)
    assert api.asked[0].left_out == frozenset()


@pytest.mark.parametrize("more", [True, None])
def test_a_refusal_beyond_a_short_page_or_the_promised_total_is_no_reason_to_leave_out_a_parameter(
    more: bool | None,
) -> None:
    """Without `page_size`, this API has smaller pages than it should. There, the same batches are on later pages."""
    listing, asked = batches(240), list[int]()

    def serve(request: PageRequest) -> Page:
        asked.append(request.number)
        page = page_of(listing, request.number, 10 if "page_size" in request.left_out else 100)
        if not page.batches:
            raise QueryRefused("no such page", words="no such page")
        return Page(page.batches, Pagination(more, total_count=240 if more else None))

    plan = new_plan()
    conversation.converse(plan, serve, NOW)
    assert asked == ([1, 2, 3, 4, 5] if more else [1, 2, 3, 4])
    assert not plan.parameters.left_out


def test_a_refused_page_that_the_page_count_promises_is_not_the_end_even_if_more_than_the_total_was_read() -> None:
    """A count that is smaller than what was read is wrong, so it does not tell where the list ends."""
    listing = batches(100)

    def serve(request: PageRequest) -> Page:
        if request.number > 6:
            raise PageRefused("404")
        page = page_of(listing, request.number, 10)
        return Page(page.batches, Pagination(page_count=10, total_count=50))

    with pytest.raises(PageRefused):
        conversation.converse(new_plan(), serve, NOW)
