"""Raw connections, and addresses that nobody else uses."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

Connect = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open connections, to a host and port or the `path` of a socket. They are closed after the test, however it ends.

    It takes the same options as `asyncio.open_connection`.
    """
    with ExitStack() as opened:

        async def connect(*where: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            open_one = asyncio.open_unix_connection if "path" in options else asyncio.open_connection
            reader, writer = await open_one(*where, **options)
            opened.callback(_close, writer)
            return reader, writer

        yield connect


def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@contextmanager
def free_address() -> Iterator[str]:
    """An address on loopback. Meanwhile, the system gives its port to nobody who does not ask for this one.

    Nobody listens there until a program does that sets SO_REUSEADDR, as servers do.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"
