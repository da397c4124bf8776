"""The limits on clients: how many requests and connections, how large, and how long."""

import asyncio
from collections import OrderedDict
from typing import Final

from aiohttp import web

from inkit_exporter.web.routes import Handler

DEFAULT_REQUESTS: Final = 40  # as in Prometheus' own exporters
DEFAULT_CONNECTIONS: Final = 512  # half of the file descriptors that a process may have by default
MAX_HANDSHAKES: Final = 128  # of TLS at a time; each takes memory and a file descriptor
MAX_REQUEST_BYTES: Final = 2**14  # of one request; browsers send less, with all cookies
MAX_QUEUED_REQUESTS: Final = 2  # of a connection while one is answered; each may take four times its size in memory
HANDSHAKE_TIMEOUT_SECONDS: Final = 10.0  # as long as a whole scrape may take
TURN_TIMEOUT_SECONDS: Final = 1.0  # for a request to wait for its turn
ANSWER_TIMEOUT_SECONDS: Final = 30.0  # for a client to read its answer; Prometheus waits for less
IDLE_TIMEOUT_SECONDS: Final = 130.0  # between requests; longer than the usual scrape intervals

HEALTHY: Final = "/-/healthy"
READY: Final = "/-/ready"
HEALTH_PATHS: Final = frozenset({HEALTHY, READY})
"""What answers whatever the limits, and without a password."""


def limit_requests(handler: Handler, max_requests: int) -> Handler:
    """Limit a handler to `max_requests` at a time. 0 means no limit. Health checks are always answered.

    Further requests wait for their turn, and get 503 after `TURN_TIMEOUT_SECONDS`. As many answers may wait until their
    client reads them: if there is one more, the oldest is cut off. So no client can block others by not reading.
    """
    if not max_requests:
        return handler
    places = asyncio.Semaphore(max_requests)
    unread: OrderedDict[asyncio.Transport, None] = OrderedDict()  # the oldest first

    async def send(request: web.BaseRequest, response: web.StreamResponse) -> None:
        if (transport := request.transport) is None:  # the client has gone
            return
        if len(unread) == max_requests:
            unread.popitem(last=False)[0].abort()
        unread[transport] = None
        try:
            await response.write_eof()
        except ConnectionError:  # the client goes, or its answer is cut off
            pass
        finally:
            unread.pop(transport, None)

    async def limited(request: web.BaseRequest) -> web.StreamResponse:
        if request.path in HEALTH_PATHS:
            return await handler(request)
        if not places.locked():
            await places.acquire()  # at once, without a timer
        else:
            try:
                async with asyncio.timeout(TURN_TIMEOUT_SECONDS):
                    await places.acquire()
            except TimeoutError:
                text = f"limit of concurrent requests reached ({max_requests}), try again later\n"
                return web.Response(status=503, text=text, headers={"Retry-After": "1"})
        try:
            response = await handler(request)
            await response.prepare(request)  # compresses it, but does not wait for the client
        finally:
            places.release()
        await send(request, response)
        return response

    return limited
