"""A sequence of pages: what they say of the list's order, its size and its end, and which page to read next."""

import math
from collections.abc import Iterator, Sequence

from inkit_exporter.paging.pagination import Pagination

# A page may repeat the one before it, because new records push the others down. Three such pages in a row take three
# pages of new records within three requests, or a server that loops.
_BARREN_PAGES = 3

# A longer list without order is not read: that would take hours, and much memory.
_MOST_RECORDS = 1_000_000

# Each step back costs at least two requests. A list that shrinks more often while it is read can't be read.
_MOST_STEPS_BACK = 100


class InconsistentListing(Exception):
    """The pages contradict one another. Or a part of the list was read, but it is not newest first."""


class PageSequence:
    """Pages read one after another, from page `first` on; `next` is the number of the next one.

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
        self.first = self.next = first
        self.furthest = 0  # the last page with records
        self.ordered = True
        self.ended = self.ended_by_surprise = False
        self.ids: set[str] = set()
        self.newest = -math.inf
        self.page_oldest = math.inf  # on the page before the next one
        self.last_id = ""
        self.size = size
        self.promised: int | None = None
        self._whole = whole
        self._to_end = whole and to_end
        self._cutoff = cutoff
        self._max_records = max_records
        self._known_last = known_last
        self._oldest = math.inf
        self._unreadable = 0
        self._barren, self._most_barren = 0, _BARREN_PAGES
        self._more: bool | None = None
        self._short = False
        self._largest = 0
        self._said = 0  # how many pages the first one says that there are
        self._page_count: int | None = None
        self._total: int | None = None
        self._least = 0  # how many records there must be: the first total, less what vanished since
        self._steps_back = 0
        self._earlier: Iterator[int] | None = None  # after a pause, where to go back to if a page is not known

    @property
    def _read(self) -> int:
        return len(self.ids) + self._unreadable

    @property
    def _lacks(self) -> float:
        """How many records of the list were not read at least, by its total or its pages; infinite without either."""
        least = (self._page_count - 1) * self.size + 1 if self._total is None and self._page_count else self._total
        return math.inf if least is None or self.first > 1 else least - self._read

    @property
    def _repeated(self) -> bool:
        """Whether pages repeat records instead of others that there must be, as where the order is not stable."""
        return self._whole and self._least > self._read

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
        overfull = self.next > self.furthest and len(self.ids) > self._max_records and self.newest >= self._cutoff
        return not self._to_end and (too_old or overfull)

    @property
    def past_end(self) -> bool | None:
        """Whether a next page that the API refuses is beyond the end of the list; None if nothing says so."""
        if self._lacks <= 0 or self.next == self.first or self._earlier is not None:  # pages may have moved up
            return self.next > 1
        return (self._short or None) if self._more is None else not self._more

    @property
    def full(self) -> bool:
        """Whether the next page has only records beyond `max_records`."""
        beyond = (self.next - 1) * self.size >= self._max_records and self.newest >= self._cutoff
        return beyond and self.ordered and not self._to_end

    def expected_pages(self, now: float) -> int | None:
        """About how many pages there are to read; None if unknown. `now` is wall time. One must have been read."""
        told = [self._page_count] if self._page_count else []
        if self._total:
            told.append(math.ceil(self._total / self.size))
        if self.ordered and not self._to_end:
            told.append(math.ceil(self._max_records / self.size))
            if self._oldest < now:
                told.append(math.ceil(self.furthest * (now - self._cutoff) / (now - self._oldest)))
        return max(self.furthest, min(told)) if told else None

    def resume(self) -> None:
        """Continue after a pause, in which pages may have moved: at a page that begins with a known record.

        So no record was missed. More pages than usual may bring nothing new.
        """
        self._earlier = backwards(max(1, self.next - 1))
        self.next = next(self._earlier)
        self._most_barren = _BARREN_PAGES + self.furthest

    def add(self, records: Sequence[tuple[str, float]], unreadable: int, hints: Pagination) -> None:
        """Add the next page: its records, how many more can't be read, and what it says of the list.

        A record is its id and when it was created, in seconds since the epoch.

        If the list gets shorter while it is read, records may move to a page that was already read. Then the next page
        is the first that may have such records.

        Raises:
            InconsistentListing: the pages contradict one another, or the list is too long to read without order.
        """
        number, size = self.next, len(records) + unreadable
        known = next((i for i, (record_id, _) in enumerate(records) if record_id not in self.ids), len(records))
        self._note_records(records, known)
        self.next += 1
        if self._earlier and number > 1 and not known:
            self.next = next(self._earlier)
            return
        self._earlier = None
        position = (number - 1) * max(self.size, size) + size
        before = self._total
        if hints.total_count is not None and hints.total_count >= position:  # else it is no total
            self._total = hints.total_count
        shrunk_by = 0 if before is None or self._total is None else max(0, before - self._total)
        self._least = self._least - shrunk_by if before is not None else self._total or 0
        if size:
            self._check_length(number, size, hints)
            if number > self.furthest:
                self.furthest = number
                self._unreadable += unreadable
                self._barren = self._barren + 1 if known == len(records) > 0 else 0
            self._more, self._short = hints.promises(number, position), size < self.size
            self._check_end()
        else:
            # If more was promised, one empty page may be a mistake of the API. Two are the end of the list.
            more = hints.promises(number, position) if self._more is None else self._more
            self.ended = self.ended_by_surprise = not more
            if 0 < self._lacks < math.inf and (more or self._repeated):
                self.promised = self._total
            self._more = False
        if shrunk_by and number > self.first:
            self._steps_back += 1
            if self._steps_back > _MOST_STEPS_BACK:
                raise InconsistentListing("batches keep vanishing from the list while it is read")
            self.next = max(self.first, number - math.ceil(shrunk_by / max(1, self.size)))

    def _note_records(self, records: Sequence[tuple[str, float]], known: int) -> None:
        """Note the records and their order. So many at the beginning of the page were known before."""
        times = [created for _, created in records]
        newest_new = times[known] if known < len(times) and self.next > self.furthest else -math.inf
        if times != sorted(times, reverse=True) or newest_new > self.page_oldest:
            self.ordered = False
            if not self._whole:
                raise InconsistentListing(f"page {self.next}: the list is not newest first")
        self.ids.update(record_id for record_id, _ in records)
        self.last_id = records[-1][0] if records else self.last_id
        self.newest, self.page_oldest = max([self.newest, *times]), min(times, default=math.inf)
        self._oldest = min(self._oldest, self.page_oldest)

    def _check_length(self, number: int, size: int, hints: Pagination) -> None:
        """Bound a list without order by what its first page says, with room for new records, or by `max_records`."""
        if number > max(self.first, self.furthest + 1):
            raise InconsistentListing(f"page {number - 1} is empty, but page {number} is not")
        self._largest = self._largest or max(hints.page_size or 0, size)
        if size > self._largest:
            raise InconsistentListing(f"page {number}: the page size grew from {self._largest} to {size}")
        self.size = max(self.size, size)
        self._page_count = hints.page_count if (hints.page_count or 0) >= number else None
        if not self.furthest:
            self._said = max(self._page_count or 0, math.ceil((self._total or 0) / self.size))
        unordered = self._to_end or not self.ordered
        if self._whole and (unordered or self._oldest == self.newest):  # records of one time show no order either
            most = max(self._said, math.ceil(self._max_records / self.size))
            if number > most + most // 10 + 10 or (unordered and self._said * self.size > _MOST_RECORDS):
                raise InconsistentListing(
                    f"page {number}: the list is in no order and too long to read; narrow it with"
                    " filters, or raise poll.max_batches"
                )

    def _check_end(self) -> None:
        """Find out whether the list ends with this page. One without new records ends it if no more are promised."""
        at_known_end = self.ordered and not self._whole and self.last_id == self._known_last != ""
        told = (self._more is False and not self._repeated) or at_known_end
        self.ended = self._lacks <= 0 if self._barren else told
        if self._barren >= self._most_barren and not self.ended:
            read = f"{self._read} of {self._total}" if self._total else self._read
            raise InconsistentListing(f"page {self.next - 1} repeats earlier pages, after {read} records")


def backwards(number: int) -> Iterator[int]:
    """Numbers of pages from this one back to the first, at growing distances."""
    yield number
    step = 1
    while number > 1:
        number, step = max(1, number - step), 2 * step
        yield number
