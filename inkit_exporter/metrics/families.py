"""The metric families of one account. Each rendering makes them from its state."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.samples import Exemplar as SampleExemplar

from inkit_exporter.clock import boot_time
from inkit_exporter.counters import Counter, Exemplar, Histogram
from inkit_exporter.metrics.table import FAMILIES, Value
from inkit_exporter.state import States

# OpenMetrics allows an exemplar 128 characters, names included.
_MAX_EXEMPLAR = 128 - len("batch_id")


@dataclass(frozen=True)
class AccountMetrics:
    """All metrics of one account, from its state in `states`; the clock is `boot_time`."""

    states: States
    account: str
    clock: Callable[[], float] = boot_time

    @property
    def registry(self) -> CollectorRegistry:
        """A registry of these metrics alone."""
        registry = CollectorRegistry(support_collectors_without_names=True)
        registry.register(self)
        return registry

    def version(self) -> Hashable:
        """A value that changes with each published state, when the snapshot gets stale, and each second in polls."""
        state, now = self.states[self.account], self.clock()
        return state.published, int(now) if state.polling(now) else None, state.fresh_snapshot(now) is None

    def collect(self) -> Iterator[Metric]:
        """The families as they are now. Those of the window are empty while the last snapshot is stale."""
        state = self.states[self.account]
        window = state.fresh_snapshot(self.clock())
        for family in FAMILIES:
            metric = family.kind(family.name, family.documentation, labels=("account", *family.labels))
            values = family.values(state, window)
            if isinstance(values, Mapping):
                for labels, value in sorted(values.items()):
                    _add(metric, [self.account, *([labels] if isinstance(labels, str) else labels)], value)
            elif values is not None:
                _add(metric, [self.account], values)
            yield metric


def _add(metric: Metric, labels: list[str], value: Value) -> None:
    if isinstance(metric, HistogramMetricFamily) and isinstance(value, Histogram):
        metric.add_metric(labels, list(_buckets(value)), value.sum)
    elif isinstance(metric, CounterMetricFamily) and isinstance(value, Counter):
        metric.add_metric(labels, value.value, exemplar=_exemplar(value.exemplar))
    elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily) and isinstance(value, int | float):
        metric.add_metric(labels, value)


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float] | tuple[str, float, SampleExemplar]]:
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    total = 0
    for bound, count, exemplar in zip(bounds, histogram.counts, histogram.exemplars, strict=True):
        total += count
        shown = _exemplar(exemplar)
        yield (bound, total, shown) if shown else (bound, total)


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    """Return an exemplar, or None if it would make Prometheus refuse the scrape: too long, or not printable."""
    if exemplar is None or len(exemplar.batch_id) > _MAX_EXEMPLAR or not exemplar.batch_id.isprintable():
        return None
    return SampleExemplar({"batch_id": exemplar.batch_id}, exemplar.value, exemplar.at)
