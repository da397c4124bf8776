"""A simulated Inkit API: the documented endpoints over HTTP, and a customer's day that is played in minutes."""

import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

# The share of batches that use a destination, and how long it takes beside the others.
_TRAFFIC: Final = {
    "inkit_storage": (0.96, 0.5),
    "salesforce": (0.4, 1.0),
    "sepire": (0.15, 1.4),
    "docusign": (0.35, 1.6),
    "magic_link": (0.25, 0.7),
    "amazon_s3": (0.3, 0.6),
    "google_drive": (0.2, 1.0),
    "dropbox": (0.15, 1.1),
    "box": (0.15, 1.2),
}

DESTINATIONS: Final[tuple[str, ...]] = tuple(_TRAFFIC)
"""The destination names that Inkit documents."""

JsonBatch = dict[str, Any]
Listing = Callable[[], Sequence[JsonBatch]]

DAY_SECONDS: Final = 600.0
"""Wall time in which a simulated day is played."""

_DEFAULT_PAGE_SIZE = 25  # as documented
_BATCHES_A_DAY = 300  # one in two seconds, on average
_DAYS_KEPT = 2
_CANCELLED_SHARE = 0.01
_MINUTE = 60.0


def make_api(
    listing: Listing,
    *,
    token: str,
    requests_per_minute: int | None = None,
    max_page_size: int | None = 100,
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """The API as documented: the list of batches, behind `/v1`.

    Args:
        listing: all batches as they are now, newest first.
        token: the key that it accepts.
        requests_per_minute: at least 1; beyond it, 429 with `Retry-After`; None for no limit.
        max_page_size: beyond it, 422; None for no limit.
        middlewares: put around the API, the first outermost.
    """
    app = web.Application(middlewares=[*middlewares, _limiter(requests_per_minute), _authoriser(token)])

    async def list_batches(request: web.Request) -> web.Response:
        return _list(listing(), request, max_page_size)

    app.router.add_get("/v1/invoke/batch", list_batches)
    return app


@asynccontextmanager
async def serve_api(app: web.Application) -> AsyncIterator[str]:
    """Serve on an ephemeral port of loopback; yields the base URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def day(seed: int, *, started_at: float, seconds: float = DAY_SECONDS) -> Callable[[float], list[JsonBatch]]:
    """A customer's days, one after another, `seconds` of wall time each; the last one before `started_at` is history.

    What it returns gives all batches of the last two days as they are at a time, newest first. It depends on nothing
    but the seed, the start and that time. Times are in seconds since the epoch.
    """

    def batches(now: float) -> list[JsonBatch]:
        today = math.floor((now - started_at) / seconds)
        found = []
        for index in range(max(-1, today - _DAYS_KEPT), today + 1):
            begun = started_at + index * seconds
            for plan in _plan_day(seed, index, seconds):
                created = math.floor((begun + plan.start) * 1e6) / 1e6  # as exact as the stamp in the answer
                if now - _DAYS_KEPT * seconds <= created <= now:
                    found.append(_batch_at(plan, created, now - created))
        return found[::-1]

    return batches


class _Course(NamedTuple):
    """How the documents of one batch fare at one destination; `seconds` is how long they take together."""

    destination: str
    seconds: float
    failures: int


class _Plan(NamedTuple):
    """One batch of a day; `start` is in seconds since the day began, `pending` in seconds since the start."""

    batch_id: str
    name: str
    start: float
    pending: float
    total: int
    courses: tuple[_Course, ...]
    cancelled: bool = False


class _Incident(NamedTuple):
    """One destination in trouble for an eighth of the day; `begin` is a share of the day."""

    destination: str
    begin: float

    def strikes(self, destination: str, share_of_day: float) -> bool:
        return destination == self.destination and self.begin < share_of_day < self.begin + 0.125


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SUBJECTS = ("Invoices", "Contracts", "Statements", "Welcome letters", "Policies", "Reminders", "Payslips")


@lru_cache(maxsize=8)
def _plan_day(seed: int, index: int, seconds: float) -> tuple[_Plan, ...]:
    """A day's batches by start: few at night, many at noon, and two incidents, each at one destination."""
    chance = random.Random(f"{seed}/{index}")  # noqa: S311 - a simulation
    one, other = chance.sample(DESTINATIONS[1:], 2)
    failing, slow = _Incident(one, chance.uniform(0.25, 0.4)), _Incident(other, chance.uniform(0.55, 0.7))
    plans = [_plan_batch(chance, failing, slow, seconds) for _ in range(_BATCHES_A_DAY)]
    return tuple(sorted((*plans, *_plan_night(chance, seconds)), key=lambda plan: plan.start))


def _plan_batch(chance: random.Random, failing: _Incident, slow: _Incident, seconds: float) -> _Plan:
    share_of_day = chance.triangular(0, 1, 0.5)
    total = min(400, int(chance.paretovariate(0.6)))  # a third are single documents, one in forty is a bulk run
    cancelled = chance.random() < _CANCELLED_SHARE
    courses = []
    for destination in [name for name, (share, _) in _TRAFFIC.items() if chance.random() < share] or DESTINATIONS[:1]:
        pace = _TRAFFIC[destination][1] * (8 if slow.strikes(destination, share_of_day) else 1)
        duration = pace * (chance.uniform(0.005, 0.015) + total / 20_000) * seconds
        rate = 0.85 if failing.strikes(destination, share_of_day) else 0.3 if cancelled else 0.015
        courses.append(_Course(destination, duration, sum(chance.random() < rate for _ in range(total))))
    name, pending = f"{chance.choice(_SUBJECTS)} {chance.randrange(10_000):04}", chance.uniform(0.001, 0.004) * seconds
    return _Plan(_batch_id(chance), name, share_of_day * seconds, pending, total, tuple(courses), cancelled)


def _plan_night(chance: random.Random, seconds: float) -> list[_Plan]:
    """What ends every day, the one of history too, so that a start shows each destination and the common statuses."""
    night = (
        ("Archive of the day", 0.9, 120, DESTINATIONS, 0.03, 1),
        ("Payslips, broken template", 0.94, 12, DESTINATIONS[:2], 0.01, 12),
        ("Statements of the month", 0.99, 300, DESTINATIONS, 0.06, 3),
    )
    plans = []
    for name, start, total, used, duration, failures in night:
        courses = tuple(_Course(destination, duration * seconds, failures) for destination in used)
        plans.append(_Plan(_batch_id(chance), name, start * seconds, 0.002 * seconds, total, courses))
    return plans


def _batch_id(chance: random.Random) -> str:
    return "fb_" + "".join(chance.choices(_ALPHABET, k=22))


def _batch_at(plan: _Plan, created: float, age: float) -> JsonBatch:
    destinations = {course.destination: _counts_at(course, plan.total, age - plan.pending) for course in plan.courses}
    return {
        "id": plan.batch_id,
        "name": plan.name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "status": _status_at(plan, destinations, age),
        "total": plan.total,
        "destinations": destinations,
    }


def _counts_at(course: _Course, total: int, running_seconds: float) -> dict[str, Any]:
    done = max(0, min(total, int(total * running_seconds / course.seconds)))
    failed = done * course.failures // total
    return {
        "count": total,
        "completed": done - failed,
        "failed": failed,
        "in_progress": total - done,
        "status": "in_progress" if done < total else "failed" if failed == total else "completed",
    }


def _status_at(plan: _Plan, destinations: dict[str, dict[str, Any]], age: float) -> str:
    if any(counts["in_progress"] for counts in destinations.values()):
        return "Pending" if age < plan.pending else "In Progress"
    if plan.cancelled:
        return "Cancelled"
    return "Completed" if any(counts["completed"] for counts in destinations.values()) else "Failed"


def _list(batches: Sequence[JsonBatch], request: web.Request, max_page_size: int | None) -> web.Response:
    query = request.query
    try:
        number, size = _positive(query.get("page", "1")), _positive(query.get("page_size", str(_DEFAULT_PAGE_SIZE)))
    except ValueError:
        return _problem(422, "page and page_size must be positive integers")
    sort = query.get("sort", "-created_at")
    if sort.removeprefix("-") != "created_at" or (max_page_size is not None and size > max_page_size):
        return _problem(422, "page_size or sort is out of range")
    batches = _filtered(batches, request)
    total = len(batches)
    first, last = (number - 1) * size, min(number * size, total)
    descending = sort.startswith("-")
    items = batches[first:last] if descending else [batches[total - 1 - i] for i in range(first, last)]
    pagination = {
        "current_page": number,
        "next_page": number + 1 if number * size < total else None,
        "page_count": -(-total // size),
        "page_size": size,
        "prev_page": number - 1 if number > 1 else None,
        "total_count": total,
    }
    sorting = {"key": "created_at", "order": -1 if descending else 1}
    return web.json_response({"items": items, "metadata": {"pagination": pagination, "sort": sorting}})


def _positive(text: str) -> int:
    """Raises ValueError for all but plain digits; `int` would take `1_0` and ` 7` too."""
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise ValueError(text)
    return int(text)


def _filtered(batches: Sequence[JsonBatch], request: web.Request) -> Sequence[JsonBatch]:
    if search := request.query.get("search"):
        batches = [b for b in batches if search.lower() in f"{b['name']}\n{b['id']}".lower()]
    if name := request.query.get("destination_name"):
        batches = [b for b in batches if name in b["destinations"]]
    if status := request.query.get("destination_status"):
        batches = [b for b in batches if any(d["status"] == status for d in b["destinations"].values())]
    return batches


def _authoriser(token: str) -> Middleware:
    @web.middleware
    async def authorise(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("X-Inkit-API-Token") != token:
            return _problem(401, "API key not authorised")
        return await handler(request)

    return authorise


def _limiter(requests_per_minute: int | None) -> Middleware:
    recent: deque[float] = deque(maxlen=requests_per_minute or 0)  # of the requests let through

    @web.middleware
    async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        now = time.monotonic()
        if recent and len(recent) == recent.maxlen and now < recent[0] + _MINUTE:
            return _problem(429, "rate limit exceeded", {"Retry-After": str(math.ceil(recent[0] + _MINUTE - now))})
        recent.append(now)
        return await handler(request)

    return limit


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"detail": detail}, status=status, headers=headers)
