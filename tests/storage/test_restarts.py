"""Restarts: a poller that continues from storage finds the same as one that never ended."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.conversation import make_batch, pages, poll
from support.world import LOOKBACK, NOW, SEEN_AT_ONCE, SEEN_BY_THE_SWEEP, World, essence, oracle

from inkit_exporter.api.batches import Batch, Counts
from inkit_exporter.api.statuses import read_status
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, Filters, PollSettings, Seconds
from inkit_exporter.labels import OTHER
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState
from inkit_exporter.storage import records
from inkit_exporter.storage.files import AccountFile
from inkit_exporter.window.plan import Plan
from inkit_exporter.window.totals import Totals
from inkit_exporter.window.window import Snapshot

POLL = PollSettings(interval=Seconds(10), lookback=Seconds(LOOKBACK), resync_interval=Seconds(600), max_batches=10**6)
ORIGIN = records.origin_of(AccountSettings(name="a", api_token_env="T"))
seeds = st.integers(0, 2**32)


def as_read(batches: list[Batch], *final_statuses: str) -> list[Batch]:
    """Return the batches with `final` set from their statuses, as the client does."""
    return [replace(batch, final=read_status(batch.status, final_statuses)[1]) for batch in batches]


class Account:
    """An account that stores the result of each poll, like the poller, but without clocks and threads."""

    def __init__(self, disk: "Disk", poll_settings: PollSettings = POLL, name: str = "a.db") -> None:
        self.disk = disk
        self.file = disk.files.enter_context(closing(AccountFile(disk.folder / name)))
        self.state = AccountState(account="a", settings=poll_settings, usage=Usage(RateLimiter(60)))
        self.plan = Plan(poll_settings, Totals())

    def poll(self, batches: list[Batch], size: int, now: float) -> int:
        """Poll, and store the result. Returns the number of requests."""
        requests = poll(self.plan, pages(as_read(batches, *self.state.settings.final_statuses), size), now)
        window = self.plan.window
        window.totals.counting = True
        self.state = replace(
            self.state,
            last_success=now,
            snapshot=window.snapshot(self.state.snapshot),
            totals=window.totals.totals.copy(),
        )
        changed = records.take_changed(window.totals)
        self.file.save(
            records.take(self.plan, self.state, ORIGIN),
            records.take_records(self.plan, changed),
            whole=changed is None,
        )
        return requests

    def restart(self, poll_settings: PollSettings = POLL) -> "Account":
        """Return an account that is restored from the file alone."""
        self.file.close()
        after = Account(self.disk, poll_settings, self.file.path.name)
        stored = after.file.load()
        assert stored is not None
        kept, batches = stored
        after.plan = records.restore_plan(kept, batches, poll_settings)
        after.state = records.restore_state(kept, after.plan, after.state, snapshot_at=0.0)
        return after

    @property
    def seen(self) -> tuple[object, ...]:
        """Return what the exporter serves about the account."""
        return self.state.snapshot, self.state.totals, self.state.last_success, self.state.newest_first

    @property
    def snapshot(self) -> Snapshot:
        assert self.state.snapshot is not None
        return self.state.snapshot


class Disk(NamedTuple):
    """A folder, and the files in it that are open."""

    folder: Path
    files: ExitStack


@contextmanager
def disk() -> Iterator[Disk]:
    """Yield a new disk, in memory if the system has /dev/shm."""
    shared = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder, ExitStack() as files:
        yield Disk(Path(folder), files)


@given(seeds, st.integers(2, 12), st.booleans(), st.integers(5, 60) | st.just(10**6))
@settings(max_examples=60)
def test_restarts_between_polls_change_no_result(seed: int, size: int, ties: bool, most: int) -> None:
    """Gauges, totals, times of the last change and the next poll's requests stay the same."""
    world = World(Random(seed), ties=ties)
    configured = replace(POLL, max_batches=most)
    with disk() as there:
        one, other = Account(there, configured, "b.db"), Account(there, configured)
        for _ in range(12):
            for _ in range(world.chance.randint(0, 6)):
                world.happen(world.chance.choice(SEEN_AT_ONCE + SEEN_BY_THE_SWEEP))
            world.now += 10
            expected = one.poll(world.batches, size, world.now)
            assert other.poll(world.batches, size, world.now) == expected
            assert other.seen == one.seen
            while world.chance.random() < 0.5:
                other = other.restart(configured)
                assert other.seen == one.seen


