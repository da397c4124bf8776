"""The exporter's endpoints: `make_handler` has a function for each path. Add another page there."""

import re
from collections.abc import Callable, Sequence
from functools import partial

from aiohttp import hdrs, web
from msgspec import ValidationError, convert, json
from yarl import URL

from inkit_exporter.errors import ConfigError
from inkit_exporter.metrics.exposition import COMPRESSORS, Exposition, negotiate
from inkit_exporter.state import States
from inkit_exporter.status import page
from inkit_exporter.status.batches import VALUES, Query
from inkit_exporter.status.report import make_status
from inkit_exporter.storage.health import StorageHealth
from inkit_exporter.web.routes import POST, READ, Handler, accepts_gzip, document, probe, route


def make_handler(
    *,
    telemetry_path: str,
    exposition: Exposition,
    states: States,
    storage: Callable[[], StorageHealth | None],
    healthy: Callable[[], bool],
    reload: Callable[[], str | None] | None,
) -> Handler:
    """Make the handler that answers every request.

    `reload` returns what is wrong with the configuration, or None. Without it, reloading is not allowed.
    Raises ConfigError if the telemetry path is invalid, or is that of another endpoint.
    """

    def ready() -> bool:
        return all(state.answered for state in states)

    routes: dict[str, tuple[Sequence[str], Handler]] = {
        "/": (READ, partial(_page, states, storage, telemetry_path)),
        "/api/v1/status": (READ, partial(_status, states, storage)),
        "/-/healthy": (READ, probe(healthy, "healthy", "a poll loop has ended")),
        "/-/ready": (READ, probe(ready, "ready", "the API has not answered for every account yet")),
        "/-/reload": (POST, partial(_reload, reload)),
    }
    valid = re.fullmatch("/[^{}?#]*", telemetry_path)
    path = URL.build(path=telemetry_path, encoded=True).path if valid else None  # requests are matched decoded
    if path is None or path in routes:
        raise ConfigError(
            f"--web.telemetry-path={telemetry_path}: must begin with /, not be another endpoint, and not contain {{}}?#"
        )
    return route({**routes, path: (READ, partial(_metrics, exposition))})


async def _metrics(exposition: Exposition, request: web.BaseRequest) -> web.Response:
    form = negotiate(",".join(request.headers.getall(hdrs.ACCEPT, [])))
    gzip = accepts_gzip(request)
    headers = {hdrs.CONTENT_TYPE: form.content_type, hdrs.VARY: "Accept, Accept-Encoding"}
    if names := request.query.getall("name[]", []):
        body = await exposition.selected(form, names)
        response = web.Response(body=body, headers=headers, zlib_executor=COMPRESSORS)
        if gzip:
            response.enable_compression(web.ContentCoding.gzip)
        return response
    if gzip:
        headers[hdrs.CONTENT_ENCODING] = "gzip"
    return web.Response(body=await (exposition.gzipped if gzip else exposition.text)(form), headers=headers)


async def _page(
    states: States, storage: Callable[[], StorageHealth | None], telemetry_path: str, request: web.BaseRequest
) -> web.Response:
    html = page.render(make_status(states, _query(request, order="failed"), storage()), telemetry_path)
    return document(request, html.encode(), "text/html; charset=utf-8", COMPRESSORS, page.CONTENT_SECURITY_POLICY)


async def _status(
    states: States, storage: Callable[[], StorageHealth | None], request: web.BaseRequest
) -> web.Response:
    status = make_status(states, _query(request, order="newest"), storage())
    return document(request, json.encode(status), "application/json", COMPRESSORS)


def _query(request: web.BaseRequest, order: str) -> Query:
    """What the request asks for. Raises HTTPBadRequest, in words, if that can't be understood."""
    several = {name: request.query.getall(name, []) for name in ("account", "destination")}
    single = {name: request.query[name] for name in ("limit", "order") if name in request.query}
    try:
        return convert({"order": order} | several | single, Query, strict=False)
    except ValidationError as error:
        name = str(error).rpartition("$.")[2].rstrip("`")
        raise web.HTTPBadRequest(text=f"{name} must be {VALUES[name]}\n") from None


async def _reload(reload: Callable[[], str | None] | None, _: web.BaseRequest) -> web.Response:
    if reload is None:
        return web.Response(status=403, text="reloading is not allowed: start with --web.enable-lifecycle\n")
    error = reload()
    return web.Response(status=500, text=f"not reloaded: {error}\n") if error else web.Response(text="reloaded\n")
