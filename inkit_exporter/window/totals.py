"""Running totals: what happened, from the differences between what was known of a batch and what is listed now.

The API keeps no history, so its numbers are compared with their highest values so far. Numbers that shrink, and
batches that vanish and come back, or finish twice, count once.
"""

import math
from typing import Final

from msgspec import Struct

from inkit_exporter.api.batches import Batch
from inkit_exporter.counters import Counter, Exemplar, Histogram

# From a small batch to one that takes a day, in seconds.
DURATION_BUCKETS: Final = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0)

# Batches that vanished are remembered in case they come back. Beyond this number, the first to vanish is forgotten.
_MOST_VANISHED = 10_000

_Peaks = dict[str, tuple[int, int]]


class Totals(Struct):
    """The sums so far: documents and batches with failures by destination, finished ones by status, their seconds."""

    completed: dict[str, Counter] = {}
    failed: dict[str, Counter] = {}
    with_failures: dict[str, Counter] = {}
    created: Counter = Counter()
    finished: dict[str, Counter] = {}
    durations: Histogram = Histogram.empty(*DURATION_BUCKETS)

    def copy(self) -> "Totals":
        """The same sums, independent of what happens next."""
        by_label = dict(self.completed), dict(self.failed), dict(self.with_failures)
        return Totals(*by_label, self.created, dict(self.finished), self.durations)


class TotalsTracker:
    """Follows one account's batches, and adds what happens to them to the totals.

    Batches seen before `start_counting` are the baseline, and not counted. The same holds for what a batch had
    already done when it comes (back) from beyond the end of the window.
    """

    def __init__(self, totals: Totals) -> None:
        self.totals = totals.copy()
        self._counting = False
        # Batches created up to then have left the window, or may have.
        self._edge = -math.inf
        self._peaks: dict[str, _Peaks] = {}
        self._finished_once: set[str] = set()
        self._vanished: dict[str, float] = {}

    def start_counting(self) -> None:
        """From now on, count."""
        self._counting = True

    def stop_counting(self) -> None:
        """Until `start_counting`, batches not known yet are the baseline again."""
        self._counting = False

    def observe(self, known: Batch | None, batch: Batch, now: float) -> None:
        """A batch is `batch`, and was `known`, at wall time `now`."""
        unknown = known is None and batch.id not in self._vanished
        if unknown and (not self._counting or batch.created_at <= self._edge):
            return
        self._vanished.pop(batch.id, None)
        if unknown:
            self.totals.created = self.totals.created.add(1, batch.id, now)
        self._count_documents(known, batch, now)
        finished_before = batch.id in self._finished_once or (known is not None and known.finished)
        if finished_before and not batch.finished:
            self._finished_once.add(batch.id)
        elif batch.finished and not finished_before:
            _add(self.totals.finished, batch.status, 1, batch.id, now)
            seconds = max(0.0, now - batch.created_at)
            self.totals.durations = self.totals.durations.observe(seconds, Exemplar(batch.id, seconds, now))

    def vanished(self, batch: Batch) -> None:
        """The API no longer has a batch, which may come back."""
        self._peaks[batch.id] = _highest(self._peaks.get(batch.id, {}), batch)
        if batch.finished:
            self._finished_once.add(batch.id)
        self._vanished[batch.id] = batch.created_at
        while len(self._vanished) > _MOST_VANISHED:
            oldest = next(iter(self._vanished))
            self._edge = max(self._edge, self._vanished[oldest])
            self._forget(oldest)

    def expired(self, batch: Batch) -> None:
        """A batch has left the window. If the window reaches back to it again, it is not news."""
        self._edge = max(self._edge, batch.created_at)
        self._forget(batch.id)

    def trim(self, cutoff: float) -> None:
        """Forget vanished batches from before the cutoff."""
        for batch_id, created in list(self._vanished.items()):
            if created < cutoff:
                self._edge = max(self._edge, created)
                self._forget(batch_id)

    def _count_documents(self, known: Batch | None, batch: Batch, now: float) -> None:
        peaks = self._peaks.get(batch.id)
        before = peaks if peaks is not None else _highest({}, known) if known else {}
        for name, counts in batch.destinations.items():
            completed, failed = before.get(name, (0, 0))
            _add(self.totals.completed, name, counts.completed - completed, batch.id, now)
            _add(self.totals.failed, name, counts.failed - failed, batch.id, now)
            _add(self.totals.with_failures, name, int(counts.failed > 0 == failed), batch.id, now)
        highest = _highest(before, batch)
        if peaks is not None or highest != _highest({}, batch):
            self._peaks[batch.id] = highest

    def _forget(self, batch_id: str) -> None:
        self._peaks.pop(batch_id, None)
        self._finished_once.discard(batch_id)
        self._vanished.pop(batch_id, None)


def _add(counters: dict[str, Counter], label: str, amount: int, batch_id: str, now: float) -> None:
    if amount > 0:
        counters[label] = counters.get(label, Counter()).add(amount, batch_id, now)


def _highest(peaks: _Peaks, batch: Batch) -> _Peaks:
    highest = dict(peaks)
    for name, counts in batch.destinations.items():
        completed, failed = highest.get(name, (0, 0))
        highest[name] = max(completed, counts.completed), max(failed, counts.failed)
    return highest
