"""Every metric family of an account, as a table: its name, its HELP text, its labels, and its samples from a state.

To add one, add an entry to `FAMILIES` and a line to docs/metrics.md.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from inkit_exporter.api.batches import DESTINATIONS, Counts
from inkit_exporter.api.errors import REASONS
from inkit_exporter.counters import Counter, Histogram
from inkit_exporter.state import AccountState
from inkit_exporter.window.snapshot import Snapshot

Value = float | Counter | Histogram
Samples = Iterable[tuple[tuple[str, ...], Value]]
FromState = Callable[[AccountState, float], Samples]
"""Label values, beside the account's, and a value for each sample, of a state at a time in monotonic seconds."""

# Those that Inkit documents and a GET may meet.
_DOCUMENTED_CODES = ("200", "400", "401", "403", "404", "422", "429", "500", "503")
_FINAL_STATUSES = ("completed", "failed", "cancelled")
_LAST_POLL = "As of the last complete poll."


class Family(NamedTuple):
    """One metric family. Every family has the label `account` before its own labels."""

    kind: type[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]
    name: str
    documentation: str
    samples: FromState
    labels: tuple[str, ...]


def _gauge(name: str, documentation: str, samples: FromState, *labels: str) -> Family:
    return Family(GaugeMetricFamily, name, documentation, samples, labels)


def _counter(name: str, documentation: str, samples: FromState, *labels: str) -> Family:
    return Family(CounterMetricFamily, name, documentation, samples, labels)


def _histogram(name: str, documentation: str, samples: FromState, *labels: str) -> Family:
    return Family(HistogramMetricFamily, name, documentation, samples, labels)


def _one(value: Callable[[AccountState], Value | None]) -> FromState:
    """A family of one sample, or none while the value is None."""
    return lambda state, _now: [] if (found := value(state)) is None else [((), found)]


def _by_label(values: Callable[[AccountState], Mapping[str, Value]]) -> FromState:
    """A family of one sample for each value of its label."""
    return lambda state, _now: [((label,), value) for label, value in sorted(values(state).items())]


def _of_snapshot(samples: Callable[[Snapshot], Samples]) -> FromState:
    """A family of the window."""
    return lambda state, now: samples(snapshot) if (snapshot := state.fresh_snapshot(now)) else []


def _documents(count: Callable[[Counts], int]) -> FromState:
    return _of_snapshot(lambda snapshot: [(labels, count(c)) for labels, c in sorted(snapshot.documents.items())])


def _stamp(value: Callable[[Snapshot], float | None]) -> FromState:
    return _of_snapshot(lambda snapshot: [] if (found := value(snapshot)) is None else [((), found)])


def _by_destination(state: AccountState, counters: Mapping[str, Counter]) -> Mapping[str, Counter]:
    """Totals of the documented destinations and of those seen start at 0, as rates need it."""
    seen = {destination for destination, _ in state.snapshot.documents} if state.snapshot else set()
    return {**dict.fromkeys((*DESTINATIONS, *seen), Counter()), **counters}


def _documents_help(what: str, field: str) -> str:
    return f"Documents {what}: sum of the API's destinations.*.{field} over the batches in the window. {_LAST_POLL}"


