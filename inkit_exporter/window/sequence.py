"""A sequence of pages: what they say of the list's order, its size and its end."""

import math

from inkit_exporter.api.batches import Page, Pagination
from inkit_exporter.api.errors import BadResponse

# A page may well repeat the one before it, as new batches push the others down. For three in a row to bring nothing
# new takes three pages of new batches within three requests, or a server that loops.
_BARREN_PAGES = 3


class InconsistentListing(BadResponse):
    """The pages contradict one another."""


class FullListingRequired(Exception):
    """The list is not newest first, or its pages loop. A part of it says nothing; all of it must be read."""


class PageSequence:
    """Pages read one after another, from page `first` on.

    Between its edges, both excluded, the API lists the batches of these `ids` and no others. The edges are
    `created_at` in seconds since the epoch; infinite where the sequence begins or ends with the list.

    Batches created before the `cutoff` are not kept, nor more than `max_batches`. If the `whole` list is read, its
    order need not be relied on.
    """

    def __init__(self, first: int, cutoff: float, max_batches: int, *, whole: bool = False) -> None:
        self.first = first
        self.furthest = 0
        self.ordered = True
        self.ended = False
        self.ids: set[str] = set()
        self.newest = -math.inf
        self.page_oldest = math.inf
        self._whole = whole
        self._cutoff = cutoff
        self._max_batches = max_batches
        self._oldest = math.inf
        self._recent = 0
        self._invalid = 0
        self._barren = 0
        self._number = 0
        self._page_size: int | None = None
        self._total: int | None = None
        # Of the page being read: whether it has begun, lists anything, and anything new.
        self._begun = self._any = self._new = False

    @property
    def newest_edge(self) -> float:
        """Where the sequence begins."""
        return math.inf if self.first == 1 else self.newest

    @property
    def oldest_edge(self) -> float:
        """Where it ends."""
        return -math.inf if self.ended or not self.ordered else self._oldest

    @property
    def overfull(self) -> bool:
        """More batches were found, without a gap, than may be kept."""
        return self._number == self.furthest and self._recent > self._max_batches

    def add(self, part: Page, number: int) -> None:
        """Note a page, or a part of it.

        Raises:
            FullListingRequired: the list is not newest first, and not all of it is read.
        """
        if not self._begun:
            self._begun, self._any, self._new = True, False, False
            self._number, self.page_oldest = number, math.inf
        further = number > self.furthest
        for batch in part.batches:
            created = batch.created_at
            new = batch.id not in self.ids
            if created > self.page_oldest or (new and further and created > self._oldest):
                self.ordered = False
            self.page_oldest = min(self.page_oldest, created)
            self.newest = max(self.newest, created)
            if new:
                self._new = True
                self._recent += created >= self._cutoff
                self.ids.add(batch.id)
        self._any |= bool(part.batches) or part.invalid > 0
        if further:
            self._invalid += part.invalid
            self._new |= part.invalid > 0
        if not (self.ordered or self._whole):
            raise FullListingRequired

    def end_page(self, pagination: Pagination) -> int:
        """Note that the page is complete. Returns by how much the whole list got shorter since the page before.

        Raises:
            FullListingRequired: the pages loop, and not all of the list is read.
            InconsistentListing: the pages contradict one another.
        """
        before, self._total = self._total, pagination.total_count
        shrunk_by = 0 if before is None or self._total is None else max(0, before - self._total)
        self._begun = False
        self.ended = not self._any or pagination.next_page is None
        if not self._any:
            return shrunk_by
        if self._page_size is not None and pagination.page_size > self._page_size:
            raise InconsistentListing(
                f"page {self._number}: the page size grew from {self._page_size} to {pagination.page_size}"
            )
        self._page_size = pagination.page_size
        self._oldest = min(self._oldest, self.page_oldest)
        if self._number > self.furthest:
            self.furthest = self._number
            self._barren = 0 if self._new else self._barren + 1
        following = pagination.next_page
        renumbered = self._barren > 0 and pagination.current_page != self._number
        if following is not None and (following <= self._number or renumbered or self._barren >= _BARREN_PAGES):
            if not self._whole:
                raise FullListingRequired
            read = len(self.ids) + self._invalid
            if self._total is None or read < self._total:
                raise InconsistentListing(
                    f"page {self._number} leads back to what was read, at {read} of {self._total} batches"
                )
            self.ended = True
        return shrunk_by
