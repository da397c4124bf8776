"""Counters and histograms as values: each change makes a new one. Metrics render them, storage can keep them."""

from bisect import bisect_left

from msgspec import Struct
from msgspec.structs import replace


class Exemplar(Struct, frozen=True):
    """The latest observation, and the batch that it comes from; `at` is wall time in seconds since the epoch."""

    batch_id: str
    value: float
    at: float


class Counter(Struct, frozen=True):
    """A sum that never decreases, and its latest increase."""

    value: int = 0
    exemplar: Exemplar | None = None

    def add(self, amount: int, batch_id: str, at: float) -> "Counter":
        """The counter after an increase that comes from one batch."""
        return Counter(self.value + amount, Exemplar(batch_id, amount, at))


class Histogram(Struct, frozen=True):
    """Observations in seconds by upper bound.

    `counts` and `exemplars` have one more place than `bounds`, for what lies above all of them. Counts are not
    cumulative.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    exemplars: tuple[Exemplar | None, ...]
    sum: float = 0.0

    @classmethod
    def empty(cls, *bounds: float) -> "Histogram":
        """A histogram of these upper bounds without observations."""
        places = len(bounds) + 1
        return cls(bounds, (0,) * places, (None,) * places)

    def observe(self, seconds: float, exemplar: Exemplar | None = None) -> "Histogram":
        """The histogram after one more observation."""
        place = bisect_left(self.bounds, seconds)
        counts, exemplars = list(self.counts), list(self.exemplars)
        counts[place] += 1
        exemplars[place] = exemplar or exemplars[place]
        return replace(self, counts=tuple(counts), exemplars=tuple(exemplars), sum=self.sum + seconds)
