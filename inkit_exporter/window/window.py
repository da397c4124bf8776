"""The recent batches of one account in the API's order, and their sums. No I/O, no clock."""

import bisect
import math
from collections import defaultdict
from collections.abc import Mapping, Set
from typing import Final

from msgspec import Struct

from inkit_exporter.api.batches import Batch, Counts
from inkit_exporter.window.totals import TotalsTracker

_NOTHING = Counts(0, 0, 0, 0)

KEPT: Final = 500
"""How many batches of each list a snapshot keeps for the status page: more than a person reads."""


class TopBatches(Struct, frozen=True):
    """The first batches of a list, at most `KEPT`. The list has `total`.

    `changed_at` is when each was last seen to change, in seconds since the epoch; None for finished batches.
    """

    batches: tuple[Batch, ...] = ()
    total: int = 0
    changed_at: tuple[float | None, ...] = ()


class Snapshot(Struct, frozen=True):
    """One account's window after a complete poll. Combinations of labels seen before stay, at 0.

    `documents` is by (destination, batch status), `batches` by batch status. Times are seconds since the epoch.
    `newest` has at most `KEPT` batches. `failing` begins with the newest, `unfinished` with the oldest.
    `oldest_change` is when the unfinished batch that is unchanged for longest was last seen to change.
    """

    documents: Mapping[tuple[str, str], Counts]
    batches: Mapping[str, int]
    newest_created: float | None
    oldest_unfinished_created: float | None
    truncated: bool
    newest: tuple[Batch, ...] = ()
    failing: TopBatches = TopBatches()
    unfinished: TopBatches = TopBatches()
    oldest_change: float | None = None


class Window:
    """Batches, newest first, and their sums; after `trim` at most `max_batches`. It passes every change to the totals.

    Other modules may read `batches`, `by_id`, and these: `unfinished` has the batches that are neither finished nor
    settled; `changed_at` is when each unfinished or settled batch last changed, as polls saw it; `newest_dropped` is
    the `created_at` of the newest batch that was dropped because of `max_batches`. Full listings reset it, and `trim`
    finds out again.
    """

    def __init__(self, max_batches: int, totals: TotalsTracker) -> None:
        self.truncated = False
        self.newest_dropped = -math.inf
        self.totals = totals
        self.batches: list[Batch] = []
        self.unfinished: list[Batch] = []  # sorted too, so that a snapshot need not look for them
        self._failing: list[Batch] = []
        self._max_batches = max_batches
        self.by_id: dict[str, Batch] = {}
        self.changed_at: dict[str, float] = {}
        self._documents: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(
            lambda: defaultdict(lambda: [0, 0, 0, 0])
        )
        self._statuses: dict[str, int] = {}

    def rank(self, batch: Batch) -> int:
        """How many batches of the window precede this one in the list."""
        return _place(self.batches, batch)

    def rank_at(self, created: float) -> int:
        """How many batches of the window were created after that time."""
        return bisect.bisect_left(self.batches, -created, key=_age)

    def remove_missing(self, ids: Set[str], newest: float, oldest: float) -> None:
        """Remove the batches without one of these ids that were created between these times, both excluded."""
        first, last = bisect.bisect_right(self.batches, -newest, key=_age), self.rank_at(oldest)
        if last - first == len(self.batches) and self.by_id.keys() <= ids:
            return  # the common case of a full listing, quick even with 100,000 batches
        for batch_id in [batch.id for batch in self.batches[first:last] if batch.id not in ids]:
            self.remove(batch_id)

    def upsert(self, batch: Batch, now: float) -> None:
        """Add a batch, or replace the known one. `now` is wall time."""
        known = self.by_id.get(batch.id)
        if known == batch:
            return
        self.totals.observe(known, batch, now)
        if known is not None:
            self._discard(known)
        self.by_id[batch.id] = batch
        failed, in_progress = self._count(batch, +1)
        _insert(self.batches, batch)
        if failed or batch.failed:
            _insert(self._failing, batch)
        if in_progress or not batch.final:
            _insert(self.unfinished, batch)
            self.changed_at[batch.id] = now

    def remove(self, batch_id: str) -> None:
        """Remove a batch that the API no longer has."""
        self.totals.vanished(self.by_id[batch_id])
        self._discard(self.by_id[batch_id])

    def trim(self, cutoff: float) -> None:
        """Drop the batches created before the cutoff, and the oldest beyond `max_batches`."""
        recent = bisect.bisect_right(self.batches, -cutoff, key=_age)
        if recent > self._max_batches:
            self.newest_dropped = max(self.newest_dropped, self.batches[self._max_batches].created_at)
        self.truncated = self.newest_dropped >= cutoff
        kept = min(recent, self._max_batches)
        while len(self.batches) > kept:
            self.totals.expired(self.batches[-1])
            self._discard(self.batches[-1])
        self.totals.trim(cutoff, len(self.batches))

    def settle(self, before: float) -> None:
        """Treat unfinished batches as settled if their documents are done and they have not changed since `before`."""
        settled = {batch.id for batch in self.unfinished if self.changed_at[batch.id] <= before and batch.done}
        self.unfinished = [batch for batch in self.unfinished if batch.id not in settled]

    def snapshot(self, previous: Snapshot | None) -> Snapshot:
        """The sums now. Combinations of labels that only the previous snapshot has are 0."""
        documents = dict.fromkeys(previous.documents, _NOTHING) if previous else {}
        for status, destinations in self._documents.items():
            documents |= {(destination, status): Counts(*sums) for destination, sums in destinations.items()}
        return Snapshot(
            documents=documents,
            batches=dict.fromkeys(previous.batches if previous else (), 0) | self._statuses,
            newest_created=self.batches[0].created_at if self.batches else None,
            oldest_unfinished_created=self.unfinished[-1].created_at if self.unfinished else None,
            truncated=self.truncated,
            newest=tuple(self.batches[:KEPT]),
            failing=self._top(self._failing[:KEPT], len(self._failing)),
            unfinished=self._top(self.unfinished[: -KEPT - 1 : -1], len(self.unfinished)),
            oldest_change=min((self.changed_at[batch.id] for batch in self.unfinished), default=None),
        )

    def _top(self, first: list[Batch], total: int) -> TopBatches:
        return TopBatches(tuple(first), total, tuple(self.changed_at.get(batch.id) for batch in first))

    def _discard(self, batch: Batch) -> None:
        del self.by_id[batch.id]
        self.changed_at.pop(batch.id, None)
        self._count(batch, -1)
        for ranking in (self.batches, self.unfinished, self._failing):
            place = _place(ranking, batch)
            if place < len(ranking) and ranking[place].id == batch.id:
                del ranking[place]

    def _count(self, batch: Batch, sign: int) -> tuple[int, int]:
        """Add a batch to the sums, or subtract it. Returns how many of its documents failed and are in progress."""
        self._statuses[batch.status] = self._statuses.get(batch.status, 0) + sign
        by_destination = self._documents[batch.status]
        all_failed = all_in_progress = 0
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


def _insert(ranking: list[Batch], batch: Batch) -> None:
    if not ranking or batch.created_at < ranking[-1].created_at:
        ranking.append(batch)
    else:
        bisect.insort(ranking, batch, key=_position)


def _place(ranking: list[Batch], batch: Batch) -> int:
    return bisect.bisect_left(ranking, _position(batch), key=_position)


def _position(batch: Batch) -> tuple[float, str]:
    return -batch.created_at, batch.id


def _age(batch: Batch) -> float:
    return -batch.created_at
