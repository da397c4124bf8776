"""The table of an account's metric families: kind, name, HELP text, values, labels.

To add one, add an entry to `FAMILIES` and a line to docs/metrics.md.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from inkit_exporter.api.batches import DESTINATIONS
from inkit_exporter.api.errors import REASONS
from inkit_exporter.counters import Counter, Histogram
from inkit_exporter.state import AccountState
from inkit_exporter.window.window import Snapshot

Value = float | Counter | Histogram
Values = Value | None | Mapping[str, Value] | Mapping[tuple[str, str], float]
"""One value, no value, or one for each label value or combination of label values."""


class Family(NamedTuple):
    """One metric family. Every family has the label `account` before its own labels."""

    kind: type[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]
    name: str
    documentation: str
    values: Callable[[AccountState, Snapshot | None], Values]
    """Takes a state, and its snapshot unless that is stale."""
    labels: tuple[str, ...]


def _gauge(name: str, documentation: str, value: Callable[[AccountState], Values], *labels: str) -> Family:
    return Family(GaugeMetricFamily, name, documentation, lambda state, _: value(state), labels)


def _window(name: str, documentation: str, value: Callable[[Snapshot], Values], *labels: str) -> Family:
    help_text = f"{documentation} As of the last complete poll."
    return Family(GaugeMetricFamily, name, help_text, lambda _, window: value(window) if window else None, labels)


def _documents(name: str, what: str, field: str) -> Family:
    def value(window: Snapshot) -> Values:
        return {labels: getattr(counts, field) for labels, counts in window.documents.items()}

    help_text = f"Documents {what}: sum of the API's destinations.*.{field} over the batches in the window."
    return _window(name, help_text, value, "destination", "batch_status")


def _counter(name: str, documentation: str, value: Callable[[AccountState], Values], *labels: str) -> Family:
    return Family(CounterMetricFamily, name, documentation, lambda state, _: value(state), labels)


def _histogram(name: str, documentation: str, value: Callable[[AccountState], Histogram]) -> Family:
    return Family(HistogramMetricFamily, name, documentation, lambda state, _: value(state), ())


def _from_zero(known: Iterable[str], counted: Mapping[str, Value]) -> Mapping[str, Value]:
    """Start the series that are known in advance at 0, because rates need it."""
    return {**dict.fromkeys(known, 0), **counted}


def _destinations(state: AccountState) -> Iterable[str]:
    """Return the documented destinations, and those seen."""
    return (*DESTINATIONS, *(destination for destination, _ in (state.snapshot.documents if state.snapshot else ())))


# The statuses that Inkit documents for a GET.
_CODES = ("200", "400", "401", "403", "404", "422", "429", "500", "503")
_FINAL_STATUSES = ("completed", "failed", "cancelled")

FAMILIES: Final = (
    _gauge("inkit_up", "Whether the last poll of the Inkit API succeeded (1) or not (0).", lambda s: s.up),
    _gauge(
        "inkit_last_successful_poll_timestamp_seconds",
        "When the last complete poll ended, in seconds since the epoch; absent before the first.",
        lambda s: s.last_success,
    ),
    _gauge(
        "inkit_poll_interval_seconds",
        "Time between the starts of two polls, as configured.",
        lambda s: s.settings.interval,
    ),
    _gauge(
        "inkit_poll_duration_seconds",
        "How long the last poll took, complete or not.",
        lambda s: s.duration if s.polls else None,
    ),
    _gauge(
        "inkit_poll_requests",
        "API requests that the last poll made, retries included.",
        lambda s: s.poll_requests if s.polls else None,
    ),
    _documents("inkit_batch_documents", "of recent batches", "count"),
    _documents("inkit_batch_documents_completed", "delivered to the destination", "completed"),
    _documents("inkit_batch_documents_failed", "that failed at the destination", "failed"),
    _documents("inkit_batch_documents_in_progress", "not yet delivered to the destination", "in_progress"),
    _window(
        "inkit_batches",
        "Batches created within poll.lookback, by the API's status.",
        lambda w: w.batches,
        "batch_status",
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
    _counter("inkit_polls_total", "Polls that ended, complete or not.", lambda s: s.polls),
    _counter(
        "inkit_poll_failures_total",
        "Polls that failed, by reason.",
        lambda s: _from_zero(REASONS, s.failures),
        "reason",
    ),
    _counter(
        "inkit_api_requests_total",
        "Requests to the Inkit API, by HTTP status code, or by what went wrong if no complete answer arrived.",
        lambda s: _from_zero(_CODES, s.usage.by_code),
        "code",
    ),
    _histogram(
        "inkit_api_request_duration_seconds",
        "Time from sending a request to the Inkit API to the end of its answer, or its failure.",
        lambda s: s.usage.durations,
    ),
    _counter(
        "inkit_api_throttled_seconds_total",
        "Time that requests waited for requests_per_minute, or because the API asked to wait.",
        lambda s: s.usage.throttled_seconds,
    ),
    _gauge(
        "inkit_api_clock_skew_seconds",
        "The API's clock (the Date header of its last answer) minus the exporter's clock, in seconds.",
        lambda s: s.usage.clock_skew,
    ),
    _counter(
        "inkit_invalid_batches_total",
        "Records in the API's list that the exporter skipped, or read without a destination. A record counts in "
        "each poll that reads it.",
        lambda s: s.usage.invalid_batches,
    ),
    _counter(
        "inkit_repaired_batches_total",
        "Records in the API's list that lacked a count, which the exporter inferred from the others. A record counts "
        "in each poll that reads it.",
        lambda s: s.usage.repaired_batches,
    ),
    _counter(
        "inkit_documents_completed_total",
        "Documents that completed between two polls. What had completed at the first poll is not counted.",
        lambda s: _from_zero(_destinations(s), s.totals.completed),
        "destination",
    ),
    _counter(
        "inkit_documents_failed_total",
        "Documents that failed between two polls. What had failed at the first poll is not counted.",
        lambda s: _from_zero(_destinations(s), s.totals.failed),
        "destination",
    ),
    _counter(
        "inkit_batches_with_failures_total",
        "Batches with documents that failed at the destination. Each batch counts once, at its first failure.",
        lambda s: _from_zero(_destinations(s), s.totals.with_failures),
        "destination",
    ),
    _counter(
        "inkit_batches_created_total",
        "Batches that appeared in the window between two polls.",
        lambda s: s.totals.created,
    ),
    _counter(
        "inkit_batches_finished_total",
        "Batches that finished between two polls, by final status. Each counts once.",
        lambda s: _from_zero(_FINAL_STATUSES, s.totals.finished),
        "batch_status",
    ),
    _histogram(
        "inkit_batch_duration_seconds",
        "Time from a batch's created_at to the end of the poll that first saw it finished.",
        lambda s: s.totals.durations,
    ),
)
