"""What --storage.path costs, and what it saves at a restart.

A save is measured in this process: the CPU of all threads, and the bytes that Linux counts as written to the disk. The
start is measured until the first complete poll of a real exporter, with a simulated API in another process. The storage
is below --directory, which should be on a real disk.

    python bench/storage.py [--batches 1000 100000] [--rounds 5] [--directory .]
"""

import argparse
import asyncio
import os
import platform
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from poll import TOKEN, make_batches, page_bodies, serving
from processes import free_port, get, running
from support import conversation

from inkit_exporter import logs
from inkit_exporter.api.batches import AccountLabels
from inkit_exporter.api.pages import read_page
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, PollSettings
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState, States
from inkit_exporter.storage.storage import open_storage
from inkit_exporter.window.plan import Plan

CHANGED = (0, 1, 100)


def written() -> int:
    """Return the bytes that this process has written to the disk."""
    match = re.search(r"^write_bytes: (\d+)", Path("/proc/self/io").read_text(), flags=re.MULTILINE)
    assert match is not None
    return int(match[1])


def listed(batches: int) -> Plan:
    """Return a plan that has listed this many batches."""
    bodies, labels = page_bodies(make_batches(batches, batches), 100), AccountLabels()
    plan = conversation.new_plan(interval=60, lookback=86_400, resync_interval=3600, max_batches=batches)
    conversation.poll(
        plan,
        lambda number: read_page(bodies[number - 1], number, labels, time.time(), also_final=(), secret="", head=""),
        time.time(),
    )
    return plan


async def saves(batches: int, rounds: int, directory: Path) -> None:
    """Print a row for each number of changed batches."""
    plan, states = listed(batches), States()
    poll_settings = PollSettings(max_batches=batches)
    states.publish(AccountState(account="a", settings=poll_settings, usage=Usage(RateLimiter(60))))
    storage = await open_storage(directory)
    storage.follow(AccountSettings(name="a", api_token_env="T"), states)
    await storage.loaded(60)

    async def save(changed: int) -> tuple[float, float, int]:
        now = time.time()
        for batch in plan.window.batches[:: max(1, batches // max(1, changed))][:changed]:
            plan.window.upsert(replace(batch, name=f"{batch.name}'"), now)
        snapshot, totals = plan.window.snapshot(None), plan.window.totals.totals.copy()
        state = replace(states["a"], last_success=now, snapshot=snapshot, totals=totals)
        begun, cpu, before = time.perf_counter(), time.process_time(), written()
        await storage["a"].save(plan, state)
        assert storage.health().healthy
        return time.perf_counter() - begun, time.process_time() - cpu, written() - before

    first = await save(0)
    print(f"| {batches:,} | all, at first | {first[1] * 1e3:,.0f} | {first[0] * 1e3:,.0f} | {first[2] / 1024:,.0f} |")
    for changed in CHANGED:
        seconds, cpu, size = (
            statistics.median(values) for values in zip(*[await save(changed) for _ in range(rounds * 4)], strict=True)
        )
        print(f"| {batches:,} | {changed} | {cpu * 1e3:.1f} | {seconds * 1e3:.1f} | {size / 1024:,.0f} |", flush=True)
    storage.close()


def start(base_url: str, batches: int, folder: Path, *flags: str) -> tuple[float, float, int]:
    """Start an exporter. Returns the seconds until it serves totals, those until its first poll, and its requests."""
    config = folder / "config.yaml"
    config.write_text(
        f"accounts: [{{name: bench, api_token_env: BENCH_TOKEN, base_url: '{base_url}'}}]\n"
        f"poll: {{interval: 1h, max_batches: {batches}}}\napi: {{requests_per_minute: 1000000}}\n"
    )
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(ROOT / "exporter.py"), f"--config.file={config}", f"--web.listen-address={address}"]
    url, begun, totals = f"http://{address}/metrics", time.perf_counter(), 0.0
    with running([*command, "--log.level=error", *flags], url, {"BENCH_TOKEN": TOKEN}, poll=0.01):
        while True:
            text = get(url).decode()
            totals = totals or ("inkit_batches_created_total{" in text and time.perf_counter() - begun) or 0.0
            if 'inkit_up{account="bench"} 1.0' in text:
                break
            time.sleep(0.01)
        polled = time.perf_counter() - begun
    match = re.search(r'^inkit_poll_requests\{account="bench"\} (\S+)', text, flags=re.MULTILINE)
    assert match is not None
    return totals, polled, int(float(match[1]))


def starts(batches: int, rounds: int, folder: Path) -> None:
    """Print a row without storage, and one with it."""
    with serving(batches, unfinished_every=batches) as base_url:
        flag = f"--storage.path={folder / 'storage'}"
        start(base_url, batches, folder, flag)
        for name, flags in (("without", ()), ("with", (flag,))):
            rows = [start(base_url, batches, folder, *flags) for _ in range(rounds)]
            totals, polled, requests = (statistics.median(values) for values in zip(*rows, strict=True))
            row = f"{totals:.1f} | {polled:.1f} | {requests:,.0f} | {requests / 60:.1f}"
            print(f"| {batches:,} | {name} | {row} |", flush=True)


def main() -> None:
    """Measure, and print versions and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path())
    options = parser.parse_args()
    logs.configure("error", "logfmt")
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores")
    print("Batches of nine destinations\n")
    parts: dict[str, Callable[[int, Path], None]] = {
        "| batches in the window | changed since the last poll | CPU of a save, ms | it takes, ms | written, KiB |\n"
        "|---:|---:|---:|---:|---:|": lambda batches, folder: asyncio.run(
            saves(batches, options.rounds, folder / "storage")
        ),
        "| batches in the window | storage | totals served after, s | first complete poll after, s | its requests | "
        "at 60 a minute, minutes |\n|---:|---|---:|---:|---:|---:|": lambda batches, folder: starts(
            batches, options.rounds, folder
        ),
    }
    for heading, measure in parts.items():
        print(heading)
        for batches in options.batches:
            with tempfile.TemporaryDirectory(dir=options.directory) as folder:
                measure(batches, Path(folder).resolve())
        print()


if __name__ == "__main__":
    main()
