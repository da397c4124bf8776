"""The metrics of one account. To add a metric, add an entry to a table here and a line to docs/metrics.md."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric

from inkit_exporter.api.batches import DESTINATIONS
from inkit_exporter.api.errors import REASONS
from inkit_exporter.clock import boot_time
from inkit_exporter.counters import Counter
from inkit_exporter.metrics.families import Family, Values, collect
from inkit_exporter.state import AccountState
from inkit_exporter.window.window import Snapshot


@dataclass(frozen=True, eq=False)
class AccountMetrics:
    """All metrics of one account in this state; the clock is `boot_time`."""

    state: AccountState
    clock: Callable[[], float] = boot_time

    def version(self) -> Hashable:
        """A value that changes with each published state, when the snapshot gets stale, and each second in polls."""
        state, now = self.state, self.clock()
        return state.published, int(now) if state.polling(now) else None, state.fresh_snapshot(now) is None

    def collect(self) -> Iterator[Metric]:
        """The families as they are now, without those of the window while the last snapshot is stale."""
        yield from collect(_STATE, self.state, account=self.state.account)
        if window := self.state.fresh_snapshot(self.clock()):
            yield from collect(_WINDOW, window, account=self.state.account)


def _window(
    name: str, documentation: str, values: Callable[[Snapshot], Values], labels: tuple[str, ...] = ()
) -> Family[Snapshot]:
    return Family(name, f"{documentation} As of the last complete poll.", values, labels)


def _documents(name: str, what: str, field: str) -> Family[Snapshot]:
    def values(window: Snapshot) -> Mapping[tuple[str, ...], float]:
        return {labels: getattr(counts, field) for labels, counts in window.documents.items()}

    documentation = f"Documents {what}: sum of the API's destinations.*.{field} over the batches in the window."
    return _window(name, documentation, values, ("destination", "batch_status"))


def _from_zero(known: Iterable[str], counted: Mapping[str, float | Counter]) -> Mapping[str, float | Counter]:
    """Start the series that are known in advance at 0, because rates need it."""
    return {**dict.fromkeys(known, 0), **counted}


def _destinations(state: AccountState) -> Iterable[str]:
    """The documented destinations, and those seen."""
    return (*DESTINATIONS, *(destination for destination, _ in (state.snapshot.documents if state.snapshot else ())))


# The statuses that Inkit documents for a GET.
_CODES = ("200", "400", "401", "403", "404", "422", "429", "500", "503")
_STATUSES_FROM_ZERO = ("completed", "failed", "cancelled")

_STATE: Final[Sequence[Family[AccountState]]] = (
    Family("inkit_up", "Whether the last poll of the Inkit API succeeded (1) or not (0).", lambda s: s.up),
    Family(
        "inkit_last_successful_poll_timestamp_seconds",
        "When the last complete poll ended, in seconds since the epoch; absent before the first.",
        lambda s: s.last_success,
    ),
    Family(
        "inkit_poll_interval_seconds",
        "Time between the starts of two polls, as configured.",
        lambda s: s.settings.interval,
    ),
    Family(
        "inkit_poll_duration_seconds",
        "How long the last poll took, complete or not.",
        lambda s: s.duration if s.polls else None,
    ),
    Family(
        "inkit_poll_requests",
        "API requests that the last poll made, retries included.",
        lambda s: s.poll_requests if s.polls else None,
    ),
    Family("inkit_polls_total", "Polls that ended, complete or not.", lambda s: s.polls),
    Family(
        "inkit_poll_failures_total",
        "Polls that failed, by reason.",
        lambda s: _from_zero(REASONS, s.failures),
        ("reason",),
    ),
    Family(
        "inkit_api_requests_total",
        "Requests to the Inkit API, by HTTP status code, or by what went wrong if no complete answer arrived.",
        lambda s: _from_zero(_CODES, s.usage.by_code),
        ("code",),
    ),
    Family(
        "inkit_api_request_duration_seconds",
        "Time from sending a request to the Inkit API to the end of its answer, or its failure.",
        lambda s: s.usage.durations,
    ),
    Family(
        "inkit_api_throttled_seconds_total",
        "Time that requests waited for requests_per_minute, or because the API asked to wait.",
        lambda s: s.usage.throttled_seconds,
    ),
    Family(
        "inkit_api_clock_skew_seconds",
        "The API's clock (the Date header of its last answer) minus the exporter's clock, in seconds.",
        lambda s: s.usage.clock_skew,
    ),
    Family(
        "inkit_invalid_batches_total",
        "Records in the API's list that the exporter skipped, or read without a destination. A record counts in "
        "each poll that reads it.",
        lambda s: s.usage.invalid_batches,
    ),
    Family(
        "inkit_repaired_batches_total",
        "Records in the API's list that lacked a count, which the exporter inferred from the others. A record counts "
        "in each poll that reads it.",
        lambda s: s.usage.repaired_batches,
    ),
    Family(
        "inkit_documents_completed_total",
        "Documents that completed between two polls. What had completed at the first poll is not counted.",
        lambda s: _from_zero(_destinations(s), s.totals.completed),
        ("destination",),
    ),
    Family(
        "inkit_documents_failed_total",
        "Documents that failed between two polls. What had failed at the first poll is not counted.",
        lambda s: _from_zero(_destinations(s), s.totals.failed),
        ("destination",),
    ),
    Family(
        "inkit_batches_with_failures_total",
        "Batches with documents that failed at the destination. Each batch counts once, at its first failure.",
        lambda s: _from_zero(_destinations(s), s.totals.with_failures),
        ("destination",),
    ),
    Family(
        "inkit_batches_created_total",
        "Batches that appeared in the window between two polls.",
        lambda s: s.totals.created,
    ),
    Family(
        "inkit_batches_finished_total",
        "Batches that finished between two polls, by final status. Each counts once.",
        lambda s: _from_zero(_STATUSES_FROM_ZERO, s.totals.finished),
        ("batch_status",),
    ),
    Family(
        "inkit_batch_duration_seconds",
        "Time from a batch's created_at to the end of the poll that first saw it finished.",
        lambda s: s.totals.durations,
    ),
)

_WINDOW: Final[Sequence[Family[Snapshot]]] = (
    _documents("inkit_batch_documents", "of recent batches", "count"),
    _documents("inkit_batch_documents_completed", "delivered to the destination", "completed"),
    _documents("inkit_batch_documents_failed", "that failed at the destination", "failed"),
    _documents("inkit_batch_documents_in_progress", "not yet delivered to the destination", "in_progress"),
    _window(
        "inkit_batches",
        "Batches created within poll.lookback, by the API's status.",
        lambda w: w.batches,
        ("batch_status",),
    ),
    _window(
        "inkit_newest_batch_created_timestamp_seconds",
        "The API's created_at of the newest batch in the window, in seconds since the epoch.",
        lambda w: w.newest_created,
    ),
    _window(
        "inkit_oldest_unfinished_batch_created_timestamp_seconds",
        "The API's created_at of the oldest unfinished batch in the window, in seconds since the epoch.",
        lambda w: w.oldest_unfinished_created,
    ),
    _window(
        "inkit_unfinished_batches_oldest_change_timestamp_seconds",
        "When the unfinished batch that has not changed for longest last changed, in seconds since the epoch.",
        lambda w: w.oldest_change,
    ),
    _window(
        "inkit_window_truncated",
        "Whether the window lacks older batches because of poll.max_batches (1) or not (0).",
        lambda w: w.truncated,
    ),
)
