"""The connections of clients: no more than so many, TLS handshakes under way included, and no more sent than is due."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

HANDSHAKE_SECONDS: Final = 10.0
"""Until a connection is closed whose TLS handshake does not come to an end: as long as a whole scrape may take."""

ANSWER_SECONDS: Final = 30.0
"""Until a client is cut off that does not read its answer: longer than Prometheus waits."""

REQUEST_BYTES: Final = 2**15
"""Until a connection is closed that sends no end of a request: more than browsers send of cookies and all else."""


class Connections:
    """Makes the server's connections, and cuts off the oldest when there are more.

    So that clients that hold on to theirs can't keep out who comes next: a scrape, or a question for health.

    Args:
        server: answers the requests.
        most: how many there may be; 0 for no limit.
        ssl_context: for TLS, if not None.
    """

    def __init__(self, server: web.Server, most: int, ssl_context: ssl.SSLContext | None) -> None:
        self._server = server
        self._most = most
        self._ssl_context = ssl_context
        self._handshakes: dict[asyncio.Task[None], asyncio.Transport] = {}

    def make(self) -> asyncio.Protocol:
        """The next connection."""
        return _Beginning(self._begin)

    def _begin(self, transport: asyncio.Transport) -> None:
        if self._most:
            # An honest handshake takes milliseconds, so that the oldest of those goes before any other.
            transports = [*self._handshakes.values(), *(c.transport for c in self._server.connections if c.transport)]
            for oldest in transports[: max(0, len(transports) + 1 - self._most)]:
                oldest.abort()
        connection = _Connection(self._server())
        if self._ssl_context is None:
            transport.set_protocol(connection)
            connection.connection_made(transport)
        else:
            transport.pause_reading()  # until the handshake takes over
            shaking = self._shake_hands(transport, connection, self._ssl_context)
            task = asyncio.get_running_loop().create_task(shaking)
            self._handshakes[task] = transport
            task.add_done_callback(self._handshakes.pop)

    async def stop(self) -> None:
        """End the handshakes; the connections are the server's to end."""
        for transport in self._handshakes.values():
            transport.abort()
        await asyncio.gather(*self._handshakes)

    async def _shake_hands(
        self, transport: asyncio.Transport, connection: "_Connection", ssl_context: ssl.SSLContext
    ) -> None:
        with suppress(OSError):  # the client's loss, whatever it was
            tls = await asyncio.get_running_loop().start_tls(
                transport, connection, ssl_context, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            if tls is not None:
                connection.connection_made(tls)


class _Beginning(asyncio.Protocol):
    """What a connection is until it has begun."""

    def __init__(self, begin: Callable[[asyncio.Transport], None]) -> None:
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._begin(transport)


# What one reading may take; common to all connections, as asyncio uses what it has read at once. Left to itself, it
# takes 256 KiB of memory anew for each reading.
_BUFFER: Final = memoryview(bytearray(2**16))


class _Connection(asyncio.BufferedProtocol):
    """Passes on what is received, as long as requests end: aiohttp bounds each header, but hardly their sum.

    It cuts off clients that do not read what they are sent.
    """

    def __init__(self, server: web.RequestHandler) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._early = b""
        self._last = b""
        self._unended = 0
        self._cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._transport = transport
        self._server.connection_made(transport)
        if self._early:
            self._received(self._early)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._received(bytes(_BUFFER[:nbytes]))

    def _received(self, data: bytes) -> None:
        if self._transport is None:  # on the heels of the handshake
            self._early += data
            return
        _, end, rest = (self._last + data).rpartition(b"\r\n\r\n")
        self._unended = len(rest) if end else self._unended + len(data)
        self._last = rest[-3:]
        if self._unended <= REQUEST_BYTES:
            self._server.data_received(data)
        else:
            self._transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
            self._transport.abort()

    def eof_received(self) -> None:
        self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._go_on()
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        assert self._transport is not None  # noqa: S101 - as it was written to
        self._cut_off = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._transport.abort)
        self._server.pause_writing()

    def resume_writing(self) -> None:
        self._go_on()
        self._server.resume_writing()

    def _go_on(self) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None
