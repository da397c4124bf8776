"""What one poll of 100,000 batches costs, compared with decoding the same bytes; and scrapes during it.

The simulated API runs in its own process. Each round starts a new exporter, as users run it. The hold of the event
loop is the CPU time of its longest step, which does not depend on what else the machine does. All numbers come from
one run. Compare ratios between machines, not numbers.

    python bench/poll.py [--batches 100000] [--page-size 100] [--rounds 5]
"""

import argparse
import asyncio
import gc
import json
import math
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from processes import cpu_seconds, resident_mib
from support import conversation

from inkit_exporter import logs
from inkit_exporter.api.batches import AccountLabels
from inkit_exporter.api.pages import read_page
from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Seconds, Settings
from inkit_exporter.demo import DESTINATIONS, JsonBatch, format_time, make_api, page_of, serve_api
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import States
from inkit_exporter.transport import open_session
from inkit_exporter.window.window import Window

TOKEN = "a-token-as-long-as-real-ones-are"  # because pages are searched for it
SCRAPE_EVERY = (
    0.02  # seconds; one scrape in fifty is then the first after a second, so that its rendering shows in the p99
)


def make_batches(count: int, unfinished_every: int = 100) -> list[JsonBatch]:
    """Return batches of the last minutes with all nine destinations. The newest and every n-th one are unfinished."""
    now = time.time()
    return [
        {
            "id": f"fb_{i:022d}",
            "name": f"batch {i}",
            "created_at": format_time(now - i / 100),
            "status": "In Progress" if i % unfinished_every == 0 else "Completed",
            "total": 10,
            "destinations": {
                name: {"count": 10, "completed": 9, "failed": 1, "in_progress": 0, "status": "completed"}
                for name in DESTINATIONS
            },
        }
        for i in range(count)
    ]


def serve(batches: int, unfinished_every: int, started: Connection) -> None:
    """Run the simulated API; it sends its URL through the pipe, and ends when the pipe closes."""

    async def run() -> None:
        listing = make_batches(batches, unfinished_every)
        async with serve_api(make_api(lambda: listing, token=TOKEN, max_page_size=1000)) as base_url:
            started.send(base_url)
            await asyncio.to_thread(started.recv)

    with suppress(EOFError):
        asyncio.run(run())


@contextmanager
def serving(batches: int, unfinished_every: int = 100) -> Iterator[str]:
    """Serve the simulated API with this many batches, and yield its URL."""
    ours, theirs = multiprocessing.Pipe()
    arguments = batches, unfinished_every, theirs
    server = multiprocessing.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
    server.start()
    try:
        yield ours.recv()
    finally:
        with suppress(OSError):
            ours.send(None)
        server.join()


def page_bodies(batches: list[JsonBatch], page_size: int) -> list[bytes]:
    """Return the bytes of the same pages."""
    last = math.ceil(len(batches) / page_size)
    return [json.dumps(page_of(batches, number, page_size)).encode() for number in range(1, last + 1)]


def with_counts(batches: list[JsonBatch], change: Callable[[dict[str, Any]], dict[str, Any]]) -> list[JsonBatch]:
    """Return the same batches, with each destination's counts in an undocumented form."""
    return [
        batch | {"destinations": {name: change(counts) for name, counts in batch["destinations"].items()}}
        for batch in batches
    ]


ODD_COUNTS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "written as text": lambda counts: {key: str(value) for key, value in counts.items()},
    "of which one is missing": lambda counts: {key: value for key, value in counts.items() if key != "in_progress"},
}
"""Undocumented forms of counts, with which strict decoding fails for every record."""


def least_cpu(work: Callable[[], object], batches: int) -> float:
    """Return the CPU in µs a batch, the best of five rounds."""
    rounds = []
    for _ in range(5):
        started = time.process_time()
        kept = work()
        rounds.append((time.process_time() - started) / batches * 1e6)
        del kept  # freeing it takes CPU too, which is not measured
    return min(rounds)


def without_http(bodies: list[bytes], batches: int) -> float:
    """CPU in µs a batch of a poll without its HTTP."""

    def poll() -> Window:
        labels = AccountLabels()
        plan = conversation.new_plan(interval=3600, lookback=86_400, resync_interval=3600, max_batches=batches)
        conversation.poll(
            plan,
            lambda number: read_page(
                bodies[number - 1], number, labels, time.time(), also_final=(), secret=TOKEN, head=""
            ),
            time.time(),
            most=len(bodies),
        )
        assert len(plan.window.batches) == batches
        return plan.window

    return least_cpu(poll, batches)


