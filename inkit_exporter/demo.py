"""A simulated Inkit API: the documented endpoints over HTTP, and a customer's day that is played in minutes."""

import bisect
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
from aiohttp.typedefs import Middleware

DESTINATIONS: Final = (
    "inkit_storage",
    "salesforce",
    "sepire",
    "docusign",
    "magic_link",
    "amazon_s3",
    "google_drive",
    "dropbox",
    "box",
)

JsonBatch = dict[str, Any]
Listing = Callable[[], Sequence[JsonBatch]]

DAY_SECONDS: Final = 600.0
"""Wall time in which a simulated day is played."""

_DEFAULT_PAGE_SIZE = 25
_BATCHES_A_DAY = 300
_DAYS_KEPT = 2


def make_api(
    listing: Listing,
    *,
    token: str,
    requests_per_minute: int | None = None,
    max_page_size: int | None = 100,
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """The API as documented: the list of batches and a single batch, behind `/v1`.

    Args:
        listing: all batches as they are now, newest first.
        token: the key that it accepts.
        requests_per_minute: beyond it, 429 with `Retry-After`; None for no limit.
        max_page_size: beyond it, 422; None for no limit.
        middlewares: put around the API, the first outermost.
    """
    app = web.Application(middlewares=[*middlewares, _limiter(requests_per_minute), _authoriser(token)])

    async def list_batches(request: web.Request) -> web.Response:
        return _list(listing(), request, max_page_size)

    async def retrieve_batch(request: web.Request) -> web.Response:
        found = next((batch for batch in listing() if batch["id"] == request.match_info["id"]), None)
        return web.json_response(found) if found else _problem(404, "no such batch")

    app.router.add_get("/v1/invoke/batch", list_batches)
    app.router.add_get("/v1/invoke/batch/{id}", retrieve_batch)
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
    but the seed, the start and that time.
    """

    def batches(now: float) -> list[JsonBatch]:
        today = math.floor((now - started_at) / seconds)
        found: list[JsonBatch] = []
        for index in range(max(-1, today - _DAYS_KEPT + 1), today + 1):
            plans = _plan_day(seed, index, seconds)
            elapsed = now - (started_at + index * seconds)
            due = bisect.bisect_right(plans, elapsed, key=lambda plan: plan.start)
            found += [_batch_at(plan, elapsed, created=now - elapsed + plan.start) for plan in plans[:due]]
        return found[::-1]

    return batches


class _Course(NamedTuple):
    """How the documents of one batch fare at one destination, in seconds after the batch's start."""

    destination: str
    seconds: float
    failed_share: float


class _Plan(NamedTuple):
    """One batch of a day; `start` is in seconds since the day began."""

    batch_id: str
    name: str
    start: float
    total: int
    courses: tuple[_Course, ...]
    cancelled: bool


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SUBJECTS = ("Invoices", "Contracts", "Statements", "Welcome letters", "Policies", "Reminders", "Payslips")
_PENDING_SECONDS = 2.0


@lru_cache(maxsize=8)
def _plan_day(seed: int, index: int, seconds: float) -> tuple[_Plan, ...]:
    """A day's batches by start: few at night, many at noon, and two incidents, each at one destination."""
    chance = random.Random(f"{seed}/{index}")  # noqa: S311 - a simulation
    failing, slow = chance.sample(DESTINATIONS[1:], 2)
    failing_from, slow_from = chance.uniform(0.3, 0.5), chance.uniform(0.55, 0.7)
    starts = sorted(seconds * chance.triangular(0, 1, 0.55) for _ in range(_BATCHES_A_DAY))
    plans = []
    for number, start in enumerate(starts):
        share_of_day = start / seconds
        used = list(DESTINATIONS) if number < len(DESTINATIONS) else _used_destinations(chance)
        total = min(400, 1 + int(chance.paretovariate(0.9) * 3))
        courses = []
        for destination in used:
            duration = chance.uniform(0.005, 0.02) * seconds + total * seconds / 20_000
            failed_share = chance.choice((0, 0, 0, 0.02, 0.05))
            if destination == failing and failing_from < share_of_day < failing_from + 0.12:
                failed_share = chance.uniform(0.7, 1)
            if destination == slow and slow_from < share_of_day < slow_from + 0.12:
                duration *= 8
            courses.append(_Course(destination, duration, failed_share))
        fails = number == len(DESTINATIONS)  # every day has a batch that fails as a whole
        if fails:
            courses = [course._replace(failed_share=1.0) for course in courses]
        plans.append(
            _Plan(
                batch_id="fb_" + "".join(chance.choices(_ALPHABET, k=22)),
                name=f"{chance.choice(_SUBJECTS)} {number + 1}",
                start=start,
                total=total,
                courses=tuple(courses),
                cancelled=not fails and chance.random() < 0.01,
            )
        )
    # A day opens with a batch that takes until the next one, so that something is always in progress.
    endless = plans[0].courses[0]._replace(seconds=seconds * 1.02)
    plans[0] = plans[0]._replace(start=0.0, courses=(endless, *plans[0].courses[1:]), cancelled=False, total=250)
    return tuple(plans)


def _used_destinations(chance: random.Random) -> list[str]:
    others = [name for name in DESTINATIONS[1:] if chance.random() < 0.25]
    return [DESTINATIONS[0], *others] if chance.random() < 0.9 or not others else others


def _batch_at(plan: _Plan, elapsed: float, created: float) -> JsonBatch:
    age = elapsed - plan.start
    destinations = {course.destination: _counts_at(course, plan.total, age) for course in plan.courses}
    return {
        "id": plan.batch_id,
        "name": plan.name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "status": _status_at(plan, destinations, age),
        "total": plan.total,
        "destinations": destinations,
    }


def _counts_at(course: _Course, total: int, age: float) -> dict[str, Any]:
    done = min(total, int(total * age / course.seconds))
    failed = round(done * course.failed_share)
    status = "in_progress" if done < total else "failed" if failed == total else "completed"
    return {
        "count": total,
        "completed": done - failed,
        "failed": failed,
        "in_progress": total - done,
        "status": status,
    }


def _status_at(plan: _Plan, destinations: dict[str, dict[str, Any]], age: float) -> str:
    if any(counts["in_progress"] for counts in destinations.values()):
        return "Pending" if age < _PENDING_SECONDS else "In Progress"
    if plan.cancelled:
        return "Cancelled"
    return (
        "Failed"
        if all(counts["failed"] for counts in destinations.values())
        and not any(counts["completed"] for counts in destinations.values())
        else "Completed"
    )


def _list(batches: Sequence[JsonBatch], request: web.Request, max_page_size: int | None) -> web.Response:
    query = request.query
    try:
        number, size = int(query.get("page", 1)), int(query.get("page_size", _DEFAULT_PAGE_SIZE))
    except ValueError:
        return _problem(422, "page and page_size must be integers")
    sort = query.get("sort", "-created_at")
    if number < 1 or size < 1 or size > (max_page_size or size) or sort.removeprefix("-") != "created_at":
        return _problem(422, "page, page_size or sort is out of range")
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
    return web.json_response({"items": list(items), "metadata": {"pagination": pagination, "sort": sorting}})


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
    async def authorise(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        if request.headers.get("X-Inkit-API-Token") != token:
            return _problem(401, "API key not authorised")
        response: web.StreamResponse = await handler(request)
        return response

    return authorise


def _limiter(requests_per_minute: int | None) -> Middleware:
    recent: deque[float] = deque(maxlen=requests_per_minute)

    @web.middleware
    async def limit(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        now = time.monotonic()
        if requests_per_minute is not None:
            if len(recent) == requests_per_minute and now - recent[0] < 60:
                seconds = math.ceil(60 - (now - recent[0]))
                return _problem(429, "rate limit exceeded", {"Retry-After": str(seconds)})
            recent.append(now)
        response: web.StreamResponse = await handler(request)
        return response

    return limit


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"detail": detail}, status=status, headers=headers)
