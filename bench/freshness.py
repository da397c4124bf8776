"""How long a change at the API takes to reach Prometheus, by intervals, at rest and under load.

A real Prometheus scrapes the exporter, which polls the simulated API. A batch changes at a random moment; then
the benchmark queries Prometheus until the change is there. The bound is one poll interval, one poll, one scrape
interval and one scrape. Load is wrk with 4 connections that scrape without a pause.

    make bench-freshness        needs prometheus and wrk of Debian
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from processes import free_port, get, running
from scrape import TOKEN, make_batches

from inkit_exporter.demo import JsonBatch, make_api, serve_api

QUERY = 'sum(inkit_batch_documents_completed{destination="box"})'
ASK_EVERY = 0.02  # seconds


def ask(prometheus: str) -> float | None:
    """Query Prometheus."""
    answer = json.loads(get(f"{prometheus}/api/v1/query?query={urllib.parse.quote(QUERY)}") or "{}")
    result = answer.get("data", {}).get("result", [])
    return float(result[0]["value"][1]) if result else None


async def await_value(prometheus: str, value: float) -> None:
    """Wait until Prometheus has the value."""
    while await asyncio.to_thread(ask, prometheus) != value:
        await asyncio.sleep(ASK_EVERY)


async def measure(poll: float, scrape: float, changes: int, *, load: bool) -> list[float]:
    """Seconds from each change until Prometheus has it."""
    listing: list[JsonBatch] = make_batches()
    box = listing[0]["destinations"]["box"] = dict(listing[0]["destinations"]["box"])
    async with AsyncExitStack() as servers:
        stack = servers.enter_context(ExitStack())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base_url = await servers.enter_async_context(serve_api(make_api(lambda: listing, token=TOKEN)))
        config = folder / "config.yaml"
        config.write_text(
            f"accounts: [{{name: bench, api_token_env: T, base_url: '{base_url}'}}]\n"
            f"poll: {{interval: {poll:g}s}}\napi: {{requests_per_minute: 10000}}\n"
        )
        exporter = f"127.0.0.1:{free_port()}"
        command = [sys.executable, str(ROOT / "exporter.py"), f"--config.file={config}"]
        command += [f"--web.listen-address={exporter}"]
        await asyncio.to_thread(stack.enter_context, running(command, f"http://{exporter}/metrics", {"T": TOKEN}))
        if load:
            command = ["wrk", "-t1", "-c4", "-d1h", f"http://{exporter}/metrics"]
            await asyncio.to_thread(stack.enter_context, running(command, command[-1]))
        (folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {scrape:g}s, scrape_timeout: {scrape:g}s}}\n"
            f"scrape_configs: [{{job_name: inkit, static_configs: [{{targets: ['{exporter}']}}]}}]\n"
        )
        prometheus = f"http://127.0.0.1:{free_port()}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address={prometheus.removeprefix('http://')}"]
        await asyncio.to_thread(stack.enter_context, running(command, f"{prometheus}/-/ready"))
        completed = sum(batch["destinations"]["box"]["completed"] for batch in listing)
        await await_value(prometheus, completed)
        seconds = []
        for _ in range(changes):
            await asyncio.sleep(random.uniform(0, poll + scrape))
            box["completed"] += 1
            completed += 1
            changed = time.perf_counter()
            await await_value(prometheus, completed)
            seconds.append(time.perf_counter() - changed)
        return seconds


async def report(pairs: list[tuple[float, float]], changes: int) -> None:
    """One table."""
    print("| poll, s | scrape, s | | median, s | longest, s | bound, s |\n|---:|---:|---|---:|---:|---:|")
    for poll, scrape in pairs:
        for load in (False, True):
            seconds = await measure(poll, scrape, changes, load=load)
            print(
                f"| {poll:g} | {scrape:g} | {'under load' if load else 'at rest'} | {statistics.median(seconds):.2f} "
                f"| {max(seconds):.2f} | {poll + scrape:g} and a poll and a scrape |",
                flush=True,
            )


def main() -> None:
    """Measure, and print versions and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=20, help="a row")
    parser.add_argument("intervals", nargs="*", default=["2:2", "5:5", "10:5"], help="POLL:SCRAPE in seconds")
    options = parser.parse_args()
    random.seed(1)
    pairs = [(float(poll), float(scrape)) for poll, scrape in (pair.split(":") for pair in options.intervals)]
    run = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=True)
    version = (run.stdout + run.stderr).split("(")[0].strip()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {version}, {options.changes} changes a row\n")
    asyncio.run(report(pairs, options.changes))


if __name__ == "__main__":
    main()