class _Counts(msgspec.Struct, gc=False):
    count: int
    completed: int
    failed: int
    in_progress: int


class _Batch(msgspec.Struct, gc=False):
    id: str
    created_at: datetime
    status: str
    total: int
    destinations: dict[str, _Counts]


class _Page(msgspec.Struct):
    items: list[_Batch]


class _PageOfRaw(msgspec.Struct):
    items: list[msgspec.Raw]


def floors(bodies: list[bytes], batches: int) -> dict[str, float]:
    """CPU in µs a batch for only decoding the bytes, in several ways; the best of five rounds each."""
    page, raw = msgspec.json.Decoder(_Page).decode, msgspec.json.Decoder(_PageOfRaw).decode
    record = msgspec.json.Decoder(_Batch).decode

    def apart(body: bytes) -> None:
        for part in raw(body).items:
            record(part)

    def sums(body: bytes) -> None:
        totals = {name: [0, 0, 0, 0] for name in DESTINATIONS}
        for part in raw(body).items:
            for name, counts in record(part).destinations.items():
                total = totals[name]
                total[0] += counts.count
                total[1] += counts.completed
                total[2] += counts.failed
                total[3] += counts.in_progress

    ways: dict[str, Callable[[bytes], object]] = {
        "msgspec, a page at once": page,
        "msgspec, each record apart": apart,
        "json.loads": json.loads,
        "msgspec, each record apart, and adding up its numbers": sums,
    }

    def through(decode: Callable[[bytes], object]) -> None:
        for body in bodies:
            decode(body)

    return {name: least_cpu(partial(through, decode), batches) for name, decode in ways.items()}


async def fetch(base_url: str, batches: int, page_size: int) -> float:
    """CPU in µs a batch for only fetching the same pages with aiohttp."""
    async with aiohttp.ClientSession(headers={"X-Inkit-API-Token": TOKEN}) as http:
        started = time.process_time()
        for number in range(1, math.ceil(batches / page_size) + 1):
            query = {"page": str(number), "page_size": str(page_size), "sort": "-created_at"}
            async with http.get(f"{base_url}/invoke/batch", params=query) as response:
                await response.read()
        return (time.process_time() - started) / batches * 1e6


async def longest_hold(base_url: str, batches: int, page_size: int) -> float:
    """The longest step of the event loop during a full listing, in ms of CPU."""
    settings = Settings(
        accounts=(AccountSettings(name="bench", api_token_env="T", base_url=base_url),),
        poll=PollSettings(interval=Seconds(3600), page_size=page_size, max_batches=batches),
        api=ApiSettings(requests_per_minute=10**6),
    )
    longest = 0.0
    gc.collect()  # else the previous window would be freed during this measurement

    async def watch() -> None:
        nonlocal longest
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begun)

    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN}, States())
        accounts.apply(settings)
        watcher = asyncio.create_task(watch())
        assert await accounts.poll_once()
        watcher.cancel()
    return longest * 1e3


async def scrape_until(http: aiohttp.ClientSession, done: str) -> list[float]:
    """Scrape without a pause until a line begins with that text; returns latencies in ms."""
    latencies = []
    while True:
        started = time.perf_counter()
        async with http.get("/metrics") as response:
            text = await response.text()
        latencies.append((time.perf_counter() - started) * 1e3)
        await asyncio.sleep(SCRAPE_EVERY)
        if f"\n{done}" in text:
            return latencies


