"""What a scrape costs, compared with the servers of other Python exporters, a Go exporter, and nginx as the bound.

Each server is a process and serves the same metrics; only node_exporter serves its own. wrk with 4 connections
makes the load. The servers take turns; numbers are medians of the rounds, and the spread is (highest - lowest) /
median. "Rare" is the usual case: the CPU of a scrape that comes a second after the last one. prometheus-async never
compresses.

    make bench-scrape        needs wrk, nginx and prometheus-node-exporter of Debian
"""

import argparse
import asyncio
import gzip
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from processes import cpu_seconds, free_port, get, running

from inkit_exporter.demo import DESTINATIONS, JsonBatch, format_time, make_api, serve_api

TOKEN = "bench"
PROGRAMS = {"wrk": "wrk", "nginx": "nginx-light", "prometheus-node-exporter": "prometheus-node-exporter"}
ENCODINGS = {"plain": "identity", "gzip": "gzip"}
COLUMNS = {"p50": 2, "p99": 2, "cpu": 0, "rare": 0, "bytes": 0}  # with their decimals
TO_MS = {"us": 1e-3, "ms": 1, "s": 1e3}


@dataclass
class Server:
    """A running server and its measurements by encoding and measure, one number a round."""

    name: str
    url: str
    pid: int
    series: int
    numbers: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, encoding: str, **measures: float) -> None:
        """Add the numbers of a round."""
        for measure, value in measures.items():
            self.numbers.setdefault((encoding, measure), []).append(value)

    def median(self, encoding: str, measure: str) -> float:
        """The median of the rounds."""
        return statistics.median(self.numbers[encoding, measure])

    def spread(self, encoding: str, measure: str) -> float:
        """The spread of the rounds, as a share of the median."""
        values = self.numbers[encoding, measure]
        return (max(values) - min(values)) / statistics.median(values)


def make_batches() -> list[JsonBatch]:
    """One batch of each of three statuses, at all nine destinations: about 200 series an account."""
    now = format_time(time.time())
    destination = {"count": 10, "completed": 9, "failed": 1, "in_progress": 0, "status": "completed"}
    return [
        {
            "id": f"fb_{status}",
            "name": status,
            "created_at": now,
            "status": status,
            "total": 90,
            "destinations": dict.fromkeys(DESTINATIONS, destination),
        }
        for status in ("Completed", "Failed", "In Progress")
    ]


def series(text: bytes) -> int:
    """Number of samples on a page."""
    return sum(not line.startswith(b"#") for line in text.splitlines())


def load(server: Server, encoding: str, seconds: int) -> None:
    """One round under load."""
    before = cpu_seconds(server.pid)
    header = f"Accept-Encoding: {ENCODINGS[encoding]}"
    command = ["wrk", "-t1", "-c4", f"-d{seconds}s", "--timeout", "30s", "--latency", "-H", header, server.url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu = cpu_seconds(server.pid) - before
    requests = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    p50, p99 = (re.search(rf"^\s+{p}%\s+([\d.]+)(us|ms|s)\s*$", out, flags=re.MULTILINE) for p in (50, 99))
    assert requests and rate and p50 and p99 and "Non-2xx" not in out, out
    server.add(
        encoding,
        rate=float(rate[1]),
        p50=float(p50[1]) * TO_MS[p50[2]],
        p99=float(p99[1]) * TO_MS[p99[2]],
        cpu=cpu / max(int(requests[1]), 1) * 1e6,
    )


def rare(server: Server, encoding: str, scrapes: int) -> None:
    """CPU of a scrape in µs, for scrapes that are more than a second apart."""
    before = cpu_seconds(server.pid)
    for _ in range(scrapes):
        time.sleep(1.05)
        size = len(get(server.url, ENCODINGS[encoding]))
    server.add(encoding, rare=(cpu_seconds(server.pid) - before) / scrapes * 1e6, bytes=float(size))


def nginx_files(folder: Path, port: int, text: bytes) -> Path:
    """Write the same bytes for nginx, plain and compressed; returns its configuration."""
    (folder / "metrics").write_bytes(text)
    (folder / "metrics.gz").write_bytes(gzip.compress(text, 6))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        "events { }\n"
        f"http {{ access_log off; default_type text/plain; gzip_static on; sendfile on; tcp_nopush on;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; keepalive_requests 100000000; }} }}\n"
    )
    return config


