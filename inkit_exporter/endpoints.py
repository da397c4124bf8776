"""Which path is answered by what. Add another page to `Endpoints.handler`."""

import re
from collections.abc import Callable, Sequence

from aiohttp import hdrs, web
from msgspec import Struct, ValidationError, convert, json
from yarl import URL

from inkit_exporter.errors import ConfigError
from inkit_exporter.metrics.exposition import COMPRESSORS, Exposition, negotiate
from inkit_exporter.state import States
from inkit_exporter.status import page
from inkit_exporter.status.batches import VALUES, Query
from inkit_exporter.status.report import Status, make_status
from inkit_exporter.storage.health import StorageHealth
from inkit_exporter.web import limits
from inkit_exporter.web.routes import POST, READ, Handler, accepts_gzip, document, probe, route


class Endpoints(Struct, frozen=True):
    """What the endpoints show and do.

    `reload` returns what is wrong with the configuration, or None. Without it, reloading is not allowed.
    """

    telemetry_path: str
    states: States
    exposition: Exposition
    healthy: Callable[[], bool]
    storage_health: Callable[[], StorageHealth] | None
    reload: Callable[[], str | None] | None

    def handler(self) -> Handler:
        """Make the handler that answers every request.

        Raises ConfigError if the telemetry path is invalid, or is that of another endpoint.
        """
        routes: dict[str, tuple[Sequence[str], Handler]] = {
            "/": (READ, self._page),
            "/api/v1/status": (READ, self._status),
            limits.HEALTHY: (READ, probe(self.healthy, "healthy", "a poll loop has ended")),
            limits.READY: (READ, probe(self._ready, "ready", "the API has not answered for every account yet")),
            "/-/reload": (POST, self._reload),
        }
        valid = re.fullmatch("/[^{}?#]*", self.telemetry_path)
        path = URL.build(path=self.telemetry_path, encoded=True).path if valid else None  # requests match decoded
        if path is None or path in routes:
            flag = f"--web.telemetry-path={self.telemetry_path}"
            raise ConfigError(f"{flag}: must begin with /, not be another endpoint, and not contain {{}}?#")
        return route({**routes, path: (READ, self._metrics)})

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        form = negotiate(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        gzip = accepts_gzip(request)
        headers = {hdrs.CONTENT_TYPE: form.content_type, hdrs.VARY: "Accept, Accept-Encoding"}
        if names := request.query.getall("name[]", []):
            body = await self.exposition.selected(form, names)
            response = web.Response(body=body, headers=headers, zlib_executor=COMPRESSORS)
            if gzip:
                response.enable_compression(web.ContentCoding.gzip)
            return response
        if gzip:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        body = await (self.exposition.gzipped if gzip else self.exposition.text)(form)
        return web.Response(body=body, headers=headers)

    async def _page(self, request: web.BaseRequest) -> web.Response:
        html = page.render(await self._report(request, order="failed"), self.telemetry_path)
        return document(request, html.encode(), "text/html; charset=utf-8", COMPRESSORS, page.CONTENT_SECURITY_POLICY)

    async def _status(self, request: web.BaseRequest) -> web.Response:
        status = await self._report(request, order="newest")
        return document(request, json.encode(status), "application/json", COMPRESSORS)

    async def _reload(self, _: web.BaseRequest) -> web.Response:
        if self.reload is None:
            return web.Response(status=403, text="reloading is not allowed: start with --web.enable-lifecycle\n")
        error = self.reload()
        return web.Response(status=500, text=f"not reloaded: {error}\n") if error else web.Response(text="reloaded\n")

    def _ready(self) -> bool:
        return all(state.ready for state in self.states)

    async def _report(self, request: web.BaseRequest, order: str) -> Status:
        health = self.storage_health() if self.storage_health else None
        return await make_status(self.states, _query(request, order), health)


def _query(request: web.BaseRequest, order: str) -> Query:
    """What the request asks for. Raises HTTPBadRequest, in words, if that can't be understood."""
    several = {name: request.query.getall(name, []) for name in ("account", "destination")}
    single = {name: request.query[name] for name in ("limit", "order") if name in request.query}
    try:
        return convert({"order": order} | several | single, Query, strict=False)
    except ValidationError as error:
        name = str(error).rpartition("$.")[2].rstrip("`")
        raise web.HTTPBadRequest(text=f"{name} must be {VALUES[name]}\n") from None
