"""The limits on clients: requests and connections at a time, size of a request, and times."""

from contextlib import suppress
from typing import Final

from aiohttp import web

from inkit_exporter.web.routes import Handler

DEFAULT_REQUESTS: Final = 40  # as in Prometheus' own exporters
DEFAULT_CONNECTIONS: Final = 512  # half of the file descriptors that a process may have by default
MAX_REQUEST_BYTES: Final = 2**15  # until a request ends: more than browsers send with cookies and everything else
HANDSHAKE_TIMEOUT_SECONDS: Final = 10.0  # as long as a whole scrape may take
ANSWER_TIMEOUT_SECONDS: Final = 30.0  # for a client to read its answer: longer than Prometheus waits
IDLE_TIMEOUT_SECONDS: Final = 130.0  # without a whole request: longer than Prometheus' longest usual interval

HEALTH_PATHS: Final = frozenset({"/-/healthy", "/-/ready"})


def limit_requests(handler: Handler, max_requests: int) -> Handler:
    """Answers at most `max_requests` at a time, and further ones with 503; 0 is no limit. Health is always answered.

    A request counts until the client has read its answer, except for what the system buffers.
    """
    answering = 0

    async def limited(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal answering
        if request.path in HEALTH_PATHS:
            return await handler(request)
        if answering >= max_requests > 0:
            text = f"limit of concurrent requests reached ({max_requests}), try again later\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "1"})
        answering += 1
        try:
            response = await handler(request)
            with suppress(ConnectionError):  # the client has gone
                await response.prepare(request)
                await response.write_eof()
        finally:
            answering -= 1
        return response

    return limited
