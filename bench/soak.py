"""An hour of simulated days with faults: memory, descriptors and the stored files must stay flat.

The exporter polls five accounts every second, with storage. The API plays a day a minute. One request in five fails:
5xx, 429, garbage, a cut or a hang. A scraper asks every second for the plain, the compressed and the OpenMetrics text.
Other clients vanish in the middle of an answer. Every two minutes the configuration is reloaded. Windows reach back
100 seconds, so that batches come and go. The trend leaves out the first tenth, in which the windows fill.

    make bench-soak        takes an hour; python bench/soak.py --minutes 10 is shorter
"""

import argparse
import asyncio
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from processes import cpu_seconds, free_port, get, resident_mib, running

from inkit_exporter.demo import day, make_api, serve_api

TOKEN = "bench"
ACCOUNTS = 5
FAULTY_SHARE = 0.2
DAY_SECONDS = 60.0
RELOAD_EVERY = 120
FORMS: tuple[dict[str, str], ...] = (
    {},
    {"Accept-Encoding": "gzip"},
    {"Accept": "application/openmetrics-text; version=1.0.0"},
)


@web.middleware
async def faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Fail some of the requests, in one of five ways."""
    if random.random() > FAULTY_SHARE:
        return await handler(request)
    match random.randrange(5):
        case 0:
            return web.Response(status=random.choice([500, 502, 503]), text="<h1>oops</h1>")
        case 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        case 2:
            return web.Response(body=random.randbytes(10_000), content_type="application/json")
        case 3:
            assert request.transport
            request.transport.abort()
        case _:
            await asyncio.sleep(3)
    return web.Response()


async def scrape(http: aiohttp.ClientSession, address: str) -> None:
    """Scrape once in each format, and once more without waiting for the answer."""
    for headers in FORMS:
        async with http.get(f"http://{address}/metrics", headers=headers) as response:
            assert response.status == 200
            await response.read()
    _, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    writer.transport.abort()


def stored_kib(directory: Path) -> float:
    """Size of all files of the storage."""
    return sum(path.stat().st_size for path in directory.glob("*.db")) / 1024


def descriptors_of(pid: int) -> float:
    """Return the number of open files and sockets of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def slope(values: list[float]) -> float:
    """Return the growth from the first to the last value on the least-squares line."""
    return (
        statistics.linear_regression(range(len(values)), values).slope * (len(values) - 1) if len(values) > 1 else 0.0
    )


async def soak(minutes: float, interval: str, *, storage: bool) -> None:
    """Run, and print a line a minute and a summary."""
    started_at = time.time()
    listing = day(1, started_at=started_at, seconds=DAY_SECONDS)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        app = make_api(lambda: listing(time.time()), token=TOKEN, middlewares=[faults])
        base_url = await stack.enter_async_context(serve_api(app))
        config = folder / "config.yaml"
        names = "".join(f"  - {{name: a{i}, api_token_env: T, base_url: '{base_url}'}}\n" for i in range(ACCOUNTS))
        limits = "{timeout: 2s, max_attempts: 2, requests_per_minute: 60000}"
        config.write_text(f"poll: {{interval: {interval}, lookback: 100s}}\napi: {limits}\naccounts:\n{names}")
        address = f"127.0.0.1:{free_port()}"
        url = f"http://{address}/metrics"
        command = [sys.executable, str(ROOT / "exporter.py"), f"--config.file={config}"]
        command += [f"--web.listen-address={address}", "--log.level=error"]
        command += [f"--storage.path={folder / 'storage'}"] if storage else []
        process: subprocess.Popen[bytes] = await asyncio.to_thread(
            stack.enter_context, running(command, url, {"T": TOKEN})
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        print("| minute | resident, MiB | descriptors | stored, KiB | CPU, % |\n|---:|---:|---:|---:|---:|")
        memory, descriptors, stored = [], [], []
        begun, cpu = time.monotonic(), cpu_seconds(process.pid)
        for second in range(1, int(minutes * 60) + 1):
            await scrape(http, address)
            if second % RELOAD_EVERY == 0:
                process.send_signal(signal.SIGHUP)
            await asyncio.sleep(max(0.0, begun + second - time.monotonic()))
            if second % 10 == 0:
                memory.append(resident_mib(process.pid))
                descriptors.append(descriptors_of(process.pid))
                stored.append(stored_kib(folder / "storage"))
            if second % 60 == 0:
                used, cpu = cpu_seconds(process.pid) - cpu, cpu_seconds(process.pid)
                row = f"{memory[-1]:.1f} | {descriptors[-1]:.0f} | {stored[-1]:.0f} | {used / 60:.1%}"
                print(f"| {second // 60} | {row} |", flush=True)
        text = (await asyncio.to_thread(get, url)).decode()
        polls = [
            line for line in text.splitlines() if line.startswith(("inkit_polls_total", "inkit_poll_failures_total"))
        ]
        ended = sum(float(line.rpartition(" ")[2]) for line in polls if "reason" not in line)
        failed = sum(float(line.rpartition(" ")[2]) for line in polls if "reason" in line)
        late, late_descriptors, late_stored = (values[len(values) // 10 :] for values in (memory, descriptors, stored))
        print(
            f"\n{(time.monotonic() - begun) / DAY_SECONDS:.0f} days, {ended:,.0f} polls of which {failed:,.0f} failed. "
            f"Trend after the first tenth: memory {slope(late):+.1f} MiB ({min(late):.1f} to {max(late):.1f}), "
            f"descriptors {slope(late_descriptors):+.1f} ({min(late_descriptors):.0f} to {max(late_descriptors):.0f}), "
            f"stored {slope(late_stored):+.0f} KiB ({min(late_stored):.0f} to {max(late_stored):.0f})."
        )


def main() -> None:
    """Measure, and print versions and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--interval", default="1s", help="poll.interval (default 1s)")
    parser.add_argument("--no-storage", action="store_true", help="run without --storage.path")
    options = parser.parse_args()
    random.seed(1)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
    asyncio.run(soak(options.minutes, options.interval, storage=not options.no_storage))


if __name__ == "__main__":
    main()