async def start_ours(stack: ExitStack, folder: Path, accounts: int) -> tuple[Server, bytes]:
    """Start the exporter, and wait for its only poll; returns it and its page."""
    listing = make_batches()
    async with serve_api(make_api(lambda: listing, token=TOKEN)) as base_url:
        config = folder / "config.yaml"
        names = (f"  - {{name: account-{i}, api_token_env: T, base_url: '{base_url}'}}\n" for i in range(accounts))
        config.write_text("poll: {interval: 1h}\naccounts:\n" + "".join(names))
        port = free_port()
        url = f"http://127.0.0.1:{port}/metrics"
        command = [sys.executable, str(ROOT / "exporter.py")]
        command += [f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
        process = await asyncio.to_thread(stack.enter_context, running(command, url, {"T": TOKEN}))
        while (text := await asyncio.to_thread(get, url)).count(b"\ninkit_up{") < accounts:
            await asyncio.sleep(0.2)
    return Server("inkit-exporter", url, process.pid, series(text)), text


def measure(accounts: int, options: argparse.Namespace) -> list[Server]:
    """Measure all servers at one size."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours, text = asyncio.run(start_ours(stack, folder, accounts))
        (folder / "text").write_bytes(text)
        servers = [ours]

        def start(name: str, port: int, *command: str) -> None:
            url = f"http://127.0.0.1:{port}/metrics"
            process = stack.enter_context(running(command, url))
            servers.append(Server(name, url, process.pid, series(get(url))))

        for name in ("wsgi", "asgi", "aiohttp", "prometheus-async"):
            port = free_port()
            start(name, port, sys.executable, str(ROOT / "bench" / "rivals.py"), name, str(port), str(folder / "text"))
        port = free_port()
        start("nginx", port, "nginx", "-c", str(nginx_files(folder, port, text)))
        if accounts == 1:
            flags = (f"--web.listen-address=127.0.0.1:{(port := free_port())}", "--web.max-requests=0")
            start("node_exporter (Go)", port, "prometheus-node-exporter", *flags)
        for _ in range(options.rounds):
            for server in servers:
                for encoding in ENCODINGS:
                    load(server, encoding, options.seconds)
                    rare(server, encoding, options.rare)
    return servers


def report(servers: Sequence[Server]) -> None:
    """One table for a size."""
    ours = servers[0]
    print(f"\n### {ours.series:,} series\n")
    print("| | | scrapes/s | spread | p50, ms | p99, ms | CPU, µs | CPU rare, µs | bytes | inkit-exporter does |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for server in servers:
        name = f"{server.name}, {server.series:,} series" if "Go" in server.name else server.name
        for encoding in ENCODINGS:
            rate = server.median(encoding, "rate")
            cells = [f"{server.median(encoding, column):,.{digits}f}" for column, digits in COLUMNS.items()]
            row = [name, encoding, f"{rate:,.0f}", f"{server.spread(encoding, 'rate'):.0%}", *cells]
            ratio = ours.median(encoding, "rate") / rate
            print(f"| {' | '.join(row)} | {ratio:,.{0 if ratio >= 10 else 1 if ratio >= 1 else 2}f} times |")


def main() -> None:
    """Measure, and print versions and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accounts", type=int, nargs="*", default=[1, 10, 100], help="of about 200 series each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of load, a server, encoding and round")
    parser.add_argument("--rare", type=int, default=3, help="scrapes a second apart, a server, encoding and round")
    options = parser.parse_args()
    for program, package in PROGRAMS.items():
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install --no-install-recommends {package}")
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
    node = subprocess.run(["prometheus-node-exporter", "--version"], capture_output=True, text=True, check=True)
    packages = (f"{name} {version(name)}" for name in ("aiohttp", "prometheus-client", "uvicorn", "prometheus-async"))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores", *packages, sep=", ")
    print(nginx, (node.stdout + node.stderr).split("(")[0].strip(), sep=", ")
    for accounts in options.accounts:
        report(measure(accounts, options))


if __name__ == "__main__":
    main()
