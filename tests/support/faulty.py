"""A server that writes raw HTTP, so that it can break anywhere. It serves many accounts, each with its own fault."""

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from inkit_exporter.demo import JsonBatch, page_of

PAGE_SIZE: Final = 10


@dataclass
class Exchange:
    """One request, with ways to answer it."""

    writer: asyncio.StreamWriter
    token: str
    body: bytes
    foreign: str
    keep: bool = False

    async def send(self, data: bytes) -> None:
        """Write, and wait until the bytes are sent."""
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """Send a byte from time to time, for longer than any client waits."""
        for i in range(len(data)):
            await self.send(data[i : i + 1])
            await asyncio.sleep(0.1)

    def reset(self) -> None:
        """Reset the connection (RST)."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


Fault = Callable[[Exchange], Awaitable[None]]
"""Answers in its own way; when it returns, the connection is closed unless it is to be kept."""


def http(body: bytes, code: object = 200, **headers: object) -> bytes:
    """An answer with its length, or with these headers instead."""
    fields = {"Content-Length": len(body)} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"HTTP/1.1 {code} Word\r\n{lines}\r\n".encode() + body


@dataclass
class Account:
    """One account at the server: its batches, its fault, and the requests for it.

    The server calls `at_next_poll` when a poll begins, so that no poll sees half of a change.
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
        """The token belongs to this account only."""
        self.token = f"secret-{self.name}-token"

    def base_url(self, port: int, scheme: str = "http") -> str:
        """The account's base URL."""
        return f"{scheme}://127.0.0.1:{port}/{self.name}/v1"

    def worsen(self, batches: list[JsonBatch]) -> None:
        """From the next poll on, serve other batches, and the fault."""

        def worsened() -> None:
            self.batches, self.broken = batches, True

        self.at_next_poll = worsened


_REQUEST = re.compile(r"GET /([\w-]+)/v1/invoke/batch\?(\S*) HTTP/1\.1\r\n")


class Server:
    """Serves these accounts, each below a path of its name."""

    def __init__(self, accounts: Mapping[str, Account], foreign: str = "") -> None:
        self.accounts = accounts
        self.foreign = foreign
        self.connections = 0
        self.strange: list[str] = []

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
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
        body = json.dumps(page_of(account.batches, number, PAGE_SIZE)).encode()
        exchange = Exchange(writer, account.token, body, self.foreign)
        if account.broken and account.fault and account.place in (place, "any"):
            await account.fault(exchange)
            return exchange.keep
        await exchange.send(http(body))
        return True


@asynccontextmanager
async def listening(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Run the server on loopback; its connections end with the block."""
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