def percentile(values: list[float], share: int) -> float:
    """The value below which `share` percent of the values lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


async def measure(
    batches: int, page_size: int, base_url: str, latencies: Mapping[str, list[float]]
) -> dict[str, float]:
    """Run the exporter and scrape it during the poll and after it; adds the latencies in ms."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            f"accounts: [{{name: bench, api_token_env: BENCH_TOKEN, base_url: '{base_url}'}}]\n"
            f"poll: {{interval: 1h, page_size: {page_size}, max_batches: {batches}}}\n"
            "api: {requests_per_minute: 1000000}\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "exporter.py"),
            f"--config.file={config}",
            "--web.listen-address=127.0.0.1:0",
            env=os.environ | {"BENCH_TOKEN": TOKEN},
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            port = re.search(r"addresses=127\.0\.0\.1:(\d+)", (await process.stderr.readline()).decode())
            assert port is not None
            idle_cpu, idle_memory = cpu_seconds(process.pid), resident_mib(process.pid)
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port[1]}") as http:
                # The first answer of a process always takes longer.
                await scrape_until(http, "inkit_polls_total")
                polling = await scrape_until(http, 'inkit_up{account="bench"} 1.0')
                scraped_cpu = cpu_seconds(process.pid)
                before = scraped_cpu
                idle = [(await scrape_until(http, "inkit_up"))[0] for _ in range(200)]
                a_scrape = (cpu_seconds(process.pid) - before) / len(idle)
            memory = resident_mib(process.pid)
        finally:
            process.terminate()
            await process.wait()
    latencies["idle"].extend(idle)
    latencies["polling"].extend(polling)
    poll_cpu = scraped_cpu - idle_cpu - a_scrape * len(polling)
    return {
        "CPU of the poll, µs a batch": poll_cpu / batches * 1e6,
        "memory at start, MiB": idle_memory,
        "memory with the window, MiB": memory,
    }


def spread(values: list[float]) -> str:
    """Lowest and highest."""
    return f"{min(values):.1f} to {max(values):.1f}"


def main() -> None:
    """Measure, and print versions, numbers and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--page-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    batches, page_size = options.batches, options.page_size
    logs.configure("error", "logfmt")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores", end="")
    print("".join(f", {name} {version(name)}" for name in ("aiohttp", "msgspec", "prometheus-client")))
    print(f"{batches} batches of {len(DESTINATIONS)} destinations, page size {page_size}, {options.rounds} rounds\n")

    with serving(batches) as base_url:
        latencies: dict[str, list[float]] = {"idle": [], "polling": []}
        rounds = [asyncio.run(measure(batches, page_size, base_url, latencies)) for _ in range(options.rounds)]
        fetches = [asyncio.run(fetch(base_url, batches, page_size)) for _ in range(options.rounds)]
        sizes = [size for size in (100, 1000, 8000) if size <= batches]
        gc.collect()
        gc.freeze()
        holds = {size: [asyncio.run(longest_hold(base_url, batches, size)) for _ in range(3)] for size in sizes}
    bodies = page_bodies(make_batches(batches), page_size)
    floor, bare = floors(bodies, batches), without_http(bodies, batches)
    del bodies
    odd = {
        name: without_http(page_bodies(with_counts(make_batches(batches), change), page_size), batches)
        for name, change in ODD_COUNTS.items()
    }
    result = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}

    poll, fetched = result["CPU of the poll, µs a batch"], statistics.median(fetches)
    print("| CPU, µs a batch | | lowest to highest | the poll is | without HTTP it is |")
    print("|---|---:|---:|---:|---:|")
    polls = spread([one["CPU of the poll, µs a batch"] for one in rounds])
    print(f"| one poll, HTTP and all | {poll:.1f} | {polls} | | |")
    print(f"| the poll without HTTP | {bare:.1f} | | | |")
    for name, microseconds in odd.items():
        print(f"| the same, all counts {name}: {microseconds / bare:.1f} times that | {microseconds:.1f} | | | |")
    print(f"| only fetching: aiohttp | {fetched:.1f} | {spread(fetches)} | {poll / fetched:.1f} times | |")
    for name, microseconds in floor.items():
        ratios = f"{poll / microseconds:.1f} times | {bare / microseconds:.1f} times"
        print(f"| only decoding with {name} | {microseconds:.1f} | | {ratios} |")
    start, end = result["memory at start, MiB"], result["memory with the window, MiB"]
    print(f"\nResident memory: {start:.0f} MiB at start, {end:.0f} MiB with the window", end="")
    print(f", {(end - start) * 2**20 / batches:.0f} bytes a batch.\n")
    print("| a scrape of /metrics, ms | scrapes | p50 | p99 |\n|---|---:|---:|---:|")
    for name, values in latencies.items():
        print(f"| {name} | {len(values)} | {percentile(values, 50):.1f} | {percentile(values, 99):.1f} |")
    p50, p99 = (percentile(latencies["polling"], p) / percentile(latencies["idle"], p) for p in (50, 99))
    print(f"| ratio | | {p50:.1f} | {p99:.1f} |\n")
    print("| page size | longest hold of the event loop, ms of CPU | lowest to highest |\n|---:|---:|---:|")
    for size, milliseconds in holds.items():
        print(f"| {size:,} | {statistics.median(milliseconds):.1f} | {spread(milliseconds)} |")


if __name__ == "__main__":
    main()
