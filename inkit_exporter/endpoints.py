"""The exporter's endpoints: `_ROUTES`, at the end, says which function answers each path. Add another page there."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import hdrs, web
from msgspec import json
from prometheus_client.exposition import gzip_accepted
from yarl import URL

from inkit_exporter.errors import ConfigError
from inkit_exporter.metrics.exposition import COMPRESSORS, Exposition, negotiate
from inkit_exporter.state import States
from inkit_exporter.status import page
from inkit_exporter.status.report import Status, make_status
from inkit_exporter.web.routes import POST, READ, Handler, document, probe, route


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the endpoints get their answers.

    `reload` returns what is wrong with the configuration, if anything; it is None where reloading is not allowed.
    """

    telemetry_path: str
    exposition: Exposition
    states: States
    healthy: Callable[[], bool]
    reload: Callable[[], str | None] | None


def make_handler(sources: Sources) -> Handler:
    """Answers every request. Raises ConfigError as `decode_telemetry_path` does."""
    routes = {**_ROUTES, decode_telemetry_path(sources.telemetry_path): (READ, _metrics)}
    return route({path: (methods, partial(answer, sources)) for path, (methods, answer) in routes.items()})


def decode_telemetry_path(path: str) -> str:
    """The telemetry path without percent-encoding, as requests are matched with it.

    Raises ConfigError if the path is not valid, or another endpoint has it.
    """
    decoded = URL.build(path=path, encoded=True).path if re.fullmatch("/[^{}?#]*", path) else None
    if decoded is None or decoded in _ROUTES:
        raise ConfigError(f"--web.telemetry-path={path}: must begin with /, be no other endpoint, and hold no {{}}?#")
    return decoded


async def _metrics(sources: Sources, request: web.BaseRequest) -> web.Response:
    exposition = sources.exposition
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
    return web.Response(body=await (exposition.gzipped if gzip else exposition.text)(form), headers=headers)


async def _page(sources: Sources, request: web.BaseRequest) -> web.Response:
    html = page.render(_report(sources, request), sources.telemetry_path)
    return document(html.encode(), "text/html; charset=utf-8", COMPRESSORS, page.CONTENT_SECURITY_POLICY)


async def _status(sources: Sources, request: web.BaseRequest) -> web.Response:
    return document(json.encode(_report(sources, request)), "application/json", COMPRESSORS)


def _report(sources: Sources, request: web.BaseRequest) -> Status:
    return make_status(sources.states, request.query.getall("account", []))


async def _healthy(sources: Sources, _: web.BaseRequest) -> web.Response:
    return probe(sources.healthy(), "healthy", "a poll loop has ended")


async def _ready(sources: Sources, _: web.BaseRequest) -> web.Response:
    polled = all(state.up is not None for state in sources.states)
    return probe(polled, "ready", "not every account has been polled yet")


async def _reload(sources: Sources, _: web.BaseRequest) -> web.Response:
    if sources.reload is None:
        return web.Response(status=403, text="reloading is not allowed: start with --web.enable-lifecycle\n")
    error = sources.reload()
    return web.Response(status=500, text=f"not reloaded: {error}\n") if error else web.Response(text="reloaded\n")


# Every endpoint except `_metrics`, whose path is a setting.
_ROUTES: Final = {
    "/": (READ, _page),
    "/api/v1/status": (READ, _status),
    "/-/healthy": (READ, _healthy),
    "/-/ready": (READ, _ready),
    "/-/reload": (POST, _reload),
}
