"""Running totals: compares each batch with its last known state, and counts what happened.

The API keeps no history, so numbers are compared with their highest values so far. Numbers that shrink and grow again
count once. So do batches that vanish and come back, or finish twice.
"""

import math
from typing import Final

from msgspec import Struct

from inkit_exporter.api.batches import Batch
from inkit_exporter.counters import Counter, Exemplar, Histogram

# In seconds: from a small batch to one that takes a day.
DURATION_BUCKETS: Final = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0)

# Vanished batches are remembered, as they may come back. Beyond this number, the first of them is forgotten.
_MOST_VANISHED = 10_000

Peaks = dict[str, tuple[int, int]]
"""The highest numbers of completed and of failed documents, by destination."""


class Totals(Struct):
    """The sums so far: documents and batches with failures by destination, finished batches by status, durations."""

    completed: dict[str, Counter] = {}
    failed: dict[str, Counter] = {}
    with_failures: dict[str, Counter] = {}
    created: Counter = Counter()
    finished: dict[str, Counter] = {}
    durations: Histogram = Histogram.empty(*DURATION_BUCKETS)

    def copy(self) -> "Totals":
        """A copy that later observations do not change."""
        by_label = dict(self.completed), dict(self.failed), dict(self.with_failures)
        return Totals(*by_label, self.created, dict(self.finished), self.durations)


class TotalsTracker:
    """Follows one account's batches, and adds what happens to them to the totals.

    Batches seen before `start_counting` are the baseline and don't count. If an older batch comes (back) into the
    window, what it did before does not count either.

    Batches created up to `edge` have left the window, or may have. `peaks` has the highest numbers of batches whose
    numbers shrank, `finished_once` the unfinished batches that were finished before, `missing` the `created_at` of
    vanished batches. `changed` collects the batches that changed; its reader empties it.
    """

    def __init__(self, totals: Totals) -> None:
        self.totals = totals.copy()
        self._counting = False
        self.edge = -math.inf
        self.peaks: dict[str, Peaks] = {}
        self.finished_once: set[str] = set()
        self.missing: dict[str, float] = {}
        self.changed: set[str] = set()

    def start_counting(self) -> None:
        """Count from now on."""
        self._counting = True

    def stop_counting(self) -> None:
        """Treat new batches as the baseline again, until `start_counting`."""
        self._counting = False

    def observe(self, known: Batch | None, batch: Batch, now: float) -> None:
        """Count what a poll at wall time `now` sees: a batch that was `known`, or None if new, is now `batch`."""
        self.changed.add(batch.id)
        unknown = known is None and batch.id not in self.missing
        if unknown and (not self._counting or batch.created_at <= self.edge):
            return
        self.missing.pop(batch.id, None)
        if unknown:
            self.totals.created = self.totals.created.add(1, batch.id, now)
        self._count_documents(known, batch, now)
        finished_before = batch.id in self.finished_once or (known is not None and known.finished)
        if finished_before and not batch.finished:
            self.finished_once.add(batch.id)
        elif batch.finished and not finished_before:
            _add(self.totals.finished, batch.status, 1, batch.id, now)
            seconds = max(0.0, now - batch.created_at)
            self.totals.durations = self.totals.durations.observe(seconds, Exemplar(batch.id, seconds, now))

    def vanished(self, batch: Batch) -> None:
        """The API no longer lists a batch. It may come back."""
        self.changed.add(batch.id)
        self.peaks[batch.id] = _highest(self.peaks.get(batch.id, {}), batch)
        if batch.finished:
            self.finished_once.add(batch.id)
        self.missing[batch.id] = batch.created_at
        while len(self.missing) > _MOST_VANISHED:
            oldest = next(iter(self.missing))
            self.edge = max(self.edge, self.missing[oldest])
            self._forget(oldest)

    def expired(self, batch: Batch) -> None:
        """A batch has left the window. It is not new if it ever comes back."""
        self.edge = max(self.edge, batch.created_at)
        self._forget(batch.id)

    def trim(self, cutoff: float) -> None:
        """Forget vanished batches created before the cutoff."""
        for batch_id, created in list(self.missing.items()):
            if created < cutoff:
                self.edge = max(self.edge, created)
                self._forget(batch_id)

    def _count_documents(self, known: Batch | None, batch: Batch, now: float) -> None:
        peaks = self.peaks.get(batch.id)
        before = peaks if peaks is not None else _highest({}, known) if known else {}
        for name, counts in batch.destinations.items():
            completed, failed = before.get(name, (0, 0))
            _add(self.totals.completed, name, counts.completed - completed, batch.id, now)
            _add(self.totals.failed, name, counts.failed - failed, batch.id, now)
            _add(self.totals.with_failures, name, int(counts.failed > 0 == failed), batch.id, now)
        highest = _highest(before, batch)
        if peaks is not None or highest != _highest({}, batch):
            self.peaks[batch.id] = highest

    def _forget(self, batch_id: str) -> None:
        self.changed.add(batch_id)
        self.peaks.pop(batch_id, None)
        self.finished_once.discard(batch_id)
        self.missing.pop(batch_id, None)


def _add(counters: dict[str, Counter], label: str, amount: int, batch_id: str, now: float) -> None:
    if amount > 0:
        counters[label] = counters.get(label, Counter()).add(amount, batch_id, now)


def _highest(peaks: Peaks, batch: Batch) -> Peaks:
    highest = dict(peaks)
    for name, counts in batch.destinations.items():
        completed, failed = highest.get(name, (0, 0))
        highest[name] = max(completed, counts.completed), max(failed, counts.failed)
    return highest
