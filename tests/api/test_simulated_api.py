"""The simulated API: its answers have the documented shape, and its days differ only by their seed."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, overload

import aiohttp
import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.api import TOKEN, Api, batch
from support.conversation import read_parts

from inkit_exporter.api import batches as model
from inkit_exporter.api.batches import AccountLabels
from inkit_exporter.demo import DAY_SECONDS, DESTINATIONS, JsonBatch, day, make_api, serve_api

seeds = st.integers(0, 10**6)
START = 1_700_000_000.0
moments = st.floats(0, 3 * DAY_SECONDS)
UNFINISHED = ("Pending", "In Progress")


async def get(api: Api, path: str = "/invoke/batch", token: str = TOKEN, **query: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers={"X-Inkit-API-Token": token}) as http,
        http.get(api.base_url + path, params={key: str(value) for key, value in query.items()}) as response,
    ):
        return response.status, await response.json()


async def test_pages_walk_all_batches_once_in_the_documented_shape(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(60)]
    number: int | None = 1
    ids = []
    while number is not None:
        status, page = await get(api, page=number, sort="-created_at")
        assert status == 200
        assert page.keys() == {"items", "metadata"}
        pagination = page["metadata"]["pagination"]
        assert pagination == {
            "current_page": number,
            "next_page": number + 1 if number < 3 else None,
            "page_count": 3,
            "page_size": 25,
            "prev_page": number - 1 or None,
            "total_count": 60,
        }
        ids += [item["id"] for item in page["items"]]
        number = pagination["next_page"]
    assert ids == [f"fb_{i}" for i in range(60)]


async def test_without_a_sort_key_the_newest_come_first_and_the_metadata_say_so(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(3)]
    _, newest_first = await get(api)
    _, oldest_first = await get(api, sort="created_at")
    assert newest_first["items"] == api.batches
    assert newest_first["metadata"]["sort"] == {"key": "created_at", "order": -1}
    assert oldest_first["items"] == api.batches[::-1]
    assert oldest_first["metadata"]["sort"] == {"key": "created_at", "order": 1}


@pytest.mark.parametrize("sort", ["created_at", "-created_at"])
async def test_a_page_beyond_the_end_is_empty_and_has_no_next_page(api: Api, sort: str) -> None:
    api.batches = [batch("fb_1")]
    status, page = await get(api, page=9, sort=sort)
    assert (status, page["items"], page["metadata"]["pagination"]["next_page"]) == (200, [], None)


class CountedListing(Sequence[JsonBatch]):
    """A long listing that counts the batches that are read from it."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.touched = 0

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> JsonBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[JsonBatch]: ...
    def __getitem__(self, index: int | slice) -> JsonBatch | list[JsonBatch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        self.touched += 1
        return batch(f"fb_{index}", age=index)


async def test_a_page_of_a_long_listing_reads_no_batch_of_other_pages() -> None:
    listing = CountedListing(100_000)
    async with serve_api(make_api(lambda: listing, token=TOKEN)) as base_url:
        status, page = await get(Api(base_url=base_url), page=500, page_size=100)
    assert (status, len(page["items"]), page["metadata"]["pagination"]["page_count"]) == (200, 100, 1000)
    assert listing.touched == 100


async def test_lists_can_be_sorted_and_filtered(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i, destinations={DESTINATIONS[i % 3]: (1, 0, 0)}) for i in range(9)]
    ascending = (await get(api, sort="created_at", page=2, page_size=4))[1]["items"]
    assert [item["id"] for item in ascending] == ["fb_4", "fb_3", "fb_2", "fb_1"]
    assert len((await get(api, destination_name="salesforce"))[1]["items"]) == 3
    assert len((await get(api, destination_status="completed"))[1]["items"]) == 9
    assert len((await get(api, destination_status="failed"))[1]["items"]) == 0
    assert [item["id"] for item in (await get(api, search="FB_7"))[1]["items"]] == ["fb_7"]


@pytest.mark.parametrize(
    "query",
    [
        {"page": 0},
        {"page": "x"},
        {"page": "1_0"},
        {"page_size": 0},
        {"page_size": -1},
        {"page_size": 101},
        {"sort": "name"},
        {"sort": "--created_at"},
    ],
    ids=str,
)
async def test_a_query_out_of_range_is_422(api: Api, query: dict[str, Any]) -> None:
    assert (await get(api, **query))[0] == 422


async def test_without_the_key_it_is_401(api: Api) -> None:
    assert (await get(api, token="other"))[0] == 401


async def test_a_request_over_the_rate_limit_is_told_when_to_retry() -> None:
    async with (
        serve_api(make_api(list, token=TOKEN, requests_per_minute=2)) as base_url,
        aiohttp.ClientSession() as http,
    ):
        statuses = []
        for _ in range(3):
            async with http.get(f"{base_url}/invoke/batch", headers={"X-Inkit-API-Token": TOKEN}) as response:
                statuses.append(response.status)
                retry_after = response.headers.get("Retry-After", "")
        assert statuses == [200, 200, 429]
        assert 1 <= int(retry_after) <= 60


