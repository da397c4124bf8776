"""A real Prometheus scrapes the exporter as the README says."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import pytest
import trustme
import yaml
from support import PATIENCE_SECONDS, ROOT
from support.api import Api, batch
from support.exporter import Exporter, StartExporter
from support.monitoring import prometheus, query
from support.samples import up


def readme_config() -> dict[str, Any]:
    """Return the scrape configuration that the README shows."""
    block = re.search(r"```yaml\n(scrape_configs:.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    config: dict[str, Any] = yaml.safe_load(block[1])
    return config


async def values(http: aiohttp.ClientSession, expression: str) -> dict[str, str]:
    """Run an instant query, and return its values by labels."""
    found = (await query(http, "query", query=expression))["result"]
    return {str(dict(sorted(one["metric"].items()))): one["value"][1] for one in found}


@asynccontextmanager
async def scraping(running: Exporter, folder: Path, **job: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """Start Prometheus with the README's configuration, but with this exporter's address and a short interval."""
    config = readme_config() | {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}}
    config["scrape_configs"][0] |= {
        "scrape_interval": "200ms",
        "static_configs": [{"targets": [running.url.authority]}],
    } | job
    async with prometheus(yaml.safe_dump(config), folder) as http, asyncio.timeout(PATIENCE_SECONDS):
        yield http


@pytest.mark.debian
async def test_prometheus_scrapes_what_the_api_holds_and_any_batch_id(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch("fb_1", destinations={"salesforce": (4, 3, 0), 'Östlich "7"\n': (1, 0, 0)})]
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    async with scraping(running, tmp_path) as http:
        failed = "sum by (destination) (inkit_batch_documents_failed)"
        shown = {"{'destination': 'salesforce'}": "3", "{'destination': 'östlich_7'}": "0"}
        while await values(http, failed) != shown:
            await asyncio.sleep(0.1)
        for always in ('up{job="inkit"}', "inkit_exporter_build_info"):
            while set((await values(http, always)).values()) != {"1"}:  # a scrape may be too late
                await asyncio.sleep(0.1)
        odd = ("nul\0", '"} 7 # {a="\\\n', "\x1b[31m\r\u2028", "\N{FACE WITH TEARS OF JOY}" * 120)
        for number, batch_id in enumerate(odd, start=1):
            api.batches = [batch(batch_id, age=1), *api.batches]
            while set((await values(http, "inkit_batches_created_total")).values()) != {str(number)}:
                await asyncio.sleep(0.1)


@pytest.mark.debian
async def test_prometheus_scrapes_over_tls_with_a_client_certificate_and_a_password(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("server", "client"):
        cert = ca.issue_cert("127.0.0.1")
        cert.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        cert.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    tls = {"cert_file": "server.pem", "key_file": "server.key", "client_ca_file": "ca.pem"}
    users = {"prometheus": bcrypt.hashpw("pässword".encode(), bcrypt.gensalt(10)).decode()}
    web_config = {
        "tls_server_config": tls | {"client_auth_type": "RequireAndVerifyClientCert"},
        "basic_auth_users": users,
    }
    (tmp_path / "web.yml").write_text(yaml.safe_dump(web_config))
    running = await exporter(f"--web.config.file={tmp_path / 'web.yml'}")
    job = {
        "scheme": "https",
        "tls_config": {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"},
        "basic_auth": {"username": "prometheus", "password": "pässword"},
    }
    async with scraping(running, tmp_path, **job) as http:
        while set((await values(http, 'up{job="inkit"}')).values()) != {"1"}:
            await asyncio.sleep(0.1)
