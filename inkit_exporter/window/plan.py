"""Which requests bring a window up to date, decided from what it holds and what the last page said. No I/O, no clock.

A poll is a conversation: a generator that yields a page number or a batch's id and is sent the answer, or yields None
to let others run. It costs, newest first:

1. the *head*: pages from the first one until it meets what was known, mostly one;
2. the *sweep*: a few pages further down, so that within `resync_interval` everything has been listed afresh;
3. the *unfinished* batches that neither has shown, each page of them, or each alone, whichever is fewer requests.

Where the order can't be relied on, and at first, it is the whole list.
"""

import math
from collections.abc import Callable, Generator, Iterable
from enum import Enum

from msgspec import Struct

from inkit_exporter.api.batches import Batch, Page
from inkit_exporter.window.window import Run, Window

# A page may well repeat the one before it, as new batches push the others down. That three in a row bring nothing new
# takes three pages of new batches within three requests, or a server that loops.
_BARREN_PAGES = 3

# Each costs at least two requests; a list that shrinks more often than it can be read is given up.
_MOST_STEPS_BACK = 100

# Batches of a page noted in one go, about 0.2 ms: in between, scrapes are answered.
_NOTE_AT_ONCE = 500

# The sweep aims at this share of `resync_interval`, as new batches make its way longer.
_SWEEP_SHARE = 0.9


class Unreliable(Exception):
    """The list can't be put together from the pages that the API gives; the message says why."""


class NeedsAll(Exception):
    """The list is not newest first, or its pages loop: a part of it says nothing, all of it must be read."""


class Refusal(Enum):
    """The answer to a request for one batch, where the API gives pages but not that."""

    REFUSED = 1


Request = int | str | None
Answer = Page | Batch | Refusal | None
Conversation = Generator[Request, Answer, None]
Reading = Generator[Request, Answer, Run]


class PlanSettings(Struct, frozen=True):
    """Seconds, a number of batches, and whether a batch asked for alone is sure to be as it would be in the list."""

    interval: float
    lookback: float
    resync_interval: float
    max_batches: int
    by_id: bool = True


