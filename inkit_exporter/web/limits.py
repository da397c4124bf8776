"""What clients may take of the process: requests and connections at a time, and how long one may be idle."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

DEFAULT_REQUESTS: Final = 40
"""As in Prometheus' own exporters."""

DEFAULT_CONNECTIONS: Final = 512
"""Half of the descriptors that a process may have by default; the other half is for polls."""

IDLE_SECONDS: Final = 130.0
"""Until a connection is closed on which no whole request came: longer than Prometheus' longest usual interval."""

HEALTH_PATHS: Final = frozenset({"/-/healthy", "/-/ready"})

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def limit_requests(handler: Handler, most: int) -> Handler:
    """Answer at most so many requests at a time, without limit if 0; those for health are answered whatever comes.

    A request lasts until its answer has been read, but for what the system buffers.
    """
    under_way = 0

    async def limited(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal under_way
        if request.path in HEALTH_PATHS:
            return await handler(request)
        if under_way >= most > 0:
            text = f"limit of concurrent requests reached ({most}), try again later\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "1"})
        under_way += 1
        try:
            response = await handler(request)
            with suppress(ConnectionError):  # that the client has gone is no concern of ours
                await response.prepare(request)
                await response.write_eof()
        finally:
            under_way -= 1
        return response

    return limited
