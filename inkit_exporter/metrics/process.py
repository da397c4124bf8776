"""The metrics of the process: its build, its shard, its storage and its configuration."""

import os
import platform
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector

from inkit_exporter import __version__
from inkit_exporter.clock import boot_time
from inkit_exporter.metrics.families import Family, collect
from inkit_exporter.storage.health import StorageHealth

REVISION: Final = os.environ.get("INKIT_EXPORTER_REVISION") or "unknown"
"""The source revision of the build; the image sets it."""

_BUILD: tuple[str, ...] = (__version__, REVISION, platform.python_version())


class ProcessMetrics:
    """The metrics of the process, and the client library's own. The clock is `boot_time`."""

    def __init__(
        self,
        shard: int,
        shards: int,
        storage: Callable[[], StorageHealth] | None = None,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self.shard: tuple[str, ...] = (str(shard), str(shards))
        self._storage = storage
        self._clock = clock
        self._library = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._library)
        self.reloaded(successful=True)

    def reloaded(self, *, successful: bool) -> None:
        """Note that an attempt to load the configuration has ended."""
        self.last_reload_successful = successful
        if successful:
            self.last_reload_success = time.time()

    def version(self) -> Hashable:
        """A value that changes every second and after each reload."""
        return int(self._clock()), self.last_reload_successful, self.last_reload_success

    def collect(self) -> Iterator[Metric]:
        """The families as they are now."""
        yield from self._library.collect()
        yield from collect(_PROCESS, self)
        if self._storage:
            yield from collect(_STORAGE, self._storage())


_PROCESS: Final[Sequence[Family[ProcessMetrics]]] = (
    Family(
        "inkit_exporter_build_info",
        "Always 1; the labels tell which build of the exporter runs, on which Python.",
        lambda _: {_BUILD: 1},
        ("version", "revision", "python_version"),
    ),
    Family(
        "inkit_exporter_shard_info",
        "Always 1; the labels tell which shard of how many this exporter is, as --shard says.",
        lambda p: {p.shard: 1},
        ("shard", "shards"),
    ),
    Family(
        "inkit_exporter_config_last_reload_successful",
        "Whether the last attempt to load the configuration succeeded (1) or not (0).",
        lambda p: p.last_reload_successful,
    ),
    Family(
        "inkit_exporter_config_last_reload_success_timestamp_seconds",
        "When the configuration in use was loaded, in seconds since the epoch.",
        lambda p: p.last_reload_success,
    ),
)

_STORAGE: Final[Sequence[Family[StorageHealth]]] = (
    Family(
        "inkit_exporter_storage_healthy",
        "Whether everything that the last polls found is stored (1), or some of it is only in memory (0).",
        lambda h: h.healthy,
    ),
    Family(
        "inkit_exporter_storage_failures_total",
        "Loads and saves of an account that failed or took too long.",
        lambda h: h.failures,
    ),
    Family(
        "inkit_exporter_storage_size_bytes",
        "Size of all files in the directory of --storage.path.",
        lambda h: h.size_bytes,
    ),
)
