"""A slow disk delays only the account whose file it holds."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace
from support import PATIENCE_SECONDS
from support.api import Api, batch
from support.clock import Clock
from support.conversation import make_batch, pages, poll
from support.exporter import StartExporter
from support.samples import sample_key, up
from support.world import NOW

from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, PollSettings
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState, States
from inkit_exporter.storage import records
from inkit_exporter.storage import storage as module
from inkit_exporter.storage.files import AccountFile, file_name
from inkit_exporter.storage.storage import Storage, open_storage
from inkit_exporter.window.plan import Plan
from inkit_exporter.window.totals import Totals

SETTINGS = PollSettings()
T = TypeVar("T")


@asynccontextmanager
async def storing(directory: Path, *names: str) -> AsyncIterator[tuple[Storage, States]]:
    """Open the storage for these new accounts, and yield it when it is loaded."""
    states, storage = States(), await open_storage(directory)
    for name in names:
        states.publish(AccountState(account=name, settings=SETTINGS, usage=Usage(RateLimiter(60))))
        storage.follow(AccountSettings(name=name, api_token_env="T"), states)
    try:
        await storage.loaded(60)
        yield storage, states
    finally:
        await close(storage)


async def close(storage: Storage) -> None:
    """Close the storage, and wait until its threads have done all their work."""
    storage.close()
    for thread in threading.enumerate():
        if thread.name.startswith("storage of"):
            await asyncio.to_thread(thread.join, PATIENCE_SECONDS)


async def give_up(clock: Clock, waiting: Coroutine[Any, Any, T]) -> T:
    """Let time pass until a call no longer waits for the disk, and return its result."""
    task = asyncio.create_task(waiting)
    await asyncio.sleep(0)
    clock.skip(module.DISK_SECONDS)
    return await task


@pytest.fixture
def free() -> Iterator[threading.Event]:
    """Set it to let the disk answer."""
    event = threading.Event()
    yield event
    event.set()


@contextmanager
def missing(directory: Path) -> Iterator[None]:
    """Let the disk fail meanwhile."""
    away = directory.rename(directory.with_name("away"))
    yield
    away.rename(directory)


def polled(plan: Plan, batches: int, state: AccountState) -> AccountState:
    """Poll this many batches, and return the new state."""
    poll(plan, pages([make_batch(f"fb_{i}", "", NOW - i, "completed", {}) for i in range(batches)], 100), NOW)
    return replace(
        state, last_success=NOW, snapshot=plan.window.snapshot(None), totals=plan.window.totals.totals.copy()
    )


async def test_a_hanging_save_is_abandoned_and_made_up_for_and_delays_no_other_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, free: threading.Event
) -> None:
    save, wholes = AccountFile.save, []

    def slow(self: AccountFile, *arguments: Any, **named: Any) -> None:
        if self.path.name == file_name("slow"):
            wholes.append(named["whole"])
            free.wait(PATIENCE_SECONDS)
        save(self, *arguments, **named)

    monkeypatch.setattr(AccountFile, "save", slow)
    async with storing(tmp_path, "slow", "fast") as (storage, states):
        plans = {name: Plan(SETTINGS, Totals()) for name in ("slow", "fast")}
        hanging = asyncio.create_task(storage["slow"].save(plans["slow"], polled(plans["slow"], 3, states["slow"])))
        await storage["fast"].save(plans["fast"], polled(plans["fast"], 2, states["fast"]))
        assert storage.health().healthy and not hanging.done(), "the other account must not wait"
        clock.skip(module.DISK_SECONDS)
        await hanging
        health = storage.health()
        assert not health.healthy and health.error == "slow: the disk has not answered for 30s"
        async with asyncio.timeout(10):  # only the first poll waits for the hanging save
            await storage["slow"].save(plans["slow"], polled(plans["slow"], 4, states["slow"]))
        free.set()
        while not storage.health().healthy:
            await storage["slow"].save(plans["slow"], polled(plans["slow"], 5, states["slow"]))
            await asyncio.sleep(0.01)
        await storage["slow"].save(plans["slow"], polled(plans["slow"], 5, states["slow"]))
    assert wholes.index(False) == 1, "what was written late is not written again"
    async with storing(tmp_path, "slow", "fast") as (_, states):
        assert [len(snapshot.newest) for state in states if (snapshot := state.snapshot)] == [5, 2]


async def test_a_save_that_outlasts_its_poll_stores_nothing_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    directory, plan = tmp_path / "storage", Plan(SETTINGS, Totals())
    save, saved = AccountFile.save, threading.Event()

    def tell(self: AccountFile, *arguments: Any, **named: Any) -> None:
        save(self, *arguments, **named)
        saved.set()

    async with storing(directory, "a") as (storage, states):
        await storage["a"].save(plan, polled(plan, 1, states["a"]))
        with missing(directory):
            await storage["a"].save(plan, polled(plan, 1, states["a"]))
        monkeypatch.setattr(AccountFile, "save", tell)
        with closing(sqlite3.connect(directory / file_name("a"), isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            await give_up(clock, storage["a"].save(plan, polled(plan, 2, states["a"])))
            await storage["a"].save(plan, polled(plan, 3, states["a"]))
        assert await asyncio.to_thread(saved.wait, PATIENCE_SECONDS)
        await asyncio.sleep(0.1)
        assert not storage.health().healthy, "the last poll is not stored"
    async with storing(directory, "a") as (storage, states):
        assert (snapshot := states["a"].snapshot) and len(snapshot.newest) == 2
        restored = await storage["a"].take_plan()
        assert restored is not None
        await storage["a"].save(restored, polled(restored, 3, states["a"]))
        assert storage.health().healthy


async def test_what_a_disk_that_fails_for_long_lacks_is_bounded_and_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_arguments: Any, **_named: Any) -> None:
        raise OSError(5, "Input/output error")

    async with storing(tmp_path, "a") as (storage, states):
        plan = Plan(SETTINGS, Totals())
        await storage["a"].save(plan, polled(plan, 1, states["a"]))
        with monkeypatch.context() as context:
            context.setattr(AccountFile, "save", fails)
            for i in range(100):
                later = NOW + i * SETTINGS.lookback
                batches = [make_batch(f"fb_{i}_{j}", "", later - j, "completed", {}) for j in range(5)]
                poll(plan, pages(batches, 100), later)
                await storage["a"].save(plan, states["a"])
                assert len(plan.window.totals.changed) <= 2 * 5
            assert not storage.health().healthy
        await storage["a"].save(plan, states["a"])
        assert storage.health().healthy
    async with storing(tmp_path, "a") as (storage, states):
        assert (snapshot := states["a"].snapshot) and [one.id for one in snapshot.newest] == [one.id for one in batches]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("seed", range(3))
async def test_however_the_disk_fails_the_file_holds_what_one_poll_saw(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, save = Random(seed), AccountFile.save

    def save_or_fail(self: AccountFile, *arguments: Any, **named: Any) -> None:
        what = chance.choice(("save", "save", "fail", "late", "late and fail", "garbage"))
        if "late" in what:
            time.sleep(0.05)
        if "fail" in what:
            raise OSError(5, "Input/output error")
        if what == "garbage":
            self.close()
            self.path.write_bytes(b"garbage" * 1000)
        save(self, *arguments, **named)

    monkeypatch.setattr(AccountFile, "save", save_or_fail)
    monkeypatch.setattr(module, "DISK_SECONDS", 0.02)
    seen: list[tuple[records.Kept, dict[str, records.KeptBatch | None]]] = []
    async with storing(tmp_path, "a") as (storage, states):
        plan, there = Plan(SETTINGS, Totals()), 0
        for step in range(60):
            there += chance.randint(0, 3)
            now = NOW + step * chance.choice((10, 3600))
            poll(
                plan, pages([make_batch(f"fb_{i}", "", NOW + i, "completed", {}) for i in range(there)][::-1], 100), now
            )
            state = replace(states["a"], last_success=now, snapshot=plan.window.snapshot(None))
            seen.append((records.take(plan, state, storage["a"].origin), dict(records.take_records(plan, None))))
            await storage["a"].save(plan, state)
            await asyncio.sleep(chance.choice((0.0, 0.06)))
        healthy = storage.health().healthy
    with closing(AccountFile(tmp_path / file_name("a"))) as file:
        found = file.load()
    assert found is None or found in seen
    assert found == seen[-1] or not healthy


async def test_nothing_is_saved_before_a_load_that_hangs_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, free: threading.Event
) -> None:
    load = AccountFile.load

    def slow(self: AccountFile) -> Any:
        free.wait(PATIENCE_SECONDS)
        return load(self)

    monkeypatch.setattr(AccountFile, "load", slow)
    storage, states, plan = await open_storage(tmp_path), States(), Plan(SETTINGS, Totals())
    try:
        states.publish(AccountState(account="a", settings=SETTINGS, usage=Usage(RateLimiter(60))))
        storage.follow(AccountSettings(name="a", api_token_env="T"), states)
        assert await give_up(clock, storage["a"].take_plan()) is None
        await storage["a"].save(plan, polled(plan, 2, states["a"]))
        assert not storage.health().healthy
        polled(plan, 3, states["a"])
    finally:
        free.set()
        await close(storage)
    async with storing(tmp_path, "a") as (storage, states):
        assert states["a"].snapshot is None
        assert not list(tmp_path.glob("*.set-aside")), "totals of one poll were saved with the batches of another"


async def test_nothing_is_saved_while_a_reload_waits_for_a_save_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, free: threading.Event
) -> None:
    save = AccountFile.save

    def slow(self: AccountFile, *arguments: Any, **named: Any) -> None:
        free.wait(PATIENCE_SECONDS)
        save(self, *arguments, **named)

    monkeypatch.setattr(AccountFile, "save", slow)
    async with storing(tmp_path, "a") as (storage, states):
        plan, later = Plan(SETTINGS, Totals()), Plan(SETTINGS, Totals())
        hanging = asyncio.create_task(storage["a"].save(plan, polled(plan, 2, states["a"])))
        await asyncio.sleep(0)
        storage.follow(AccountSettings(name="a", api_token_env="T"), states)
        assert await give_up(clock, storage["a"].take_plan()) is None
        await storage["a"].save(later, polled(later, 3, states["a"]))
        polled(later, 4, states["a"])
        free.set()
        await hanging
    async with storing(tmp_path, "a") as (storage, states):
        assert (snapshot := states["a"].snapshot) and len(snapshot.newest) == 2
        assert not list(tmp_path.glob("*.set-aside")), "totals of one poll were saved with the batches of another"


async def test_a_new_token_while_the_disk_fails_does_not_bring_back_older_totals(tmp_path: Path) -> None:
    """Prometheus would take lower totals for a restart, and count them again."""
    directory, plan = tmp_path / "storage", Plan(SETTINGS, Totals())
    async with storing(directory, "a") as (storage, states):
        await storage["a"].save(plan, polled(plan, 1, states["a"]))
        with missing(directory):
            await storage["a"].save(plan, polled(plan, 2, states["a"]))
        storage.follow(AccountSettings(name="a", api_token_env="OTHER"), states)
        await storage.loaded(60)
        assert states["a"].snapshot is None
        assert await storage["a"].take_plan() is None


@pytest.mark.process
async def test_an_account_whose_file_is_locked_at_startup_is_missing_until_it_is_loaded(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch("fb_1")]
    directory, accounts = tmp_path / "storage", [{"name": "slow"}, {"name": "fast"}]
    flag = f"--storage.path={directory}"
    running = await exporter(flag, accounts=accounts)
    await running.wait_for(lambda s: up(s, "slow") == up(s, "fast") == 1)
    api.batches = [batch("fb_2"), *api.batches]
    created = sample_key("inkit_batches_created_total", account="slow")
    await running.wait_for(lambda s: s[created] == 1)
    assert await running.stop() == 0
    with closing(sqlite3.connect(directory / file_name("slow"), isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        running = await exporter(flag, accounts=accounts)
        samples = await running.wait_for(lambda s: up(s, "fast") == 1)
        assert not [name for name in samples if 'account="slow"' in name], "else its totals would begin at 0"
    samples = await running.wait_for(lambda s: up(s, "slow") == 1)
    assert samples[created] == 1


async def test_an_account_whose_file_is_unreadable_starts_empty_and_reports_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: AccountFile) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(AccountFile, "load", fails)
    async with storing(tmp_path, "a") as (storage, states):
        assert states["a"].snapshot is None
        assert await storage["a"].take_plan() is None
        assert storage.health().error == "a: Input/output error"
        assert storage.health().failures == 1
