"""The watchdog notices, logs and restarts a poll loop that ends or hangs. Health fails only if that does not help."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from support import PATIENCE_SECONDS, ROOT
from support.api import TOKEN, Api, Handler, batch
from support.exporter import StartExporter
from support.samples import documents, up

from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Seconds, Settings
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.polling.poller import Poller
from inkit_exporter.state import AccountState, States
from inkit_exporter.transport import open_session
from inkit_exporter.watchdog import WatchedLoop

NAMES = ("fails", "works")

pytestmark = pytest.mark.usefixtures("clock")


class Watched:
    """Two accounts with short intervals, under the watchdog."""

    def __init__(self, accounts: Accounts, states: States) -> None:
        self.accounts = accounts
        self.states = states

    @property
    def healthy(self) -> bool:
        return self.accounts.healthy()

    def state(self, name: str = "fails") -> AccountState:
        return self.states[name]


@asynccontextmanager
async def watched(api: Api, page_size: int = 100) -> AsyncIterator[Watched]:
    """Run the accounts. A poll counts as hung after 0.3 s without progress: one attempt of 0.2 s and 0.1 s grace."""
    settings = Settings(
        accounts=tuple(AccountSettings(name=name, api_token_env="T", base_url=api.base_url) for name in NAMES),
        poll=PollSettings(interval=Seconds(0.05), stale_after=Seconds(0.2), max_batches=20, page_size=page_size),
        api=ApiSettings(timeout=Seconds(0.2), max_attempts=1, requests_per_minute=10_000),
    )
    states = States()
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN}, states, grace=0.1)
        accounts.apply(settings)
        running = asyncio.create_task(accounts.run())
        try:
            yield Watched(accounts, states)
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.wait([running])


def loops(name: str = "fails") -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


def told(logs: Iterable[MutableMapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the watchdog's log lines."""
    return [(line["event"], line["account"], line["log_level"]) for line in logs if "poll loop" in line["event"]]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def polled_again(accounts: Watched, name: str = "fails") -> None:
    before = accounts.state(name).poll_ended_at
    await until(lambda: accounts.state(name).poll_ended_at != before)


async def test_a_loop_that_ends_is_restarted_with_its_state(api: Api) -> None:
    api.batches = [batch("fb_1")]
    async with watched(api) as accounts:
        await until(lambda: accounts.state().polls >= 5)
        with capture_logs() as logs:
            (loop,) = loops()
            loop.cancel()
            await until(lambda: loops() and loops() != [loop])
        assert told(logs) == [("the poll loop has ended, restarting it", "fails", "error")]
        assert accounts.state().snapshot and accounts.state().polls >= 5
        await polled_again(accounts)
        assert accounts.healthy
        assert len(loops()) == 1


