"""What clients may take of the process: requests at a time, connections, and seconds to read an answer."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

DEFAULT_REQUESTS: Final = 40
"""As in Prometheus' own exporters."""

DEFAULT_CONNECTIONS: Final = 512
"""Half of the descriptors that a process may have by default; the other half is for polls."""

IDLE_SECONDS: Final = 130.0
"""Until a connection is closed on which no whole request came: longer than Prometheus' longest usual interval."""

HANDSHAKE_SECONDS: Final = 10.0
"""Until a connection is closed whose TLS handshake does not come to an end: as long as a whole scrape may take."""

ANSWER_SECONDS: Final = 30.0
"""Until a client is cut off that does not read its answer: longer than Prometheus waits."""

REQUEST_BYTES: Final = 2**15
"""Until a connection is closed that sends no end of a request: more than browsers send of cookies and all else."""

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
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport:
            request.transport.abort()
    except ConnectionError:
        pass


def limit_connections(server: web.Server, most: int) -> Callable[[], asyncio.Protocol]:
    """Makes the server's connections, and cuts off the oldest when there are more, without limit if 0.

    So that clients that hold on to theirs can't keep out who comes next: a scrape, or a question for health.
    """

    def make() -> asyncio.Protocol:
        connections = server.connections if most else []
        for oldest in connections[: max(0, len(connections) + 1 - most)]:
            if oldest.transport:
                oldest.transport.abort()
        return _Connection(server())

    return make


class _Connection(asyncio.Protocol):
    """Passes on what is received, as long as requests end: aiohttp bounds each header, but hardly their sum."""

    def __init__(self, server: web.RequestHandler) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._last = b""
        self._unended = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._transport = transport
        self._server.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        _, end, rest = (self._last + data).rpartition(b"\r\n\r\n")
        self._unended = len(rest) if end else self._unended + len(data)
        self._last = rest[-3:]
        if self._unended <= REQUEST_BYTES:
            self._server.data_received(data)
        elif self._transport:
            self._transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
            self._transport.abort()

    def eof_received(self) -> None:
        self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        self._server.pause_writing()

    def resume_writing(self) -> None:
        self._server.resume_writing()