class Plan:
    """What an account's polls have listed so far, and what the next one asks.

    Args:
        settings: of the polls.
        window: is kept up to date.
    """

    def __init__(self, settings: PlanSettings, window: Window) -> None:
        self.window = window
        self.ordered = True
        self.by_id = settings.by_id
        self._settings = settings
        self._listed = False
        self._page_size = 1
        self._cursor = math.inf
        self._owed = self._polled_at = 0.0
        self._horizon = -math.inf
        self._seen: set[str] = set()

    def poll(self, now: float) -> Conversation:
        """One poll at wall time `now`. Given up half-way, it leaves what it learned, and the next goes on from there.

        Raises:
            Unreliable: the pages contradict one another.
        """
        horizon = now - self._settings.lookback
        if horizon < self._horizon:  # the clock was set back: what had been let go is to be listed, and no news
            self._listed = False
            self.window.totals.pause()
        self._horizon = horizon
        self._seen = set()
        yield from self.window.trim(horizon)
        if self._listed and self.ordered:
            try:
                yield from self._update(now, horizon)
            except NeedsAll:
                yield from self._list_all(now, horizon)
        else:
            yield from self._list_all(now, horizon)
        yield from self.window.trim(horizon)

    def _list_all(self, now: float, horizon: float) -> Conversation:
        found = _Found(1, horizon, self._settings.max_batches, whole=True)
        run = yield from self._read(found, lambda: found.page_oldest < horizon or found.overfull)
        self.ordered = found.ordered
        yield from self._merge(run, now)
        self._listed = True
        self._polled_at = now
        self._swept()

    def _update(self, now: float, horizon: float) -> Conversation:
        # What is new was created later than this; batches from the future, by our clock, say nothing of it.
        known = self.window.newest_created(until=self._polled_at)
        head = yield from self._read(
            found := _Found(1, horizon, self._settings.max_batches),
            lambda: found.page_oldest < max(known, horizon) or found.overfull,
        )
        yield from self._merge(head, now)
        self._cursor = min(self._cursor, head.oldest)
        pages = self._sweep_pages(now)
        self._polled_at = now
        if self._cursor < horizon or self._beyond(head.last_page):
            self._swept()
        elif pages:
            yield from self._sweep(pages, now, horizon)
        yield from self._refresh(now, horizon)

    def _sweep_pages(self, now: float) -> int:
        """How many pages the sweep owes, at its steady pace; a debt from polls that failed is mostly let off."""
        share = self._settings.interval / (_SWEEP_SHARE * self._settings.resync_interval)
        elapsed = max(0.0, now - self._polled_at) / self._settings.interval
        most = (2 * math.ceil(len(self.window) * share / self._page_size) + 1) * self._page_size
        self._owed = min(self._owed + len(self.window) * share * elapsed, most)
        return int(self._owed / self._page_size)

    def _sweep(self, pages: int, now: float, horizon: float) -> Conversation:
        """List on from the cursor. The stretch must begin with a batch newer than it, or there would be a gap."""
        first = max(0, self.window.rank_at(self._cursor) - 1) // self._page_size + 1
        run = yield from self._sweep_run(first, pages, horizon)
        yield from self._merge(run, now)
        step = 1
        while run.newest <= self._cursor:
            # Batches have vanished further up, so that these are older than was thought.
            first, step = max(1, first - step), step * 2
            run = yield from self._sweep_run(first, pages, horizon)
            yield from self._merge(run, now)
        before, self._cursor = self.window.rank_at(self._cursor), min(self._cursor, run.oldest)
        self._owed = max(0.0, self._owed - (self.window.rank_at(self._cursor) - before))
        if self._cursor < horizon or self._beyond(run.last_page):
            self._swept()

    def _sweep_run(self, first: int, pages: int, horizon: float) -> Reading:
        found = _Found(first, horizon, self._settings.max_batches)

        def enough() -> bool:
            far = found.furthest >= first + pages - 1 and found.page_oldest < self._cursor
            off = first > 1 and found.newest <= self._cursor
            return far or off or found.page_oldest < horizon or self._beyond(found.furthest)

        return (yield from self._read(found, enough))

    def _refresh(self, now: float, horizon: float) -> Conversation:
        """Ask for the unfinished batches that this poll has not shown yet."""
        places: dict[int, list[str]] = {}
        for batch_id in self.window.unfinished - self._seen:
            places.setdefault(self.window.rank(batch_id) // self._page_size + 1, []).append(batch_id)
        alone = []
        for number in sorted(places):
            if self.by_id and len(places[number]) == 1:
                alone += places[number]
            else:
                yield from self._read_page(number, now, horizon)
        missed = sorted(self.window.unfinished - self._seen - set(alone))
        for batch_id in (*alone, *missed):
            yield from self._ask_alone(batch_id, now)
        # What the API has no longer, as it says, must not be in its list either.
        for batch_id in sorted(self.window.unfinished - self._seen):
            if batch_id in alone and batch_id in self.window.unfinished - self._seen:
                yield from self._read_page(self.window.rank(batch_id) // self._page_size + 1, now, horizon)
                self.by_id &= batch_id not in self._seen
        if self.window.unfinished - self._seen:
            yield from self._list_all(now, horizon)

    def _read_page(self, number: int, now: float, horizon: float) -> Conversation:
        run = yield from self._read(_Found(number, horizon, self._settings.max_batches), lambda: True)
        yield from self._merge(run, now)

    def _ask_alone(self, batch_id: str, now: float) -> Conversation:
        """Ask for an unfinished batch by its id, unless that was refused; it is seen if the API has it."""
        if not self.by_id or batch_id in self._seen or batch_id not in self.window.unfinished:
            return
        answer = yield batch_id
        if isinstance(answer, Refusal):
            self.by_id = False
        elif isinstance(answer, Batch) and answer.id == batch_id:
            self._seen.add(batch_id)
            self.window.put(answer, now)
        elif answer is not None:
            raise Unreliable("asked for one batch, the API answers with another")

    def _read(self, found: "_Found", enough: Callable[[], bool]) -> Reading:
        """Read a stretch of the list, until it is enough or the list ends.

        Where the list gets shorter while it reads, so that batches may have slipped to a page already read, it goes
        back as many pages as could have slipped.

        Raises:
            NeedsAll: it is only a part of the list that is read, and that won't do.
            Unreliable: the pages contradict one another.
        """
        number = found.first
        steps_back = 0
        while True:
            page = yield number
            assert isinstance(page, Page)  # noqa: S101 - as a page number was asked for
            slipped = found.slipped(page.pagination.total_count)
            ended = yield from found.take(page, number)
            self._page_size = page.pagination.page_size
            if slipped and number > found.first:
                steps_back += 1
                if steps_back > _MOST_STEPS_BACK:
                    raise Unreliable("batches keep vanishing from the list while it is read")
                number = max(found.first, number - math.ceil(slipped / page.pagination.page_size))
            elif ended or page.pagination.next_page is None:
                return found.run(to_end=True)
            elif found.ordered and enough():
                return found.run(to_end=False)
            else:
                number = page.pagination.next_page

    def _merge(self, run: Run, now: float) -> Conversation:
        # Nobody asks for others than those that were unfinished before, or are now.
        self._seen |= self.window.unfinished & run.batches.keys()
        for _ in self.window.merge(run, now):
            yield None
        self._seen |= self.window.unfinished & run.batches.keys()

    def _beyond(self, number: int) -> bool:
        """Whether a page reaches past the last batch that may be kept."""
        return number * self._page_size > self._settings.max_batches

    def _swept(self) -> None:
        """A sweep has come to the end of the window."""
        self.window.listed_whole()
        self._cursor = math.inf
        self._owed = 0.0
        self.by_id = self._settings.by_id  # what refused it may have passed


class _Found:
    """What the pages of one stretch say."""

    def __init__(self, first: int, horizon: float, max_batches: int, *, whole: bool = False) -> None:
        self.first = first
        self._whole = whole
        self.furthest = 0
        self.ordered = True
        self.newest = -math.inf
        self._horizon = horizon
        self._max_batches = max_batches
        self._batches: dict[str, Batch] = {}
        self._listed: set[str] = set()
        self._invalid = 0
        self._oldest = self.page_oldest = math.inf
        self._page_size: int | None = None
        self._total: int | None = None
        self._barren = 0
        self._number = 0

    @property
    def overfull(self) -> bool:
        """More has been found, without a gap, than may be kept."""
        return self._number == self.furthest and len(self._batches) > self._max_batches

    def run(self, *, to_end: bool) -> Run:
        """The stretch as it was read."""
        unbounded = to_end or not self.ordered
        return Run(
            self._batches,
            newest=math.inf if self.first == 1 else self.newest,
            oldest=-math.inf if unbounded else self._oldest,
            last_page=self.furthest,
        )

    def slipped(self, total: int | None) -> int:
        """By how much the whole list got shorter since the last page."""
        before, self._total = self._total, total
        return max(0, before - total) if before is not None and total is not None else 0

    def take(self, page: Page, number: int) -> Generator[None, Answer, bool]:
        """Note a page, in steps; True when the list can't go on after it."""
        self._number = number
        self.page_oldest = math.inf
        if page.empty:
            return True
        if self._page_size is not None and page.pagination.page_size > self._page_size:
            raise Unreliable(f"page {number}: the page size grew from {self._page_size} to {page.pagination.page_size}")
        self._page_size = page.pagination.page_size
        further = number > self.furthest
        fresh = yield from self._put(page.batches, further=further)
        if not (self.ordered or self._whole):
            raise NeedsAll
        if further:
            self.furthest = number
            self._invalid += page.invalid
            self._barren = 0 if fresh or page.invalid else self._barren + 1
        if not self._loops(page, number):
            return False
        if not self._whole:
            raise NeedsAll
        listed = len(self._listed) + self._invalid
        if self._total is None or listed < self._total:
            raise Unreliable(f"page {number} leads back to what was read, at {listed} of {self._total} batches")
        return True

    def _put(self, batches: Iterable[Batch], *, further: bool) -> Generator[None, Answer, bool]:
        """Note a page's batches, in steps; True if one was not listed before."""
        fresh = False
        for i, batch in enumerate(batches, start=1):
            created = batch.created_at
            new = batch.id not in self._listed
            if created > self.page_oldest or (new and further and created > self._oldest):
                self.ordered = False
            self.page_oldest = min(self.page_oldest, created)
            self.newest = max(self.newest, created)
            fresh |= new
            self._listed.add(batch.id)
            if created >= self._horizon:
                self._batches[batch.id] = batch
            if i % _NOTE_AT_ONCE == 0:
                yield
        self._oldest = min(self._oldest, self.page_oldest)
        if not self.ordered and len(self._batches) > 2 * self._max_batches:
            newest = sorted(self._batches.values(), key=lambda batch: -batch.created_at)[: self._max_batches + 1]
            self._batches = {batch.id: batch for batch in newest}
        return fresh

    def _loops(self, page: Page, number: int) -> bool:
        following = page.pagination.next_page
        if following is None:
            return False
        another = self._barren > 0 and page.pagination.current_page != number
        return following <= number or another or self._barren >= _BARREN_PAGES
