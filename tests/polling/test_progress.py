"""Full listings that take long: the progress they report, and how long their numbers stay."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from support import PATIENCE_SECONDS
from support.api import TOKEN, Api, Handler, batch
from support.exporter import StartExporter
from support.samples import up

from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Seconds, Settings
from inkit_exporter.polling import poller
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import AccountState, States
from inkit_exporter.transport import open_session


class Account:
    """An account that the test polls. Its clock advances by `pace` seconds with each request."""

    def __init__(self, api: Api, accounts: Accounts, states: States) -> None:
        self.accounts = accounts
        self.states = states
        self.now = 1000.0
        self.pace = 10.0
        self.fails_on = ""
        api.fault = self.answer

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.now += self.pace
        if request.query["page"] == self.fails_on:
            self.fails_on = ""
            return web.Response(status=500)
        return await handler(request)

    async def poll(self) -> AccountState:
        await self.accounts.poll_once()
        return self.states["a"]


@asynccontextmanager
async def account(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Account]:
    settings = Settings(
        accounts=(AccountSettings(name="a", api_token_env="T", base_url=api.base_url),),
        poll=PollSettings(page_size=10, stale_after=Seconds(60)),
        api=ApiSettings(max_attempts=1, requests_per_minute=60),
    )
    states = States()
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN}, states)
        one = Account(api, accounts, states)
        monkeypatch.setattr(poller, "time", SimpleNamespace(monotonic=lambda: one.now, time=time.time))
        monkeypatch.setattr(poller, "boot_time", lambda: one.now)
        accounts.apply(settings)
        yield one


async def test_a_listing_of_over_a_minute_is_logged_once_a_minute(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(200)]
    async with account(api, monkeypatch) as one:
        with capture_logs() as logs:
            assert (await one.poll()).up
        told = [line for line in logs if line["event"] == "listing all batches"]
        assert [(line["page"], line["of_pages"], line["seconds_left"]) for line in told] == [(7, 20, 130), (14, 20, 60)]
        with capture_logs() as logs:
            assert (await one.poll()).up
        assert not [line for line in logs if line["event"] == "listing all batches"]


async def test_a_failed_poll_says_how_far_it_came_and_the_next_poll_continues_there(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(200)]
    async with account(api, monkeypatch) as one:
        one.fails_on = "15"
        failed = await one.poll()
        assert failed.error is not None and failed.error.startswith("the API answered 500")
        assert failed.error.endswith("; the next poll continues after page 14 of about 20")
        assert failed.progress is None
        api.requests.clear()
        state = await one.poll()
        assert state.up and state.snapshot is not None and state.snapshot.batches == {"completed": 200}
        assert [int(request.query["page"]) for request in api.requests] == [*range(14, 21), 1]
        assert state.stale_after == 2 * 10 * (15 + 8), "twice the duration of the whole listing"


async def test_numbers_are_shown_for_twice_the_duration_of_the_last_listing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is not in order, so each poll reads all of it, in 200 seconds. `stale_after` is 60 seconds."""
    api.batches = [batch(f"fb_{i}", age=i) for i in range(200)]
    Random(1).shuffle(api.batches)
    async with account(api, monkeypatch) as one:
        state = await one.poll()
        assert not state.newest_first
        assert state.fresh_snapshot(state.snapshot_at + 400) is state.snapshot
        assert state.fresh_snapshot(state.snapshot_at + 401) is None
        one.pace = 0.1
        state = await one.poll()
        assert state.fresh_snapshot(state.snapshot_at + 60) is state.snapshot
        assert state.fresh_snapshot(state.snapshot_at + 61) is None


async def test_it_is_ready_after_the_first_page_and_shows_the_progress_of_the_others(
    api: Api, exporter: StartExporter
) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(100)]
    may_go_on = [asyncio.Event(), asyncio.Event()]

    async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (number := request.query["page"]) in ("1", "4"):
            await may_go_on[number == "4"].wait()
        return await handler(request)

    api.fault = wait
    running = await exporter(poll={"page_size": 10, "interval": "1h"}, limits={"requests_per_minute": 60})
    while not api.requests:
        await asyncio.sleep(0.01)
    assert await running.get("/-/ready") == (503, "not ready: the API has not answered for every account yet\n")
    may_go_on[0].set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(api.requests) < 4:
            await asyncio.sleep(0.01)
    assert (await running.get("/-/ready"))[0] == 200
    progress = json.loads((await running.get("/api/v1/status"))[1])["accounts"][0]["progress"]
    assert (progress["page"], progress["of_pages"]) == (3, 10)
    assert 7 <= progress["seconds_left"] <= 30
    may_go_on[1].set()
    await running.wait_for(lambda s: up(s) == 1)
    assert json.loads((await running.get("/api/v1/status"))[1])["accounts"][0]["progress"] is None


async def test_it_is_ready_after_a_failed_first_poll(api: Api, exporter: StartExporter) -> None:
    async def fail(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        return web.Response(status=401)

    api.fault = fail
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 0)
    assert (await running.get("/-/ready"))[0] == 200