FAMILIES: Final = (
    _gauge(
        "inkit_up",
        "Whether the last poll of the Inkit API succeeded (1) or not (0).",
        _one(lambda state: state.up),
    ),
    _gauge(
        "inkit_last_successful_poll_timestamp_seconds",
        "When the last complete poll ended, in seconds since the epoch; 0 before the first.",
        _one(lambda state: state.last_success),
    ),
    _gauge(
        "inkit_poll_interval_seconds",
        "Configured time between the starts of two polls.",
        _one(lambda state: state.settings.interval),
    ),
    _gauge(
        "inkit_poll_duration_seconds",
        "How long the last poll took, complete or not.",
        _one(lambda state: None if state.up is None else state.duration),
    ),
    _gauge(
        "inkit_poll_requests",
        "API requests made by the last poll, attempts included.",
        _one(lambda state: None if state.up is None else state.poll_requests),
    ),
    _gauge(
        "inkit_batch_documents",
        _documents_help("of recent batches", "count"),
        _documents(lambda counts: counts.count),
        "destination",
        "batch_status",
    ),
    _gauge(
        "inkit_batch_documents_completed",
        _documents_help("delivered to the destination", "completed"),
        _documents(lambda counts: counts.completed),
        "destination",
        "batch_status",
    ),
    _gauge(
        "inkit_batch_documents_failed",
        _documents_help("that failed at the destination", "failed"),
        _documents(lambda counts: counts.failed),
        "destination",
        "batch_status",
    ),
    _gauge(
        "inkit_batch_documents_in_progress",
        _documents_help("not yet delivered to the destination", "in_progress"),
        _documents(lambda counts: counts.in_progress),
        "destination",
        "batch_status",
    ),
    _gauge(
        "inkit_batches",
        f"Batches created within the lookback, by the API's status. {_LAST_POLL}",
        _of_snapshot(lambda snapshot: [((status,), n) for status, n in sorted(snapshot.batches.items())]),
        "batch_status",
    ),
    _gauge(
        "inkit_newest_batch_created_timestamp_seconds",
        f"The API's created_at of the newest batch in the window, in seconds since the epoch. {_LAST_POLL}",
        _stamp(lambda snapshot: snapshot.newest_created),
    ),
    _gauge(
        "inkit_oldest_unfinished_batch_created_timestamp_seconds",
        f"The API's created_at of the oldest unfinished batch in the window, in seconds since the epoch. {_LAST_POLL}",
        _stamp(lambda snapshot: snapshot.oldest_unfinished_created),
    ),
    _gauge(
        "inkit_unfinished_batches_oldest_change_timestamp_seconds",
        "When the unfinished batch that has not changed for longest was last seen to change, in seconds since the "
        f"epoch. {_LAST_POLL}",
        _stamp(lambda snapshot: snapshot.oldest_change),
    ),
    _gauge(
        "inkit_window_truncated",
        f"Whether max_batches cut older batches off the window (1) or not (0). {_LAST_POLL}",
        _of_snapshot(lambda snapshot: [((), snapshot.truncated)]),
    ),
    _counter("inkit_polls_total", "Polls that ended, complete or not.", _one(lambda state: state.polls)),
    _counter(
        "inkit_poll_failures_total",
        "Polls that failed, by the kind of cause.",
        _by_label(lambda state: {**dict.fromkeys(REASONS, 0), **state.failures}),
        "reason",
    ),
    _counter(
        "inkit_api_requests_total",
        "Requests to the Inkit API, by HTTP status code, or by what came instead of an answer.",
        _by_label(lambda state: {**dict.fromkeys(_DOCUMENTED_CODES, 0), **state.requests.by_code}),
        "code",
    ),
    _histogram(
        "inkit_api_request_duration_seconds",
        "Time from sending a request to the Inkit API to the end of its answer, or its failure.",
        _one(lambda state: state.requests.durations),
    ),
    _counter(
        "inkit_api_throttled_seconds_total",
        "Time that requests waited for requests_per_minute, or for the time that the API asked to wait.",
        _one(lambda state: state.requests.throttled_seconds),
    ),
    _counter(
        "inkit_invalid_batches_total",
        "Records in the API's list that were skipped because a documented field was missing or malformed, or for "
        "their size; a record counts in every poll that reads it.",
        _one(lambda state: state.invalid),
    ),
    _counter(
        "inkit_documents_completed_total",
        "Documents seen to complete, from the differences between polls; what was there at start is not counted.",
        _by_label(lambda state: _by_destination(state, state.totals.completed)),
        "destination",
    ),
    _counter(
        "inkit_documents_failed_total",
        "Documents seen to fail, from the differences between polls; what was there at start is not counted.",
        _by_label(lambda state: _by_destination(state, state.totals.failed)),
        "destination",
    ),
    _counter(
        "inkit_batches_created_total",
        "Batches seen to appear in the window since start.",
        _one(lambda state: state.totals.created),
    ),
    _counter(
        "inkit_batches_finished_total",
        "Batches seen to finish since start, by the status with which they did; each counts once.",
        _by_label(lambda state: {**dict.fromkeys(_FINAL_STATUSES, Counter()), **state.totals.finished}),
        "batch_status",
    ),
    _histogram(
        "inkit_batch_duration_seconds",
        "Time from the API's created_at of a batch until a poll saw it finished, up to a poll's interval later.",
        _one(lambda state: state.totals.durations),
    ),
)
