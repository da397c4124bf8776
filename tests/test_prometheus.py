"""A real Prometheus scrapes the exporter as the README says."""

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from conftest import ROOT, Api, StartExporter, batch, up


def readme_config() -> dict[str, Any]:
    """The scrape configuration that the README shows."""
    block = re.search(r"```yaml\n(scrape_configs:.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    config: dict[str, Any] = yaml.safe_load(block[1])
    return config


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


async def query(http: aiohttp.ClientSession, expression: str) -> dict[str, str]:
    """Values of an instant query by their labels' text; empty while Prometheus is not up."""
    try:
        async with http.get("/api/v1/query", params={"query": expression}) as response:
            found = (await response.json())["data"]["result"]
    except (aiohttp.ClientError, KeyError):
        return {}
    return {str(dict(sorted(one["metric"].items()))): one["value"][1] for one in found}


async def test_prometheus_scrapes_what_the_api_holds(api: Api, exporter: StartExporter, tmp_path: Path) -> None:
    api.batches = [batch("fb_1", destinations={"salesforce": (4, 3, 0), 'Östlich "7"\n': (1, 0, 0)})]
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    assert running.http._base_url is not None
    config = readme_config() | {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}}
    config["scrape_configs"][0] |= {
        "scrape_interval": "200ms",
        "static_configs": [{"targets": [running.http._base_url.authority]}],
    }
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http, asyncio.timeout(30):
            while not (failed := await query(http, "sum by (destination) (inkit_batch_documents_failed)")):
                await asyncio.sleep(0.1)
            assert failed == {"{'destination': 'salesforce'}": "3", "{'destination': 'östlich_7'}": "0"}
            assert set((await query(http, 'up{job="inkit"}')).values()) == {"1"}
            assert set((await query(http, "inkit_exporter_build_info")).values()) == {"1"}
    finally:
        process.terminate()
        await process.wait()
