"""Decides which pages a poll reads, from the known batches and the pages so far. No I/O, no clock.

A poll is a generator: it yields a request for a page, and the caller sends it that page. If a page comes in parts,
the generator yields the same request until it has all of them. If the list is newest first, a poll reads:

1. the *head*: pages until one ends with a batch older than the newest known one, mostly one page;
2. the *resync*: a few older pages, so that polls list the whole window again within `resync_interval`;
3. the pages of the *unfinished* batches that are on none of these.

The first poll reads the whole list. So does every poll while the list is not newest first. If a request of such a
listing fails, the next poll continues it.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial

from msgspec import Struct

from inkit_exporter.api.batches import OPTIONAL_PARAMETERS, Batch, Page, PageRequest
from inkit_exporter.api.errors import BadResponse, PageRefused, QueryRefused
from inkit_exporter.config import PollSettings
from inkit_exporter.paging.parameters import OptionalParameters
from inkit_exporter.paging.sequence import FullListingRequired, InconsistentListing, PageSequence
from inkit_exporter.window.detours import find_junction, find_suspects
from inkit_exporter.window.totals import Totals, TotalsTracker
from inkit_exporter.window.window import Window

Conversation = Generator[PageRequest, Page, None]

# Each step back costs at least two requests. A list that shrinks more often while it is read can't be read.
_MOST_STEPS_BACK = 100

# The resync aims at this share of `resync_interval`, because new batches make its way longer.
_RESYNC_SHARE = 0.9


class _ParameterLeftOut(Exception):
    """Requests leave out another parameter from now on. So the pages that were read with it can't be used."""


class Bookmark(Struct):
    """What polls have learned about the list, and how far they have read it. Times are wall time in seconds.

    `listed`: the whole window, from `cutoff` on, was listed once. If hints were wrong or missing, `promised` is how
    many batches they promised, `known_last` the id of the last batch in the list, and `ended_at` when that was seen.
    The last complete head began at `polled_at`; all batches created up to `known` were known then. The resync has
    listed the batches created since `cursor`, and is `backlog` batches behind its pace.
    """

    ordered: bool = True
    listed: bool = False
    page_size: int = 1
    cutoff: float = -math.inf
    promised: int | None = None
    known_last: str = ""
    ended_at: float = -math.inf
    known: float = -math.inf
    polled_at: float = 0.0
    cursor: float = math.inf
    backlog: float = 0.0


