"""Everything that may be wrong with an answer of the API, and the reason that the exporter must give."""

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping
from typing import Final

from support.faulty import Exchange, Fault, http


def says(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this and close."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))

    return fault


def answers(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this whole answer, and keep the connection."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))
        exchange.keep = True

    return fault


def hangs(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this and nothing more."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))
        await asyncio.Event().wait()

    return fault


def resets(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this and reset the connection."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))
        exchange.reset()

    return fault


def drips(make: Callable[[Exchange], tuple[bytes, bytes]]) -> Fault:
    """Send the first part at once and the second byte by byte."""

    async def fault(exchange: Exchange) -> None:
        first, second = make(exchange)
        await exchange.send(first)
        await exchange.drip(second)

    return fault


async def floods_with_interim_answers(exchange: Exchange) -> None:
    """Send `100 Continue` without end."""
    while True:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await asyncio.sleep(0.01)


def altered(body: bytes, **changes: object) -> bytes:
    """A page with other values of these keys. None removes a key."""
    document = json.loads(body) | changes
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def status(code: int, **headers: object) -> Fault:
    """An answer with this status."""
    return answers(lambda _: http(b'{"detail": "no"}', code, **headers))


def text(body: bytes, **headers: object) -> Fault:
    """An answer with status 200 and this body."""
    return answers(lambda _: http(body, **headers))


BOMB: Final = gzip.compress(b" " * 2**24)
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

FAULTS: Final[Mapping[str, tuple[str, Fault]]] = {
    "hang-before-headers": ("timeout", hangs(lambda _: b"")),
    "hang-inside-headers": ("timeout", hangs(lambda _: b"HTTP/1.1 200 OK\r\nContent-Le")),
    "hang-before-body": ("timeout", hangs(lambda x: http(x.body)[: -len(x.body)])),
    "hang-inside-body": ("timeout", hangs(lambda x: http(x.body)[:-9])),
    "hang-inside-chunks": ("timeout", hangs(lambda x: CHUNKED + b'5\r\n{"ite\r\n')),
    "drip-headers": ("timeout", drips(lambda x: (b"", http(x.body)))),
    "drip-body": ("timeout", drips(lambda x: (http(x.body)[: -len(x.body)], x.body))),
    "interim-answers": ("timeout", floods_with_interim_answers),
    "close-at-once": ("connection", says(lambda _: b"")),
    "cut-inside-headers": ("connection", says(lambda x: b"HTTP/1.1 200 OK\r\nEcho: " + x.token.encode() + b"\r\nA: b")),
    "cut-inside-body": ("connection", says(lambda x: http(x.body)[:-9])),
    "cut-inside-chunks": ("connection", says(lambda x: CHUNKED + b'5\r\n{"ite\r\n')),
    "reset-at-once": ("connection", resets(lambda _: b"")),
    "reset-inside-headers": ("connection", resets(lambda _: b"HTTP/1.1 200 OK\r\nContent-Le")),
    "reset-inside-body": ("connection", resets(lambda x: http(x.body)[:-9])),
    "chunk-echoes-token": ("bad_response", says(lambda x: CHUNKED + x.token.encode() + b"\r\n\r\n")),
    "garbage": ("bad_response", says(lambda x: b"\x00\xff\x16\x03 " + x.token.encode() + b"\r\n\r\n")),
    "another-protocol": ("bad_response", says(lambda x: b"SSH-2.0-" + x.token.encode() + b"\r\n\r\n")),
    "status-is-no-number": ("bad_response", says(lambda x: http(x.body, "2OO"))),
    "two-lengths": ("bad_response", says(lambda x: http(x.body, content_length=1))),
    "endless-header": ("bad_response", hangs(lambda _: b"HTTP/1.1 200 OK\r\nX-Fill: " + b"x" * 1_000_000)),
    "long-header": ("bad_response", says(lambda x: http(x.body, x=x.token * 9000))),
    "twice": ("bad_response", says(lambda x: http(b"{}") + http(b'{"items": []}'))),
    "gzip-damaged": ("bad_response", answers(lambda x: http(gzip.compress(x.body)[:30] + x.body))),
    "gzip-cut-short": ("bad_response", answers(lambda x: http(gzip.compress(x.body)[:-9], content_encoding="gzip"))),
    "gzip-bomb": ("bad_response", answers(lambda _: http(BOMB, content_encoding="gzip"))),
    "deflate-is-not": ("bad_response", answers(lambda x: http(x.body, content_encoding="deflate"))),
    "brotli": ("bad_response", answers(lambda x: http(x.body, content_encoding="br"))),
    "encoded-as-token": ("bad_response", answers(lambda x: http(x.body, content_encoding=x.token))),
    "date-of-long-ago": ("bad_response", answers(lambda x: http(x.body, date="Sat, 01 Aug 2015 00:00:00 GMT"))),
    "too-large": ("bad_response", says(lambda x: http(x.body + b" " * 200_000))),
    "too-large-in-chunks": ("bad_response", hangs(lambda _: CHUNKED + b"30d40\r\n" + b" " * 200_000)),
    "claims-too-large": ("bad_response", hangs(lambda x: http(b"", content_length=10**15))),
    "empty": ("bad_response", text(b"")),
    "204": ("bad_response", status(204)),
    "half-json": ("bad_response", answers(lambda x: http(x.body[: len(x.body) // 2]))),
    "not-utf-8": ("bad_response", answers(lambda x: http(x.body.replace(b"fb_", b"\xff\xfe_")))),
    "html": ("bad_response", text(b"<!doctype html><title>Sign in</title>")),
    "array": ("bad_response", text(b"[]")),
    "null": ("bad_response", text(b"null")),
    "string": ("bad_response", answers(lambda x: http(json.dumps(x.token).encode()))),
    "deep": ("bad_response", text(b"[" * 90_000)),
    "other-shape": ("bad_response", text(b'{"data": {"items": []}, "id": 7}')),
    "redirect": ("bad_response", answers(lambda x: http(b"", 302, location=x.foreign))),
    "redirect-permanent": ("bad_response", answers(lambda x: http(b"", 308, location=x.foreign))),
    "refresh": (
        "bad_response",
        answers(lambda x: http(b"", 200, refresh=f"0; url={x.foreign}", link=f"<{x.foreign}>")),
    ),
    "400": ("bad_response", status(400)),
    "401": ("auth", status(401)),
    "403": ("auth", status(403)),
    "404": ("bad_response", status(404)),
    "418": ("bad_response", status(418)),
    "422": ("bad_response", status(422)),
    "429": ("rate_limited", status(429)),
    "429-seconds": ("rate_limited", status(429, retry_after=1)),
    "429-nonsense": ("rate_limited", status(429, retry_after="soon")),
    "500": ("server_error", status(500)),
    "502": ("server_error", status(502)),
    "503-html": ("server_error", answers(lambda _: http(b"<html>maintenance</html>", 503))),
    "503-seconds": ("server_error", status(503, retry_after=1)),
    "504": ("server_error", status(504)),
    "no-items": ("bad_response", answers(lambda x: http(x.body.replace(b'"items"', b'"item"')))),
    "items-are-no-list": ("bad_response", answers(lambda x: http(altered(x.body, items={})))),
    "records-of-another-shape": ("bad_response", answers(lambda x: http(x.body.replace(b"created_at", b"created")))),
}
"""By name, the reason in `inkit_poll_failures_total` and the answer. At most 100 kB may be taken for an answer."""