async def test_a_loop_that_keeps_ending_is_unhealthy_until_it_polls(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Poller.run

    async def end(self: Poller, first_after: float) -> None:
        if asyncio.current_task() in loops("fails"):
            raise ZeroDivisionError
        await run(self, first_after)

    async with watched(api) as accounts:
        await until(lambda: accounts.state().up)
        monkeypatch.setattr(Poller, "run", end)
        with capture_logs() as logs:
            loops()[0].cancel()
            await until(lambda: not accounts.healthy)
            await polled_again(accounts, "works")
            await until(lambda: any("ZeroDivisionError()" in str(line.get("error")) for line in logs))
        monkeypatch.undo()
        await until(lambda: accounts.healthy)
        await polled_again(accounts)
        assert len(loops()) == len(loops("works")) == 1


async def test_a_loop_that_hangs_is_cancelled_and_restarted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    poll = Poller.poll
    hanging: list[Poller] = []
    ended: list[Poller] = []

    async def hang(self: Poller) -> bool:
        if asyncio.current_task() in loops("works") or len(hanging) == 1:
            return await poll(self)
        hanging.append(self)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(self)
        raise AssertionError

    async with watched(api) as accounts:
        await until(lambda: accounts.state().up)
        monkeypatch.setattr(Poller, "poll", hang)
        with capture_logs() as logs:
            await until(lambda: hanging)
            await until(lambda: ended)
        assert told(logs) == [("the poll loop hangs, restarting it", "fails", "error")]
        await polled_again(accounts)
        assert accounts.healthy
        assert len(loops()) == 1
        assert hanging == ended


async def test_a_loop_that_hangs_again_is_unhealthy(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(self: Poller) -> bool:
        await asyncio.Event().wait()
        raise AssertionError

    async with watched(api) as accounts:
        await until(lambda: accounts.state().up)
        monkeypatch.setattr(Poller, "poll", hang)
        await until(lambda: not accounts.healthy)
        await until(lambda: len(loops()) == 1)
        monkeypatch.undo()
        await until(lambda: accounts.healthy)
        await polled_again(accounts)


@pytest.mark.parametrize("fault", ["hangs", "asks to wait for five minutes"])
async def test_an_api_that_hangs_or_asks_to_wait_makes_no_loop_count_as_hung(api: Api, fault: str) -> None:
    async def answer(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        if fault == "hangs":
            await asyncio.Event().wait()
        return web.Response(status=429, headers={"Retry-After": "300"})

    api.fault = answer
    with capture_logs() as logs:
        async with watched(api) as accounts:
            await until(lambda: accounts.state().up is False)
            before = loops()
            await asyncio.sleep(0.8)  # more than twice the time after which a loop counts as hung
            assert loops() == before
            assert accounts.healthy
    assert told(logs) == []


async def test_a_long_listing_that_makes_progress_does_not_count_as_hung(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(20)]

    async def slow(request: web.Request, handler: Handler) -> web.StreamResponse:
        await asyncio.sleep(0.08)
        return await handler(request)

    api.fault = slow
    with capture_logs() as logs:
        async with watched(api, page_size=1) as accounts:
            await until(lambda: accounts.state().up is not None)
            assert accounts.state().up
            assert accounts.state().duration > 5 * 0.3
    assert told(logs) == []


async def test_stopping_leaves_no_task_behind(api: Api) -> None:
    before = asyncio.all_tasks()
    async with watched(api) as accounts:
        await until(lambda: all(accounts.state(name).up for name in NAMES))
    await until(lambda: asyncio.all_tasks() <= before)


BREAKS_EVERY_LOOP = """
from inkit_exporter.polling.poller import Poller

polled = set()

async def run(self, first_after):
    if not polled:
        polled.add(await self.poll())
    raise ZeroDivisionError

Poller.run = run
"""


async def test_a_loop_that_cannot_be_restarted_fails_healthy_and_keeps_the_metrics(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKS_EVERY_LOOP)
    api.batches = [batch("fb_1")]
    running = await exporter(env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    await running.wait_for(lambda s: up(s) == 1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (health := await running.get("/-/healthy"))[0] == 200:
            await asyncio.sleep(0.05)
    assert health == (503, "not healthy: a poll loop has ended\n")
    assert documents(await running.samples()) == {("inkit_storage", "completed"): 1}
    assert any("restarting it" in line and "ZeroDivisionError" in line for line in running.log)


class Beating:
    """A loop that is due in an hour. The test sets its completed rounds, and ends it."""

    def __init__(self) -> None:
        self.rounds = 0
        self.due = time.monotonic() + 3600
        self.first_after = -1.0
        self.may_end = asyncio.Event()
        self.ended = False

    async def run(self, first_after: float) -> None:
        self.first_after = first_after
        await self.may_end.wait()
        self.ended = True


async def test_any_loop_can_be_watched_and_a_completed_round_makes_it_healthy_again() -> None:
    made: list[Beating] = []

    def make() -> Beating:
        made.append(Beating())
        return made[-1]

    async def restarted(times: int) -> None:
        await until(lambda: len(made) == 1 + times and made[-1].first_after == 0.0)

    watched = WatchedLoop("any", make)
    watching = asyncio.create_task(watched.run(3.0, pause=0.1, grace=0.1))
    await until(lambda: made[0].first_after == 3.0)
    for restarts, healthy in ((1, True), (2, False)):
        lived_until = time.monotonic()
        made[-1].may_end.set()
        await restarted(restarts)
        assert time.monotonic() - lived_until > 0.1, "a loop that has ended restarts after a pause"
        assert watched.healthy is healthy
    made[-1].rounds = 1
    assert watched.healthy
    made[-1].due = time.monotonic() - 3600
    await restarted(3)
    assert watched.healthy, "it has failed only once since it completed a round"
    made[-1].may_end.set()
    watching.cancel()
    watched.stop()
    await until(lambda: not loops("any"))
    assert not made[-1].ended, "it was stopped before its next step"
