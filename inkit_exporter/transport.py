"""HTTP for the client of any API: a session, the way there, bodies up to a limit, times in headers."""

import asyncio
import json
import os
import re
import socket
import ssl
import zlib
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from yarl import URL

from inkit_exporter import __version__
from inkit_exporter.egress import EgressSettings, authorities, find_proxy
from inkit_exporter.errors import ConfigError

PART_BYTES: Final = 2**18
"""The most bytes to decompress in one go, which takes at most 2 ms on a slow machine."""

_RECEIVED_AT_ONCE: Final = 2**16

# Of the body of an error. That is more than enough for 200 characters, and takes a few milliseconds.
_QUOTED_BYTES: Final = 2**15
_JSON_ESCAPE: Final = re.compile(r'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])')

MAX_RETRY_AFTER: Final = 300.0
"""Seconds. Rate limits count over shorter times, so a longer wait is a mistake."""


class BodyError(Exception):
    """A body that is too large, or can't be decompressed."""


class Way:
    """How to reach one address: directly, or through a proxy. Raises ConfigError if the proxy's address is invalid.

    Requests there need `proxy`, which has no user and password, and `proxy_headers`, which have them. `via` ends a
    sentence that names the address: the proxy, or nothing.
    """

    def __init__(self, url: URL, settings: EgressSettings, environ: Mapping[str, str] = os.environ) -> None:
        self._url = url
        self._ca_file = settings.ca_file
        proxy = find_proxy(url, settings, environ)
        self.proxy = proxy and proxy.with_user(None)
        self.via = f" through the proxy {self.proxy}" if self.proxy else ""
        self.proxy_headers: dict[str, str] = {}
        if proxy and (proxy.user or proxy.password):
            authorization = aiohttp.encode_basic_auth(proxy.user or "", proxy.password or "")
            self.proxy_headers["Proxy-Authorization"] = authorization

    def tls(self) -> ssl.SSLContext | bool:
        """The TLS settings of the next request. Raises ConfigError if the file of authorities can't be read."""
        return authorities(self._ca_file) if self._url.scheme == "https" else True

    def explain(self, error: Exception) -> str | None:
        """Say what is wrong with the connection or the proxy. Returns None for an error of another kind.

        The words come from the system, TLS or this module. Words of aiohttp may quote the server, which may repeat the
        token.
        """
        there = f"{self._url.host}:{self._url.port}{self.via}"
        words: str | None = None
        match error:
            case ConfigError():
                words = str(error)
            case aiohttp.ClientHttpProxyError(status=401 | 407 as status):  # tinyproxy answers 401 to a wrong password
                words = f"the proxy {self.proxy} wants other credentials ({status}); set them in HTTPS_PROXY"
            case aiohttp.ClientHttpProxyError():
                failed = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
                remedy = "look at its log" if failed else "allow the connection"
                words = f"cannot connect to {there}: it answered {error.status}; {remedy} there"
            case aiohttp.ClientResponseError() if error.request_info.method == "CONNECT":
                words = f"the server at {self.proxy} is not an HTTP proxy; check its address"
            case aiohttp.ClientProxyConnectionError():
                words = f"cannot connect to the proxy {self.proxy}: {error.strerror}"
            case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as cause):
                words = f"the certificate of {there} is not trusted: {cause.verify_message}; see api.ca_file"
            case aiohttp.ClientConnectorError():
                words = f"cannot connect to {there}: {error.strerror}"
            case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
                reason = f": {error}" if isinstance(error, OSError) and str(error) else ""
                words = f"the connection to {there} broke ({type(error).__name__}{reason})"
        return words


