"""TLS for one connection, between its socket and the server.

asyncio's own TLS has three flaws here. It needs 256 KiB for each connection. It buffers half a megabyte before it
reports that a client does not read. It closes a refused connection without the alert that says why.
"""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_NOT_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"This port speaks TLS: ask by https.\n"
)
_RECORD_BYTES: Final = 2**14


class TlsTransport(asyncio.Transport):
    """Encrypts what the server writes, and decrypts what the client sends. `socket` is the transport below TLS."""

    def __init__(self, socket: asyncio.Transport, context: ssl.SSLContext) -> None:
        super().__init__()
        self._socket = socket
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._established = False

    def decrypt(self, data: bytes) -> Iterator[bytes]:
        """Decrypt the client's next bytes, in parts. An empty part says that the handshake is done."""
        self._incoming.write(data)
        with self._answering():
            if not self._established:
                self._ssl.do_handshake()
                self._established = True
                yield b""
            while not self.is_closing():
                if not (text := self._ssl.read(_RECORD_BYTES)):
                    self.close()  # because the client did
                    break
                yield text

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send bytes."""
        if data and not self.is_closing():
            with self._answering():
                self._ssl.write(data)

    def close(self) -> None:
        """Send what is left, alerts included, and close."""
        if not self.is_closing():
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

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Information about the connection, as of other transports."""
        return self._socket.get_extra_info(name, default)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Send what TLS answers to the client's bytes. If they break its rules, close."""
        try:
            yield
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if getattr(error, "reason", "") == "HTTP_REQUEST":  # only OpenSSL's errors have a reason
                self._socket.write(_NOT_TLS)
            self.close()
        self._flush()

    def _flush(self) -> None:
        if encrypted := self._outgoing.read():
            self._socket.write(encrypted)
