"""The simulated API: the documented shape over HTTP, and days that can be told apart only by their seed."""

import math
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from conftest import TOKEN, Api, batch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inkit_exporter.demo import DAY_SECONDS, DESTINATIONS, day, make_api, serve_api
from inkit_exporter.model import AccountLabels, decode_batch, decode_envelope

seeds = st.integers(0, 10**6)
START = 1_700_000_000.0


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


async def test_sorting_and_filters(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i, destinations={DESTINATIONS[i % 3]: (1, 0, 0)}) for i in range(9)]
    ascending = (await get(api, sort="created_at", page=2, page_size=4))[1]["items"]
    assert [item["id"] for item in ascending] == ["fb_4", "fb_3", "fb_2", "fb_1"]
    assert len((await get(api, destination_name="salesforce"))[1]["items"]) == 3
    assert len((await get(api, destination_status="completed"))[1]["items"]) == 9
    assert len((await get(api, destination_status="failed"))[1]["items"]) == 0
    assert [item["id"] for item in (await get(api, search="FB_7"))[1]["items"]] == ["fb_7"]


@pytest.mark.parametrize(
    "query", [{"page": 0}, {"page": "x"}, {"page_size": 0}, {"page_size": 101}, {"sort": "name"}], ids=str
)
async def test_a_query_out_of_range_is_422(api: Api, query: dict[str, Any]) -> None:
    assert (await get(api, **query))[0] == 422


async def test_one_batch_or_404_and_401_without_the_key(api: Api) -> None:
    api.batches = [batch("fb_1")]
    assert await get(api, "/invoke/batch/fb_1") == (200, api.batches[0])
    assert (await get(api, "/invoke/batch/fb_2"))[0] == 404
    assert (await get(api, token="other"))[0] == 401


async def test_over_the_rate_limit_it_says_when_to_come_back() -> None:
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


@given(seeds)
@example(4854)
@settings(max_examples=20)
def test_a_day_shows_everything_from_its_first_moment(seed: int) -> None:
    batches = day(seed, started_at=START)(START)
    assert {name for one in batches for name in one["destinations"]} == set(DESTINATIONS)
    assert {one["status"] for one in batches} >= {"In Progress", "Completed", "Failed"}


@given(seeds, st.floats(0, 3 * DAY_SECONDS), st.floats(0, DAY_SECONDS))
@settings(max_examples=20)
def test_a_day_is_plausible_at_every_moment(seed: int, first: float, later: float) -> None:
    batches = day(seed, started_at=START)
    before = {one["id"]: one for one in batches(START + first)}
    after = batches(START + first + later)
    assert after == day(seed, started_at=START)(START + first + later)
    created = [one["created_at"] for one in after]
    assert created == sorted(created, reverse=True)
    assert len(after) < 1500
    for one in after:
        for counts in one["destinations"].values():
            assert counts["count"] == counts["completed"] + counts["failed"] + counts["in_progress"] == one["total"]
            assert min(counts["completed"], counts["failed"], counts["in_progress"]) >= 0
        if one["status"] not in ("Pending", "In Progress"):
            assert not any(counts["in_progress"] for counts in one["destinations"].values())
        if earlier := before.get(one["id"]):
            for name, counts in one["destinations"].items():
                for field in ("completed", "failed"):
                    assert counts[field] >= earlier["destinations"][name][field]


async def test_the_exporter_reads_all_of_a_day() -> None:
    listing = day(3, started_at=START)
    app: web.Application = make_api(lambda: listing(START + 100), token=TOKEN, max_page_size=None)
    async with serve_api(app) as base_url, aiohttp.ClientSession() as http:
        url = f"{base_url}/invoke/batch?page_size=10000"
        async with http.get(url, headers={"X-Inkit-API-Token": TOKEN}) as response:
            records, pagination = decode_envelope(await response.read())
    labels = AccountLabels()
    assert len({decode_batch(record, labels).id for record in records}) == pagination.total_count
    assert math.isclose(pagination.total_count or 0, 400, rel_tol=0.5)
