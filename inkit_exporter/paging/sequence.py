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
        self, first: int, cutoff: float, max_records: int, *, whole: bool, to_end: bool, size: int, known_last: str
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
        self._barren, self._most_barren = 0, _BARREN_PAGES  # how many pages in a row brought nothing new
        self._promises_more: bool | None = None  # as the last page says
        self._last_is_short = False
        self._largest = 0
        self._pages_promised = 0  # by the first page
        self._page_count: int | None = None
        self._total: int | None = None
        self._expected = 0  # records: the first total, less what vanished since
        self._steps_back = 0
        self._earlier: Iterator[int] | None = None  # after a pause, where to go back to if a page is not known

    @property
    def _read(self) -> int:
        return len(self.ids) + self._unreadable

    @property
    def _lacks(self) -> float:
        """How many records are still missing, at least; infinite if unknown, as always if `first` > 1."""
        if self.first == 1 and self._page_count and (self._total is None or self._total < self._read):
            return (self._page_count - 1) * self.size + 1 - self._read
        if self.first == 1 and self._total is not None:
            return self._total - self._read
        return math.inf

    @property
    def _repeated(self) -> bool:
        """Whether pages repeat records instead of others that there must be, as where the order is not stable."""
        return self._whole and self._expected > self._read

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
    def next_promised(self) -> bool | None:
        """Whether the list should have the next page, whatever the API says to a request; None if nothing tells."""
        if self._lacks <= 0 or self.next == self.first or self._earlier is not None:  # pages may have moved up
            return self.next == 1
        if self._promises_more is None and self._last_is_short:
            return False
        return self._promises_more

    @property
    def full(self) -> bool:
        """Whether the next page has only records beyond `max_records`."""
        beyond = (self.next - 1) * self.size >= self._max_records and self.newest >= self._cutoff
        return beyond and self.ordered and not self._to_end

    @property
    def beyond_max(self) -> bool:
        """Whether the pages read reach past `max_records`."""
        return self.furthest * self.size > self._max_records

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

        Raises:
            InconsistentListing: there is no such page, so the listing must start again. `add` may raise it later, too.
        """
        self._earlier = backwards(self.next - 1)
        self._most_barren = _BARREN_PAGES + self.furthest
        self._look_further_up(self._earlier)

    def add(self, records: Sequence[tuple[str, float]], unreadable: int, hints: Pagination) -> None:
        """Add the next page: its records, how many more can't be read, and what it says of the list.

        A record is its id and when it was created, in seconds since the epoch.

        Raises:
            InconsistentListing: the pages contradict one another, or the list is too long to read without order.
        """
        number, size = self.next, len(records) + unreadable
        first_new = next((i for i, (record_id, _) in enumerate(records) if record_id not in self.ids), len(records))
        if self._earlier and first_new == 0:
            self._look_further_up(self._earlier)
            return
        self._earlier = None
        self._note_records(records, first_new)
        self.next += 1
        position = (number - 1) * max(self.size, size) + size
        shrunk_by = self._note_total(hints.total_count, position)
        promises_more = hints.promises(number, position)
        if size:
            self._check_length(number, size, hints)
            if number > self.furthest:
                self.furthest = number
                self._unreadable += unreadable
                self._barren = (self._barren + 1) if first_new == len(records) > 0 else 0
            self._promises_more, self._last_is_short = promises_more, size < self.size
            self._check_end()
        else:
            self._note_empty_page(promises_more)
        if shrunk_by and number > self.first:
            self._step_back(number, shrunk_by)

    def _look_further_up(self, earlier: Iterator[int]) -> None:
        """The pause has moved the known records up, if any are left."""
        self.next = next(earlier)
        if self.next <= 1:
            raise InconsistentListing("no page begins with a known record")

    def _note_total(self, total: int | None, position: int) -> int:
        """Note the total that a page says which ends at this position. Returns by how much the list has shrunk."""
        before = self._total
        if total is not None and total >= position:  # else it is no total
            self._total = total
        if before is None or self._total is None:
            self._expected = self._total or 0
            return 0
        shrunk_by = max(0, before - self._total)
        self._expected -= shrunk_by
        return shrunk_by

    def _note_empty_page(self, promises_more: bool | None) -> None:
        """If more was promised, one empty page may be a mistake of the API. Two are the end of the list."""
        more = promises_more if self._promises_more is None else self._promises_more
        self.ended = self.ended_by_surprise = not more
        if 0 < self._lacks < math.inf and (more or self._repeated):
            self.promised = self._total
        self._promises_more = False

    def _step_back(self, number: int, shrunk_by: int) -> None:
        """The list got shorter while it was read: go back to the first page to which unread records may have moved."""
        self._steps_back += 1
        if self._steps_back > _MOST_STEPS_BACK:
            raise InconsistentListing("batches keep vanishing from the list while it is read")
        self.next = max(self.first, number - math.ceil(shrunk_by / max(1, self.size)))

    def _note_records(self, records: Sequence[tuple[str, float]], first_new: int) -> None:
        """Note the records and their order. Those before index `first_new` were known."""
        times = [created for _, created in records]
        newest_new = times[first_new] if (first_new < len(times) and self.next > self.furthest) else -math.inf
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
            self._pages_promised = max(self._page_count or 0, math.ceil((self._total or 0) / self.size))
        unordered = self._to_end or not self.ordered
        if self._whole and (unordered or self._oldest == self.newest):  # records of one time show no order either
            most = max(self._pages_promised, math.ceil(self._max_records / self.size))
            if number > most + most // 10 + 10 or (unordered and self._pages_promised * self.size > _MOST_RECORDS):
                raise InconsistentListing(
                    f"page {number}: the list is in no order and too long to read; narrow it with"
                    " filters, or raise poll.max_batches"
                )

    def _check_end(self) -> None:
        """Find out whether the list ends with this page. One without new records ends it if no more are promised."""
        at_known_end = self.ordered and not self._whole and self.last_id == self._known_last != ""
        told = (self._promises_more is False and not self._repeated) or at_known_end
        self.ended = self._lacks <= 0 if self._barren else told
        if self._barren >= self._most_barren and not self.ended:
            read = f"{self._read} of {self._total}" if self._total else self._read
            raise InconsistentListing(f"page {self.next - 1} repeats earlier pages, after {read} records")


def page_with(place: int, size: int) -> int:
    """The page that has the record at that place of the list, from 0."""
    return place // size + 1


def page_after(records: int, size: int) -> int:
    """The first page that has none of so many records at the beginning of the list."""
    return math.ceil(records / size) + 1


def backwards(number: int) -> Iterator[int]:
    """Numbers of pages from this one back to the first, at growing distances."""
    yield number
    step = 1
    while number > 1:
        number, step = max(1, number - step), 2 * step
        yield number
