"""A sequence of pages: what they say of the list's order, its size and its end."""

import math
from collections.abc import Sequence
from typing import Protocol

from inkit_exporter.paging.pagination import Pagination

# A page may repeat the one before it, because new records push the others down. Three such pages in a row take three
# pages of new records within three requests, or a server that loops.
_BARREN_PAGES = 3

# A longer list without order is not read: that would take hours, and much memory.
_MOST_RECORDS = 1_000_000


class Record(Protocol):
    """What a list has records of; `created_at` is in seconds since the epoch."""

    @property
    def id(self) -> str:
        """It tells records apart."""

    @property
    def created_at(self) -> float:
        """The list may be in its order, newest first."""


class InconsistentListing(Exception):
    """The pages contradict one another."""


class FullListingRequired(Exception):
    """The list is not newest first, or its pages repeat. So reading a part is not enough: all of it must be read."""


class PageSequence:
    """Pages read one after another, from page `first` on.

    Between its edges, both excluded, the list has the records of these `ids` and no others. The edges are
    `created_at` in seconds since the epoch; infinite where the sequence begins or ends with the list.

    Nobody needs records from before the `cutoff`, or more than `max_records`. `whole`: the whole list is read, so it
    may be in any order. `to_end`: the records that nobody needs are read too. `size` is the size of the pages before
    the first one. `known_last` is the id of the last record, if an earlier listing found it.
    """

    def __init__(
        self,
        first: int,
        cutoff: float,
        max_records: int,
        *,
        whole: bool,
        to_end: bool = False,
        size: int = 0,
        known_last: str = "",
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
        self.whole = whole
        self._to_end = whole and to_end
        self._cutoff = cutoff
        self._max_records = max_records
        self._known_last = known_last
        self._oldest = self._oldest_since = math.inf  # since the sequence was resumed
        self._recent = 0
        self._invalid = 0
        self._barren, self._most_barren = 0, _BARREN_PAGES
        self._number = first
        self._more: bool | None = None
        self._largest = self._emptied = 0
        self._total: int | None = None
        self._least = 0  # how many records there must be: the first total, less what vanished since
        self._page_count: int | None = None
        self._said = 0
        # Of the page being read: whether it has begun, brings anything new, how many records, and how many unreadable.
        self._begun = self._new = False
        self._records = self._unreadable = 0

    @property
    def _lacks(self) -> float:
        """How many records of the list were not read at least, by its total or its pages; infinite without either."""
        least = (self._page_count - 1) * self.size + 1 if self._total is None and self._page_count else self._total
        return math.inf if least is None or self.first > 1 else least - len(self.ids) - self._invalid

    @property
    def _repeated(self) -> bool:
        """Whether pages repeat records instead of others that there must be, as where the order is not stable."""
        return self.whole and self._least > len(self.ids) + self._invalid

    @property
    def newest_edge(self) -> float:
        """Where the sequence begins."""
        return math.inf if self.first == 1 else self.newest

    @property
    def oldest_edge(self) -> float:
        """Where it ends."""
        return -math.inf if self.ended or not self.ordered else self._oldest

    @property
    def past_window(self) -> bool:
        """Whether further pages have only records that nobody needs. Records of the same time show no order."""
        too_old = self.page_oldest < min(self._cutoff, self.newest)
        overfull = self._number == self.furthest and self._recent > self._max_records
        return not self._to_end and (too_old or overfull)

    def expected_pages(self, now: float) -> int | None:
        """About how many pages there are to read; None if unknown. `now` is wall time."""
        if not self.furthest:
            return None
        told = [self._page_count] if self._page_count else []
        if self._total:
            told.append(math.ceil(self._total / self.size))
        if self.ordered and not self._to_end:
            told.append(math.ceil(self._max_records / self.size))
            if self._oldest < now:
                told.append(math.ceil(self.furthest * (now - self._cutoff) / (now - self._oldest)))
        return max(self.furthest, min(told)) if told else None

    def may_lack(self, number: int) -> bool:
        """Whether a page that the API refuses may be beyond the end of the list."""
        return number != 1 and (self._lacks <= 0 or number == self.first or not self._more)

    def surely_lacks(self, number: int) -> bool:
        """Whether the pages before say that the list has no such page, or say nothing and the last one was short."""
        ended = self._records < self.size if self._more is None else not self._more
        return number != self.first and (self._lacks <= 0 or ended)

    def resume(self) -> None:
        """Continue after a pause, in which pages may have moved. So more of them may bring nothing new."""
        self._begun, self._oldest_since = False, math.inf
        self._most_barren = _BARREN_PAGES + self.furthest

    def add(self, records: Sequence[Record], unreadable: int, number: int) -> None:
        """Add a page, or a part of it: its records, and how many more can't be read.

        Raises:
            FullListingRequired: the list is not newest first, and not all of it is read.
        """
        if not self._begun:
            self._begun, self._new, self._records, self._unreadable = True, False, 0, 0
            self._number, self.page_oldest = number, math.inf
        further = number > self.furthest
        for record in records:
            created = record.created_at
            new = record.id not in self.ids
            if created > self.page_oldest or (new and further and created > self._oldest_since):
                self.ordered = False
            self.page_oldest = min(self.page_oldest, created)
            self.newest = max(self.newest, created)
            if new:
                self._new = True
                self._recent += created >= self._cutoff
                self.ids.add(record.id)
        self._records += len(records) + unreadable
        self._unreadable += unreadable
        if records:
            self.last_id = records[-1].id
        self._new |= further and unreadable > 0 and not records
        if not (self.ordered or self.whole):
            raise FullListingRequired

    def end_page(self, hints: Pagination) -> int:
        """Complete the page, and find out whether the list has `ended` with it.

        Returns by how many records the whole list got shorter since the page before.

        Raises:
            FullListingRequired: the pages loop, and not all of the list is read.
            InconsistentListing: the pages contradict one another, or there are too many to read.
        """
        self._begun = False
        position = (self._number - 1) * max(self.size, self._records) + self._records
        before = self._total
        if hints.total_count is not None and hints.total_count >= position:  # else it is no total
            self._total = hints.total_count
        shrunk_by = 0 if before is None or self._total is None else max(0, before - self._total)
        self._least = self._least - shrunk_by if before is not None else self._total or 0
        if not self._records:
            # If more was promised, one empty page may be a mistake of the API. Two are the end of the list.
            more = hints.promises(self._number, position) if self._more is None and not self._emptied else self._more
            self.ended = self.ended_by_surprise = not more
            if 0 < self._lacks < math.inf and (more or self._repeated):
                self.promised = self._total
            self._emptied, self._more = self._number, None
            return shrunk_by
        if 0 < self._emptied < self._number:
            raise InconsistentListing(f"page {self._emptied} is empty, but page {self._number} is not")
        if not self.furthest:
            self._largest = max(hints.page_size or 0, self._records)
        if self._records > self._largest:
            size = f"from {self._largest} to {self._records}"
            raise InconsistentListing(f"page {self._number}: the page size grew {size}")
        self.size, self.promised = max(self.size, self._records), None
        self._oldest = min(self._oldest, self.page_oldest)
        self._oldest_since = min(self._oldest_since, self.page_oldest)
        self._page_count = hints.page_count if (hints.page_count or 0) >= self._number else None
        self._check_length()
        if self._number > self.furthest:
            self.furthest = self._number
            self._invalid += self._unreadable
            self._barren = 0 if self._new else self._barren + 1
        self._more = hints.promises(self._number, position)
        at_known_end = self.ordered and not self.whole and self.last_id == self._known_last != ""
        # A page that brings nothing new is the end only if as many were read as the list is said to have.
        told = (self._more is False and not self._repeated) or at_known_end
        self.ended = self._lacks <= 0 if self._barren else told
        if self._barren >= self._most_barren and not self.ended:
            if not self.whole:
                raise FullListingRequired
            read = f"{len(self.ids) + self._invalid}" + (f" of {self._total}" if self._total else "")
            raise InconsistentListing(f"page {self._number} repeats earlier pages, after {read} records")
        return shrunk_by

    def _check_length(self) -> None:
        """Bound a list without order by what its first page says, with room for new records, or by `max_records`."""
        if not self.furthest:
            self._said = max(self._page_count or 0, math.ceil((self._total or 0) / self.size))
        unordered = self._to_end or not self.ordered
        if self.whole and (unordered or self._oldest == self.newest):  # records of one time show no order either
            most = max(self._said, math.ceil(self._max_records / self.size))
            if self._number > most + most // 10 + 10 or (unordered and self._said * self.size > _MOST_RECORDS):
                raise InconsistentListing(
                    f"page {self._number}: the list is in no order and too long to read; narrow it with"
                    " filters, or raise poll.max_batches"
                )