class Plan:
    """What an account's polls have listed so far, and what the next one reads. The totals continue from `totals`."""

    def __init__(self, settings: PollSettings, totals: Totals) -> None:
        self.window = Window(settings.max_batches, TotalsTracker(totals))
        self.mark = Bookmark()
        self.parameters = OptionalParameters(OPTIONAL_PARAMETERS)
        self.resumed = False
        self._settings = settings
        self._refused_in_vain_at = -math.inf
        # The whole listing: its next request, when it began and was broken off, and how many pages were read by then.
        self._listing: tuple[PageSequence, PageRequest] | None = None
        self._began, self._broken_off_at, self._broken_off_after = 0.0, -math.inf, 0
        # Of the current poll: wall time, the unfinished batches that it has listed, and the records by destination,
        # less those in which it can't be read.
        self._now = 0.0
        self._seen: set[str] = set()
        self._readable: Counter[str] = Counter()

    def poll(self, now: float) -> Conversation:
        """Start a poll at wall time `now`. If it fails, the next one uses what it has learned.

        Raises:
            BadResponse: the pages contradict one another, or most records of a destination can't be read.
        """
        cutoff = now - self._settings.lookback
        self.parameters.forget_refusals(now)
        fits = self._listing is not None and self._listing[1].left_out == self.parameters.left_out
        if not (fits and 0 <= now - self._broken_off_at < self._settings.stale_after):
            self._listing = None
        if cutoff < self.mark.cutoff:  # the clock was set back: what was dropped is listed again, but is no news
            self.mark.listed, self._listing = False, None
            self.window.totals.stop_counting()
        self._now, self.mark.cutoff, self.resumed = now, cutoff, self._listing is not None
        self._readable = self._readable if self.resumed else Counter()
        self.window.trim(cutoff)
        while True:
            self._seen = set()
            try:
                yield from self._update() if self.mark.listed and self.mark.ordered else self._list_all()
                break
            except FullListingRequired:
                self.mark.listed = False
            except _ParameterLeftOut:
                self._listing, self._readable = None, Counter()
            except InconsistentListing as error:
                self._listing = None
                raise BadResponse(str(error)) from None
        self.window.trim(cutoff)
        self.window.settle(now - self._settings.resync_interval)

    @property
    def progress(self) -> tuple[int, int | None] | None:
        """How many pages of a full listing were read, and about how many there are; None without a full listing."""
        sequence = self._listing[0] if self._listing else None
        return (sequence.furthest, sequence.expected_pages(self._now)) if sequence and sequence.furthest else None

    def break_off(self, now: float) -> None:
        """End a failed poll at wall time `now`. The next one continues its listing, if that made progress lately."""
        if self._listing and self._listing[0].furthest > self._broken_off_after:
            self._broken_off_at, self._broken_off_after = now, self._listing[0].furthest

    def _list_all(self) -> Conversation:
        self.mark.listed = False
        sequence, number = self._sequence(1, whole=True), 1
        if self._listing and (found := (yield from find_junction(*self._listing))) > 1:
            sequence, number = self._listing[0], found
            sequence.resume()
        else:
            self.window.reset_truncation()
            self._began, self._broken_off_after = self._now, 0
        yield from self._read(sequence, lambda: sequence.past_window, number)
        self._listing = None
        self.mark.ordered = sequence.ordered
        self._check_destinations()
        self.mark.listed = True
        self._complete_head(self._began)
        self.mark.cursor, self.mark.backlog = math.inf, 0.0
        if number > 1 and self.mark.ordered:
            yield from self._update()  # because much may have happened since the listing began

    def _update(self) -> Conversation:
        head = self._sequence(1)
        known = max(self.mark.known, self.mark.cutoff)
        yield from self._read(head, lambda: head.page_oldest < known or head.past_window)
        self.mark.cursor = min(self.mark.cursor, head.oldest_edge)
        pages = self._resync_pages()
        self._complete_head(self._now)
        if self._ends_resync(head):
            self._complete_resync()
        elif pages:
            yield from self._resync(pages)
        yield from self._refresh()
        self._check_destinations()

    def _check_destinations(self) -> None:
        if unreadable := [name for name, more in self._readable.items() if more < 0]:
            raise BadResponse(f"most records of the destination {unreadable[0]} can't be read; the log says why")

    def _complete_head(self, began: float) -> None:
        self.mark.polled_at = self._now
        # What is new was created later than this. Batches from the future, by our clock, say nothing about that.
        past = (batch.created_at for batch in self.window.batches if batch.created_at <= began)
        self.mark.known = next(past, -math.inf)

    def _resync_pages(self) -> int:
        """How many pages the resync owes at its steady pace. Backlog from failed polls is capped, to avoid bursts."""
        interval = self._settings.interval
        share = interval / (_RESYNC_SHARE * self._settings.resync_interval)
        elapsed = max(0.0, self._now - self.mark.polled_at) / interval
        most = (2 * math.ceil(len(self.window.batches) * share / self.mark.page_size) + 1) * self.mark.page_size
        self.mark.backlog = min(self.mark.backlog + len(self.window.batches) * share * elapsed, most)
        return int(self.mark.backlog / self.mark.page_size)

    def _resync(self, pages: int) -> Conversation:
        """List pages from the cursor on. The first must begin with a newer batch, or there would be a gap."""
        first, step = max(0, self.window.rank_at(self.mark.cursor) - 1) // self.mark.page_size + 1, 1
        while True:
            sequence = self._sequence(first)
            yield from self._read(sequence, partial(self._resynced, sequence, pages))
            if sequence.newest_edge > self.mark.cursor:
                break
            # Batches have vanished further up, so that these are older than was thought.
            first, step = max(1, first - step), step * 2
        before, self.mark.cursor = self.window.rank_at(self.mark.cursor), min(self.mark.cursor, sequence.oldest_edge)
        self.mark.backlog = max(0.0, self.mark.backlog - (self.window.rank_at(self.mark.cursor) - before))
        if self._ends_resync(sequence):
            self._complete_resync()

    def _resynced(self, sequence: PageSequence, pages: int) -> bool:
        far = sequence.furthest >= sequence.first + pages - 1 and sequence.page_oldest < self.mark.cursor
        too_far_down = sequence.newest_edge <= self.mark.cursor
        return far or too_far_down or sequence.page_oldest < self.mark.cutoff or self._beyond(sequence.furthest)

    def _refresh(self) -> Conversation:
        """List the unfinished batches that this poll has not listed yet, or find out that they have vanished."""
        unfinished = self.window.unfinished_ids
        for batch in [batch for batch in self.window.unfinished if batch.id not in self._seen]:
            first, step = 0, 1
            while batch.id in unfinished and batch.id not in self._seen:
                first = first or self.window.rank(batch.id) // self.mark.page_size + 1
                yield from self._read_around(first, batch)
                # If it is not there, batches have vanished further up, and it is on an earlier page.
                first, step = max(1, first - step), step * 2

    def _read_around(self, first: int, batch: Batch) -> Conversation:
        around = self._sequence(first)
        yield from self._read(around, lambda: batch.id in around.ids or around.page_oldest < batch.created_at)

    def _read(self, sequence: PageSequence, enough: Callable[[], bool], number: int = 0) -> Conversation:
        """Read pages into the window, until `enough` says so or the list ends. Then remove known batches not on them.

        If the list gets shorter meanwhile, batches may have moved to a page already read. Then this goes back as many
        pages as may have such batches.

        Raises:
            FullListingRequired: only a part of the list is read, and that is not enough.
            InconsistentListing: the pages contradict one another.
        """
        number, steps_back = number or sequence.first, 0
        while True:
            if sequence.whole:
                self._listing = sequence, PageRequest(number, self.parameters.left_out)
            page = yield from self._read_page(number, sequence)
            shrunk_by = sequence.end_page(page.pagination)
            self.mark.page_size = sequence.size or self.mark.page_size
            if shrunk_by and number > sequence.first:
                steps_back += 1
                if steps_back > _MOST_STEPS_BACK:
                    raise InconsistentListing("batches keep vanishing from the list while it is read")
                number = max(sequence.first, number - math.ceil(shrunk_by / self.mark.page_size))
            elif sequence.ended or (sequence.ordered and enough()):
                self.window.remove_missing(sequence.ids, sequence.newest_edge, sequence.oldest_edge)
                if sequence.ended_by_surprise:
                    self.mark.known_last, self.mark.ended_at = sequence.last_id, self._now
                    self.mark.promised = sequence.promised if sequence.promised is not None else self.mark.promised
                return
            else:
                number += 1

    def _read_page(self, number: int, sequence: PageSequence) -> Generator[PageRequest, Page, Page]:
        """Read a page into the window, and return its last part. A page beyond the end of the list is empty."""
        while True:
            try:
                page = yield PageRequest(number, self.parameters.left_out)
            except PageRefused as refusal:
                if isinstance(refusal, QueryRefused) and not sequence.surely_lacks(number):
                    yield from self._leave_out(number, refusal)
                if not sequence.may_lack(number):
                    raise
                page = Page([])
            sequence.add(page.batches, page.invalid, number)
            self.window.update(page.batches, self._now, self.mark.cutoff)
            self._readable.update(name for batch in page.batches for name in batch.destinations)
            self._readable.subtract(page.unreadable)
            if not sequence.ordered and len(self.window.batches) > 2 * self._settings.max_batches:
                self.window.trim(self.mark.cutoff)
            unfinished = self.window.unfinished_ids
            self._seen.update(batch.id for batch in page.batches if batch.id in unfinished)
            if not page.more:
                return page

    def _leave_out(self, number: int, refusal: QueryRefused) -> Conversation:
        """Leave out what is refused and raise _ParameterLeftOut; return if that does not help, or did not lately."""
        if 0 <= self._now - self._refused_in_vain_at < self._settings.stale_after:
            return
        if suspects := (yield from find_suspects(self.parameters, number, self.mark.page_size)):
            if self.parameters.leave_out(suspects, refusal.words, self._now) and "sort" in suspects:
                self.mark.listed = False
            raise _ParameterLeftOut
        self._refused_in_vain_at = self._now

    def _sequence(self, first: int, *, whole: bool = False) -> PageSequence:
        known_last = self.mark.known_last if self._now - self.mark.ended_at < self._settings.resync_interval else ""
        return PageSequence(
            first,
            self.mark.cutoff,
            self._settings.max_batches,
            whole=whole,
            to_end="sort" in self.parameters.left_out,  # nobody knows its order, and its first pages may look ordered
            size=self.mark.page_size if first > 1 else 0,
            known_last=known_last,
        )

    def _beyond(self, number: int) -> bool:
        """Whether a page reaches past the last batch that may be kept."""
        return number * self.mark.page_size > self._settings.max_batches

    def _ends_resync(self, sequence: PageSequence) -> bool:
        return self.mark.cursor < self.mark.cutoff or self._beyond(sequence.furthest)

    def _complete_resync(self) -> None:
        """Note that the resync has reached the end of the window."""
        self.window.reset_truncation()
        self.mark.cursor, self.mark.backlog = math.inf, 0.0
