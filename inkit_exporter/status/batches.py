"""The batches that the status lists, and what a client may ask for."""

import asyncio
import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from inkit_exporter.api.batches import Batch, Counts
from inkit_exporter.window.window import KEPT, TopBatches

LISTED: Final = 50
"""Batches of each list, unless another `limit` is asked for."""


class Query(Struct, frozen=True):
    """The parameters of a request. No account means all accounts, no destination all destinations."""

    account: frozenset[str] = frozenset()
    destination: frozenset[str] = frozenset()
    limit: Annotated[int, Meta(ge=1, le=KEPT)] = LISTED
    order: Literal["newest", "failed"] = "newest"

    def counts(self, batch: Batch) -> Collection[Counts]:
        """A batch's documents at the destinations that are asked for."""
        if not self.destination:
            return batch.destinations.values()
        return [counts for name, counts in batch.destinations.items() if name in self.destination]


VALUES: Final = {"limit": f"a whole number from 1 to {KEPT}", "order": "newest or failed"}
"""What parameters may be, in words."""


class DocumentsStatus(Struct, frozen=True):
    """Documents at one destination."""

    destination: str
    documents: int
    completed: int
    failed: int
    in_progress: int


class BatchStatus(Struct, frozen=True):
    """One batch, and its documents at each destination."""

    account: str
    id: str
    name: str
    created_timestamp_seconds: float
    last_change_timestamp_seconds: float | None
    status: str
    destinations: Sequence[DocumentsStatus]


class BatchesStatus(Struct, frozen=True):
    """The first batches, and how many there are in all."""

    total: int
    listed: Sequence[BatchStatus]


async def failing_batches(tops: Iterable[tuple[str, TopBatches]], query: Query) -> BatchesStatus:
    """The failing batches of all accounts. If the query names destinations, only those that failed there."""

    def fails(batch: Batch) -> bool:
        counts = query.counts(batch)
        return any(one.failed for one in counts) or (batch.failed and bool(counts))

    def rank(batch: Batch) -> float:
        return -sum(one.failed for one in query.counts(batch)) if query.order == "failed" else -batch.created_at

    return await _first(tops, query, fails, rank)


async def unfinished_batches(tops: Iterable[tuple[str, TopBatches]], query: Query) -> BatchesStatus:
    """The unfinished batches, the oldest first. If the query names destinations, only those that wait there."""

    def waits(batch: Batch) -> bool:
        return any(one.in_progress or one.completed + one.failed < one.count for one in query.counts(batch))

    return await _first(tops, query, waits, lambda batch: batch.created_at)


async def _first(
    tops: Iterable[tuple[str, TopBatches]],
    query: Query,
    concerns: Callable[[Batch], bool],
    rank: Callable[[Batch], float],
) -> BatchesStatus:
    """The first batches by rank of those that concern the destinations of the query. Other tasks run in between."""
    total, lists = 0, []
    for account, top in tops:
        found = [
            (rank(batch), account, batch, changed)
            for batch, changed in zip(top.batches, top.changed_at, strict=True)
            if not query.destination or concerns(batch)
        ]
        total += len(found) if query.destination else top.total
        lists.append(sorted(found, key=itemgetter(0))[: query.limit])
        await asyncio.sleep(0)
    first = islice(heapq.merge(*lists, key=itemgetter(0)), query.limit)
    return BatchesStatus(total, [_batch(account, batch, changed) for _, account, batch, changed in first])


# What turns text around (UAX 9, 2): it would make a name look like another, and turn what stands beside it.
_DIRECTION = dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")


def _batch(account: str, batch: Batch, changed: float | None) -> BatchStatus:
    return BatchStatus(
        account,
        batch.id.translate(_DIRECTION),
        batch.name.translate(_DIRECTION),
        batch.created_at,
        changed,
        batch.status,
        [
            DocumentsStatus(name, counts.count, counts.completed, counts.failed, counts.in_progress)
            for name, counts in sorted(batch.destinations.items(), key=failing_first)
        ],
    )


def failing_first(destination: tuple[str, Counts]) -> tuple[int, int, str]:
    """Where most documents failed comes first, then where most are in progress."""
    name, counts = destination
    return -counts.failed, -counts.in_progress, name
