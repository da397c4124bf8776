"""What happened, out of the differences between what was known of a batch and what is: sums that never go down.

The API keeps no history, so its numbers are compared with their highest values so far. Numbers that shrink, batches
that vanish and come back, or finish twice, count once.
"""

import math

from msgspec import Struct, field

from inkit_exporter.api.batches import Batch

# Batches that vanished are remembered, should they come back; beyond so many, the one that vanished first is forgotten.
_MOST_VANISHED = 10_000

_Peaks = dict[str, tuple[int, int]]


class Increase(Struct):
    """How much a sum grew, and a batch to which that is due."""

    amount: int = 0
    batch_id: str = ""

    def add(self, amount: int, batch_id: str) -> None:
        """Grow, due to that batch."""
        self.amount += amount
        self.batch_id = batch_id


class Changes(Struct):
    """What happened since the last time; `durations` are in seconds, from creation until seen finished."""

    completed: dict[str, Increase] = field(default_factory=dict)
    failed: dict[str, Increase] = field(default_factory=dict)
    created: Increase = field(default_factory=Increase)
    finished: dict[str, Increase] = field(default_factory=dict)
    durations: list[tuple[float, str]] = field(default_factory=list)


class Totals:
    """Follows one account's batches, and collects what happened to them.

    What is there before `begin` is the baseline, and not counted; nor is what a batch had already done when it
    comes (back) from beyond the edge of the window.
    """

    def __init__(self) -> None:
        self._changes = Changes()
        self._counting = False
        self._edge = -math.inf
        self._peaks: dict[str, _Peaks] = {}
        self._settled: set[str] = set()
        self._vanished: dict[str, float] = {}

    def begin(self) -> None:
        """From now on, count."""
        self._counting = True

    def pause(self) -> None:
        """Until `begin`, what is not known yet is the baseline again."""
        self._counting = False

    def take(self) -> Changes:
        """What happened since this was last asked."""
        changes, self._changes = self._changes, Changes()
        return changes

    def observe(self, known: Batch | None, batch: Batch, now: float) -> None:
        """A batch is `batch`, and was `known`, at wall time `now`."""
        unknown = known is None and batch.id not in self._vanished
        if unknown and (not self._counting or batch.created_at <= self._edge):
            return
        self._vanished.pop(batch.id, None)
        if unknown:
            self._changes.created.add(1, batch.id)
        self._count_documents(known, batch)
        settled = batch.id in self._settled or (known is not None and known.finished)
        if settled and not batch.finished:
            self._settled.add(batch.id)
        elif batch.finished and not settled:
            self._changes.finished.setdefault(batch.status, Increase()).add(1, batch.id)
            self._changes.durations.append((max(0.0, now - batch.created_at), batch.id))

    def vanished(self, batch: Batch) -> None:
        """The API no longer has a batch, which may come back."""
        self._peaks[batch.id] = _highest(self._peaks.get(batch.id, {}), batch)
        if batch.finished:
            self._settled.add(batch.id)
        self._vanished[batch.id] = batch.created_at
        while len(self._vanished) > _MOST_VANISHED:
            oldest = next(iter(self._vanished))
            self._edge = max(self._edge, self._vanished[oldest])
            self._forget(oldest)

    def left(self, batch: Batch) -> None:
        """A batch is older than the window. Should the window reach back to it again, it is no news."""
        self._edge = max(self._edge, batch.created_at)
        self._forget(batch.id)

    def trim(self, horizon: float) -> None:
        """Forget vanished batches from before the horizon."""
        for batch_id, created in list(self._vanished.items()):
            if created < horizon:
                self._edge = max(self._edge, created)
                self._forget(batch_id)

    def _count_documents(self, known: Batch | None, batch: Batch) -> None:
        peaks = self._peaks.get(batch.id)
        before = peaks if peaks is not None else _highest({}, known) if known else {}
        shrunk = any(name not in batch.destinations for name in before)
        for name, counts in batch.destinations.items():
            completed, failed = before.get(name, (0, 0))
            if counts.completed > completed:
                self._changes.completed.setdefault(name, Increase()).add(counts.completed - completed, batch.id)
            if counts.failed > failed:
                self._changes.failed.setdefault(name, Increase()).add(counts.failed - failed, batch.id)
            shrunk |= counts.completed < completed or counts.failed < failed
        if shrunk or peaks is not None:
            self._peaks[batch.id] = _highest(before, batch)

    def _forget(self, batch_id: str) -> None:
        self._peaks.pop(batch_id, None)
        self._settled.discard(batch_id)
        self._vanished.pop(batch_id, None)


def _highest(peaks: _Peaks, batch: Batch) -> _Peaks:
    highest = dict(peaks)
    for name, counts in batch.destinations.items():
        completed, failed = highest.get(name, (0, 0))
        highest[name] = max(completed, counts.completed), max(failed, counts.failed)
    return highest
