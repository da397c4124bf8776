"""The recent batches of one account, in the API's order, and their sums, which follow each change. No I/O, no clock."""

import bisect
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Final

from msgspec import Struct

from inkit_exporter.api.batches import Batch, Counts, is_failing, is_finished
from inkit_exporter.window.totals import Totals

LISTED: Final = 50
"""How many batches an excerpt shows at most: more than a person reads, and little to keep."""

_NOTHING: Final = Counts(0, 0, 0, 0)

# Batches merged in one go, about 0.5 ms: in between, scrapes are answered.
_MERGE_AT_ONCE = 200


class Excerpt(Struct, frozen=True):
    """The first batches of a ranking, `LISTED` at most, and how many there are in `total`.

    `changes` are the times when they were last seen to change, None for the finished ones.
    """

    batches: tuple[Batch, ...] = ()
    total: int = 0
    changes: tuple[float | None, ...] = ()


class Snapshot(Struct, frozen=True):
    """One account's window after a complete poll. A combination of labels once seen stays, at 0.

    `documents` is by (destination, batch status), `batches` by batch status; times are seconds since the epoch.
    `failing` begins with the newest, `unfinished` with the oldest, which is the likeliest to be stuck.
    `oldest_change` is when the unfinished batch that has not changed for longest was last seen to change.
    """

    documents: Mapping[tuple[str, str], Counts]
    batches: Mapping[str, int]
    newest_created: float | None
    oldest_unfinished_created: float | None
    truncated: bool
    failing: Excerpt = Excerpt()
    unfinished: Excerpt = Excerpt()
    oldest_change: float | None = None


class Run(Struct, frozen=True):
    """A stretch of the list without gaps: between its edges, both excluded, the API lists these batches and no others.

    `newest` and `oldest` are `created_at` of the edges; infinite where the stretch begins or ends with the list.
    `last_page` is the number of the furthest page it takes in.
    """

    batches: Mapping[str, Batch]
    newest: float
    oldest: float
    last_page: int = 1


class Window:
    """Batches newest first, and their sums.

    Args:
        max_batches: how many are kept; beyond it the oldest go.
        totals: are told of every change.
    """

    def __init__(self, max_batches: int, totals: Totals) -> None:
        self.truncated = False
        self._cut = -math.inf
        self._max_batches = max_batches
        self.totals = totals
        self._batches: dict[str, Batch] = {}
        self._order: list[Batch] = []
        # Kept in order too, so that a snapshot need not look for them among all batches.
        self._failing: list[Batch] = []
        self._unfinished: list[Batch] = []
        # When each unfinished batch was last seen to be new or different.
        self._changed: dict[str, float] = {}
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
        return self._changed.keys()

    def newest_created(self, until: float) -> float:
        """`created_at` of the newest that was not created after `until`, minus infinity if there is none."""
        rank = self.rank_at(until)
        return self._order[rank].created_at if rank < len(self._order) else -math.inf

    def rank(self, batch_id: str) -> int:
        """How many batches of the window come before this one in the list."""
        return _place(self._order, self._batches[batch_id])

    def rank_at(self, created: float) -> int:
        """How many batches of the window were created after that time."""
        return bisect.bisect_left(self._order, -created, key=_age)

    def merge(self, run: Run, now: float) -> Iterator[None]:
        """Make the stretch of the window between the run's edges equal to the run, in steps; `now` is wall time."""
        first = 0 if run.newest == math.inf else bisect.bisect_right(self._order, -run.newest, key=_age)
        last = len(self._order) if run.oldest == -math.inf else self.rank_at(run.oldest)
        gone = [batch.id for batch in self._order[first:last] if batch.id not in run.batches]
        for i, batch_id in enumerate(gone, start=1):
            self.remove(batch_id)
            if i % _MERGE_AT_ONCE == 0:
                yield
        for i, batch in enumerate(run.batches.values(), start=1):
            self.put(batch, now)
            if i % _MERGE_AT_ONCE == 0:
                yield

    def put(self, batch: Batch, now: float) -> None:
        """Add a batch, or replace what was known of it; `now` is wall time."""
        known = self._batches.get(batch.id)
        if known is not None:
            if known == batch:
                return
            self._count(known, -1)
        self.totals.observe(known, batch, now)
        self._batches[batch.id] = batch
        failed, in_progress = self._count(batch, +1)
        _exchange(self._order, known, batch)
        _exchange(self._failing, _if_failing(known), batch if is_failing(batch.status, failed) else None)
        unfinished = None if is_finished(batch.status, in_progress) else batch
        _exchange(self._unfinished, _if_unfinished(known), unfinished)
        if unfinished:
            self._changed[batch.id] = now
        else:
            self._changed.pop(batch.id, None)

    def remove(self, batch_id: str) -> None:
        """Forget a batch that the API no longer has."""
        batch = self._batches[batch_id]
        self.totals.vanished(batch)
        _exchange(self._order, batch, None)
        self._forget(batch)

    def listed_whole(self) -> None:
        """All that belongs to the window has been put; if more than may be kept, `trim` will see."""
        self._cut = -math.inf

    def trim(self, horizon: float) -> Iterator[None]:
        """Let go what was created before the horizon, and the oldest beyond `max_batches`, in steps."""
        recent = bisect.bisect_right(self._order, -horizon, key=_age)
        if recent > self._max_batches:
            self._cut = max(self._cut, self._order[self._max_batches].created_at)
        self.truncated = self._cut >= horizon
        kept = min(recent, self._max_batches)
        while len(self._order) > kept:
            batch = self._order.pop()
            self.totals.left(batch)
            self._forget(batch)
            if len(self._order) % _MERGE_AT_ONCE == 0:
                yield
        self.totals.trim(horizon)

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
            failing=self._excerpt(self._failing[:LISTED], len(self._failing)),
            unfinished=self._excerpt(self._unfinished[: -LISTED - 1 : -1], len(self._unfinished)),
            oldest_change=min(self._changed.values(), default=None),
        )

    def _excerpt(self, first: list[Batch], total: int) -> Excerpt:
        return Excerpt(tuple(first), total, tuple(self._changed.get(batch.id) for batch in first))

    def _forget(self, batch: Batch) -> None:
        del self._batches[batch.id]
        self._changed.pop(batch.id, None)
        _exchange(self._failing, _if_failing(batch), None)
        _exchange(self._unfinished, _if_unfinished(batch), None)
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


def _exchange(ranking: list[Batch], known: Batch | None, batch: Batch | None) -> None:
    """Put one batch in the place of the other, where None stands for one that is not in the ranking."""
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
