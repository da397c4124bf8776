"""Every metric family of the exporter, and the collector over the accounts' latest snapshots."""

import os
import platform
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from inkit_exporter import __version__
from inkit_exporter.api.batches import DESTINATIONS
from inkit_exporter.api.errors import REASONS
from inkit_exporter.config import Shard
from inkit_exporter.polling.poller import AccountState
from inkit_exporter.window.totals import Changes

_BATCH_LABELS = ("account", "destination", "batch_status")
_LAST_POLL = "As of the last complete poll."

# As Inkit documents them, of those that a GET may meet.
_DOCUMENTED_CODES = ("200", "400", "401", "403", "404", "422", "429", "500", "503")

# From a small batch to one that takes a day.
_BATCH_BUCKETS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0)
_MAX_EXEMPLAR = 128 - len("batch_id")
# From a cached answer on the same continent to the default of `api.timeout`.
_REQUEST_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

REVISION: Final = os.environ.get("INKIT_EXPORTER_REVISION") or "unknown"
"""The source revision of the build; the image tells it."""


class _StateCollector(Collector):
    """Fresh families from what an account's last poll left.

    Args:
        state: what the last poll left.
        clock: monotonic seconds.
    """

    def __init__(self, state: Callable[[], AccountState], clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """The families without samples, so that registering them needs no state."""
        return _families([], 0.0)

    def collect(self) -> Iterable[Metric]:
        """The families; those of the window are empty while the last snapshot is stale."""
        return _families([self._state()], self._clock())


def _families(states: Sequence[AccountState], now: float) -> Iterator[Metric]:
    yield from _account_families(states)
    yield from _window_families(states, now)


def _account_families(states: Sequence[AccountState]) -> Iterator[Metric]:
    up = _gauge("inkit_up", "Whether the last poll of the Inkit API succeeded (1) or not (0).", "account")
    success = _gauge(
        "inkit_last_successful_poll_timestamp_seconds",
        "When the last complete poll ended, in seconds since the epoch; 0 before the first.",
        "account",
    )
    interval = _gauge("inkit_poll_interval_seconds", "Configured time between the starts of two polls.", "account")
    duration = _gauge("inkit_poll_duration_seconds", "How long the last poll took, complete or not.", "account")
    requests = _gauge("inkit_poll_requests", "API requests made by the last poll, attempts included.", "account")
    for state in states:
        success.add_metric([state.account], state.last_success)
        interval.add_metric([state.account], state.interval)
        if state.up is not None:
            up.add_metric([state.account], int(state.up))
            duration.add_metric([state.account], state.duration)
            requests.add_metric([state.account], state.requests)
    yield from (up, success, interval, duration, requests)


def _window_families(states: Sequence[AccountState], now: float) -> Iterator[Metric]:
    documents = {
        field: _gauge(
            name,
            f"Documents {what}: sum of the API's destinations.*.{field} over the batches in the window. {_LAST_POLL}",
            *_BATCH_LABELS,
        )
        for field, name, what in (
            ("count", "inkit_batch_documents", "of recent batches"),
            ("completed", "inkit_batch_documents_completed", "delivered to the destination"),
            ("failed", "inkit_batch_documents_failed", "that failed at the destination"),
            ("in_progress", "inkit_batch_documents_in_progress", "not yet delivered to the destination"),
        )
    }
    batches = _gauge(
        "inkit_batches",
        f"Batches created within the lookback, by the API's status. {_LAST_POLL}",
        "account",
        "batch_status",
    )
    newest = _gauge(
        "inkit_newest_batch_created_timestamp_seconds",
        f"The API's created_at of the newest batch in the window, in seconds since the epoch. {_LAST_POLL}",
        "account",
    )
    oldest = _gauge(
        "inkit_oldest_unfinished_batch_created_timestamp_seconds",
        f"The API's created_at of the oldest unfinished batch in the window, in seconds since the epoch. {_LAST_POLL}",
        "account",
    )
    unmoved = _gauge(
        "inkit_unfinished_batches_oldest_change_timestamp_seconds",
        "When the unfinished batch that has not changed for longest was last seen to change, in seconds since the "
        f"epoch. {_LAST_POLL}",
        "account",
    )
    truncated = _gauge(
        "inkit_window_truncated",
        f"Whether max_batches cut older batches off the window (1) or not (0). {_LAST_POLL}",
        "account",
    )
    for state in states:
        snapshot = state.fresh_snapshot(now)
        if snapshot is None:
            continue
        for (destination, status), counts in sorted(snapshot.documents.items()):
            for field, family in documents.items():
                family.add_metric([state.account, destination, status], getattr(counts, field))
        for status, count in sorted(snapshot.batches.items()):
            batches.add_metric([state.account, status], count)
        truncated.add_metric([state.account], int(snapshot.truncated))
        if snapshot.newest_created is not None:
            newest.add_metric([state.account], snapshot.newest_created)
        if snapshot.oldest_unfinished_created is not None:
            oldest.add_metric([state.account], snapshot.oldest_unfinished_created)
        if snapshot.oldest_change is not None:
            unmoved.add_metric([state.account], snapshot.oldest_change)
    yield from (*documents.values(), batches, newest, oldest, unmoved, truncated)


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=labels)


