"""The connections of clients: how many there may be, and which are cut off."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from inkit_exporter.web import limits

log = structlog.get_logger()


GetContext = Callable[[], ssl.SSLContext | None]


class Connections:
    """Makes the connections of a server, and aborts the oldest when there are too many.

    So clients that hold on to their connections cannot keep out a scrape or a probe. TLS handshakes count, and end when
    the connections are closed. `max_connections` and `ssl_context` are as for `server.serve`.
    """

    def __init__(
        self, server: web.Server, tasks: asyncio.TaskGroup, max_connections: int, ssl_context: GetContext | None
    ) -> None:
        self._server = server
        self._tasks = tasks
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._closed = False
        self._handshakes = _Sockets()
        # Until the socket is closed. For aiohttp, a connection is gone when its closing begins, which may take long.
        self.open = _Sockets()

    def make(self) -> asyncio.BaseProtocol:
        """The protocol of the next connection."""
        return _Connection(self._server(), self)

    def close(self) -> None:
        """Abort the handshakes and refuse further connections. The server ends those that are open."""
        self._closed = True
        for socket in self._handshakes:
            socket.abort()

    def accept(self, connection: "_Connection", socket: asyncio.Transport) -> None:
        """Let a new connection begin, once there is room and the TLS handshake is done."""
        if self._closed:
            socket.abort()
            return
        if self._max_connections:
            # Handshakes first: with a well-behaved client, one takes milliseconds.
            oldest_first = [*self._handshakes, *self.open]
            for oldest in oldest_first[: max(0, len(oldest_first) + 1 - self._max_connections)]:
                oldest.abort()
        if self._ssl_context is None:
            connection.begin(socket)
        else:
            socket.pause_reading()  # until the handshake begins
            self._handshakes[socket] = None
            self._tasks.create_task(self._shake_hands(socket, connection, self._ssl_context))

    async def _shake_hands(self, socket: asyncio.Transport, connection: "_Connection", ssl_context: GetContext) -> None:
        timeout = limits.HANDSHAKE_TIMEOUT_SECONDS
        try:
            if (context := ssl_context()) is None:
                raise ConnectionRefusedError
            tls = await asyncio.get_running_loop().start_tls(
                socket, connection, context, server_side=True, ssl_handshake_timeout=timeout
            )
            if tls is not None and not tls.is_closing():
                socket.set_protocol(_TlsBackpressure(socket.get_protocol(), connection))
                connection.begin(tls)
        except Exception as error:  # whatever it is, it must not reach the task group, which would end the server
            socket.abort()
            if not isinstance(error, OSError):  # which is the client's doing
                log.exception("TLS handshake failed")
        finally:
            del self._handshakes[socket]


_Sockets = dict[asyncio.Transport, None]
"""A set of sockets, the oldest first. A socket is the transport of a connection without TLS."""


# All connections read into the same buffer, as asyncio passes on what it has read at once. Without it, asyncio would
# allocate 256 KiB for each read.
_BUFFER: Final = memoryview(bytearray(2**16))


class _Connection(asyncio.BufferedProtocol):
    """Passes on requests to aiohttp, and cuts off clients that do not end a request or do not read an answer.

    aiohttp limits the size of each header, but hardly that of all headers.
    """

    _socket: asyncio.Transport

    def __init__(self, server: web.RequestHandler, connections: Connections) -> None:
        self._server = server
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._early_data = b""
        self._last_bytes = b""
        self._request_bytes = 0
        self._pauses = 0
        self._answer_timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._socket = transport
        self._connections.accept(self, transport)

    def begin(self, transport: asyncio.Transport) -> None:
        """Pass on requests from now on. The transport is the socket, or TLS on top of it."""
        self._transport = transport
        self._connections.open[self._socket] = None
        self._server.connection_made(transport)
        self._socket.set_write_buffer_limits(0)  # whatever the client does not take at once is a pause, with a timeout
        if self._early_data:
            self._receive(self._early_data)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(bytes(_BUFFER[:nbytes]))

    def _receive(self, data: bytes) -> None:
        if self._transport is None:  # it came together with the end of the handshake
            self._early_data += data
            return
        _, end, rest = (self._last_bytes + data).rpartition(b"\r\n\r\n")
        self._request_bytes = len(rest) if end else self._request_bytes + len(data)
        self._last_bytes = rest[-3:]
        if self._request_bytes <= limits.MAX_REQUEST_BYTES:
            self._server.data_received(data)
        else:
            self._transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
            self._socket.abort()

    def eof_received(self) -> None:
        self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.open.pop(self._socket, None)
        if self._answer_timeout is not None:
            self._answer_timeout.cancel()
        if self._transport is not None:
            self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        self._pauses += 1
        if self._pauses == 1:
            loop = asyncio.get_running_loop()
            self._answer_timeout = loop.call_later(limits.ANSWER_TIMEOUT_SECONDS, self._socket.abort)
            self._server.pause_writing()

    def resume_writing(self) -> None:
        self._pauses -= 1
        if self._pauses == 0 and self._answer_timeout is not None:
            self._answer_timeout.cancel()
            self._server.resume_writing()


class _TlsBackpressure(asyncio.BufferedProtocol):
    """Tells a connection when its socket pauses. asyncio's TLS does not, until it has buffered half a megabyte."""

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
