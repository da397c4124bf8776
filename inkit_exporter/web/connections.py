"""The connections of clients: how many there may be, and which ones the server closes."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import web

from inkit_exporter.web import limits
from inkit_exporter.web.tls import TlsTransport

GetContext = Callable[[], ssl.SSLContext]
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
        self.ssl_context = ssl_context
        # A socket counts until it is closed. For aiohttp, a connection ends when it begins to close, long before.
        self._handshakes: _Sockets = {}
        self._established: _Sockets = {}

    def make(self) -> asyncio.BaseProtocol:
        """Make the protocol of the next connection."""
        return _Connection(self._server(), self)

    def close(self) -> None:
        """Abort the handshakes. The server closes the established connections."""
        for socket in list(self._handshakes):
            socket.abort()

    def accept(self, socket: asyncio.Transport) -> None:
        """Count a new connection."""
        _add(socket, self._handshakes, min(self._max_connections, limits.MAX_HANDSHAKES))

    def establish(self, socket: asyncio.Transport) -> None:
        """Count a connection whose client may send requests now."""
        del self._handshakes[socket]
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
# allocate 256 KiB for each read. aiohttp keeps what is read beyond the requests that it queues, so it is small.
_BUFFER: Final = memoryview(bytearray(2**14))


class _Connection(asyncio.BufferedProtocol):
    """Passes requests to aiohttp. It closes connections whose client never ends a request or does not read an answer.

    aiohttp limits the size of each header, but hardly the size of all headers together.
    """

    _socket: asyncio.Transport
    _transport: asyncio.Transport  # the socket or its TLS, once established
    _timeout: asyncio.TimerHandle

    def __init__(self, server: web.RequestHandler, connections: Connections) -> None:
        self._server = server
        self._connections = connections
        self._tls: TlsTransport | None = None
        self._unfinished = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._socket = transport
        self._connections.accept(transport)
        self._abort_after(limits.HANDSHAKE_TIMEOUT_SECONDS)
        if self._connections.ssl_context is None:
            self._establish(transport)

    def _establish(self, transport: asyncio.Transport) -> None:
        self._timeout.cancel()
        self._connections.establish(self._socket)
        self._transport = transport
        self._server.connection_made(transport)
        self._socket.set_write_buffer_limits(0)  # so every byte that the client does not read starts the timeout

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(_BUFFER[:nbytes])
        if self._connections.ssl_context is None:
            self._receive(data)
            return
        if self._tls is None:
            self._tls = TlsTransport(self._socket, self._connections.ssl_context())
        for text in self._tls.decrypt(data):
            if text:
                self._receive(text)
            else:
                self._establish(self._tls)

    def _receive(self, data: bytes) -> None:
        *requests, self._unfinished = (self._unfinished + data).split(b"\r\n\r\n")
        if max(map(len, (*requests, self._unfinished))) <= limits.MAX_REQUEST_BYTES:
            self._server.data_received(data)
        else:
            self._transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
            self._socket.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timeout.cancel()
        self._connections.forget(self._socket)
        self._server.connection_lost(exc)

    def pause_writing(self) -> None:
        self._abort_after(limits.ANSWER_TIMEOUT_SECONDS)
        self._server.pause_writing()

    def resume_writing(self) -> None:
        self._timeout.cancel()
        self._server.resume_writing()

    def _abort_after(self, seconds: float) -> None:
        self._timeout = asyncio.get_running_loop().call_later(seconds, self._socket.abort)
