"""Metrics that describe the process, its build, its shard and its configuration."""

import os
import platform
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from inkit_exporter import __version__
from inkit_exporter.clock import boot_time
from inkit_exporter.storage.health import StorageHealth

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

REVISION: Final = os.environ.get("INKIT_EXPORTER_REVISION") or "unknown"
"""The source revision of the build; the image sets it."""


class ProcessMetrics:
    """The metrics of the process, in a registry of their own. The clock is `boot_time`."""

    def __init__(
        self,
        shard: int,
        shards: int,
        storage: Callable[[], StorageHealth] | None = None,
        clock: Callable[[], float] = boot_time,
    ) -> None:
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
        ).labels(str(shard), str(shards)).set(1)
        self._successful = gauge(
            "inkit_exporter_config_last_reload_successful",
            "Whether the last attempt to load the configuration succeeded (1) or not (0).",
        )
        self._success_time = gauge(
            "inkit_exporter_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was loaded, in seconds since the epoch.",
        )
        if storage:
            self.registry.register(_StorageMetrics(storage))
        self.reloaded(successful=True)

    def version(self) -> Hashable:
        """Return a value that changes every second and after each reload."""
        return int(self._clock()), self._reloads

    def reloaded(self, *, successful: bool) -> None:
        """Note that an attempt to load the configuration has ended."""
        self._reloads += 1
        self._successful.set(int(successful))
        if successful:
            self._success_time.set_to_current_time()


class _StorageMetrics(Collector):
    def __init__(self, health: Callable[[], StorageHealth]) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        health = self._health()
        yield GaugeMetricFamily(
            "inkit_exporter_storage_healthy",
            "Whether everything that the last polls found is stored (1), or some of it is only in memory (0).",
            health.healthy,
        )
        yield CounterMetricFamily(
            "inkit_exporter_storage_failures",
            "Loads and saves of an account that failed or took too long.",
            health.failures,
        )
        yield GaugeMetricFamily(
            "inkit_exporter_storage_size_bytes",
            "Size of all files in the directory of --storage.path.",
            health.size_bytes,
        )
