"""A server that speaks HTTP by hand, so that it can break it anywhere; many accounts, each with a fault of its own."""

import asyncio
import gzip
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from inkit_exporter.demo import JsonBatch

PAGE_SIZE: Final = 10


@dataclass
class Exchange:
    """One request, and how to answer it."""

    writer: asyncio.StreamWriter
    token: str
    body: bytes
    foreign: str
    keep: bool = False

    async def send(self, data: bytes) -> None:
        """Write, and wait until it is on its way."""
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """A byte now and then, for longer than anybody waits."""
        for i in range(len(data)):
            await self.send(data[i : i + 1])
            await asyncio.sleep(0.1)

    def reset(self) -> None:
        """Drop the connection without a farewell (RST)."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Fault = Callable[[Exchange], Awaitable[None]]
"""Answers in its own way; when it returns, the connection is closed unless it is to be kept."""


def http(body: bytes, code: object = 200, **headers: object) -> bytes:
    """An answer with its length, or with the headers given instead."""
    fields = {"Content-Length": len(body)} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {code} Word\r\n{lines}\r\n".encode() + body


def says(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this, and close."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))

    return fault


def answers(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this, a whole answer, and keep the connection."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))
        exchange.keep = True

    return fault


def hangs(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this, and nothing more."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))
        await asyncio.Event().wait()

    return fault


def resets(make: Callable[[Exchange], bytes]) -> Fault:
    """Send this, and drop the connection."""

    async def fault(exchange: Exchange) -> None:
        await exchange.send(make(exchange))
        exchange.reset()

    return fault


def drips(make: Callable[[Exchange], tuple[bytes, bytes]]) -> Fault:
    """Send the first at once, and the second byte by byte."""

    async def fault(exchange: Exchange) -> None:
        first, second = make(exchange)
        await exchange.send(first)
        await exchange.drip(second)

    return fault


async def floods_with_interim_answers(exchange: Exchange) -> None:
    """`100 Continue` for ever."""
    while True:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await asyncio.sleep(0.01)


def changed(body: bytes, **changes: object) -> bytes:
    """A page with another pagination, or another batch; bytes that are none of both as they are."""
    document = json.loads(body)
    if "metadata" in document:
        document["metadata"]["pagination"] |= changes
    return json.dumps(document).encode()


def status(code: int, **headers: object) -> Fault:
    """An answer of this status."""
    return answers(lambda _: http(b'{"detail": "no"}', code, **headers))


def text(body: bytes, **headers: object) -> Fault:
    """An answer of status 200 with this body."""
    return answers(lambda _: http(body, **headers))


@dataclass
class Account:
    """One account at the server: what it has, the place of its fault, and what was asked in its name.

    `at_next_poll` is called when a poll begins, so that no poll sees half of a change.
    """

    name: str
    place: str
    fault: Fault | None
    batches: list[JsonBatch] = field(default_factory=list)
    broken: bool = False
    at_next_poll: Callable[[], None] | None = None
    requests: int = 0
    token: str = ""

    def __post_init__(self) -> None:
        """Its token is of this account and no other."""
        self.token = f"secret-{self.name}-token"

    def worsen(self, batches: list[JsonBatch]) -> None:
        """From the next poll on there are other batches, and the fault."""

        def worsened() -> None:
            self.batches, self.broken = batches, True

        self.at_next_poll = worsened


_REQUEST = re.compile(r"GET /([\w-]+)/v1/invoke/batch\?(\S*) HTTP/1\.1\r\n")


class Server:
    """Serves the accounts given, each below a path of its own name."""

    def __init__(self, accounts: Mapping[str, Account], foreign: str = "") -> None:
        self.accounts = accounts
        self.foreign = foreign
        self.connections = 0
        self.strange: list[str] = []

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        self.connections += 1
        try:
            while match := _REQUEST.match(head := (await reader.readuntil(b"\r\n\r\n")).decode()):
                if not await self._answer(self.accounts[match[1]], writer, head, match):
                    return
            self.strange.append(head)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def _answer(self, account: Account, writer: asyncio.StreamWriter, head: str, match: re.Match[str]) -> bool:
        account.requests += 1
        if f"X-Inkit-API-Token: {account.token}\r\n" not in head:
            if "X-Inkit-API-Token: another-one\r\n" not in head:
                self.strange.append(head)
            await Exchange(writer, "", b"", "").send(http(b"", 401))
            return True
        number = int(dict(part.split("=") for part in match[2].split("&"))["page"])
        place = {1: "first", 2: "second"}.get(number, "third")
        if place == "first" and account.at_next_poll:
            account.at_next_poll()
            account.at_next_poll = None
        body = page(account.batches, number)
        exchange = Exchange(writer, account.token, body, self.foreign)
        if account.broken and account.fault and account.place in (place, "any"):
            await account.fault(exchange)
            return exchange.keep
        await exchange.send(http(body))
        return True


def page(batches: list[JsonBatch], number: int) -> bytes:
    """A page as the API documents it."""
    first, last = (number - 1) * PAGE_SIZE, number * PAGE_SIZE
    pagination: dict[str, Any] = {
        "current_page": number,
        "next_page": number + 1 if last < len(batches) else None,
        "page_count": -(-len(batches) // PAGE_SIZE),
        "page_size": PAGE_SIZE,
        "prev_page": number - 1 or None,
        "total_count": len(batches),
    }
    return json.dumps({"items": batches[first:last], "metadata": {"pagination": pagination, "sort": {}}}).encode()


@asynccontextmanager
async def listening(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server on loopback; its connections end with it."""
    tasks = set()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await converse(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", port, ssl=tls, backlog=500)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
    "long-header": ("bad_response", says(lambda x: http(x.body, x=x.token * 9000))),
    "twice": ("bad_response", says(lambda x: http(b"{}") + http(b'{"items": []}'))),
    "gzip-unasked": ("bad_response", answers(lambda x: http(gzip.compress(x.body), content_encoding="gzip"))),
    "too-large": ("bad_response", says(lambda x: http(x.body + b" " * 200_000))),
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
    "503-seconds": ("server_error", status(503, retry_after=1)),
    "504": ("server_error", status(504)),
}
"""Each with the kind that it is told as, wherever a page is asked for."""

PAGE_FAULTS: Final[Mapping[str, tuple[str, Fault]]] = {
    "no-items": ("bad_response", answers(lambda x: http(x.body.replace(b'"items"', b'"item"')))),
    "records-of-another-shape": ("bad_response", answers(lambda x: http(x.body.replace(b"created_at", b"created")))),
    "page-size-0": ("bad_response", answers(lambda x: http(changed(x.body, page_size=0)))),
    "next-page-is-text": ("bad_response", answers(lambda x: http(changed(x.body, next_page="2")))),
    "page-size-beyond-all": ("bad_response", answers(lambda x: http(changed(x.body, page_size=10**400)))),
    "total-beyond-all": ("bad_response", answers(lambda x: http(changed(x.body, total_count=10**400)))),
}
"""Of pages only."""
