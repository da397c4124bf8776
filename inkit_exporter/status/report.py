"""What `/api/v1/status` tells, and the status page shows. docs/status.md explains each field."""

import heapq
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from msgspec import Struct

from inkit_exporter import __version__
from inkit_exporter.api.batches import Counts
from inkit_exporter.clock import boot_time
from inkit_exporter.state import AccountState
from inkit_exporter.window.window import LISTED, Snapshot, TopBatches


class DocumentsStatus(Struct, frozen=True):
    """Documents at one destination."""

    destination: str
    documents: int
    completed: int
    failed: int
    in_progress: int


class BatchStatus(Struct, frozen=True):
    """One batch, and how its documents fare."""

    account: str
    id: str
    name: str
    created_timestamp_seconds: float
    last_change_timestamp_seconds: float | None
    status: str
    destinations: Sequence[DocumentsStatus]


class BatchesStatus(Struct, frozen=True):
    """The first batches of an order, and how many there are."""

    total: int
    listed: Sequence[BatchStatus]


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
    destinations: Sequence[DocumentsStatus]


class AccountStatus(Struct, frozen=True):
    """One account: its health, its polls, what they cost, and what they saw."""

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


def make_status(states: Iterable[AccountState], names: Collection[str] = ()) -> Status:
    """The accounts as they are now, those that are down first; only those of these names, if any are given."""
    wall, now = time.time(), boot_time()
    chosen = [state for state in states if not names or state.account in names]
    chosen.sort(key=lambda state: state.up is not False)
    snapshots = [(state.account, state.snapshot) for state in chosen if state.snapshot]
    failing = [(account, snapshot.failing) for account, snapshot in snapshots]
    unfinished = [(account, snapshot.unfinished) for account, snapshot in snapshots]
    return Status(
        version=__version__,
        timestamp_seconds=round(wall, 3),
        accounts=[_account(state, wall, now) for state in chosen],
        failing_batches=_batches(failing, lambda batch: -batch.created_timestamp_seconds),
        unfinished_batches=_batches(unfinished, lambda batch: batch.created_timestamp_seconds),
    )


def _account(state: AccountState, wall: float, now: float) -> AccountStatus:
    """`wall` and `now` are the same moment, in seconds since the epoch and by `boot_time`."""
    limiter, ended = state.usage.rate_limiter, state.polled_at is not None

    def stamp(boot: float) -> float:
        return round(wall + boot - now, 3)

    return AccountStatus(
        account=state.account,
        up=state.up,
        reason=state.reason,
        error=state.error,
        down_since_timestamp_seconds=None if state.down_since is None else stamp(state.down_since),
        last_successful_poll_timestamp_seconds=state.last_success,
        last_poll_timestamp_seconds=state.polled_at,
        poll_duration_seconds=state.duration if ended else None,
        poll_requests=state.poll_requests if ended else None,
        poll_interval_seconds=float(state.settings.interval),
        polling=state.polling(now),
        next_poll_timestamp_seconds=stamp(state.next_poll_at) if now < state.next_poll_at < math.inf else None,
        requests_last_minute=limiter.in_last_minute(),
        requests_per_minute=limiter.requests_per_minute,
        paused_until_timestamp_seconds=stamp(limiter.resume_at) if limiter.resume_at > now else None,
        invalid_batches=state.usage.invalid_batches,
        repaired_batches=state.usage.repaired_batches,
        clock_skew_seconds=None if (skew := state.usage.clock_skew) is None else round(skew, 3),
        window=_window(state, state.snapshot, now) if state.snapshot else None,
    )


def _window(state: AccountState, snapshot: Snapshot, now: float) -> WindowStatus:
    documents: dict[str, Counts] = {}
    for (destination, _), counts in snapshot.documents.items():
        documents[destination] = documents[destination] + counts if destination in documents else counts
    return WindowStatus(
        age_seconds=round(now - state.snapshot_at, 3),
        stale=state.fresh_snapshot(now) is None,
        stale_after_seconds=float(state.settings.stale_after),
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
        destinations=_documents(documents),
    )


def _batches(tops: Sequence[tuple[str, TopBatches]], order: Callable[[BatchStatus], float]) -> BatchesStatus:
    """The first of all accounts; each of them is in that order itself."""
    ranked = heapq.merge(*(_listed(account, top) for account, top in tops), key=order)
    return BatchesStatus(sum(top.total for _, top in tops), list(islice(ranked, LISTED)))


def _listed(account: str, top: TopBatches) -> Iterator[BatchStatus]:
    for batch, changed in zip(top.batches, top.changed_at, strict=True):
        documents = _documents(batch.destinations)
        yield BatchStatus(account, batch.id, batch.name, batch.created_at, changed, batch.status, documents)


def _documents(destinations: Mapping[str, Counts]) -> list[DocumentsStatus]:
    """Failing destinations first, then those where something is under way."""
    return [
        DocumentsStatus(name, counts.count, counts.completed, counts.failed, counts.in_progress)
        for name, counts in sorted(destinations.items(), key=lambda d: (-d[1].failed, -d[1].in_progress, d[0]))
    ]
