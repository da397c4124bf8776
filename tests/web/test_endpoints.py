"""The exporter's endpoints, as clients see them."""

import asyncio
import os
import zlib
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support import PATIENCE_SECONDS, ROOT
from support.api import Api, Handler, batch
from support.connections import Connect
from support.exporter import Exporter, StartExporter, run_to_end, write_config
from support.samples import parse_samples, sample_key, up


async def fetch(http: aiohttp.ClientSession, path: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
    async with http.get(path, headers={"Accept-Encoding": "identity"} | headers) as response:
        return response, await response.read()


async def test_the_text_format_is_the_default_and_openmetrics_is_sent_on_request(
    api: Api, exporter: StartExporter
) -> None:
    api.batches = [batch("fb_1", status="In Progress")]
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    response, text = await fetch(running.http, "/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4; charset=utf-8")
    assert not any(name.endswith("_created") for name in parse_samples(text.decode()) if "newest" not in name)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    response, text = await fetch(running.http, "/metrics", Accept=accept)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}  # type: ignore[no-untyped-call]
    assert families["inkit_batch_documents"].samples[0].labels["batch_status"] == "in_progress"
    assert families["inkit_polls"].type == "counter"


async def test_an_invalid_accept_header_still_gets_metrics(api: Api, exporter: StartExporter) -> None:
    running = await exporter()
    for accept in (
        "application/openmetrics-text;version=nonsense",
        "application/openmetrics-text;version=9.9.9",
        "application/openmetrics-text;version=1.0.0.0.0",
        "text/plain;version=1.x",
        "§",
        "",
    ):
        response, text = await fetch(running.http, "/metrics", Accept=accept)
        assert response.status == 200, accept
        assert b"inkit_polls_total" in text


async def test_gzip_is_sent_only_on_request(exporter: StartExporter, connect: Connect) -> None:
    running = await exporter()
    for encoding in ("gzip", "gzip, deflate, br", "identity"):
        reader, writer = await connect(*running.address)
        request = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {encoding}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert (b"Content-Encoding: gzip" in head) is ("gzip" in encoding)
        if b"chunked" in head:
            body = body.partition(b"\r\n")[2]
        text = zlib.decompressobj(wbits=31).decompress(body) if "gzip" in encoding else body
        assert b"# TYPE inkit_polls_total counter" in text


async def test_an_encoding_with_weight_zero_is_not_used(api: Api, exporter: StartExporter) -> None:
    running = await exporter()
    for encoding, wanted in {
        "gzip": True,
        "GZIP;q=0.5": True,
        "br, gzip ; q=1.0": True,
        "gzip;q=0": False,
        "deflate, gzip; q=0.000": False,
        "identity, gzip;Q=0": False,
        "x-gzip-like": False,
    }.items():
        for path in ("/metrics", "/metrics?name[]=inkit_up", "/", "/api/v1/status"):
            async with running.http.get(path, headers={"Accept-Encoding": encoding}) as response:
                await response.read()
                assert ("gzip" in response.headers.get("Content-Encoding", "")) is wanted, (path, encoding)


@pytest.mark.debian
async def test_promtool_accepts_the_metrics(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch("fb_1", status="In Progress"), batch("fb_2", destinations={"box": (0, 3, 0)})]
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    _, text = await running.get("/metrics")
    promtool = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await promtool.communicate(text.encode())
    assert (promtool.returncode, said) == (0, b"")


async def test_metrics_can_be_selected_by_name_as_in_the_client_library(api: Api, exporter: StartExporter) -> None:
    running = await exporter()
    _, text = await fetch(running.http, "/metrics?name[]=inkit_polls_total")
    assert parse_samples(text.decode()).keys() == {sample_key("inkit_polls_total", account="default")}


