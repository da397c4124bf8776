"""What polls cost in API requests, compared with full listings: a simulation of the real plan, without a server.

The batches of a day are created at even intervals. The exporter's code (`inkit_exporter.window.plan`) decides which
pages of the simulated list each poll reads. Unfinished batches are the newest ones ("recent") or spread evenly over the
window ("scattered"). With "settled", no batch gets a final status, although all its documents are completed.

For the table of long listings, the API cuts pages to 25, fails every hundredth request, or lists in no order,
because it refuses `sort` or ignores it.

    python bench/budget.py [--polls 120] [--full]
"""

import argparse
import itertools
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests")]

from support import conversation
from support.conversation import make_batch

from inkit_exporter.api.batches import Batch, Counts, Page, PageRequest
from inkit_exporter.api.errors import QueryRefused, RequestTimeout
from inkit_exporter.config import PollSettings, Seconds
from inkit_exporter.paging.pagination import Pagination
from inkit_exporter.window.plan import Plan
from inkit_exporter.window.totals import Totals

DAY = 86_400.0
LIMIT = 300  # requests a minute that Inkit allows for an account
NOTHING = {"inkit_storage": Counts(1, 1, 0, 0)}
UNDER_WAY = {"inkit_storage": Counts(1, 0, 0, 1)}


