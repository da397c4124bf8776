"""The servers that bench/scrape.py compares with, each serving the same metrics: python bench/rivals.py NAME PORT FILE.

The samples come from a file in the text format. They are parsed once, so that a rival spends no time on collecting.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import prometheus_client
import uvicorn
from aiohttp import web
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, REGISTRY, CollectorRegistry, Metric
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class _Replay(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def wsgi(port: int, registry: CollectorRegistry) -> None:
    """prometheus-client's start_http_server."""
    prometheus_client.start_http_server(port, "127.0.0.1", registry)
    threading.Event().wait()


def asgi(port: int, registry: CollectorRegistry) -> None:
    """prometheus-client's ASGI app under uvicorn."""
    uvicorn.run(prometheus_client.make_asgi_app(registry), host="127.0.0.1", port=port, log_level="warning")


def aiohttp(port: int, registry: CollectorRegistry) -> None:
    """prometheus-client's handler for aiohttp."""
    app = web.Application()
    app.router.add_get("/metrics", make_aiohttp_handler(registry))
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def prometheus_async(port: int, registry: CollectorRegistry) -> None:
    """prometheus-async's server, which knows only the default registry."""
    from prometheus_async.aio.web import start_http_server  # noqa: PLC0415 - it registers signal handlers on import

    for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
        REGISTRY.unregister(collector)
    REGISTRY.register(_Replay(registry.collect()))

    async def run() -> None:
        await start_http_server(addr="127.0.0.1", port=port)
        await asyncio.Event().wait()

    asyncio.run(run())


SERVERS: dict[str, Callable[[int, CollectorRegistry], None]] = {
    "wsgi": wsgi,
    "asgi": asgi,
    "aiohttp": aiohttp,
    "prometheus-async": prometheus_async,
}


def main() -> None:
    """Serve until killed."""
    name, port, path = sys.argv[1:]
    registry = CollectorRegistry()
    registry.register(_Replay(text_string_to_metric_families(Path(path).read_text())))
    SERVERS[name](int(port), registry)


if __name__ == "__main__":
    main()