async def test_it_is_ready_after_the_first_polls_and_healthy_from_the_start(api: Api, exporter: StartExporter) -> None:
    go_on = asyncio.Event()

    async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
        await go_on.wait()
        return await handler(request)

    api.fault = wait
    running = await exporter(accounts=[{"name": "one"}, {"name": "dead", "base_url": "http://127.0.0.1:1/v1"}])
    await running.wait_for(lambda s: up(s, "dead") == 0)
    assert (await running.get("/-/healthy"))[0] == 200
    assert (await running.get("/-/ready"))[0] == 503
    go_on.set()
    await running.wait_for(lambda s: up(s, "one") == 1)
    assert (await running.get("/-/ready"))[0] == 200


async def ask(running: Exporter, target: str) -> str:
    """Send a GET for any target, and return the whole answer."""
    reader, writer = await asyncio.open_connection(*running.address)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await reader.read()).decode()
    finally:
        writer.close()


async def test_a_telemetry_path_may_look_like_a_host(api: Api, exporter: StartExporter) -> None:
    running = await exporter("--web.telemetry-path=//metrics")
    assert "\r\n\r\n# HELP" in await ask(running, "//metrics")
    assert "<!doctype" in await ask(running, "/")


async def test_the_telemetry_path_can_be_changed(api: Api, exporter: StartExporter) -> None:
    running = await exporter("--web.telemetry-path=/custom/metrics")
    assert (await running.get("/custom/metrics"))[0] == 200
    assert (await running.get("/metrics"))[0] == 404
    assert 'href="./custom/metrics"' in (await running.get("/"))[1]


LOOK_UPS_HANG = """
import socket, threading

known = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: (
    threading.Event().wait() if ".invalid" in str(host) else known(host, *rest, **more)
)
"""


async def test_hanging_dns_lookups_delay_neither_the_page_nor_a_scrape(exporter: StartExporter, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOOK_UPS_HANG)
    names = [f"account-{i}" for i in range(40)]  # more than the threads for lookups
    running = await exporter(
        accounts=[{"name": name, "base_url": f"https://{name}.invalid/v1"} for name in names],
        limits={"timeout": "500ms"},
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    await running.wait_for(lambda s: all(up(s, name) == 0 for name in names))
    async with asyncio.timeout(PATIENCE_SECONDS):
        for path in ("/", "/api/v1/status", "/metrics", "/metrics?name[]=inkit_poll_failures_total"):
            assert (await running.get(path))[0] == 200


async def test_bad_requests_are_refused_and_change_nothing(api: Api, exporter: StartExporter, connect: Connect) -> None:
    running = await exporter()
    for garbage in (
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
    ):
        reader, writer = await connect(*running.address)
        writer.write(garbage)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.read()).startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    async with running.http.post("/metrics", data=b"x" * 10**4) as response:
        assert response.status == 405
    assert (await running.get("/metrics?name[]=%ff&x=" + "y" * 4000))[0] == 200
    assert up(await running.wait_for(lambda s: up(s) == 1)) == 1


@pytest.mark.process
async def test_series_known_in_advance_start_at_zero(api: Api, tmp_path: Path) -> None:
    api.fault = None
    _, out, _ = await run_to_end("--once", f"--config.file={write_config(tmp_path, api.base_url)}")
    samples = parse_samples(out)
    for reason in ("auth", "rate_limited", "timeout", "connection", "server_error", "bad_response"):
        assert samples[sample_key("inkit_poll_failures_total", account="default", reason=reason)] == 0
    assert samples[sample_key("inkit_api_throttled_seconds_total", account="default")] == 0
    assert samples[sample_key("inkit_invalid_batches_total", account="default")] == 0
    assert samples["inkit_exporter_config_last_reload_successful"] == 1
    assert samples["inkit_exporter_config_last_reload_success_timestamp_seconds"] > 1.6e9
    assert "python_info" in out and "process_cpu_seconds_total" in out


async def test_no_answer_shows_versions_of_the_server(api: Api, exporter: StartExporter) -> None:
    running = await exporter()
    for path in ("/", "/metrics", "/-/healthy", "/nowhere"):
        async with running.http.get(path) as response:
            assert response.headers["Server"] == "inkit-exporter"
    for target in ("*", "http://a:b/"):  # invalid targets
        assert "Server: inkit-exporter\r\n" in await ask(running, target)
