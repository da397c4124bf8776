"""Pages of a list, and a poll's conversation about them, for tests and benchmarks."""

from collections.abc import Callable, Iterable, Iterator

from inkit_exporter.api.batches import AccountLabels, Batch, Counts, Page, PageRequest
from inkit_exporter.api.errors import PageRefused
from inkit_exporter.api.pages import read_page
from inkit_exporter.config import PollSettings, Seconds
from inkit_exporter.jsonbody import Body
from inkit_exporter.paging.pagination import Pagination
from inkit_exporter.window.plan import Plan
from inkit_exporter.window.totals import Totals

Serve = Callable[[int], Page | Iterable[Page]]
"""Answers a page number with that page, or with its parts; or raises PageRefused."""


def new_plan(*, interval: float, lookback: float, resync_interval: float, max_batches: int = 10**6) -> Plan:
    """A plan that has seen nothing; times are in seconds."""
    settings = PollSettings(
        interval=Seconds(interval),
        lookback=Seconds(lookback),
        resync_interval=Seconds(resync_interval),
        max_batches=max_batches,
    )
    return Plan(settings, Totals())


def make_batch(batch_id: str, name: str, created_at: float, status: str, destinations: dict[str, Counts]) -> Batch:
    """A batch that is final by its status, if that is one of three."""
    final = status in ("completed", "failed", "cancelled")
    return Batch(batch_id, name, created_at, status, destinations, final)


def page_of(listing: list[Batch], number: int, size: int) -> Page:
    """A page of a list, as the API's documentation has it."""
    start = (number - 1) * size
    count = -(-len(listing) // size)
    return Page(listing[start : start + size], Pagination(number < count, count, size, len(listing)))


def joined(parts: Iterable[Page]) -> Page:
    """A page whose parts are joined."""
    whole, *others = parts
    for part in others:
        whole.batches += part.batches
        whole.invalid += part.invalid
        whole.incomplete += part.incomplete
        whole.repaired += part.repaired
        whole.unreadable += part.unreadable
        whole.problems = part.problems | whole.problems
        whole.differences = part.differences | whole.differences
    return whole


def read_parts(body: Body, labels: AccountLabels, now: float, secret: str = "", head: str = "") -> Iterator[Page]:
    """The parts of a first page with this body, if no further statuses are final."""
    return read_page(body, 1, labels, now, also_final=(), secret=secret, head=head)


def pages(listing: list[Batch], size: int) -> Serve:
    """Serves the pages of a list."""
    return lambda number: page_of(listing, number, size)


def poll(plan: Plan, serve: Serve, now: float, most: int = 2000) -> int:
    """Make one poll at `now`; returns the number of its requests. Fails beyond `most` requests."""
    return converse(plan, lambda request: serve(request.number), now, most)


def converse(plan: Plan, answer: Callable[[PageRequest], Page | Iterable[Page]], now: float, most: int = 2000) -> int:
    """Make one poll of an API that looks at the whole request; what else `answer` raises breaks it off."""
    conversation = plan.poll(now)
    requests = 0
    try:
        request = next(conversation)
        while True:
            requests += 1
            assert requests <= most, "asks for ever"
            try:
                page = answer(request)
            except PageRefused as refusal:
                request = conversation.throw(refusal)
                continue
            for part in [page] if isinstance(page, Page) else page:
                request = conversation.send(part)
    except StopIteration:
        return requests
