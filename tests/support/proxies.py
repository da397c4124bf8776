"""Proxies between the exporter and a simulated API that speaks TLS: a real one, and some that misbehave."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trustme

from support import PATIENCE_SECONDS
from support.api import TOKEN, batch
from support.connections import free_address
from support.faulty import Account, Server, listening

HOST = "0.0.0.0"
BATCHES = [batch("fb_1", destinations={"box": (1, 2, 0)})]


def speaking(ca: trustme.CA, *hosts: str) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate for these hosts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*hosts).configure_cert(context)
    return context


@asynccontextmanager
async def secure_api(ca: trustme.CA, host: str = HOST) -> AsyncIterator[tuple[Account, Server, str]]:
    """An account at an API over TLS, the server, and the base URL. Every strange request fails the test."""
    account = Account("default", "", None, BATCHES)
    account.token = TOKEN
    server = Server({"default": account})
    async with listening(server.converse, tls=speaking(ca, host)) as port:
        yield account, server, account.base_url(port, "https").replace("127.0.0.1", host)
    assert not server.strange


@asynccontextmanager
async def tinyproxy(folder: Path, *settings: str) -> AsyncIterator[tuple[str, Path]]:
    """A real proxy; yields its `host:port` and its log."""
    log, config = folder / "tinyproxy.log", folder / "tinyproxy.conf"
    with free_address() as address:
        host, _, port = address.rpartition(":")
        lines = f"Listen {host}", f"Port {port}", f'LogFile "{log}"', "LogLevel Info", *settings, ""
        config.write_text("\n".join(lines))
        process = await asyncio.create_subprocess_exec("tinyproxy", "-d", "-c", str(config))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await _listens(host, int(port)):
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.02)
            yield address, log
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def answering(answer: bytes) -> AbstractAsyncContextManager[int]:
    """A server that answers any request with these bytes and closes the connection."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    return listening(converse)


def relaying(address: str, tls: ssl.SSLContext) -> AbstractAsyncContextManager[int]:
    """A server that takes off TLS and passes all bytes on to an address."""
    host, _, port = address.rpartition(":")

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))
        finally:
            far_writer.close()

    return listening(converse, tls=tls)


def intercepting(server: Server, tls: ssl.SSLContext) -> AbstractAsyncContextManager[int]:
    """A proxy that answers in the API's name, with a certificate of its own."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        await writer.start_tls(tls)
        await server.converse(reader, writer)

    return listening(converse)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(2**16):
        writer.write(data)
        await writer.drain()
    writer.close()
