"""The HTTP side: metrics, health, and the status page. It knows what to serve only by the functions it is given."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final

from aiohttp import hdrs, web
from msgspec import json
from prometheus_client.exposition import gzip_accepted

from inkit_exporter import limits, page
from inkit_exporter.connections import Connections
from inkit_exporter.exposition import COMPRESSORS, Exposition, negotiate
from inkit_exporter.status import Status

_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# Larger bodies are compressed in a thread, as it would hold up scrapes for milliseconds.
_COMPRESS_AT_ONCE = 2**14


def make_app(
    exposition: Exposition,
    *,
    telemetry_path: str,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    status: Callable[[Collection[str]], Status],
    reload: Callable[[], str | None] | None,
    max_requests: int,
) -> web.Application:
    """The exporter's routes.

    Args:
        exposition: what `telemetry_path` serves.
        telemetry_path: where Prometheus scrapes.
        healthy: whether the process and its loops are alive.
        ready: whether every account has been polled.
        status: of the accounts of these names, or of all; for the page at `/` and the JSON behind it.
        reload: reads the configuration again and tells what is wrong with it; None where it is not allowed.
        max_requests: how many are answered at a time.
    """
    app = web.Application(client_max_size=2**16, middlewares=[limits.limit_requests(max_requests)])
    app.on_response_prepare.append(_unsigned)
    app.router.add_get("/", _page(status, telemetry_path))
    app.router.add_get(telemetry_path, _metrics(exposition))
    app.router.add_get("/api/v1/status", _json(status))
    app.router.add_get("/-/healthy", _probe(healthy, "healthy", "a poll loop has ended"))
    app.router.add_get("/-/ready", _probe(ready, "ready", "not every account has been polled yet"))
    app.router.add_post("/-/reload", _reload(reload))
    return app


async def _unsigned(_: web.Request, response: web.StreamResponse) -> None:
    """Which versions of what answer is nobody's business but the build_info's."""
    response.headers.pop(hdrs.SERVER, None)


_Handler = Callable[[web.Request], Awaitable[web.Response]]


def _metrics(exposition: Exposition) -> _Handler:
    async def metrics(request: web.Request) -> web.Response:
        form = negotiate(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        gzip = gzip_accepted(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])))
        headers = {hdrs.CONTENT_TYPE: form.content_type, hdrs.VARY: "Accept, Accept-Encoding"}
        if names := request.query.getall("name[]", []):
            body = await exposition.selected(form, names)
            response = web.Response(body=body, headers=headers, zlib_executor=COMPRESSORS)
            if gzip:
                response.enable_compression(web.ContentCoding.gzip)
            return response
        if gzip:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
            return web.Response(body=await exposition.gzipped(form), headers=headers)
        return web.Response(body=await exposition.text(form), headers=headers)

    return metrics


def _reload(reload: Callable[[], str | None] | None) -> _Handler:
    async def handle(_: web.Request) -> web.Response:
        if reload is None:
            return web.Response(status=403, text="reloading is not allowed: start with --web.enable-lifecycle\n")
        error = reload()
        return web.Response(status=500, text=f"not reloaded: {error}\n") if error else web.Response(text="reloaded\n")

    return handle


def _probe(check: Callable[[], bool], good: str, bad: str) -> _Handler:
    async def probe(_: web.Request) -> web.Response:
        return web.Response(text=f"{good}\n") if check() else web.Response(status=503, text=f"not {good}: {bad}\n")

    return probe


def _json(status: Callable[[Collection[str]], Status]) -> _Handler:
    async def status_json(request: web.Request) -> web.Response:
        return _compressed(json.encode(status(_accounts(request))), "application/json")

    return status_json


def _page(status: Callable[[Collection[str]], Status], telemetry_path: str) -> _Handler:
    async def status_page(request: web.Request) -> web.Response:
        response = _compressed(page.render(status(_accounts(request)), telemetry_path).encode(), "text/html")
        response.charset = "utf-8"
        response.headers["Content-Security-Policy"] = page.CONTENT_SECURITY_POLICY
        return response

    return status_page


def _accounts(request: web.Request) -> Collection[str]:
    return request.query.getall("account", [])


def _compressed(body: bytes, content_type: str) -> web.Response:
    response = web.Response(
        body=body,
        content_type=content_type,
        headers=_SECURITY_HEADERS,
        zlib_executor_size=_COMPRESS_AT_ONCE,
        zlib_executor=COMPRESSORS,
    )
    response.enable_compression()
    return response


async def start(
    app: web.Application,
    addresses: Sequence[tuple[str | None, int]],
    max_connections: int,
    ssl_context: ssl.SSLContext | None,
) -> tuple[Callable[[], Awaitable[None]], list[str]]:
    """Serve on every address, with TLS if there is a context; returns what ends it, and the addresses in use.

    Raises:
        OSError: an address can't be listened on.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=0.3,
        keepalive_timeout=limits.IDLE_SECONDS,
        lingering_time=0,  # nobody waits here for the rest of a body, as no request needs one
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - after setup there is one
    listeners: list[asyncio.Server] = []

    connections = Connections(runner.server, max_connections, ssl_context)

    async def stop() -> None:
        for listener in listeners:
            listener.close()
        await connections.stop()
        await runner.cleanup()

    try:
        for host, port in addresses:
            # So many may be accepted before the first is counted: together with the limit, less than the descriptors.
            listener = await asyncio.get_running_loop().create_server(connections.make, host, port, backlog=128)
            listeners.append(listener)
    except BaseException:
        await stop()
        raise
    return stop, sorted({_address(socket.getsockname()) for listener in listeners for socket in listener.sockets})


def _address(socket_name: tuple[Any, ...]) -> str:
    host, port = socket_name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
