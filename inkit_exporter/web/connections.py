"""The connections of clients: how many there may be, and which ones the server closes."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import web

from inkit_exporter.web import limits
from inkit_exporter.web.tls import TlsTransport

log = structlog.get_logger()

GetContext = Callable[[], ssl.SSLContext | None]
_Sockets = dict[asyncio.Transport, None]
"""A set of sockets, oldest first. A socket is the transport below TLS."""


class Connections:
    """Makes the connections of a server. If there are too many, it closes the oldest.

    So clients that keep connections open can't block a scrape or a probe. TLS handshakes have their own limit, so that
    idle connections can't block new ones. `max_connections` and `ssl_context` are those of `server.serve`.
    """

    def __init__(self, server: web.Server, max_connections: int, ssl_context: GetContext | None) -> None:
        self._server = server
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._closed = False
        # A socket counts until it is closed. For aiohttp, a connection ends when it begins to close, long before.
        self._handshakes: _Sockets = {}
        self._established: _Sockets = {}

    def make(self) -> asyncio.BaseProtocol:
        """Make the protocol of the next connection."""
        return _Connection(self._server(), self)

    def close(self) -> None:
        """Abort the handshakes and refuse new connections. The server closes the established ones."""
        self._closed = True
        for socket in list(self._handshakes):
            socket.abort()

    def accept(self, socket: asyncio.Transport) -> TlsTransport | None:
        """Count a new connection. Returns its TLS transport, or None without TLS."""
        if self._closed:
            socket.abort()
        if self._ssl_context is None:
            self.establish(socket)
            return None
        _add(socket, self._handshakes, min(self._max_connections, limits.MAX_HANDSHAKES))
        return TlsTransport(socket, self._ssl_context())

    def establish(self, socket: asyncio.Transport) -> None:
        """Count a connection whose client may send requests now."""
        self._handshakes.pop(socket, None)
        _add(socket, self._established, self._max_connections)

    def forget(self, socket: asyncio.Transport) -> None:
        """Forget a socket that has been closed."""
        self._handshakes.pop(socket, None)
        self._established.pop(socket, None)


def _add(socket: asyncio.Transport, sockets: _Sockets, limit: int) -> None:
    """Add a socket. If there are more than the limit, close the oldest. 0 means no limit."""
    if limit:
        for oldest in list(sockets)[: max(0, len(sockets) + 1 - limit)]:
            oldest.abort()
    sockets[socket] = None


# All connections read into this buffer: asyncio passes on the bytes before it reads again. Without it, asyncio would
# allocate 256 KiB for each read.
_BUFFER: Final = memoryview(bytearray(2**16))


class _Connection(asyncio.BufferedProtocol):
    """Passes requests to aiohttp. It closes connections whose client never ends a request or does not read an answer.

    aiohttp limits the size of each header, but hardly the size of all headers together.
    """

    _socket: asyncio.Transport

    def __init__(self, server: web.RequestHandler, connections: Connections) -> None:
        self._server = server
        self._connections = connections
        self._tls: TlsTransport | None = None
        self._transport: asyncio.Transport | None = None  # the socket or its TLS, once established
        self._last_bytes = b""
        self._request_bytes = 0
        self._handshake_timeout: asyncio.TimerHandle | None = None
        self._answer_timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._socket = transport
        self._socket.set_write_buffer_limits(0)  # so every byte that the client does not read starts the timeout
        try:
            self._tls = self._connections.accept(transport)
        except Exception:  # a connection that fails must not end the others
            log.exception("TLS handshake failed")
            self._socket.abort()
            return
        if self._tls is None:
            self._begin(transport)
        else:
            self._handshake_timeout = self._abort_after(limits.HANDSHAKE_TIMEOUT_SECONDS)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(_BUFFER[:nbytes])
        if self._tls is None:
            self._receive(data)
        elif self._tls.feed(data):
            if self._transport is None:
                self._connections.establish(self._socket)
                self._begin(self._tls)
            for text in self._tls.texts():
                self._receive(text)

    def _begin(self, transport: asyncio.Transport) -> None:
        """Pass on requests from now on."""
        if self._handshake_timeout is not None:
            self._handshake_timeout.cancel()
        self._transport = transport
        self._server.connection_made(transport)

    def _receive(self, data: bytes) -> None:
        received = self._last_bytes + data
        first, end, _ = received.partition(b"\r\n\r\n")
        size = self._request_bytes + len(first if end else data)
        rest = received.rpartition(b"\r\n\r\n")[2]
        self._request_bytes = len(rest) if end else size
        self._last_bytes = rest[-3:]
        if size <= limits.MAX_REQUEST_BYTES:
            self._server.data_received(data)
        elif self._transport is not None:
            self._transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
            self._socket.abort()

    def eof_received(self) -> None:
        self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.forget(self._socket)
        for timeout in (self._handshake_timeout, self._answer_timeout):
            if timeout is not None:
                timeout.cancel()
        if self._transport is not None:
            self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        self._answer_timeout = self._abort_after(limits.ANSWER_TIMEOUT_SECONDS)
        self._server.pause_writing()

    def resume_writing(self) -> None:
        if self._answer_timeout is not None:
            self._answer_timeout.cancel()
        self._server.resume_writing()

    def _abort_after(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._socket.abort)
