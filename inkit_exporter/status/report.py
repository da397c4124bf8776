"""What `/api/v1/status` returns and the status page shows. docs/status.md explains each field."""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from inkit_exporter import __version__
from inkit_exporter.api.batches import Counts
from inkit_exporter.clock import boot_time
from inkit_exporter.counters import Counter
from inkit_exporter.state import AccountState, Progress
from inkit_exporter.status.batches import (
    BatchesStatus,
    DocumentsStatus,
    Query,
    failing_batches,
    failing_first,
    unfinished_batches,
)
from inkit_exporter.status.failing import FailingStatus, find_failures
from inkit_exporter.storage.health import StorageHealth
from inkit_exporter.window.window import Snapshot


class DestinationStatus(DocumentsStatus, frozen=True):
    """One destination of an account: its documents, and whether it fails now."""

    last_completed_timestamp_seconds: float | None
    last_failed_timestamp_seconds: float | None
    failing: FailingStatus | None


class WindowStatus(Struct, frozen=True):
    """An account's recent batches as of its last complete poll."""

    age_seconds: float
    stale: bool
    stale_after_seconds: float
    lookback_seconds: float
    batches: int
    batches_by_status: Mapping[str, int]
    failing_batches: int
    unfinished_batches: int
    max_batches: int
    truncated: bool
    newest_first: bool
    newest_batch_created_timestamp_seconds: float | None
    oldest_unfinished_batch_created_timestamp_seconds: float | None
    newest_failing_batch_created_timestamp_seconds: float | None
    failing: FailingStatus | None
    destinations: Sequence[DestinationStatus]


class AccountStatus(Struct, frozen=True):
    """One account: its health, its polls, their cost, and its recent batches."""

    account: str
    up: bool | None
    reason: str | None
    error: str | None
    down_since_timestamp_seconds: float | None
    last_successful_poll_timestamp_seconds: float | None
    last_poll_timestamp_seconds: float | None
    poll_duration_seconds: float | None
    poll_requests: int | None
    poll_interval_seconds: float
    polling: bool
    progress: Progress | None
    next_poll_timestamp_seconds: float | None
    requests_last_minute: int
    requests_per_minute: int
    paused_until_timestamp_seconds: float | None
    invalid_batches: int
    repaired_batches: int
    clock_skew_seconds: float | None
    window: WindowStatus | None


class Status(Struct, frozen=True):
    """The exporter at one moment."""

    version: str
    timestamp_seconds: float
    accounts: Sequence[AccountStatus]
    failing_batches: BatchesStatus
    unfinished_batches: BatchesStatus
    storage: StorageHealth | None


async def make_status(states: Iterable[AccountState], query: Query, storage: StorageHealth | None) -> Status:
    """The report as of the call. Accounts that are down come first. Other tasks run between the accounts."""
    wall, now = time.time(), boot_time()
    chosen = [state for state in states if not query.account or state.account in query.account]
    chosen.sort(key=lambda state: state.up is not False)
    snapshots = [(state.account, state.snapshot) for state in chosen if state.snapshot]
    accounts = []
    for state in chosen:
        accounts.append(_account(state, query, wall, now))
        await asyncio.sleep(0)
    return Status(
        version=__version__,
        timestamp_seconds=round(wall, 3),
        accounts=accounts,
        failing_batches=await failing_batches(((account, one.failing) for account, one in snapshots), query),
        unfinished_batches=await unfinished_batches(((account, one.unfinished) for account, one in snapshots), query),
        storage=storage,
    )


def _account(state: AccountState, query: Query, wall: float, now: float) -> AccountStatus:
    """`wall` and `now` are the same moment, in seconds since the epoch and by `boot_time`."""
    limiter, ended = state.usage.rate_limiter, state.poll_ended_at is not None

    def stamp(boot: float) -> float:
        return round(wall + boot - now, 3)

    return AccountStatus(
        account=state.account,
        up=state.up,
        reason=state.reason,
        error=state.error,
        down_since_timestamp_seconds=None if state.down_since is None else stamp(state.down_since),
        last_successful_poll_timestamp_seconds=state.last_success,
        last_poll_timestamp_seconds=state.poll_ended_at,
        poll_duration_seconds=state.duration if ended else None,
        poll_requests=state.poll_requests if ended else None,
        poll_interval_seconds=float(state.settings.interval),
        polling=state.polling(now),
        progress=state.progress,
        next_poll_timestamp_seconds=stamp(state.next_poll_at) if now < state.next_poll_at < math.inf else None,
        requests_last_minute=limiter.in_last_minute(),
        requests_per_minute=limiter.requests_per_minute,
        paused_until_timestamp_seconds=stamp(limiter.resume_at) if limiter.resume_at > now else None,
        invalid_batches=state.usage.invalid_batches,
        repaired_batches=state.usage.repaired_batches,
        clock_skew_seconds=None if (skew := state.usage.clock_skew) is None else round(skew, 3),
        window=_window(state, state.snapshot, query, now) if state.snapshot else None,
    )


def _window(state: AccountState, snapshot: Snapshot, query: Query, now: float) -> WindowStatus:
    documents: dict[str, Counts] = {}
    for (destination, _), counts in snapshot.documents.items():
        documents[destination] = documents[destination] + counts if destination in documents else counts
    failing = snapshot.failing.batches
    return WindowStatus(
        age_seconds=round(now - state.snapshot_at, 3),
        stale=state.fresh_snapshot(now) is None,
        stale_after_seconds=round(state.stale_after, 3),
        lookback_seconds=float(state.settings.lookback),
        batches=sum(snapshot.batches.values()),
        batches_by_status=snapshot.batches,
        failing_batches=snapshot.failing.total,
        unfinished_batches=snapshot.unfinished.total,
        max_batches=state.settings.max_batches,
        truncated=snapshot.truncated,
        newest_first=state.newest_first,
        newest_batch_created_timestamp_seconds=snapshot.newest_created,
        oldest_unfinished_batch_created_timestamp_seconds=snapshot.oldest_unfinished_created,
        newest_failing_batch_created_timestamp_seconds=failing[0].created_at if failing else None,
        failing=find_failures((batch.created_at, batch.failed, batch.finished) for batch in snapshot.newest),
        destinations=[
            _destination(state, snapshot, name, counts)
            for name, counts in sorted(documents.items(), key=failing_first)
            if not query.destination or name in query.destination
        ],
    )


def _destination(state: AccountState, snapshot: Snapshot, name: str, sums: Counts) -> DestinationStatus:
    outcomes = (
        (batch.created_at, counts.failed, counts.failed + counts.completed)
        for batch in snapshot.newest
        if (counts := batch.destinations.get(name))
    )
    return DestinationStatus(
        name,
        sums.count,
        sums.completed,
        sums.failed,
        sums.in_progress,
        last_completed_timestamp_seconds=_last(state.totals.completed.get(name)),
        last_failed_timestamp_seconds=_last(state.totals.failed.get(name)),
        failing=find_failures(outcomes) if sums.failed else None,
    )


def _last(counter: Counter | None) -> float | None:
    """When the exporter last saw this counter grow."""
    return round(counter.exemplar.at, 3) if counter and counter.exemplar else None
