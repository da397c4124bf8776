"""A simulated Inkit API: it serves the list of batches as documented, and plays a customer's day in minutes."""

import math
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Middleware

# For each destination: the share of batches that use it, and how slow it is compared with the others.
_TRAFFIC: Final = {
    "inkit_storage": (1.0, 0.5),
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

DAY_SECONDS: Final = 600.0
"""Seconds of real time that a simulated day takes."""

_BATCHES_A_DAY = 300  # one in two seconds, on average
_DAYS_KEPT = 2
_INCIDENT_DAYS = 0.125
_PENDING_DAYS = 0.002
_MINUTE = 60.0


def make_api(
    listing: Callable[[], Sequence[JsonBatch]],
    *,
    document_batches: Callable[[], Sequence[JsonBatch]] = tuple,
    token: str,
    requests_per_minute: int | None = None,
    max_page_size: int = 100,
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """The API as documented: it lists batches below `/v1` to clients that send the token.

    `listing` returns all workflow batches as they are now, newest first; `document_batches` returns the document
    batches. Without `requests_per_minute`, there is no rate limit. The first middleware is the outermost.
    """
    let_through: deque[float] = deque(maxlen=requests_per_minute or 0)

    async def list_batches(request: web.Request) -> web.Response:
        now = time.monotonic()
        if let_through and len(let_through) == let_through.maxlen and now < let_through[0] + _MINUTE:
            seconds = math.ceil(let_through[0] + _MINUTE - now)
            return _problem(429, "rate limit exceeded", {"Retry-After": str(seconds)})
        let_through.append(now)
        if request.headers.get("X-Inkit-API-Token") != token:
            return _problem(401, "API key not authorised")
        batches = document_batches() if request.path == "/v1/batch" else listing()
        return _list(batches, request.query, max_page_size)

    app = web.Application(middlewares=middlewares)
    app.router.add_get("/v1/invoke/batch", list_batches)
    app.router.add_get("/v1/batch", list_batches)
    return app


@asynccontextmanager
async def serve_api(app: web.Application) -> AsyncIterator[str]:
    """Serve the API on a free port of loopback; yields its base URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def day(seed: int, *, started_at: float, seconds: float = DAY_SECONDS) -> Callable[[float], list[JsonBatch]]:
    """A customer's days, one after another. Each takes `seconds` of real time.

    Returns a function that takes a time and returns the batches of the last two days as they are then, newest first.
    Its result depends only on the seed, `started_at` and that time. Times are in seconds since the epoch.
    """

    def batches(now: float) -> list[JsonBatch]:
        today = math.floor((now - started_at) / seconds)
        found = []
        for index in range(today - _DAYS_KEPT, today + 1):
            for plan in _plan_day(seed, index):
                created = started_at + (index + plan.start) * seconds
                created = math.floor(created * 1e6) / 1e6  # as exact as the stamp in the answer
                if now - _DAYS_KEPT * seconds <= created <= now:
                    found.append(_batch_at(plan, created, (now - created) / seconds))
        return found[::-1]

    return batches


class _Plan(NamedTuple):
    """One batch. Times are in days: `start` counts from midnight, durations from the end of the time that it waits.

    `courses` has for each destination how long all documents take together, and how many of them fail.
    """

    batch_id: str
    name: str
    start: float
    total: int
    courses: Mapping[str, tuple[float, int]]


_SUBJECTS = ("Invoices", "Contracts", "Statements", "Welcome letters", "Policies", "Reminders", "Payslips")
# Every day ends with these. So the page shows each destination and the common statuses from the start.
_NIGHT = (
    ("Archive of the day", 0.9, 120, dict.fromkeys(DESTINATIONS, (0.03, 1))),
    ("Payslips, broken template", 0.94, 12, dict.fromkeys(DESTINATIONS[:2], (0.01, 12))),
    ("Statements of the month", 0.99, 300, dict.fromkeys(DESTINATIONS, (0.06, 3))),
)


@lru_cache(maxsize=8)
def _plan_day(seed: int, index: int) -> Sequence[_Plan]:
    """The batches of one day, by start: few at night, many at noon. One destination fails for a while, one is slow."""
    chance = random.Random(f"{seed}/{index}")  # noqa: S311 - a simulation
    failing, slow = chance.sample(DESTINATIONS[1:], 2)
    failing_since, slow_since = chance.uniform(0.25, 0.4), chance.uniform(0.55, 0.7)
    plans = [_Plan(_batch_id(chance), *batch) for batch in _NIGHT]
    for _ in range(_BATCHES_A_DAY):
        start = chance.triangular(0, 1, 0.5)
        total = min(400, int(chance.paretovariate(0.6)))  # a third are single documents, one in forty is a bulk run
        courses = {}
        for destination in [name for name, (share, _) in _TRAFFIC.items() if chance.random() < share]:
            duration = _TRAFFIC[destination][1] * (chance.uniform(0.005, 0.015) + total / 20_000)
            if destination == slow and slow_since < start < slow_since + _INCIDENT_DAYS:
                duration *= 8
            fails = destination == failing and failing_since < start < failing_since + _INCIDENT_DAYS
            odds = 0.85 if fails else 0.015
            courses[destination] = duration, sum(chance.random() < odds for _ in range(total))
        name = f"{chance.choice(_SUBJECTS)} {chance.randrange(10_000):04}"
        plans.append(_Plan(_batch_id(chance), name, start, total, courses))
    return sorted(plans, key=lambda plan: plan.start)


def _batch_id(chance: random.Random) -> str:
    return f"fb_{chance.getrandbits(88):022x}"


def _batch_at(plan: _Plan, created: float, age_days: float) -> JsonBatch:
    destinations = {}
    for destination, (duration, failures) in plan.courses.items():
        done = max(0, min(plan.total, int(plan.total * (age_days - _PENDING_DAYS) / duration)))
        failed = done * failures // plan.total
        destinations[destination] = {
            "count": plan.total,
            "completed": done - failed,
            "failed": failed,
            "in_progress": plan.total - done,
            "status": "in_progress" if done < plan.total else "failed" if failed == done else "completed",
        }
    statuses = {counts["status"] for counts in destinations.values()}
    if "in_progress" in statuses:
        status = "Pending" if age_days < _PENDING_DAYS else "In Progress"
    else:
        status = "Failed" if statuses == {"failed"} else "Completed"
    return {
        "id": plan.batch_id,
        "name": plan.name,
        "created_at": format_time(created),
        "status": status,
        "total": plan.total,
        "destinations": destinations,
    }


def _list(batches: Sequence[JsonBatch], query: Mapping[str, str], max_page_size: int) -> web.Response:
    page, page_size, sort = query.get("page", "1"), query.get("page_size", "25"), query.get("sort", "-created_at")
    are_numbers = all(re.fullmatch("[1-9][0-9]{,8}", text) for text in (page, page_size))
    if not are_numbers or int(page_size) > max_page_size or sort not in ("created_at", "-created_at"):
        return _problem(422, "page, page_size or sort is out of range")
    batches = _filtered(batches, query)
    return web.json_response(page_of(batches, int(page), int(page_size), newest_first=sort == "-created_at"))


def page_of(batches: Sequence[JsonBatch], number: int, size: int, *, newest_first: bool = True) -> dict[str, Any]:
    """A page of the list as documented; `batches` are newest first."""
    total = len(batches)
    pagination = {
        "current_page": number,
        "next_page": number + 1 if number * size < total else None,
        "page_count": -(-total // size),
        "page_size": size,
        "prev_page": number - 1 if number > 1 else None,
        "total_count": total,
    }
    sorting = {"key": "created_at", "order": -1 if newest_first else 1}
    ordered = batches if newest_first else batches[::-1]
    items = list(ordered[(number - 1) * size : number * size])
    return {"items": items, "metadata": {"pagination": pagination, "sort": sorting}}


def format_time(seconds: float) -> str:
    """A time in seconds since the epoch, as the API writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _filtered(batches: Sequence[JsonBatch], query: Mapping[str, str]) -> Sequence[JsonBatch]:
    if search := query.get("search"):
        batches = [b for b in batches if search.lower() in f"{b['name']}\n{b['id']}".lower()]
    if name := query.get("destination_name"):
        batches = [b for b in batches if name in b["destinations"]]
    if status := query.get("destination_status"):
        batches = [b for b in batches if any(d["status"] == status for d in b["destinations"].values())]
    return batches


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"detail": detail}, status=status, headers=headers)
