"""TLS for one connection, between its socket and the server.

asyncio's own TLS has three flaws here. It needs 256 KiB for each connection. It buffers half a megabyte before it
reports that a client does not read. It closes a refused connection without the alert that says why.
"""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_HTTP_METHODS: Final = (b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO")
"""The first bytes by which Go's server, and so exporter-toolkit, recognizes plain HTTP."""
_NOT_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This port speaks TLS: ask by https.\n"
)
_INTERNAL_ERROR: Final = b"\x15\x03\x03\x00\x02\x02\x50"
"""A fatal alert before the handshake, in plain text (RFC 8446, 6.2)."""
_RECORD_BYTES: Final = 2**14


class TlsTransport(asyncio.Transport):
    """Encrypts what the server writes, and decrypts what the client sends. Without a context, it refuses the client."""

    def __init__(self, socket: asyncio.Transport, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._established = False
        self._socket = socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True) if context else None
        self._first_bytes = b""

    def feed(self, data: bytes) -> bool:
        """Take the client's next bytes. Returns whether the handshake is done. Sends an alert if it fails."""
        if not self._established and self._refuse(data):
            return False
        assert self._ssl is not None  # noqa: S101 - or the client would have been refused
        self._incoming.write(data)
        with self._answering():
            if not self._established:
                self._ssl.do_handshake()
                self._established = True
        return self._established

    def texts(self) -> Iterator[bytes]:
        """Decrypt what the client sent, in parts."""
        with self._answering():
            while self._ssl is not None and not self.is_closing():
                if not (text := self._ssl.read(_RECORD_BYTES)):
                    self.close()  # because the client did
                    break
                yield text

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send bytes."""
        if data and self._ssl is not None and not self.is_closing():
            with self._answering():
                self._ssl.write(data)

    def close(self) -> None:
        """Send what is left, alerts included, and close."""
        if self._ssl is not None and not self.is_closing():
            with suppress(ssl.SSLError):  # the client has not said goodbye yet, or the handshake failed
                self._ssl.unwrap()
            self._flush()
        self._socket.close()

    def abort(self) -> None:
        """Close at once."""
        self._socket.abort()

    def is_closing(self) -> bool:
        """Whether nothing more is read or written."""
        return self._socket.is_closing()

    def pause_reading(self) -> None:
        """Stop reading."""
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._socket.resume_reading()

    def get_write_buffer_size(self) -> int:
        """How many encrypted bytes the system has not taken yet."""
        return self._socket.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Information about the connection, as of other transports."""
        if name == "sslcontext" and self._ssl is not None:
            return self._ssl.context
        return self._socket.get_extra_info(name, default)

    def _refuse(self, data: bytes) -> bool:
        """Refuse a client that speaks plain HTTP, or any client if there is no context. Returns whether it did."""
        if self.is_closing():
            return True
        self._first_bytes = (self._first_bytes + data)[: len(_HTTP_METHODS[0])]
        is_http = self._first_bytes.startswith(_HTTP_METHODS)
        if is_http or self._ssl is None:
            self._socket.write(_NOT_TLS if is_http else _INTERNAL_ERROR)
            self._socket.close()
            return True
        return False

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Send what TLS answers to the client's bytes. If they break its rules, close."""
        try:
            yield
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.close()
        self._flush()

    def _flush(self) -> None:
        if encrypted := self._outgoing.read():
            self._socket.write(encrypted)
