"""Which pages bring a window up to date, decided from what it holds and what the last page said. No I/O, no clock.

A poll is a conversation: a generator that yields the number of a page and is sent that page. Where a page comes in
parts, it yields the same number until it has all of them. Newest first, a poll costs:

1. the *head*: pages from the first one until it meets what is known, mostly one;
2. the *resync*: a few pages further down, so that within `resync_interval` everything has been listed again;
3. the pages of the *unfinished* batches that neither has shown.

Where the order can't be relied on, and at first, the poll reads the whole list.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial

from inkit_exporter.api.batches import Batch, Page
from inkit_exporter.api.errors import BadResponse, PageRefused
from inkit_exporter.config import PollSettings
from inkit_exporter.window.sequence import FullListingRequired, InconsistentListing, PageSequence
from inkit_exporter.window.totals import Totals, TotalsTracker
from inkit_exporter.window.window import Window

Conversation = Generator[int, Page, None]

# Each costs at least two requests. A list that shrinks more often than that while it is read can't be read.
_MOST_STEPS_BACK = 100

# The resync aims at this share of `resync_interval`, as new batches make its way longer.
_RESYNC_SHARE = 0.9


class Plan:
    """What an account's polls have listed so far, and what the next one asks for. The totals go on from `totals`."""

    def __init__(self, settings: PollSettings, totals: Totals) -> None:
        self.window = Window(settings.max_batches, TotalsTracker(totals))
        self.ordered = True
        self._settings = settings
        self._listed = False
        self._page_size = 1
        # Where hints were wrong or missing: how many batches were promised, which was the last, and when.
        self.promised: int | None = None
        self._known_last = ""
        self._ended_at = -math.inf
        # Of the current poll: wall time, start of the window, and the unfinished batches that it has listed.
        self._now = 0.0
        self._cutoff = -math.inf
        self._seen: set[str] = set()
        self._readable: Counter[str] = Counter()  # records by destination, less those in which it can't be read
        # All batches created up to then were listed by the last complete head, which began at `_polled_at`.
        self._known = -math.inf
        self._polled_at = 0.0
        # The resync has listed what was created since the cursor, and is this many batches behind its pace.
        self._cursor = math.inf
        self._backlog = 0.0

    def poll(self, now: float) -> Conversation:
        """One poll at wall time `now`. If it is given up half-way, the next one uses what it has learned.

        Raises:
            BadResponse: the pages contradict one another, or most records of a destination can't be read.
        """
        cutoff = now - self._settings.lookback
        if cutoff < self._cutoff:  # the clock was set back: batches that were dropped are listed again, but are no news
            self._listed = False
            self.window.totals.stop_counting()
        self._now, self._cutoff, self._seen, self._readable = now, cutoff, set(), Counter()
        self.window.trim(cutoff)
        if self._listed and self.ordered:
            try:
                yield from self._update()
            except FullListingRequired:
                yield from self._list_all()
        else:
            yield from self._list_all()
        self.window.trim(cutoff)

    def _list_all(self) -> Conversation:
        self._listed = False
        self.window.reset_truncation()
        sequence = self._sequence(1, whole=True)
        yield from self._read(sequence, lambda: sequence.page_oldest < self._cutoff or sequence.overfull)
        self.ordered = sequence.ordered
        self._check_destinations()
        self._listed = True
        self._complete_head()
        self._cursor, self._backlog = math.inf, 0.0

    def _update(self) -> Conversation:
        head = self._sequence(1)
        known = max(self._known, self._cutoff)
        yield from self._read(head, lambda: head.page_oldest < known or head.overfull)
        self._cursor = min(self._cursor, head.oldest_edge)
        pages = self._resync_pages()
        self._complete_head()
        if self._ends_resync(head):
            self._complete_resync()
        elif pages:
            yield from self._resync(pages)
        yield from self._refresh()
        self._check_destinations()

    def _check_destinations(self) -> None:
        if unreadable := [name for name, more in self._readable.items() if more < 0]:
            raise BadResponse(f"most records of the destination {unreadable[0]} can't be read; the log says why")

    def _complete_head(self) -> None:
        self._polled_at = self._now
        # What is new was created later than this. Batches from the future, by our clock, say nothing about that.
        past = (batch.created_at for batch in self.window.batches if batch.created_at <= self._now)
        self._known = next(past, -math.inf)

    def _resync_pages(self) -> int:
        """How many pages the resync owes at its steady pace. Backlog from failed polls is capped, to avoid bursts."""
        interval = self._settings.interval
        share = interval / (_RESYNC_SHARE * self._settings.resync_interval)
        elapsed = max(0.0, self._now - self._polled_at) / interval
        most = (2 * math.ceil(len(self.window.batches) * share / self._page_size) + 1) * self._page_size
        self._backlog = min(self._backlog + len(self.window.batches) * share * elapsed, most)
        return int(self._backlog / self._page_size)

    def _resync(self, pages: int) -> Conversation:
        """List on from the cursor. The pages must begin with a batch newer than it, or there would be a gap."""
        first, step = max(0, self.window.rank_at(self._cursor) - 1) // self._page_size + 1, 1
        while True:
            sequence = self._sequence(first)
            yield from self._read(sequence, partial(self._resynced, sequence, pages))
            if sequence.newest_edge > self._cursor:
                break
            # Batches have vanished further up, so that these are older than was thought.
            first, step = max(1, first - step), step * 2
        before, self._cursor = self.window.rank_at(self._cursor), min(self._cursor, sequence.oldest_edge)
        self._backlog = max(0.0, self._backlog - (self.window.rank_at(self._cursor) - before))
        if self._ends_resync(sequence):
            self._complete_resync()

    def _resynced(self, sequence: PageSequence, pages: int) -> bool:
        far = sequence.furthest >= sequence.first + pages - 1 and sequence.page_oldest < self._cursor
        too_far_down = sequence.newest_edge <= self._cursor
        return far or too_far_down or sequence.page_oldest < self._cutoff or self._beyond(sequence.furthest)

    def _refresh(self) -> Conversation:
        """List the unfinished batches that this poll has not shown yet, or see that they have vanished."""
        unfinished = self.window.unfinished_ids
        for batch in [batch for batch in self.window.unfinished if batch.id not in self._seen]:
            first, step = 0, 1
            while batch.id in unfinished and batch.id not in self._seen:
                first = first or self.window.rank(batch.id) // self._page_size + 1
                yield from self._read_around(first, batch)
                # If it is not there, batches have vanished further up, and it is on an earlier page.
                first, step = max(1, first - step), step * 2

    def _read_around(self, first: int, batch: Batch) -> Conversation:
        around = self._sequence(first)
        yield from self._read(around, lambda: batch.id in around.ids or around.page_oldest < batch.created_at)

    def _read(self, sequence: PageSequence, enough: Callable[[], bool]) -> Conversation:
        """Read pages into the window until it is enough or the list ends, then remove what they should have listed.

        Where the list gets shorter meanwhile, so that batches may have slipped to a page already read, it goes back
        as many pages as could have slipped.

        Raises:
            FullListingRequired: only a part of the list is read, and that is not enough.
            InconsistentListing: the pages contradict one another.
        """
        number, steps_back = sequence.first, 0
        while True:
            page = yield from self._read_page(number, sequence)
            shrunk_by = sequence.end_page(page.pagination)
            self._page_size = sequence.size or self._page_size
            if shrunk_by and number > sequence.first:
                steps_back += 1
                if steps_back > _MOST_STEPS_BACK:
                    raise InconsistentListing("batches keep vanishing from the list while it is read")
                number = max(sequence.first, number - math.ceil(shrunk_by / self._page_size))
            elif sequence.ended or (sequence.ordered and enough()):
                self.window.remove_missing(sequence.ids, sequence.newest_edge, sequence.oldest_edge)
                if sequence.ended_by_surprise:
                    self._known_last, self._ended_at = sequence.last_id, self._now
                    self.promised = sequence.promised if sequence.promised is not None else self.promised
                return
            else:
                number += 1

    def _read_page(self, number: int, sequence: PageSequence) -> Generator[int, Page, Page]:
        """Read a page into the window, and return its last part. A page beyond the end of the list is empty."""
        while True:
            try:
                page = yield number
            except PageRefused:
                if not sequence.may_lack(number):
                    raise
                page = Page([])
            sequence.add(page, number)
            self.window.update(page.batches, self._now, self._cutoff)
            self._readable.update(name for batch in page.batches for name in batch.destinations)
            self._readable.subtract(page.unreadable)
            if not sequence.ordered and len(self.window.batches) > 2 * self._settings.max_batches:
                self.window.trim(self._cutoff)
            unfinished = self.window.unfinished_ids
            self._seen.update(batch.id for batch in page.batches if batch.id in unfinished)
            if not page.more:
                return page

    def _sequence(self, first: int, *, whole: bool = False) -> PageSequence:
        known_last = self._known_last if self._now - self._ended_at < self._settings.resync_interval else ""
        size = self._page_size if first > 1 else 0
        return PageSequence(
            first, self._cutoff, self._settings.max_batches, whole=whole, size=size, known_last=known_last
        )

    def _beyond(self, number: int) -> bool:
        """Whether a page reaches past the last batch that may be kept."""
        return number * self._page_size > self._settings.max_batches

    def _ends_resync(self, sequence: PageSequence) -> bool:
        return self._cursor < self._cutoff or self._beyond(sequence.furthest)

    def _complete_resync(self) -> None:
        """The resync has come to the end of the window."""
        self.window.reset_truncation()
        self._cursor, self._backlog = math.inf, 0.0
