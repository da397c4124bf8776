"""Decides which pages a poll reads, from the known batches and the pages so far. No I/O, no clock.

A poll is a generator: it yields a request for a page, and the caller sends it that page. If a page comes in parts,
the generator yields the same request until it has all of them. If the API refuses the page, the caller throws that
PageRefused in. After any other error it drops the generator, and calls `break_off`.

If the list is newest first, a poll reads:

1. the *head*: pages until one ends with a batch older than the newest known one, mostly one page;
2. the *resync*: a few older pages, so that polls list the whole window again within `resync_interval`;
3. the pages of the *unfinished* batches that are on none of these.

The first poll reads the whole list. So does every poll while the list is not newest first. If a request of such a
listing fails, the next poll continues it.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator

from msgspec import Struct

from inkit_exporter.api.batches import DEFAULT_PAGE_SIZE, OPTIONAL_PARAMETERS, Batch, Page, PageRequest
from inkit_exporter.api.errors import BadResponse, PageRefused, QueryRefused
from inkit_exporter.config import PollSettings
from inkit_exporter.paging.parameters import OptionalParameters
from inkit_exporter.paging.sequence import InconsistentListing, PageSequence, backwards, page_after, page_with
from inkit_exporter.window.totals import Totals, TotalsTracker
from inkit_exporter.window.window import Window

Conversation = Generator[PageRequest, Page, None]

# The resync aims at this share of `resync_interval`, because new batches make its way longer.
_RESYNC_SHARE = 0.9


class _ParameterLeftOut(Exception):
    """Requests leave out another parameter from now on. So the pages that were read with it can't be used."""


class Bookmark(Struct):
    """What polls have learned about the list, and how far they have read it. Times are wall time in seconds.

    `newest_first`: the whole window, from `cutoff` on, was listed once, in that order; so reading parts is enough. If
    hints were wrong or missing, `promised` is how many batches they promised, `known_last` the id of the last batch in
    the list, and `ended_at` when that was seen.
    The last poll with a complete head began at `polled_at`. It knew all batches created up to `known`. The resync has
    listed the batches created since `cursor`, and is `backlog` batches behind its pace.
    """

    newest_first: bool = False
    page_size: int = 1
    cutoff: float = -math.inf
    promised: int | None = None
    known_last: str = ""
    ended_at: float = -math.inf
    known: float = -math.inf
    polled_at: float = 0.0
    cursor: float = math.inf
    backlog: float = 0.0


class _Listing(Struct):
    """A full listing, begun at wall time `began`. After a failure, polls continue it until `continues_until`."""

    pages: PageSequence
    began: float
    failed_after: int = 0
    continues_until: float = -math.inf


