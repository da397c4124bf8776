"""The HTTP side: metrics, health, and the status page. It knows what to serve only by the functions it is given."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiohttp import hdrs, web
from msgspec import json
from prometheus_client.exposition import gzip_accepted
from yarl import URL

from inkit_exporter.metrics.exposition import COMPRESSORS, Exposition, negotiate
from inkit_exporter.status import page
from inkit_exporter.status.report import Status
from inkit_exporter.web import limits
from inkit_exporter.web.connections import Connections
from inkit_exporter.web.limits import Handler

_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

# Larger bodies are compressed in a thread, as it would hold up scrapes for milliseconds.
_COMPRESS_AT_ONCE = 2**14


def make_handler(
    exposition: Exposition,
    *,
    telemetry_path: str,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    status: Callable[[Collection[str]], Status],
    reload: Callable[[], str | None] | None,
) -> Handler:
    """What answers every request, by path and method.

    An `Application` of aiohttp, of which no more would be needed, takes longer for a scrape than the code here.

    Args:
        exposition: what `telemetry_path` serves.
        telemetry_path: where Prometheus scrapes.
        healthy: whether the process and its loops are alive.
        ready: whether every account has been polled.
        status: of the accounts of these names, or of all; for the page at `/` and the JSON behind it.
        reload: reads the configuration again and tells what is wrong with it; None where it is not allowed.
    """
    read, change = (hdrs.METH_GET, hdrs.METH_HEAD), (hdrs.METH_POST,)
    routes = {
        "/": (read, _page(status, telemetry_path)),
        URL.build(path=telemetry_path, encoded=True).path: (read, _metrics(exposition)),
        "/api/v1/status": (read, _json(status)),
        "/-/healthy": (read, _probe(healthy, "healthy", "a poll loop has ended")),
        "/-/ready": (read, _probe(ready, "ready", "not every account has been polled yet")),
        "/-/reload": (change, _reload(reload)),
    }

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if (route := routes.get(request.path)) is None:
            return web.Response(status=404, text="not found\n")
        methods, handler = route
        if request.method not in methods:
            return web.Response(status=405, text="method not allowed\n", headers={hdrs.ALLOW: ", ".join(methods)})
        return await handler(request)

    return answer


def _mark(response: web.StreamResponse, headers: Mapping[str, str]) -> None:
    """Put the configured headers on an answer, and in place of aiohttp's and Python's versions only our name."""
    response.headers[hdrs.SERVER] = "inkit-exporter"
    for name, value in headers.items():
        if name == hdrs.CONTENT_SECURITY_POLICY:
            response.headers.add(name, value)  # beside the page's own: browsers obey both
        else:
            response.headers[name] = value


def _metrics(exposition: Exposition) -> Handler:
    async def metrics(request: web.BaseRequest) -> web.Response:
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


def _reload(reload: Callable[[], str | None] | None) -> Handler:
    async def handle(_: web.BaseRequest) -> web.Response:
        if reload is None:
            return web.Response(status=403, text="reloading is not allowed: start with --web.enable-lifecycle\n")
        error = reload()
        return web.Response(status=500, text=f"not reloaded: {error}\n") if error else web.Response(text="reloaded\n")

    return handle


def _probe(check: Callable[[], bool], good: str, bad: str) -> Handler:
    async def probe(_: web.BaseRequest) -> web.Response:
        return web.Response(text=f"{good}\n") if check() else web.Response(status=503, text=f"not {good}: {bad}\n")

    return probe


def _json(status: Callable[[Collection[str]], Status]) -> Handler:
    async def status_json(request: web.BaseRequest) -> web.Response:
        return _compressed(json.encode(status(_accounts(request))), "application/json")

    return status_json


def _page(status: Callable[[Collection[str]], Status], telemetry_path: str) -> Handler:
    async def status_page(request: web.BaseRequest) -> web.Response:
        response = _compressed(page.render(status(_accounts(request)), telemetry_path).encode(), "text/html")
        response.charset = "utf-8"
        response.headers["Content-Security-Policy"] = page.CONTENT_SECURITY_POLICY
        return response

    return status_page


def _accounts(request: web.BaseRequest) -> Collection[str]:
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
    handler: Handler,
    addresses: Sequence[tuple[str | None, int]],
    max_connections: int,
    ssl_context: ssl.SSLContext | None,
    headers: Callable[[], Mapping[str, str]] = dict,
) -> tuple[Callable[[], Awaitable[None]], list[str]]:
    """Serve on every address, with TLS if there is a context; returns what ends it, and the addresses in use.

    The headers are put on every answer, those included that aiohttp makes itself of what is no request, or of an error.

    Raises:
        OSError: an address can't be listened on.
    """
    loop = asyncio.get_running_loop()

    class Request(web.BaseRequest):
        async def _prepare_hook(self, response: web.StreamResponse) -> None:
            _mark(response, headers())

    server = web.Server(
        handler,
        request_factory=partial(Request, loop=loop),
        access_log=None,
        keepalive_timeout=limits.IDLE_SECONDS,
        lingering_time=0,  # nobody waits here for the rest of a body, as no request needs one
    )
    runner = web.ServerRunner(server, shutdown_timeout=0.3)
    await runner.setup()
    listeners: list[asyncio.Server] = []
    connections = Connections(server, max_connections, ssl_context)

    async def stop() -> None:
        for listener in listeners:
            listener.close()
        await connections.stop()
        await runner.cleanup()

    try:
        for host, port in addresses:
            # So many may be accepted before the first is counted: together with the limit, less than the descriptors.
            listener = await loop.create_server(connections.make, host, port, backlog=128)
            listeners.append(listener)
    except BaseException:
        await stop()
        raise
    return stop, sorted({_address(socket.getsockname()) for listener in listeners for socket in listener.sockets})


def _address(socket_name: tuple[Any, ...]) -> str:
    host, port = socket_name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