class Listing:
    """The API's list at a time: batches at even intervals, newest first, created on demand."""

    def __init__(self, a_day: int, unfinished_share: float, place: str = "recent") -> None:
        self.distance = DAY / a_day
        self.unfinished = round(a_day * unfinished_share)
        self.every = max(1, a_day // self.unfinished) if place == "scattered" and self.unfinished else 0
        self.documents = NOTHING if place == "settled" else UNDER_WAY
        self.now = 0.0

    @property
    def newest(self) -> int:
        """Return the number of the newest batch. Older batches have smaller numbers."""
        return math.floor(self.now / self.distance)

    def batch(self, number: int) -> Batch:
        """Return a batch in its current state."""
        under_way = number % self.every == 0 if self.every else self.newest - number < self.unfinished
        status, destinations = ("in_progress", self.documents) if under_way else ("completed", NOTHING)
        return make_batch(f"fb_{number}", "", number * self.distance, status, destinations)

    def page(self, number: int, size: int) -> Page:
        """Return a page of an endless list."""
        first = self.newest - (number - 1) * size
        return Page([self.batch(i) for i in range(first, first - size, -1)], Pagination(more=True, page_size=size))


DEFAULTS = PollSettings(interval=Seconds(60), lookback=Seconds(DAY), resync_interval=Seconds(3600), max_batches=10**6)


def new_plan(settings: PollSettings = DEFAULTS) -> Plan:
    """Return a new plan."""
    return Plan(settings, Totals())


def poll(plan: Plan, listing: Listing, size: int) -> tuple[int, float]:
    """Poll once. Return the number of requests, and the plan's CPU seconds without the simulated answers."""
    making = 0.0

    def serve(number: int) -> Page:
        nonlocal making
        started = time.process_time()
        page = listing.page(number, size)
        making += time.process_time() - started
        return page

    started = time.process_time()
    requests = conversation.poll(plan, serve, listing.now, most=10**6)
    return requests, time.process_time() - started - making


def requests_of_polls(
    a_day: int, size: int, share: float, polls: int, place: str = "recent", *, settings: PollSettings = DEFAULTS
) -> Iterator[int]:
    """Return the requests of each poll, except the first one and those before batches settle."""
    listing = Listing(a_day, share, place)
    plan = new_plan(settings)
    skipped = math.ceil(settings.resync_interval / settings.interval) if place == "settled" else 0
    for i in range(skipped + polls + 1):
        listing.now = 10 * DAY + i * settings.interval
        requests, _ = poll(plan, listing, size)
        if i > skipped:
            yield requests


def steady_cpu(a_day: int, polls: int) -> float:
    """Return the CPU in ms of a poll of one page with 100 batches, two of them new, without HTTP and JSON."""
    listing = Listing(a_day, 0.0)
    listing.now = 10 * DAY
    plan = new_plan(replace(DEFAULTS, resync_interval=Seconds(1000 * DAY)))
    poll(plan, listing, 100)
    spent = 0.0
    for _ in range(polls):
        listing.now += 2 * listing.distance
        requests, seconds = poll(plan, listing, 100)
        assert requests == 1
        spent += seconds
    return spent / polls * 1e3


def row(a_day: int, size: int, share: float, place: str, polls: int) -> str:
    """Return a row of the table."""
    requests = list(requests_of_polls(a_day, size, share, polls, place))
    full = math.ceil(a_day / size)
    mean = sum(requests) / len(requests)
    return (
        f"| {a_day:,} | {size} | {share:.1%} {place} | {full} ({full / LIMIT:.0%}) | {mean:.1f} ({mean / LIMIT:.1%}) "
        f"| {max(requests)} | {full / mean:.1f} times |"
    )


class Unwilling:
    """An API that may list in any order, fail some requests and refuse a parameter."""

    def __init__(
        self, recent: int, old: int, *, ordered: bool, size: int, refused: str = "", fails_every: int = 0
    ) -> None:
        newest = 10 * DAY
        ages = [DAY * i / recent for i in range(recent)] + [DAY + i for i in range(old)]
        self.listing = [make_batch(f"fb_{i}", "", newest - age, "completed", NOTHING) for i, age in enumerate(ages)]
        if not ordered:
            random.Random(1).shuffle(self.listing)
        self.size = size
        self.refused = refused
        self.fails_every = fails_every
        self.requests = 0

    def __call__(self, request: PageRequest) -> Page:
        """Answer a request, or fail it."""
        self.requests += 1
        if self.fails_every and self.requests % self.fails_every == 0:
            raise RequestTimeout("no complete answer")
        if self.refused and self.refused not in request.left_out:
            raise QueryRefused("refused")
        return conversation.page_of(self.listing, request.number, self.size)

    def complete_poll(self, plan: Plan, now: float) -> tuple[int, int]:
        """Poll once a minute until a poll is complete. Return the numbers of requests and polls."""
        before, polls = self.requests, 0
        while True:
            polls += 1
            try:
                conversation.converse(plan, self, now + 60 * polls, most=10**6)
            except RequestTimeout:
                plan.break_off(now + 60 * polls)
            else:
                return self.requests - before, polls


def long_listing(name: str, api: Unwilling) -> str:
    """Return a row of the table of long listings: the first and the second complete poll."""
    plan = new_plan(replace(DEFAULTS, max_batches=10_000))
    first, polls = api.complete_poll(plan, 10 * DAY)
    later, _ = api.complete_poll(plan, 10 * DAY + 60 * polls)
    return f"| {name} | {first:,} | {polls} | {first / 60:.0f} | {later:,} |"


def cost_of_a_key(name: str, value: str, size: int, settings: PollSettings) -> str:
    """Return a row of the table that changes one key: 10,000 batches a day, 1% of them unfinished."""
    a_day, hours = 10_000, 12
    requests = list(requests_of_polls(a_day, size, 0.01, int(hours * 3600 / settings.interval), settings=settings))
    a_minute = sum(requests) / hours / 60
    full = math.ceil(a_day * settings.lookback / DAY / size)
    return f"| {name} | {value} | {a_minute:.1f} | {a_minute / LIMIT:.1%} | {full} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polls", type=int, default=120, help="polls to average over (default 120, two hours)")
    parser.add_argument("--full", action="store_true", help="every combination, not only those of docs/polling.md")
    options = parser.parse_args()
    print("One poll a minute, all listed again within the hour; in brackets the share of the 300 a minute.\n")
    print("| batches a day | page size | unfinished | a full listing | a poll | at most | fewer by |")
    print("|---|---|---|---|---|---|---|")
    if options.full:
        cases = list(
            itertools.product(
                (100, 1000, 10_000, 20_000, 100_000), (25, 100), (0.0, 0.01, 0.05), ("recent", "scattered")
            )
        )
    else:
        cases = [(n, 100, 0.01, "recent") for n in (100, 1000, 10_000, 20_000, 100_000)]
        cases += [(20_000, 25, 0.01, "recent"), (20_000, 100, 0.0, "recent"), (20_000, 100, 0.05, "recent")]
        cases += [(n, 100, 0.01, "scattered") for n in (1000, 20_000, 100_000)]
    for a_day, size, share, place in [*cases, (1000, 100, 1.0, "settled"), (10_000, 100, 1.0, "settled")]:
        print(row(a_day, size, share, place, options.polls), flush=True)
    print("\n| changed | to | requests a minute | of the 300 | first poll |\n|---|---|---|---|---|")
    for name, value, size, settings in (
        ("nothing", "-", 100, DEFAULTS),
        ("poll.interval", "30s", 100, replace(DEFAULTS, interval=Seconds(30.0))),
        ("poll.interval", "5m", 100, replace(DEFAULTS, interval=Seconds(300.0))),
        ("poll.lookback", "6h", 100, replace(DEFAULTS, lookback=Seconds(DAY / 4))),
        ("poll.lookback", "7d", 100, replace(DEFAULTS, lookback=Seconds(7 * DAY))),
        ("poll.page_size", "25", 25, DEFAULTS),
        ("poll.resync_interval", "15m", 100, replace(DEFAULTS, resync_interval=Seconds(900.0))),
        ("poll.resync_interval", "6h", 100, replace(DEFAULTS, resync_interval=Seconds(6 * 3600.0))),
    ):
        print(cost_of_a_key(name, value, size, settings), flush=True)
    print("\n| list | until the first is complete: requests | polls | minutes at 60 a minute | the next |")
    print("|---|---|---|---|---|")
    for name, api in (
        ("9,900 batches, pages cut to 25", Unwilling(9900, 0, ordered=True, size=25)),
        ("the same, each 100th request fails", Unwilling(9900, 0, ordered=True, size=25, fails_every=100)),
        ("9,900 batches, `page_size` refused", Unwilling(9900, 0, ordered=True, size=25, refused="page_size")),
        ("9,900 batches in no order, pages of 100", Unwilling(9900, 0, ordered=False, size=100)),
        ("the same, `sort` refused", Unwilling(9900, 0, ordered=False, size=100, refused="sort")),
        ("300 recent and 40,000 old ones in no order, pages of 25", Unwilling(300, 40_000, ordered=False, size=25)),
    ):
        print(long_listing(name, api), flush=True)
    print("\n| batches in the window | CPU of a steady poll, ms | of that in the smallest window |\n|---|---|---|")
    cpu = {a_day: min(steady_cpu(a_day, 200) for _ in range(3)) for a_day in (1000, 10_000, 100_000)}
    for a_day, milliseconds in cpu.items():
        print(f"| {a_day:,} | {milliseconds:.2f} | {milliseconds / cpu[1000]:.1f} times |")


if __name__ == "__main__":
    main()
