"""What clients may take of the process: requests at a time, and seconds to read an answer."""

import asyncio
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

DEFAULT_REQUESTS: Final = 40
"""As in Prometheus' own exporters."""

DEFAULT_CONNECTIONS: Final = 512
"""Half of the descriptors that a process may have by default; the other half is for polls."""

IDLE_SECONDS: Final = 130.0
"""Until a connection is closed on which no whole request came: longer than Prometheus' longest usual interval."""

ANSWER_SECONDS: Final = 30.0
"""Until a client is cut off that does not read its answer: longer than Prometheus waits."""

HEALTH_PATHS: Final = frozenset({"/-/healthy", "/-/ready"})


def limit_requests(most: int) -> Middleware:
    """Answer at most so many requests at a time, without limit if 0; those for health are answered whatever comes.

    A request lasts until its answer has been read, but for what the system buffers.
    """
    under_way = 0

    @web.middleware
    async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal under_way
        if request.path in HEALTH_PATHS:
            return await handler(request)
        if under_way >= most > 0:
            text = f"limit of concurrent requests reached ({most}), try again later\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "1"})
        under_way += 1
        try:
            response = await handler(request)
            await _send(request, response)
        finally:
            under_way -= 1
        return response

    return limit


async def _send(request: web.Request, response: web.StreamResponse) -> None:
    """To its end; whether the client has gone meanwhile is no concern of ours."""
    if request.transport is None:
        return
    cut_off = asyncio.get_running_loop().call_later(ANSWER_SECONDS, request.transport.abort)
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        pass
    finally:
        cut_off.cancel()
