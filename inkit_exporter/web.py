"""The HTTP side: metrics, health, and the status page. It knows what to serve only by the functions it is given."""

from collections.abc import Awaitable, Callable, Sequence
from html import escape
from typing import Any

from aiohttp import hdrs, web
from msgspec import json
from prometheus_client.exposition import gzip_accepted

from inkit_exporter.exposition import Exposition, negotiate
from inkit_exporter.status import Status

_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def make_app(
    exposition: Exposition,
    *,
    telemetry_path: str,
    healthy: Callable[[], bool],
    ready: Callable[[], bool],
    status: Callable[[], Status],
    reload: Callable[[], str | None] | None,
) -> web.Application:
    """The exporter's routes.

    Args:
        exposition: what `telemetry_path` serves.
        telemetry_path: where Prometheus scrapes.
        healthy: whether the process and its loops are alive.
        ready: whether every account has been polled.
        status: for the page at `/` and the JSON behind it.
        reload: reads the configuration again and tells what is wrong with it; None where it is not allowed.
    """
    app = web.Application(client_max_size=2**16)
    app.router.add_get("/", _page(status, telemetry_path))
    app.router.add_get(telemetry_path, _metrics(exposition))
    app.router.add_get("/api/v1/status", _json(status))
    app.router.add_get("/-/healthy", _probe(healthy, "healthy", "a poll loop has ended"))
    app.router.add_get("/-/ready", _probe(ready, "ready", "not every account has been polled yet"))
    app.router.add_post("/-/reload", _reload(reload))
    return app


_Handler = Callable[[web.Request], Awaitable[web.Response]]


def _metrics(exposition: Exposition) -> _Handler:
    async def metrics(request: web.Request) -> web.Response:
        form = negotiate(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        gzip = gzip_accepted(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])))
        headers = {hdrs.CONTENT_TYPE: form.content_type, hdrs.VARY: "Accept, Accept-Encoding"}
        if names := request.query.getall("name[]", []):
            response = web.Response(body=await exposition.selected(form, names), headers=headers)
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


def _json(status: Callable[[], Status]) -> _Handler:
    async def status_json(_: web.Request) -> web.Response:
        return web.Response(body=json.encode(status()), content_type="application/json", headers=_SECURITY_HEADERS)

    return status_json


def _page(status: Callable[[], Status], telemetry_path: str) -> _Handler:
    async def page(_: web.Request) -> web.Response:
        return web.Response(
            text=render_page(status(), telemetry_path), content_type="text/html", headers=_SECURITY_HEADERS
        )

    return page


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886; overflow-wrap: anywhere }
.down { color: #c33; font-weight: 600 }
"""


def render_page(status: Status, telemetry_path: str) -> str:
    """The status page as HTML; every text in it is escaped."""
    columns = list(status.accounts[0]) if status.accounts else []
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    rows = "".join(
        ('<tr class="down">' if row.get("up") is False else "<tr>")
        + "".join(f"<td>{escape(_text(row[column]))}</td>" for column in columns)
        + "</tr>"
        for row in status.accounts
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(status.title)}</title><style>{_STYLE}</style>
<h1>{escape(status.title)} {escape(status.version)}</h1>
<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>
<p><a href="{escape(telemetry_path)}">Metrics</a> · <a href="/api/v1/status">This page as JSON</a> ·
<a href="/-/healthy">Healthy</a> · <a href="/-/ready">Ready</a></p>
</html>
"""


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}"
    return str(value)


async def start(app: web.Application, addresses: Sequence[tuple[str | None, int]]) -> tuple[web.AppRunner, list[str]]:
    """Serve on every address; returns the runner, to be cleaned up by the caller, and the addresses in use.

    Raises:
        OSError: an address can't be listened on.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.3)
    await runner.setup()
    try:
        for host, port in addresses:
            await web.TCPSite(runner, host, port).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner, sorted({_address(name) for name in runner.addresses})


def _address(socket_name: tuple[Any, ...]) -> str:
    host, port = socket_name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
