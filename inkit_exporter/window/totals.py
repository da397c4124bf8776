"""Running totals: compares each batch with its last known state, and counts what happened.

The API keeps no history, so numbers are compared with their highest values so far. Numbers that shrink and grow again
count once. So do batches that vanish and come back, or finish twice.
"""

import math

from msgspec import Struct
from msgspec.structs import asdict, replace

from inkit_exporter.api.batches import Batch
from inkit_exporter.counters import Counter, Exemplar, Histogram

# In seconds: from a small batch to one that takes a day.
_DURATION_BUCKETS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0)

# Vanished batches are remembered, as they may come back. Beyond this number, the first of them is forgotten.
_MOST_VANISHED = 10_000


class Past(Struct, frozen=True):
    """What polls have seen of a batch so far: whether it was finished, and the highest numbers of its documents.

    `peaks` has the numbers of completed and of failed ones by destination.
    """

    created_at: float
    peaks: dict[str, tuple[int, int]] = {}
    finished: bool = False


class Totals(Struct):
    """Sums: documents and batches with failures by destination, new batches, finished ones by status, and durations."""

    completed: dict[str, Counter] = {}
    failed: dict[str, Counter] = {}
    with_failures: dict[str, Counter] = {}
    created: Counter = Counter()
    finished: dict[str, Counter] = {}
    durations: Histogram = Histogram.empty(*_DURATION_BUCKETS)

    def copy(self) -> "Totals":
        """A copy that later observations do not change."""
        return replace(self, **{field: dict(value) for field, value in asdict(self).items() if isinstance(value, dict)})


class TotalsTracker:
    """Follows one account's batches, and adds what happens to them to the totals.

    New batches count only while it is `counting`. Those before are the baseline. If an older batch comes (back) into
    the window, what it did before does not count either.

    Batches created up to `not_new_until` have left the window, or may have. `past` is the past of batches that show
    less than before, `missing` that of vanished ones.

    `stored`: the storage has all batches as they are, but for those with the `changed` ids. If it is False, it has to
    write all of them. It takes the ids before it writes, and puts back those that it could not write.
    """

    def __init__(self, totals: Totals) -> None:
        self.totals = totals.copy()
        self.counting = False
        self.not_new_until = -math.inf
        self.past: dict[str, Past] = {}
        self.missing: dict[str, Past] = {}
        self.stored = False
        self.changed: set[str] = set()

    def observe(self, known: Batch | None, batch: Batch, now: float) -> None:
        """Count what a poll at wall time `now` sees: a batch that was `known`, or None if new, is now `batch`."""
        self.changed.add(batch.id)
        past = self.past if known else self.missing
        before = past.pop(batch.id) if batch.id in past else past_of(known) if known else None
        if before is None:
            if not self.counting or batch.created_at <= self.not_new_until:
                return
            self.totals.created = self.totals.created.add(1, batch.id, now)
            before = Past(batch.created_at)
        peaks = dict(before.peaks)
        for name, counts in batch.destinations.items():
            completed, failed = peaks.get(name, (0, 0))
            _add(self.totals.completed, name, counts.completed - completed, batch.id, now)
            _add(self.totals.failed, name, counts.failed - failed, batch.id, now)
            _add(self.totals.with_failures, name, int(counts.failed > 0 == failed), batch.id, now)
            peaks[name] = max(completed, counts.completed), max(failed, counts.failed)
        if batch.finished and not before.finished:
            _add(self.totals.finished, batch.status, 1, batch.id, now)
            seconds = max(0.0, now - batch.created_at)
            self.totals.durations = self.totals.durations.observe(seconds, Exemplar(batch.id, seconds, now))
        so_far = Past(batch.created_at, peaks, before.finished or batch.finished)
        if so_far != past_of(batch):
            self.past[batch.id] = so_far

    def vanished(self, batch: Batch) -> None:
        """The API no longer lists a batch. It may come back."""
        self.changed.add(batch.id)
        self.missing[batch.id] = self.past.pop(batch.id) if batch.id in self.past else past_of(batch)
        while len(self.missing) > _MOST_VANISHED:
            self._forget(next(iter(self.missing)))

    def expired(self, batch: Batch) -> None:
        """A batch has left the window. It is not new if it ever comes back."""
        self.changed.add(batch.id)
        self.past.pop(batch.id, None)
        self.not_new_until = max(self.not_new_until, batch.created_at)

    def trim(self, cutoff: float, batches: int) -> None:
        """Forget vanished batches created before the cutoff. The window has that many others."""
        for batch_id in [batch_id for batch_id, past in self.missing.items() if past.created_at < cutoff]:
            self._forget(batch_id)
        if not self.stored or len(self.changed) > batches + len(self.missing):
            self.stored, self.changed = False, set()  # all are to be written, so nobody needs the ids

    def _forget(self, batch_id: str) -> None:
        self.changed.add(batch_id)
        self.not_new_until = max(self.not_new_until, self.missing.pop(batch_id).created_at)


def past_of(batch: Batch) -> Past:
    """The past of a batch of which only this is known."""
    peaks = {name: (counts.completed, counts.failed) for name, counts in batch.destinations.items()}
    return Past(batch.created_at, peaks, batch.finished)


def _add(counters: dict[str, Counter], label: str, amount: int, batch_id: str, now: float) -> None:
    if amount > 0:
        counters[label] = counters.get(label, Counter()).add(amount, batch_id, now)