class Plan:
    """What an account's polls have listed so far, and what the next one reads. The totals continue from `totals`."""

    def __init__(self, settings: PollSettings, totals: Totals) -> None:
        self.window = Window(settings.max_batches, TotalsTracker(totals))
        self.mark = Bookmark()
        self.parameters = OptionalParameters(OPTIONAL_PARAMETERS)
        self.resumed = False
        self._settings = settings
        self._listing: _Listing | None = None
        # Of the current poll: wall time, whether the API refused pages that are beyond `max_batches`, the unfinished
        # batches that it has listed, and the records by destination, less those in which it can't be read.
        self._now = 0.0
        self._refused_beyond_max = False
        self._seen: set[str] = set()
        self._readable: Counter[str] = Counter()

    def poll(self, now: float) -> Conversation:
        """Start a poll at wall time `now`. If it fails, the next one uses what it has learned.

        Raises:
            BadResponse: the pages contradict one another, or most records of a destination can't be read.
        """
        self._begin(now)
        while True:
            self.resumed, self._refused_beyond_max, self._seen = self._listing is not None, False, set()
            self._readable = self._readable if self.resumed else Counter()
            try:
                yield from self._update() if self.mark.newest_first else self._list_all()
                break
            except _ParameterLeftOut:
                self._listing = None
            except InconsistentListing as error:
                self._listing = None
                if not (self.mark.newest_first or self.resumed):
                    raise BadResponse(str(error)) from None
                self.mark.newest_first = False  # reading a part, or the rest, is not enough
        if self._refused_beyond_max and self.window.batches:
            self.window.newest_dropped = max(self.window.newest_dropped, self.window.batches[-1].created_at)
        self.window.trim(self.mark.cutoff)
        self.window.settle(now - self._settings.resync_interval)

    @property
    def progress(self) -> tuple[int, int | None] | None:
        """How many pages of a full listing were read, and about how many there are; None without a full listing."""
        pages = self._listing.pages if self._listing else None
        return (pages.furthest, pages.expected_pages(self._now)) if pages and pages.furthest else None

    def break_off(self, now: float) -> None:
        """End a failed poll at wall time `now`. The next one continues its listing, if that made progress lately."""
        listing = self._listing
        if listing and listing.pages.furthest > listing.failed_after:
            listing.failed_after, listing.continues_until = listing.pages.furthest, now + self._settings.stale_after

    def _begin(self, now: float) -> None:
        """Start at wall time `now`, and forget what does not hold any more."""
        cutoff = now - self._settings.lookback
        if self.parameters.forget_refusals(now) or (self._listing and now >= self._listing.continues_until):
            self._listing = None  # its pages were other ones, or have moved too far
        if cutoff < self.mark.cutoff:  # a longer lookback, or the clock was set back
            self.mark.newest_first, self._listing = False, None
            totals = self.window.totals
            if now < self.mark.cutoff:  # by so much that nobody knows what is new
                totals.counting = False
            else:
                totals.not_new_until = max(totals.not_new_until, self.mark.cutoff)
        self._now, self.mark.cutoff = now, cutoff
        self.window.trim(cutoff)

    def _list_all(self) -> Conversation:
        if listing := self._listing:
            listing.pages.resume()
        else:
            listing = self._listing = _Listing(self._sequence(1, whole=True), self._now)
            self.window.newest_dropped = -math.inf
        yield from self._read(listing.pages, lambda pages: pages.past_window)
        self._listing = None
        self._check_destinations()
        self.mark.newest_first = listing.pages.ordered
        self._complete_head(listing.began)
        self.mark.cursor, self.mark.backlog = math.inf, 0.0
        if self.resumed and self.mark.newest_first:
            yield from self._update()  # because much may have happened since the listing began

    def _update(self) -> Conversation:
        head = last = self._sequence(1)
        known = max(self.mark.known, self.mark.cutoff)
        yield from self._read(head, lambda pages: pages.page_oldest < known or pages.past_window)
        self.mark.cursor = min(self.mark.cursor, head.oldest_edge)
        owed = self._resync_pages()
        self._complete_head(self._now)
        if owed and not self._ends_resync(head):
            last = yield from self._resync(owed)
        if self._ends_resync(last):
            self.window.newest_dropped = -math.inf
            self.mark.cursor, self.mark.backlog = math.inf, 0.0
        for batch in [batch for batch in self.window.unfinished if batch.id not in self._seen]:
            yield from self._refresh(batch)
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
        pace = len(self.window.batches) / (_RESYNC_SHARE * self._settings.resync_interval)  # batches a second
        most = (2 * math.ceil(pace * self._settings.interval / self.mark.page_size) + 1) * self.mark.page_size
        self.mark.backlog = min(self.mark.backlog + pace * max(0.0, self._now - self.mark.polled_at), most)
        return int(self.mark.backlog / self.mark.page_size)

    def _resync(self, owed: int) -> Generator[PageRequest, Page, PageSequence]:
        """List pages from the cursor on. The first must begin with a newer batch, or there would be a gap."""
        last_listed = max(0, self.window.rank_at(self.mark.cursor) - 1)
        # If it does not, batches have vanished further up, so that these are older than was thought.
        for first in backwards(page_with(last_listed, self.mark.page_size)):
            sequence = self._sequence(first)
            yield from self._read(sequence, lambda pages: self._resynced(pages, owed))
            if sequence.newest_edge > self.mark.cursor:
                break
        before = self.window.rank_at(self.mark.cursor)
        self.mark.cursor = min(self.mark.cursor, sequence.oldest_edge)
        listed = self.window.rank_at(self.mark.cursor) - before
        self.mark.backlog = max(0.0, self.mark.backlog - listed)
        return sequence

    def _resynced(self, pages: PageSequence, owed: int) -> bool:
        far = pages.furthest >= pages.first + owed - 1 and pages.page_oldest < self.mark.cursor
        too_far_down = pages.newest_edge <= self.mark.cursor
        return far or too_far_down or pages.page_oldest < self.mark.cutoff or pages.beyond_max

    def _refresh(self, batch: Batch) -> Conversation:
        """List an unfinished batch that this poll has not listed yet, or find out that it has vanished."""
        # If it is not where it should be, batches have vanished further up, and it is on an earlier page.
        for first in backwards(page_with(self.window.rank(batch), self.mark.page_size)):
            if batch.id in self._seen or batch.id not in self.window.changed_at:
                break
            there = self._sequence(first)
            yield from self._read(there, lambda pages: batch.id in pages.ids or pages.page_oldest < batch.created_at)

    def _read(self, sequence: PageSequence, enough: Callable[[PageSequence], bool]) -> Conversation:
        """Read pages into the window until `enough` says so or the list ends. Then remove known batches not on them."""
        while True:
            number = sequence.next
            if not (yield from self._read_page(sequence)):
                self._refused_beyond_max = True
                break
            self.mark.page_size = sequence.size or self.mark.page_size
            if not sequence.ordered and len(self.window.batches) > 2 * self._settings.max_batches:
                self.window.trim(self.mark.cutoff)
            if sequence.next > number and (sequence.ended or (sequence.ordered and enough(sequence))):
                break
        self.window.remove_missing(sequence.ids, sequence.newest_edge, sequence.oldest_edge)
        if sequence.ended_by_surprise:
            self.mark.known_last, self.mark.ended_at = sequence.last_id, self._now
            self.mark.promised = sequence.promised if sequence.promised is not None else self.mark.promised

    def _read_page(self, sequence: PageSequence) -> Generator[PageRequest, Page, bool]:
        """Read the next page into window and sequence. Returns False if it is refused, and beyond `max_batches`."""
        request = PageRequest(sequence.next, self.parameters.left_out)
        try:
            part = yield request
        except PageRefused as refusal:
            promised = sequence.next_promised
            if promised and sequence.full:
                return False
            if isinstance(refusal, QueryRefused) and promised is not False:
                yield from self._leave_out(request.number, refusal)
            if promised:
                raise
            part = Page([])  # it is beyond the end of the list
        records, invalid = self._merge(part), part.invalid
        while part.more:
            part = yield request
            records += self._merge(part)
            invalid += part.invalid
        sequence.add(records, invalid, part.pagination)
        return True

    def _merge(self, part: Page) -> list[tuple[str, float]]:
        """Update the window. Returns the ids of the batches and when they were created."""
        for batch in part.batches:
            if batch.created_at >= self.mark.cutoff:
                self.window.upsert(batch, self._now)
        self._readable.update(name for batch in part.batches for name in batch.destinations)
        self._readable.subtract(part.unreadable)
        self._seen.update(batch.id for batch in part.batches if batch.id in self.window.changed_at)
        return [(batch.id, batch.created_at) for batch in part.batches]

    def _leave_out(self, number: int, refusal: QueryRefused) -> Conversation:
        """Find what the API refuses, leave it out, and raise _ParameterLeftOut. Return if that does not help."""
        if self.parameters.tried_in_vain(self._now, self._settings.stale_after):
            return
        for names in self.parameters.alternatives():
            smaller = "page_size" in names - self.parameters.left_out
            place = page_after((number - 1) * self.mark.page_size, DEFAULT_PAGE_SIZE) if smaller else number
            try:
                page = part = yield PageRequest(place, names)
                while part.more:
                    part = yield PageRequest(place, names)
            except PageRefused:
                continue
            if number == 1 or page.batches:  # else it may just be beyond the end of the list
                if self.parameters.leave_out(names, refusal.words, self._now) and "sort" in names:
                    self.mark.newest_first = False
                raise _ParameterLeftOut
        self.parameters.in_vain_at = self._now

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

    def _ends_resync(self, sequence: PageSequence) -> bool:
        return self.mark.cursor < self.mark.cutoff or sequence.beyond_max or self._refused_beyond_max
