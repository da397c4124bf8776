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
"""Until a client is cut off that has not read its answer to the end: longer than Prometheus waits."""

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
        # By the socket, until that is gone: to aiohttp one that is being closed, for as long as it takes, is none.
        self._open: dict[_Connection, asyncio.Transport] = {}

    def make(self) -> asyncio.Protocol:
        """The next connection."""
        return _Beginning(self._begin)

    def _begin(self, transport: asyncio.Transport) -> None:
        if self._most:
            # An honest handshake takes milliseconds, so that the oldest of those goes before any other.
            transports = [*self._handshakes.values(), *self._open.values()]
            for oldest in transports[: max(0, len(transports) + 1 - self._most)]:
                oldest.abort()
        connection = _Connection(self._server(), transport, self._open)
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
            if tls is not None and not tls.is_closing():
                transport.set_protocol(_BelowTls(transport.get_protocol(), connection))
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

    Args:
        server: answers the requests.
        socket: the connection without TLS.
        those_open: it puts itself there, with its socket, for as long as that is open.
    """

    def __init__(
        self, server: web.RequestHandler, socket: asyncio.Transport, those_open: "dict[_Connection, asyncio.Transport]"
    ) -> None:
        self._server = server
        self._socket = socket
        self._those_open = those_open
        self._transport: asyncio.Transport | None = None
        self._early = b""
        self._last = b""
        self._unended = 0
        self._pauses = 0
        self._cut_off: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._transport = transport
        self._those_open[self] = self._socket
        self._server.connection_made(transport)
        self._socket.set_write_buffer_limits(0)  # so that whatever is not taken is a pause, and has its time
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
            self._socket.abort()

    def eof_received(self) -> None:
        self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._those_open.pop(self, None)
        if self._cut_off is not None:
            self._cut_off.cancel()
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        self._pauses += 1
        if self._pauses == 1:
            self._cut_off = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._socket.abort)
            self._server.pause_writing()

    def resume_writing(self) -> None:
        self._pauses -= 1
        if self._pauses == 0 and self._cut_off is not None:
            self._cut_off.cancel()
            self._server.resume_writing()


class _BelowTls(asyncio.BufferedProtocol):
    """Tells a connection of pauses of its socket, which TLS keeps to itself until it has buffered half a megabyte."""

    def __init__(self, tls: asyncio.BaseProtocol, connection: _Connection) -> None:
        assert isinstance(tls, asyncio.BufferedProtocol)  # noqa: S101 - as asyncio's is
        self._tls = tls
        self._connection = connection
        self.get_buffer, self.buffer_updated = tls.get_buffer, tls.buffer_updated  # type: ignore[method-assign]
        self.eof_received, self.connection_lost = tls.eof_received, tls.connection_lost  # type: ignore[method-assign]

    def pause_writing(self) -> None:
        self._tls.pause_writing()
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
        self._tls.resume_writing()
