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
    """Open connections, like `asyncio.open_connection`. They are closed after the test, however it ends."""
    with ExitStack() as opened:

        async def connect(*where: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*where, **options)
            opened.callback(writer.transport.abort)
            return reader, writer

        yield connect


@contextmanager
def free_address() -> Iterator[str]:
    """An address on loopback. Meanwhile, the system gives its port to nobody who does not ask for this one.

    Nobody listens there until a program does that sets SO_REUSEADDR, as servers do.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"
