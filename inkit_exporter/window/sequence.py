"""A sequence of pages: what they say of the list's order, its size and its end."""

import math

from inkit_exporter.api.batches import Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.pagination import Pagination

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
    order need not be relied on. `size` is that of the pages before the first one. `known_last` is the id of the batch
    that was the last of a list in order.
    """

    def __init__(
        self, first: int, cutoff: float, max_batches: int, *, whole: bool, size: int = 0, known_last: str = ""
    ) -> None:
        self.first = first
        self.furthest = 0
        self.ordered = True
        self.ended = self.ended_by_surprise = False
        self.ids: set[str] = set()
        self.newest = -math.inf
        self.page_oldest = math.inf
        self.size = size
        self.last_id = ""
        self.promised: int | None = None
        self._whole = whole
        self._cutoff = cutoff
        self._max_batches = max_batches
        self._known_last = known_last
        self._oldest = math.inf
        self._recent = 0
        self._invalid = 0
        self._barren = 0
        self._number = first
        self._more: bool | None = None
        self._largest = self._emptied = 0
        self._total: int | None = None
        # Of the page being read: whether it has begun, brings anything new, and how many records it has.
        self._begun = self._new = False
        self._records = 0

    @property
    def _lacks(self) -> float:
        """How many of the batches that the list is said to have were not read; infinite if it is not said."""
        return math.inf if self._total is None or self.first > 1 else self._total - len(self.ids) - self._invalid

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

    def may_lack(self, number: int) -> bool:
        """Whether a page that the API refuses may just be beyond the end of the list."""
        return number != 1 and (self._lacks <= 0 or number == self.first or not self._more)

    def add(self, part: Page, number: int) -> None:
        """Note a page, or a part of it.

        Raises:
            FullListingRequired: the list is not newest first, and not all of it is read.
        """
        if not self._begun:
            self._begun, self._new, self._records = True, False, 0
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
        self._records += len(part.batches) + part.invalid
        if part.batches:
            self.last_id = part.batches[-1].id
        if further:
            self._invalid += part.invalid
            self._new |= part.invalid > 0 and not part.batches
        if not (self.ordered or self._whole):
            raise FullListingRequired

    def end_page(self, hints: Pagination) -> int:
        """Note that the page is complete, and whether the list has `ended` with it.

        Returns by how much the whole list got shorter since the page before.

        Raises:
            FullListingRequired: the pages loop, and not all of the list is read.
            InconsistentListing: the pages contradict one another.
        """
        self._begun = False
        position = (self._number - 1) * max(self.size, self._records) + self._records
        before = self._total
        if hints.total_count is not None and hints.total_count >= position:  # else it is no total
            self._total = hints.total_count
        shrunk_by = 0 if before is None or self._total is None else max(0, before - self._total)
        if not self._records:
            # Where more was promised, one empty page may be a slip; two are the end.
            self.ended = self.ended_by_surprise = not self._more
            if self._more and 0 < self._lacks < math.inf:
                self.promised = self._total
            self._emptied, self._more = self._number, None
            return shrunk_by
        if 0 < self._emptied < self._number:
            raise InconsistentListing(f"page {self._emptied} is empty, and page {self._number} is not")
        if not self.furthest:
            self._largest = max(hints.page_size or 0, self._records)
        if self._records > self._largest:
            size = f"from {self._largest} to {self._records}"
            raise InconsistentListing(f"page {self._number}: the page size grew {size}")
        self.size, self.promised = max(self.size, self._records), None
        self._oldest = min(self._oldest, self.page_oldest)
        if self._number > self.furthest:
            self.furthest = self._number
            self._barren = 0 if self._new else self._barren + 1
        self._more = hints.promises(self._number, position)
        at_known_end = self.ordered and not self._whole and self.last_id == self._known_last != ""
        # A page that brings nothing new is the end only if as many were read as the list is said to have.
        told = self._more is False or at_known_end
        self.ended = self._lacks <= 0 or (told and self._lacks == math.inf) if self._barren else told
        if self._barren >= _BARREN_PAGES and not self.ended:
            if not self._whole:
                raise FullListingRequired
            read = f"{len(self.ids) + self._invalid} of {self._total} batches"
            raise InconsistentListing(f"page {self._number} leads back to what was read, at {read}")
        return shrunk_by