def open_session() -> aiohttp.ClientSession:
    """A session without cookies. It asks for no compression; `read_body` decompresses an answer if needed."""
    return aiohttp.ClientSession(
        # Each account uses at most one connection. With a common limit, some could hold up the others.
        connector=aiohttp.TCPConnector(limit=0, socket_factory=_open_socket),
        headers={
            "User-Agent": f"inkit-exporter/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


class _Socket(socket.socket):
    """Receives little at once. asyncio receives 256 KiB; in chunks of one byte, they block the loop for 50 ms."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        return super().recv(min(bufsize, _RECEIVED_AT_ONCE), flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return super().recv_into(buffer, min(nbytes or memoryview(buffer).nbytes, _RECEIVED_AT_ONCE), flags)


def _open_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    return _Socket(family, kind, protocol)


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes | bytearray:
    """The body of an answer, decompressed. Raises BodyError if it is larger than `limit` bytes or damaged."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if max(len(body), response.content_length or 0) > limit:
            response.close()
            raise BodyError(f"the answer is larger than max_response_size ({limit} bytes)")
    return await decompress(body, response.headers.get("Content-Encoding", ""), limit)


async def decompress(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """Decompress a body as its `Content-Encoding` and first byte say. Other tasks may run meanwhile.

    Raises:
        BodyError: it is neither gzip nor deflate, is damaged or cut short, or has more than `limit` bytes.
    """
    if (encoding := encoding.lower()) not in ("", "identity", "gzip", "x-gzip", "deflate"):
        name = encoding if len(encoding) <= len("gzip, gzip") else "something"  # a longer one could be the token
        raise BodyError(f"the answer is compressed as {name}; only gzip and deflate can be read")
    gzip = body[:1] == b"\x1f"  # even where no header says so: neither JSON nor deflate begins with it
    if not (gzip or (encoding == "deflate" and body)):
        return body
    # Either finds out which header there is, except that deflate may lack zlib's, against the documentation.
    raw = not gzip and body[0] & 0x0F != zlib.DEFLATED
    bits = -zlib.MAX_WBITS if raw else 32 + zlib.MAX_WBITS
    inflater, decompressed = zlib.decompressobj(bits), bytearray()
    try:
        for start in range(0, len(body), PART_BYTES):
            rest = bytes(body[start : start + PART_BYTES])
            while rest:
                if inflater.eof and not (gzip and rest.startswith(b"\x1f")):
                    return decompressed  # the rest is no data
                if inflater.eof:  # gzip may have several members (RFC 1952, 2.2)
                    inflater = zlib.decompressobj(bits)
                decompressed += inflater.decompress(rest, PART_BYTES)
                rest = inflater.unused_data or inflater.unconsumed_tail
                if len(decompressed) > limit:
                    raise BodyError(f"the decompressed answer is larger than max_response_size ({limit} bytes)")
                await asyncio.sleep(0)
        decompressed += inflater.flush()
    except zlib.error as error:
        raise BodyError(f"the answer's compressed data are damaged ({error})") from None
    if not inflater.eof:
        raise BodyError("the answer's compressed data are cut short")
    return decompressed


def quote(body: bytes | bytearray, secret: str) -> str:
    """What the body of an error says, in at most 200 printable characters, with asterisks for the secret."""
    text = body[:_QUOTED_BYTES].decode("utf-8", "replace").replace(secret, "***")
    text = _JSON_ESCAPE.sub(lambda escape: json.loads(f'"{escape[0]}"'), text).replace(secret, "***")
    if len(body) > _QUOTED_BYTES:
        text = text[: -len(secret) - len(r"\u123")]  # where the secret may be cut, and an escape in it
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:200]


def parse_retry_after(value: str, now: float) -> float | None:
    """How many seconds to wait, by either form of `Retry-After` (RFC 9110, 10.2.3); None if it has neither form.

    Also None beyond `MAX_RETRY_AFTER`: such a value is probably a time stamp or in milliseconds.
    """
    if re.fullmatch(r"(?a)\s*\d+(\.\d*)?\s*", value):
        seconds = float(value)
    elif (date := parse_date(value)) is not None:
        seconds = max(0.0, date - now)
    else:
        return None
    return seconds if seconds <= MAX_RETRY_AFTER else None


def parse_date(text: str) -> float | None:
    """A date in a header (RFC 9110, 5.6.7) in seconds since the epoch; None if it is not a date."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