class AccountMetrics:
    """All metrics of one account, in a registry of their own. Series that are known in advance start at 0.

    Args:
        state: of the account before its first poll.
        changed: is told of the end of every poll.
        clock: monotonic seconds.
    """

    def __init__(
        self, state: AccountState, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registry = CollectorRegistry()
        self.state = state
        self._changed = changed
        self._clock = clock
        self._changes = 0
        self._polling = False
        self.registry.register(_StateCollector(lambda: self.state, clock))
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._account = account = state.account
        self._polls = counter("inkit_polls_total", "Polls that ended, complete or not.", ["account"]).labels(account)
        self._failures = counter(
            "inkit_poll_failures_total", "Polls that failed, by the kind of cause.", ["account", "reason"]
        )
        self._requests = counter(
            "inkit_api_requests_total",
            "Requests to the Inkit API, by HTTP status code, or by what came instead of an answer.",
            ["account", "code"],
        )
        self._request_duration = histogram(
            "inkit_api_request_duration_seconds",
            "Time from sending a request to the Inkit API to the end of its answer, or its failure.",
            ["account"],
            buckets=_REQUEST_BUCKETS,
        ).labels(account)
        self._throttled = counter(
            "inkit_api_throttled_seconds_total",
            "Time that requests waited for requests_per_minute, or for the time that the API asked to wait.",
            ["account"],
        ).labels(account)
        self._invalid = counter(
            "inkit_invalid_batches_total",
            "Records in the API's list that were skipped because a documented field was missing or malformed, or for "
            "their size; a record counts in every poll that reads it.",
            ["account"],
        ).labels(account)
        self._completed = counter(
            "inkit_documents_completed_total",
            "Documents seen to complete, from the differences between polls; what was there at start is not counted.",
            ["account", "destination"],
        )
        self._failed = counter(
            "inkit_documents_failed_total",
            "Documents seen to fail, from the differences between polls; what was there at start is not counted.",
            ["account", "destination"],
        )
        self._created = counter(
            "inkit_batches_created_total", "Batches seen to appear in the window since start.", ["account"]
        ).labels(account)
        self._finished = counter(
            "inkit_batches_finished_total",
            "Batches seen to finish since start, by the status with which they did; each counts once.",
            ["account", "batch_status"],
        )
        self._batch_duration = histogram(
            "inkit_batch_duration_seconds",
            "Time from the API's created_at of a batch until a poll saw it finished, up to a poll's interval later.",
            ["account"],
            buckets=_BATCH_BUCKETS,
        ).labels(account)
        for reason in REASONS:
            self._failures.labels(account, reason)
        for code in _DOCUMENTED_CODES:
            self._requests.labels(account, code)
        for status in ("completed", "failed", "cancelled"):
            self._finished.labels(account, status)
        self.destinations(DESTINATIONS)

    def version(self) -> Hashable:
        """Another one after every poll, when the snapshot becomes stale, and each second of a poll under way."""
        polling = int(self._clock()) if self._polling else None
        return self._changes, polling, self.state.fresh_snapshot(self._clock()) is None

    def show(self, state: AccountState) -> None:
        """What a poll left; the gauges are made of it."""
        self.state = state
        self._polling = False
        self._changes += 1
        self._changed()

    def poll(self, failure: str | None) -> None:
        """A poll ended, with the kind of its failure if it failed."""
        self._polls.inc()
        if failure is not None:
            self._failures.labels(self._account, failure).inc()

    def request(self, code: str, seconds: float) -> None:
        """A request ended."""
        self._polling = True
        self._requests.labels(self._account, code).inc()
        self._request_duration.observe(seconds)

    def throttled(self, seconds: float) -> None:
        """A request waited."""
        self._polling = True
        self._throttled.inc(seconds)

    def invalid(self, batches: int) -> None:
        """Records were skipped."""
        self._polling = True
        self._invalid.inc(batches)

    def destinations(self, names: Iterable[str]) -> None:
        """These destinations are there: their totals start at 0, if they have none yet, as rates need it."""
        for name in names:
            self._completed.labels(self._account, name)
            self._failed.labels(self._account, name)

    def happened(self, changes: Changes) -> None:
        """Batches and documents came, completed, failed, finished."""
        for counter, increases in (
            (self._completed, changes.completed),
            (self._failed, changes.failed),
            (self._finished, changes.finished),
        ):
            for label, increase in increases.items():
                counter.labels(self._account, label).inc(increase.amount, _exemplar(increase.batch_id))
        if changes.created.amount:
            self._created.inc(changes.created.amount, _exemplar(changes.created.batch_id))
        for seconds, batch_id in changes.durations:
            self._batch_duration.observe(seconds, _exemplar(batch_id))


def _exemplar(batch_id: str) -> dict[str, str] | None:
    """OpenMetrics allows an exemplar 128 characters, names included; Prometheus refuses a scrape with a NUL in one."""
    return {"batch_id": batch_id} if len(batch_id) <= _MAX_EXEMPLAR and batch_id.isprintable() else None


class ProcessMetrics:
    """What describes the process, its build, its shard and its configuration.

    Args:
        shard: as `--shard` says.
        clock: monotonic seconds.
    """

    def __init__(self, shard: Shard, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._reloads = 0
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.PlatformCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        gauge(
            "inkit_exporter_build_info",
            "Always 1; the labels tell which build of the exporter runs, on which Python.",
            ["version", "revision", "python_version"],
        ).labels(__version__, REVISION, platform.python_version()).set(1)
        gauge(
            "inkit_exporter_shard_info",
            "Always 1; the labels tell which shard of how many this exporter is, as --shard says.",
            ["shard", "shards"],
        ).labels(str(shard.index), str(shard.count)).set(1)
        self._successful = gauge(
            "inkit_exporter_config_last_reload_successful",
            "Whether the last attempt to load the configuration succeeded (1) or not (0).",
        )
        self._success_time = gauge(
            "inkit_exporter_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was loaded, in seconds since the epoch.",
        )
        self.reloaded(successful=True)

    def version(self) -> Hashable:
        """Another one every second, as what is read from the system changes all the time, and after a reload."""
        return int(self._clock()), self._reloads

    def reloaded(self, *, successful: bool) -> None:
        """An attempt to load the configuration ended."""
        self._reloads += 1
        self._successful.set(int(successful))
        if successful:
            self._success_time.set_to_current_time()
