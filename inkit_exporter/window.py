"""The recent batches of one account and their sums, and which pages to ask for to list them. No I/O, no clock."""

import math
from collections.abc import Generator, Iterable, Mapping
from itertools import pairwise
from typing import Final

from msgspec import Struct

from inkit_exporter.model import Batch, Counts, Page

_NOTHING: Final = Counts(0, 0, 0, 0)

# New batches push the others down while the list is read, so a page may well repeat the one before it. That three
# pages in a row bring nothing new takes three pages of new batches within three requests, or a server that loops.
_BARREN_PAGES = 3

# Each costs at least two requests; a list that shrinks more often than it can be read is given up.
_MOST_STEPS_BACK = 100


class Unreliable(Exception):
    """The list can't be put together from the pages that the API gives; the message says why."""


class Snapshot(Struct, frozen=True):
    """One account's window after a complete poll. A combination of labels once seen stays, at 0.

    `documents` is by (destination, batch status), `batches` by batch status; times are seconds since the epoch.
    """

    documents: Mapping[tuple[str, str], Counts]
    batches: Mapping[str, int]
    newest_created: float | None
    oldest_unfinished_created: float | None
    truncated: bool


class Window:
    """Batches by id and their sums, which follow each change, so that a snapshot costs nothing by the batch.

    Args:
        max_batches: how many are kept; beyond it the oldest go.
    """

    def __init__(self, max_batches: int) -> None:
        self.batches: dict[str, Batch] = {}
        self.truncated = False
        self.ordered = True
        self._max_batches = max_batches
        self._unfinished: set[str] = set()
        self._documents: dict[str, dict[str, list[int]]] = {}
        self._statuses: dict[str, int] = {}

    @property
    def overfull(self) -> bool:
        """There are more batches than it may keep."""
        return len(self.batches) > self._max_batches

    def put(self, batch: Batch) -> None:
        """Add a batch, or replace what was known of it."""
        known = self.batches.get(batch.id)
        if known == batch:
            return
        if known is not None:
            self._count(known, -1)
        self.batches[batch.id] = batch
        self._count(batch, +1)
        (self._unfinished.discard if batch.finished else self._unfinished.add)(batch.id)
        if len(self.batches) > 2 * self._max_batches:
            self.cut()

    def cut(self) -> None:
        """Keep the newest `max_batches`."""
        if not self.overfull:
            return
        self.truncated = True
        newest_first = sorted(self.batches.values(), key=lambda batch: -batch.created_at)
        for batch in newest_first[self._max_batches :]:
            del self.batches[batch.id]
            self._unfinished.discard(batch.id)
            self._count(batch, -1)

    def snapshot(self, previous: Snapshot | None) -> Snapshot:
        """The sums as they are now, with the combinations that were seen before."""
        documents = dict.fromkeys(previous.documents, _NOTHING) if previous else {}
        for status, destinations in self._documents.items():
            documents |= {(destination, status): Counts(*sums) for destination, sums in destinations.items()}
        unfinished = [self.batches[batch_id].created_at for batch_id in self._unfinished]
        return Snapshot(
            documents=documents,
            batches=dict.fromkeys(previous.batches if previous else (), 0) | self._statuses,
            newest_created=max((batch.created_at for batch in self.batches.values()), default=None),
            oldest_unfinished_created=min(unfinished, default=None),
            truncated=self.truncated,
        )

    def _count(self, batch: Batch, sign: int) -> None:
        self._statuses[batch.status] = self._statuses.get(batch.status, 0) + sign
        by_destination = self._documents.setdefault(batch.status, {})
        for destination, counts in batch.destinations.items():
            sums = by_destination.setdefault(destination, [0, 0, 0, 0])
            sums[0] += sign * counts.count
            sums[1] += sign * counts.completed
            sums[2] += sign * counts.failed
            sums[3] += sign * counts.in_progress


def list_window(horizon: float, max_batches: int) -> Generator[int, Page, Window]:
    """List the batches created since `horizon`, as a conversation: it yields page numbers and is sent the pages.

    It ends where the batches get older than the horizon, at the end of the list, or when more than `max_batches` are
    found. If the order proves not to be newest first, only the end of the list ends it. Batches that move to a later
    page while it reads are counted once. Where the list gets shorter while it reads, so that batches may have slipped
    to a page already read, it goes back as many pages as could have slipped.

    Raises:
        Unreliable: the pages contradict one another.
    """
    reading = _Reading(Window(max_batches), horizon)
    number = 1
    steps_back = 0
    while True:
        page = yield number
        slipped = reading.slipped(page.pagination.total_count)
        complete = reading.take(page, number)
        if slipped and number > 1:
            steps_back += 1
            if steps_back > _MOST_STEPS_BACK:
                raise Unreliable("batches keep vanishing from the list while it is read")
            number = max(1, number - math.ceil(slipped / page.pagination.page_size))
        elif complete or page.pagination.next_page is None:
            reading.window.cut()
            return reading.window
        else:
            number = page.pagination.next_page


class _Reading:
    """What the pages read so far say."""

    def __init__(self, window: Window, horizon: float) -> None:
        self.window = window
        self._horizon = horizon
        self._seen: set[str] = set()
        self._invalid = 0
        self._oldest = float("inf")
        self._page_size: int | None = None
        self._total: int | None = None
        self._barren = 0
        self._furthest = 0

    def slipped(self, total: int | None) -> int:
        """By how much the whole list got shorter since the last page."""
        before, self._total = self._total, total
        return max(0, before - total) if before is not None and total is not None else 0

    def take(self, page: Page, number: int) -> bool:
        """Note a page; True when no further one is needed."""
        if page.empty:
            return True
        if self._page_size is not None and page.pagination.page_size > self._page_size:
            raise Unreliable(
                f"the page size grew from {self._page_size} to {page.pagination.page_size} at page {number}"
            )
        self._page_size = page.pagination.page_size
        fresh = [batch for batch in page.batches if batch.id not in self._seen]
        further = number > self._furthest
        if not _newest_first(page.batches) or (further and any(batch.created_at > self._oldest for batch in fresh)):
            self.window.ordered = False
        self._put(page.batches)
        oldest = min((batch.created_at for batch in page.batches), default=float("inf"))
        self._oldest = min(self._oldest, oldest)
        if further:
            self._furthest = number
            self._invalid += page.invalid
            self._barren = 0 if fresh or page.invalid else self._barren + 1
        if self._loops(page, number):
            if self._total is not None and len(self._seen) + self._invalid < self._total:
                raise Unreliable(
                    f"page {number} leads back to what was read, at {len(self._seen)} of {self._total} batches"
                )
            return True
        enough = oldest < self._horizon or (number == self._furthest and self.window.overfull)
        return self.window.ordered and enough

    def _put(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._seen.add(batch.id)
            if batch.created_at >= self._horizon:
                self.window.put(batch)

    def _loops(self, page: Page, number: int) -> bool:
        following = page.pagination.next_page
        if following is None:
            return False
        another = self._barren > 0 and page.pagination.current_page != number
        return following <= number or another or self._barren >= _BARREN_PAGES


def _newest_first(batches: Iterable[Batch]) -> bool:
    return all(earlier.created_at >= later.created_at for earlier, later in pairwise(batches))
