"""Tables of metric families: what each is called, what it means, and how to get its values."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.samples import Exemplar as SampleExemplar

from inkit_exporter.counters import Counter, Exemplar, Histogram

# OpenMetrics allows an exemplar 128 characters, names included.
_MAX_EXEMPLAR = 128 - len("batch_id")

Value = float | Counter | Histogram
Values = Value | Mapping[str, Value] | Mapping[tuple[str, ...], float] | None
"""One value, one for each label value or combination of label values, or None for no sample."""

T = TypeVar("T")


class Family(NamedTuple, Generic[T]):
    """One metric family. It is a histogram if its values are, a counter if its name ends in `_total`, else a gauge."""

    name: str
    documentation: str
    values: Callable[[T], Values]
    labels: tuple[str, ...] = ()


def collect(table: Iterable[Family[T]], subject: T, **common: str) -> Iterator[Metric]:
    """The families of a table, with the values of this subject. The common labels come before a family's own."""
    for family in table:
        values = family.values(subject)
        kind: type[HistogramMetricFamily | CounterMetricFamily | GaugeMetricFamily] = GaugeMetricFamily
        if isinstance(values, Histogram):
            kind = HistogramMetricFamily
        elif family.name.endswith("_total"):
            kind = CounterMetricFamily
        metric = kind(family.name, family.documentation, labels=(*common, *family.labels))
        series = values if isinstance(values, Mapping) else {} if values is None else {(): values}
        for own, value in sorted(series.items()):
            _add(metric, [*common.values(), *([own] if isinstance(own, str) else own)], value)
        yield metric


def _add(metric: Metric, labels: list[str], value: Value) -> None:
    match metric, value:
        case HistogramMetricFamily(), Histogram():
            metric.add_metric(labels, [*_buckets(value)], value.sum)
        case CounterMetricFamily(), Counter():
            metric.add_metric(labels, value.value, exemplar=_exemplar(value.exemplar))
        case CounterMetricFamily() | GaugeMetricFamily(), int() | float():
            metric.add_metric(labels, value)
        case _:
            raise TypeError(f"{metric.name} is a {metric.type}, but has a {type(value).__name__}")


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float] | tuple[str, float, SampleExemplar]]:
    bounds = (*histogram.bounds, "+Inf")
    for bound, total, exemplar in zip(bounds, accumulate(histogram.counts), histogram.exemplars, strict=True):
        shown = _exemplar(exemplar)
        yield (str(bound), total, shown) if shown else (str(bound), total)


def _exemplar(exemplar: Exemplar | None) -> SampleExemplar | None:
    """An exemplar, or None if it would make Prometheus refuse the scrape: too long, or not printable."""
    if exemplar is None or len(exemplar.batch_id) > _MAX_EXEMPLAR or not exemplar.batch_id.isprintable():
        return None
    return SampleExemplar({"batch_id": exemplar.batch_id}, exemplar.value, exemplar.at)