def test_the_simulated_api_and_the_exporter_know_the_same_destinations() -> None:
    assert DESTINATIONS == model.DESTINATIONS


@given(seeds)
@example(4854)
@settings(max_examples=20)
def test_a_day_has_every_destination_and_status_from_its_first_moment(seed: int) -> None:
    batches = day(seed, started_at=START)(START)
    assert {name for one in batches for name in one["destinations"]} == set(DESTINATIONS)
    assert {one["status"] for one in batches} >= {"In Progress", "Completed", "Failed"}


@given(seeds, st.lists(moments, min_size=2, max_size=3))
@settings(max_examples=10)
def test_a_day_depends_only_on_seed_start_and_time(seed: int, times: list[float]) -> None:
    forwards = [day(seed, started_at=START)(START + time) for time in times]
    backwards = [day(seed, started_at=START)(START + time) for time in reversed(times)]
    assert forwards == backwards[::-1]
    assert forwards[0] != day(seed + 1, started_at=START)(START + times[0])


@given(seeds, moments)
@settings(max_examples=15)
def test_the_counts_of_every_batch_add_up_and_agree_with_its_status(seed: int, time: float) -> None:
    for one in day(seed, started_at=START)(START + time):
        assert one["total"] >= 1
        for counts in one["destinations"].values():
            assert counts["count"] == counts["completed"] + counts["failed"] + counts["in_progress"] == one["total"]
            assert min(counts["completed"], counts["failed"], counts["in_progress"]) >= 0
            assert (counts["status"] == "in_progress") == (counts["in_progress"] > 0)
            if one["status"] == "Pending":
                assert counts["in_progress"] == one["total"]
            if one["status"] == "Failed":
                assert counts["failed"] == one["total"]
        running = any(counts["in_progress"] for counts in one["destinations"].values())
        assert (one["status"] in UNFINISHED) == running


@given(seeds, moments)
@settings(max_examples=15)
def test_batches_come_newest_first_and_are_at_most_two_days_old(seed: int, time: float) -> None:
    batches = day(seed, started_at=START)(START + time)
    created = [datetime.fromisoformat(one["created_at"]).timestamp() for one in batches]
    assert created == sorted(created, reverse=True)
    assert START + time >= created[0]
    assert created[-1] >= START + time - 2 * DAY_SECONDS
    assert len({one["id"] for one in batches}) == len(batches) < 1000


@given(seeds, moments, st.floats(0, DAY_SECONDS))
@settings(max_examples=15)
def test_counts_of_documents_never_fall_and_a_finished_batch_never_changes(
    seed: int, time: float, later: float
) -> None:
    batches = day(seed, started_at=START)
    after = {one["id"]: one for one in batches(START + time + later)}
    for one in batches(START + time):
        if not (changed := after.get(one["id"])):
            continue
        assert changed == one or one["status"] in UNFINISHED
        assert {key: changed[key] for key in ("name", "created_at", "total")} == {
            key: one[key] for key in ("name", "created_at", "total")
        }
        for name, counts in one["destinations"].items():
            assert changed["destinations"][name]["completed"] >= counts["completed"]
            assert changed["destinations"][name]["failed"] >= counts["failed"]


@given(seeds, st.integers(1, 4))
@settings(max_examples=10)
def test_midnight_drops_no_more_batches_than_any_other_moment(seed: int, days: int) -> None:
    batches = day(seed, started_at=START)
    before = batches(START + days * DAY_SECONDS - 1)
    after = batches(START + days * DAY_SECONDS + 1)
    assert abs(len(after) - len(before)) < 20


@pytest.mark.parametrize("seed", range(5))
def test_once_a_day_most_documents_of_one_destination_fail_for_a_while(seed: int) -> None:
    batches = day(seed, started_at=START)(START + DAY_SECONDS - 1)
    failing = {
        name
        for one in batches
        for name, counts in one["destinations"].items()
        if one["status"] == "Completed" and counts["count"] >= 10 and counts["failed"] > counts["count"] / 2
    }
    assert 1 <= len(failing) <= 2, "one incident today, one on the day before"


async def test_the_exporter_reads_all_batches_of_a_day() -> None:
    listing = day(3, started_at=START)
    app: web.Application = make_api(lambda: listing(START + 100), token=TOKEN, max_page_size=10_000)
    async with serve_api(app) as base_url, aiohttp.ClientSession() as http:
        url = f"{base_url}/invoke/batch?page_size=10000"
        async with http.get(url, headers={"X-Inkit-API-Token": TOKEN}) as response:
            parts = list(read_parts(await response.read(), AccountLabels(), START + 100))
    assert len({one.id for part in parts for one in part.batches}) == parts[-1].pagination.total_count
    assert math.isclose(parts[-1].pagination.total_count or 0, 600, rel_tol=0.5)
