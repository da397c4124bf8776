"""Prometheus and Alertmanager as processes, with the configurations of `deploy/` at a faster pace."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from support import ROOT
from support.connections import free_address

DEPLOY = ROOT / "deploy"
PACE = 200
"""How much faster than in earnest: 30 seconds between scrapes become 150 ms, an hour 18 seconds."""

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SECONDS_IN_RULES = ("> 6 * 3600\n", "> 1800\n", "> 10 * inkit:batch_duration_seconds:p95_1d\n")


def shorten(text: str) -> str:
    """Divide each duration of a configuration by the pace: `30s` → `150ms`, `[1h]` → `[18000ms]`, and nothing else.

    A number that is part of a word, as in `increase30m`, is no duration.
    """
    return re.sub(
        r"(?<![\w.])(\d+)(ms|s|m|h|d)\b", lambda found: f"{int(found[1]) * _MILLISECONDS[found[2]] // PACE}ms", text
    )


def shorten_rules(text: str) -> str:
    """Divide durations, and also the numbers of seconds that a rule compares ages with."""
    for seconds in _SECONDS_IN_RULES:
        assert text.count(seconds) == 1, seconds
        text = text.replace(seconds, f"{seconds.rstrip()} / {PACE}\n")
    return shorten(text)


def replace(text: str, addresses: dict[str, str]) -> str:
    """Replace addresses of a configuration by those of this test. Each must be there."""
    for there, here in addresses.items():
        assert there in text
        text = text.replace(there, here)
    return text


@asynccontextmanager
async def serving(
    program: str, *flags: str, address: str, log: Path, listen: str = "--web.listen-address"
) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a program that serves at an address; yields a client."""
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            program, f"{listen}={address}", *flags, stdout=sink, stderr=sink, env=dict(os.environ)
        )
    try:
        async with aiohttp.ClientSession(f"http://{address}") as http:
            await _wait_until_ready(http, process, log)
            yield http
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _wait_until_ready(http: aiohttp.ClientSession, process: asyncio.subprocess.Process, log: Path) -> None:
    for _ in range(600):
        assert process.returncode is None, log.read_text()
        try:
            async with http.get("/-/ready") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError(log.read_text())


@asynccontextmanager
async def alertmanager(config: str, folder: Path, address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a real Alertmanager without peers."""
    path = folder / "alertmanager.yml"
    path.write_text(config)
    flags = f"--config.file={path}", f"--storage.path={folder / 'alertmanager'}", "--cluster.listen-address="
    async with serving("prometheus-alertmanager", *flags, address=address, log=folder / "alertmanager.log") as http:
        yield http


@asynccontextmanager
async def prometheus(config: str, folder: Path, *flags: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a real Prometheus with its data in a folder."""
    path = folder / "prometheus.yml"
    path.write_text(config)
    where = f"--config.file={path}", f"--storage.tsdb.path={folder / 'prometheus'}"
    log = folder / "prometheus.log"
    with free_address() as address:
        async with serving("prometheus", *where, *flags, address=address, log=log) as http:
            yield http


async def query(http: aiohttp.ClientSession, path: str, **parameters: str) -> Any:
    """Query Prometheus' API; returns the data. A refused query fails the test."""
    async with http.get(f"/api/v1/{path}", params=parameters) as response:
        answer = await response.json()
    assert answer["status"] == "success", f"{parameters}: {answer}"
    return answer["data"]


@dataclass
class Inbox:
    """The alerts that the receivers got, in order; each alert once for each status."""

    address: str = ""
    alerts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        """Accept a message of Alertmanager's webhook."""
        receiver, message = request.match_info["receiver"], await request.json()
        assert message["receiver"] == receiver
        kept = self.alerts.setdefault(receiver, [])
        for alert in message["alerts"]:
            if not any(alert["status"] == one["status"] and alert["labels"] == one["labels"] for one in kept):
                kept.append(alert)
        return web.Response()

    def names(self, receiver: str) -> list[tuple[str, str]]:
        """Name and status of the alerts that a receiver got."""
        return [(alert["labels"]["alertname"], alert["status"]) for alert in self.alerts.get(receiver, [])]


@asynccontextmanager
async def inbox() -> AsyncIterator[Inbox]:
    """A server that accepts the messages for all receivers."""
    received = Inbox()
    app = web.Application()
    app.router.add_post("/{receiver}", received.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        received.address = "{}:{}".format(*runner.addresses[0][:2])
        yield received
    finally:
        await runner.cleanup()
