"""A real Prometheus for the tests, asked over its API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from support.monitoring import free_address, serving


@asynccontextmanager
async def running_prometheus(folder: Path, config: dict[str, Any], *flags: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Run Prometheus with its data in a folder; yields a client of it."""
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    where = f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}"
    async with serving("prometheus", *where, *flags, address=free_address(), log=folder / "prometheus.log") as http:
        yield http


async def query(http: aiohttp.ClientSession, path: str, **parameters: str) -> Any:
    """The data of an answer of Prometheus' API; a refused query fails the test."""
    async with http.get(f"/api/v1/{path}", params=parameters) as response:
        answer = await response.json()
    assert answer["status"] == "success", f"{parameters}: {answer}"
    return answer["data"]