@given(seeds, st.integers(2, 12), st.lists(st.sampled_from((200, 1000, 1500)), max_size=4))
@settings(max_examples=60)
def test_after_restarts_with_any_lookback_the_sums_match_a_full_listing_and_nothing_counts_twice(
    seed: int, size: int, lookbacks: list[int]
) -> None:
    """However long the exporter was down, it counts the batches created meanwhile that are in the window."""
    world = World(Random(seed), ties=False)
    for _ in range(20):
        world.happen("create")
        world.now += world.chance.uniform(0, 100)
    with disk() as there:
        account = Account(there, replace(POLL, lookback=Seconds(500)))
        account.poll(world.batches, size, world.now)
        baseline = {batch.id for batch in world.batches}
        totals = [account.state.totals]
        for lookback in lookbacks:
            for _ in range(world.chance.randint(0, 6)):
                world.happen(world.chance.choice(("create", "burst", "progress", "finish", "time")))
            world.now += world.chance.choice((10, 100, 3000))
            account = account.restart(replace(POLL, lookback=Seconds(lookback)))
            assert account.state.totals == totals[-1], "stored totals are served before the first poll"
            account.poll(world.batches, size, world.now)
            listed = [batch for batch in world.batches if batch.created_at >= world.now - lookback]
            assert essence(account.snapshot) == essence(oracle(as_read(listed)))
            new = {batch.id for batch in listed} - baseline
            assert account.state.totals.created.value - totals[-1].created.value == len(new)
            baseline |= {batch.id for batch in world.batches}
            totals.append(account.state.totals)
    for field in ("completed", "failed", "with_failures", "finished"):
        for before, after in pairwise(Counter({k: v.value for k, v in getattr(t, field).items()}) for t in totals):
            assert all(after[label] >= number for label, number in before.items())


def test_changes_during_downtime_are_counted_when_they_are_seen() -> None:
    waits = make_batch("fb_1", "", NOW - 5, "in_progress", {"box": Counts(3, 0, 0, 3)})
    old = [make_batch(f"fb_old_{i}", "", NOW - 10 - i, "completed", {"box": Counts(1, 1, 0, 0)}) for i in range(30)]
    with disk() as there:
        account = Account(there)
        account.poll([waits, *old], 10, NOW)
        account = account.restart()
        moved = replace(waits, status="completed", final=True, destinations={"box": Counts(3, 2, 1, 0)})
        new = make_batch("fb_2", "", NOW + 100, "completed", {"box": Counts(4, 4, 0, 0)})
        assert account.poll([new, moved, *old], 10, NOW + 300) <= 3
        totals = account.state.totals
        assert totals.created.value == 1
        assert totals.completed["box"].value == 2 + 4
        assert totals.failed["box"].value == 1
        assert totals.finished["completed"].value == 2


def test_max_batches_may_grow_at_a_restart() -> None:
    listing = [make_batch(f"fb_{i}", "", NOW - i, "completed", {}) for i in range(50)]
    with disk() as there:
        account = Account(there, replace(POLL, max_batches=20))
        account.poll(listing, 10, NOW)
        assert account.snapshot.truncated
        account = account.restart(replace(POLL, max_batches=40))
        account.poll(listing, 10, NOW + 10)
        assert len(account.plan.window.batches) == 40
        assert account.state.totals.created.value == 0, "older batches that now fit into the window are not new"


def test_what_was_summed_under_other_still_is_after_a_restart_and_counts_once() -> None:
    """Labels are also taken by batches that never were in the window, such as older ones."""
    with disk() as there:
        account = Account(there)
        destinations = account.state.labels.destinations
        while destinations.of(f"used_{len(destinations.admitted)}") != OTHER:
            pass
        statuses = account.state.labels.statuses
        statuses.of("archived")
        account.poll([make_batch("fb_1", "", NOW, "completed", {destinations.of("late"): Counts(5, 5, 0, 0)})], 10, NOW)
        labels = account.restart().state.labels
        assert labels.destinations.of("late") == OTHER
        assert labels.statuses.admitted == statuses.admitted


def test_a_status_made_final_at_a_restart_counts_no_batch_as_just_finished() -> None:
    odd = make_batch("fb_1", "", NOW, "brand_new", {})
    with disk() as there:
        account = Account(there)
        account.poll([odd], 10, NOW)
        assert account.snapshot.unfinished.total == 1
        account = account.restart(replace(POLL, final_statuses=("Brand New",)))
        account.poll([odd], 10, NOW + 10)
        account = account.restart(replace(POLL, final_statuses=("Brand New",)))
        assert account.snapshot.unfinished.total == 0
        assert account.state.totals.finished == {}


def test_a_batch_finished_by_a_status_that_is_no_longer_final_is_not_counted_again() -> None:
    odd = make_batch("fb_1", "", NOW + 1, "brand_new", {})
    configured = replace(POLL, final_statuses=("Brand New",))
    with disk() as there:
        account = Account(there, configured)
        account.poll([], 10, NOW)
        account.poll([odd], 10, NOW + 10)
        account = account.restart()
        account.poll([odd], 10, NOW + 20)
        account = account.restart()
        account.poll([replace(odd, status="completed")], 10, NOW + 30)
        assert {status: total.value for status, total in account.state.totals.finished.items()} == {"brand_new": 1}


@pytest.mark.parametrize(
    "account",
    [
        AccountSettings(name="b", api_token_env="T"),
        AccountSettings(name="a", api_token_env="T", base_url="https://inkit.example/v1"),
        AccountSettings(name="a", api_token_env="T", batches="document"),
        AccountSettings(name="a", api_token_env="T", filters=Filters(search="x")),
    ],
)
def test_a_changed_name_address_kind_or_filter_changes_the_origin(account: AccountSettings) -> None:
    assert records.origin_of(account) != ORIGIN


def test_a_changed_token_does_not_change_the_origin() -> None:
    assert records.origin_of(AccountSettings(name="a", api_token_file="/run/token")) == ORIGIN
