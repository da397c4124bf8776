"""The HTTP server: addresses, connections, and the headers of every answer."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from socket import socket
from typing import Any

from aiohttp import hdrs, web, web_protocol

from inkit_exporter.errors import ConfigError, reason_of
from inkit_exporter.web import limits
from inkit_exporter.web.connections import Connections, GetContext
from inkit_exporter.web.routes import Handler

Place = tuple[str | None, int] | socket


@asynccontextmanager
async def serve(
    handler: Handler,
    places: Sequence[Place],
    *,
    server_name: str,
    max_connections: int = 0,
    ssl_context: GetContext | None = None,
    headers: Callable[[], Mapping[str, str]] = dict,
) -> AsyncIterator[Sequence[str]]:
    """Serves until the context ends; the context gives the addresses in use.

    A place is a host and a port, or a socket that listens already. No host means all interfaces, port 0 means any free
    port. `server_name` is the header `Server`; aiohttp's own would show its version and Python's. Beyond
    `max_connections`, the oldest connection is closed; 0 means no limit. `ssl_context` is None without TLS; otherwise
    it returns the context for each connection. All answers have `headers`, even those that aiohttp itself gives to
    errors and to bytes that are not HTTP.

    Raises ConfigError if it cannot listen on an address.
    """
    loop = asyncio.get_running_loop()

    class Request(web.BaseRequest):
        async def _prepare_hook(self, response: web.StreamResponse) -> None:
            for name, value in {hdrs.SERVER: server_name, **headers()}.items():
                if name == hdrs.CONTENT_SECURITY_POLICY:
                    response.headers.add(name, value)  # browsers obey it and the answer's own
                else:
                    response.headers[name] = value

    web_protocol.MAX_MSG_QUEUE_SIZE = limits.MAX_QUEUED_REQUESTS  # aiohttp has no option for it
    server = web.Server(
        handler,
        request_factory=partial(Request, loop=loop),
        access_log=None,
        keepalive_timeout=limits.IDLE_TIMEOUT_SECONDS,
        max_line_size=limits.MAX_REQUEST_BYTES,
        max_field_size=limits.MAX_REQUEST_BYTES,
        lingering_time=0,  # no request needs a body, so the server does not wait for the rest of one
    )
    runner = web.ServerRunner(server, shutdown_timeout=0.3)
    await runner.setup()
    connections = Connections(server, max_connections, ssl_context)
    listeners: list[asyncio.Server] = []
    try:
        for place in places:
            # asyncio may accept a whole backlog before the first of it is counted. Together with the default limit,
            # that is fewer than the file descriptors of a process.
            where: Any = {"sock": place} if isinstance(place, socket) else {"host": place[0], "port": place[1]}
            try:
                listeners.append(await loop.create_server(connections.make, **where, backlog=128))
            except (OSError, UnicodeError) as error:  # the latter for what can't be a host's name
                raise ConfigError(f"--web.listen-address: {_explain(error, place)}") from None
        yield sorted({_address(one.getsockname()) for listener in listeners for one in listener.sockets})
    finally:
        for listener in listeners:
            listener.close()
        connections.close()
        await runner.cleanup()


def _explain(error: OSError | UnicodeError, place: Place) -> str:
    """What is wrong, with the address as users write it. asyncio shows a tuple."""
    code = getattr(error, "errno", None) or 0  # below 0 it is of name resolution
    problem = os.strerror(code) if code > 0 else reason_of(error)
    where = "" if isinstance(place, socket) else f"{place[0] or ''}:{place[1]}: "
    return f"{where}{problem}; choose another address or port"


def _address(socket_name: tuple[Any, ...] | str) -> str:
    if isinstance(socket_name, str):
        return socket_name  # the path of a Unix socket
    host, port = socket_name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
