"""A simulated API over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from inkit_exporter.demo import JsonBatch, format_time, make_api, serve_api

TOKEN = "test-token-7f3a"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def batch(
    batch_id: str,
    *,
    age: float = 60,
    status: str = "Completed",
    destinations: dict[str, tuple[int, int, int]] | None = None,
    **changes: Any,
) -> JsonBatch:
    """A batch as the API documents it; `destinations` maps names to (completed, failed, in_progress)."""
    counts = {"inkit_storage": (1, 0, 0)} if destinations is None else destinations
    return {
        "id": batch_id,
        "name": f"batch {batch_id}",
        "created_at": format_time(time.time() - age),
        "status": status,
        "total": 1,
        "destinations": {
            name: {"count": c + f + p, "completed": c, "failed": f, "in_progress": p, "status": "completed"}
            for name, (c, f, p) in counts.items()
        },
    } | changes


@dataclass
class Api:
    """The simulated API: its batches, newest first, and `fault`, which answers requests while it is set."""

    base_url: str = ""
    batches: list[JsonBatch] = field(default_factory=list)
    document_batches: list[JsonBatch] = field(default_factory=list)
    fault: Callable[[web.Request, Handler], Awaitable[web.StreamResponse]] | None = None
    requests: list[web.Request] = field(default_factory=list)
    max_page_size: int = 100

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record every request, and let the fault answer it."""
        self.requests.append(request)
        return await (self.fault(request, handler) if self.fault else handler(request))


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A simulated API on loopback, without batches."""
    async with serving(Api()) as served:
        yield served


async def hang(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    """A fault: no answer at all."""
    await asyncio.Event().wait()
    raise AssertionError


@dataclass
class Slow:
    """A fault: each request takes that long. `most` is how many there have been at the same time."""

    seconds: float
    most: int = 0
    under_way: int = 0

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        return await handler(request)


@asynccontextmanager
async def serving(api: Api) -> AsyncIterator[Api]:
    """Serve a simulated API behind its middleware."""

    async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await api.middleware(request, handler)

    app = make_api(
        lambda: api.batches,
        document_batches=lambda: api.document_batches,
        token=TOKEN,
        max_page_size=api.max_page_size,
        middlewares=[web.middleware(outermost)],
    )
    async with serve_api(app) as base_url:
        api.base_url = base_url
        yield api
