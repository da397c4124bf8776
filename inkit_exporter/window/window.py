"""The recent batches of one account, in the API's order, and their sums, which follow each change. No I/O, no clock."""

import bisect
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence, Set

from inkit_exporter.api.batches import Batch, Counts, is_failing, is_finished
from inkit_exporter.window.snapshot import LISTED, Snapshot, TopBatches
from inkit_exporter.window.totals import TotalsTracker

_NOTHING = Counts(0, 0, 0, 0)


class Window:
    """Batches newest first, and their sums.

    Args:
        max_batches: how many are kept. Beyond it, the oldest are dropped.
        totals: is told of every change.
    """

    def __init__(self, max_batches: int, totals: TotalsTracker) -> None:
        self.truncated = False
        self.totals = totals
        # `created_at` of the newest batch that was dropped for `max_batches`.
        self._cut = -math.inf
        self._max_batches = max_batches
        self._batches: dict[str, Batch] = {}
        self._order: list[Batch] = []
        # Kept in order too, so that a snapshot need not look for them among all batches.
        self._failing: list[Batch] = []
        self._unfinished: list[Batch] = []
        # When each unfinished batch was last seen to be new or different.
        self._changed_at: dict[str, float] = {}
        self._documents: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(_zeros_by_destination)
        self._statuses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._order)

    @property
    def batches(self) -> Collection[Batch]:
        """All of them, newest first."""
        return self._order

    @property
    def unfinished(self) -> Set[str]:
        """The ids of the unfinished batches."""
        return self._changed_at.keys()

    @property
    def unfinished_newest_first(self) -> Sequence[Batch]:
        """The unfinished batches, newest first."""
        return self._unfinished

    def newest_created(self, until: float) -> float:
        """`created_at` of the newest batch that was not created after `until`; minus infinity without one."""
        rank = self.rank_at(until)
        return self._order[rank].created_at if rank < len(self._order) else -math.inf

    def rank(self, batch_id: str) -> int:
        """How many batches of the window come before this one in the list."""
        return _place(self._order, self._batches[batch_id])

    def rank_at(self, created: float) -> int:
        """How many batches of the window were created after that time."""
        return bisect.bisect_left(self._order, -created, key=_age)

    def update(self, batches: Iterable[Batch], now: float, cutoff: float) -> None:
        """Add or replace the batches that were created since the cutoff; `now` is wall time."""
        for batch in batches:
            if batch.created_at >= cutoff:
                self.upsert(batch, now)
            elif batch.id in self._batches:
                self.remove(batch.id)

    def remove_missing(self, ids: Set[str], newest: float, oldest: float) -> None:
        """Remove the batches created between these times, both excluded, that have none of these ids."""
        first, last = bisect.bisect_right(self._order, -newest, key=_age), self.rank_at(oldest)
        if last - first == len(self._order) and self._batches.keys() <= ids:
            return  # the common case of a full listing, told in one call even of a hundred thousand batches
        for batch_id in [batch.id for batch in self._order[first:last] if batch.id not in ids]:
            self.remove(batch_id)

    def upsert(self, batch: Batch, now: float) -> None:
        """Add a batch, or replace what is known of it; `now` is wall time."""
        known = self._batches.get(batch.id)
        if known is not None:
            if known == batch:
                return
            self._count(known, -1)
        self.totals.observe(known, batch, now)
        self._batches[batch.id] = batch
        failed, in_progress = self._count(batch, +1)
        _replace(self._order, known, batch)
        _replace(self._failing, _if_failing(known), batch if is_failing(batch.status, failed) else None)
        unfinished = None if is_finished(batch.status, in_progress) else batch
        _replace(self._unfinished, _if_unfinished(known), unfinished)
        if unfinished:
            self._changed_at[batch.id] = now
        else:
            self._changed_at.pop(batch.id, None)

    def remove(self, batch_id: str) -> None:
        """Remove a batch that the API no longer has."""
        batch = self._batches[batch_id]
        self.totals.vanished(batch)
        _replace(self._order, batch, None)
        self._forget(batch)

    def reset_truncation(self) -> None:
        """Forget what was dropped for `max_batches`: the list is read to its end, and the next `trim` will tell."""
        self._cut = -math.inf

    def trim(self, cutoff: float) -> None:
        """Drop the batches created before the cutoff, and the oldest beyond `max_batches`."""
        recent = bisect.bisect_right(self._order, -cutoff, key=_age)
        if recent > self._max_batches:
            self._cut = max(self._cut, self._order[self._max_batches].created_at)
        self.truncated = self._cut >= cutoff
        kept = min(recent, self._max_batches)
        while len(self._order) > kept:
            batch = self._order.pop()
            self.totals.expired(batch)
            self._forget(batch)
        self.totals.trim(cutoff)

    def snapshot(self, previous: Snapshot | None) -> Snapshot:
        """The sums as they are now, with the combinations that were seen before."""
        documents = dict.fromkeys(previous.documents, _NOTHING) if previous else {}
        for status, destinations in self._documents.items():
            documents |= {(destination, status): Counts(*sums) for destination, sums in destinations.items()}
        return Snapshot(
            documents=documents,
            batches=dict.fromkeys(previous.batches if previous else (), 0) | self._statuses,
            newest_created=self._order[0].created_at if self._order else None,
            oldest_unfinished_created=self._unfinished[-1].created_at if self._unfinished else None,
            truncated=self.truncated,
            failing=self._top(self._failing[:LISTED], len(self._failing)),
            unfinished=self._top(self._unfinished[: -LISTED - 1 : -1], len(self._unfinished)),
            oldest_change=min(self._changed_at.values(), default=None),
        )

    def _top(self, first: list[Batch], total: int) -> TopBatches:
        return TopBatches(tuple(first), total, tuple(self._changed_at.get(batch.id) for batch in first))

    def _forget(self, batch: Batch) -> None:
        del self._batches[batch.id]
        self._changed_at.pop(batch.id, None)
        _replace(self._failing, _if_failing(batch), None)
        _replace(self._unfinished, _if_unfinished(batch), None)
        self._count(batch, -1)

    def _count(self, batch: Batch, sign: int) -> tuple[int, int]:
        """Add a batch to the sums, or take it away; returns how many of its documents failed and are in progress."""
        self._statuses[batch.status] = self._statuses.get(batch.status, 0) + sign
        all_failed = all_in_progress = 0
        by_destination = self._documents[batch.status]
        for destination, counts in batch.destinations.items():
            sums = by_destination[destination]
            sums[0] += sign * counts.count
            sums[1] += sign * counts.completed
            if failed := counts.failed:
                sums[2] += sign * failed
                all_failed += failed
            if in_progress := counts.in_progress:
                sums[3] += sign * in_progress
                all_in_progress += in_progress
        return all_failed, all_in_progress


def _zeros_by_destination() -> defaultdict[str, list[int]]:
    return defaultdict(lambda: [0, 0, 0, 0])


def _replace(ranking: list[Batch], known: Batch | None, batch: Batch | None) -> None:
    """Replace one batch of a ranking by another. None means that there is no such batch."""
    if known is not None:
        place = _place(ranking, known)
        if batch is not None and known.created_at == batch.created_at:
            ranking[place] = batch
            return
        del ranking[place]
    if batch is not None:
        if not ranking or batch.created_at < ranking[-1].created_at:
            ranking.append(batch)
        else:
            bisect.insort(ranking, batch, key=_position)


def _place(ranking: list[Batch], batch: Batch) -> int:
    return bisect.bisect_left(ranking, _position(batch), key=_position)


def _if_failing(batch: Batch | None) -> Batch | None:
    return batch if batch and batch.failing else None


def _if_unfinished(batch: Batch | None) -> Batch | None:
    return batch if batch and not batch.finished else None


def _position(batch: Batch) -> tuple[float, str]:
    return -batch.created_at, batch.id


def _age(batch: Batch) -> float:
    return -batch.created_at
