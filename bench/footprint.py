"""What the exporter needs compared with other exporters: start time, memory, packages.

Each Python exporter is installed from PyPI into its own environment. It has nothing to query, so that only the
program is measured. The exporters take turns; numbers are medians. Memory is the proportional set size of the
process and its children, so that shared memory counts once.

    make bench-footprint        needs prometheus-node-exporter of Debian, and PyPI
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from poll import TOKEN, serving
from processes import free_port, get, running

RIVALS = {"prometheus-pve-exporter": "3.10.2", "celery-prometheus-exporter": "1.7.0"}
GO = "prometheus-node-exporter"
SIZES = (0, 10_000, 100_000)


def install(folder: Path, *requirements: str) -> Path:
    """Make an environment with a package; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*uv, *requirements], check=True, env=os.environ | {"UV_SYSTEM_CERTS": "1"})
    return python


def packages(python: Path) -> tuple[int, float]:
    """Number of packages in an environment, and their size in MiB without bytecode."""
    site = next(python.parent.parent.glob("lib/python*/site-packages"))
    files = (file for file in site.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return len(list(site.glob("*.dist-info"))), sum(file.stat().st_size for file in files) / 2**20


def memory_mib(pid: int) -> float:
    """Memory of a process and its children."""
    total = 0.0
    for family in (pid, *(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())):
        match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{family}/smaps_rollup").read_text(), flags=re.MULTILINE)
        assert match
        total += int(match[1]) / 1024
    return total


def start(command: Sequence[str], port: int) -> tuple[float, float]:
    """Start a server once; returns the ms to the first byte of its metrics, and the MiB a second later."""
    started = time.perf_counter()
    with running(command, f"http://127.0.0.1:{port}/metrics", {"T": TOKEN}, poll=0.005) as process:
        milliseconds = (time.perf_counter() - started) * 1e3
        time.sleep(1)
        return milliseconds, memory_mib(process.pid)


def imports_mib(python: Path) -> float:
    """Memory of a Python process that only imports what the exporter imports."""
    code = "import aiohttp.web, msgspec, prometheus_client, stamina, structlog, yaml; print(flush=True); input()"
    process = subprocess.Popen([str(python), "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline()
        return memory_mib(process.pid)
    finally:
        process.kill()
        process.wait()


def write_config(folder: Path, base_url: str) -> Path:
    """The exporter's configuration for the simulated API."""
    config = folder / "config.yaml"
    config.write_text(
        f"accounts: [{{name: bench, api_token_env: T, base_url: '{base_url}'}}]\n"
        f"poll: {{interval: 1h, max_batches: {max(SIZES)}}}\napi: {{requests_per_minute: 1000000}}\n"
    )
    return config


def window_mib(python: Path, batches: int) -> float:
    """Memory of the exporter with that many batches in its window."""
    with serving(batches) as base_url, tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), base_url)
        url = f"http://127.0.0.1:{(port := free_port())}/metrics"
        with running(command_of_ours(python, config, port), url, {"T": TOKEN}) as process:
            while b'\ninkit_up{account="bench"} 1.0' not in get(url):
                time.sleep(0.2)
            return memory_mib(process.pid)


def command_of_ours(python: Path, config: Path, port: int) -> list[str]:
    """The exporter as users start it."""
    flags = [f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    return [str(python), str(ROOT / "exporter.py"), *flags]


def main() -> None:
    """Measure, and print versions and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=7)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        python = install(folder / "ours", "--require-hashes", "-r", str(ROOT / "requirements.txt"))
        pythons = {"inkit-exporter": python}
        pythons |= {name: install(folder / name, f"{name}=={version}") for name, version in RIVALS.items()}
        # Nothing listens there, so that the poll fails at once and adds nothing.
        config = write_config(folder, "http://127.0.0.1:1/v1")
        (folder / "pve.yml").write_text("default: {user: a@pam, password: b}\n")
        ports = {name: free_port() for name in (*pythons, GO)}
        pve, celery = RIVALS
        commands = {
            "inkit-exporter": command_of_ours(python, config, ports["inkit-exporter"]),
            pve: [
                *(str(pythons[pve].parent / "pve_exporter"), f"--config.file={folder / 'pve.yml'}"),
                f"--web.listen-address=127.0.0.1:{ports[pve]}",
            ],
            celery: [
                *(str(pythons[celery].parent / celery), "--broker=memory://", f"--addr=127.0.0.1:{ports[celery]}"),
            ],
            GO: [GO, f"--web.listen-address=127.0.0.1:{ports[GO]}"],
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.starts + 1):
            for name, command in commands.items():
                results[name].append(start(command, ports[name]))
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
        print("| | start to first metrics, ms | lowest to highest | memory, MiB | packages | installed, MiB |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, rounds in results.items():
            # The first start writes the bytecode.
            times, memories = zip(*rounds[1:], strict=True)
            count, size = packages(pythons[name]) if name in pythons else (1, 0.0)
            installed = f"{count} | {size:.0f}" if name in pythons else "1 | -"
            title = f"{name} {RIVALS[name]}" if name in RIVALS else f"{name} (Go)" if name == GO else name
            print(
                f"| {title} | {statistics.median(times):.0f} | {min(times):.0f} to {max(times):.0f} "
                f"| {statistics.median(memories):.0f} | {installed} |"
            )
        bare = imports_mib(python)
        print(f"\n| inkit-exporter | memory, MiB | times the imports |\n|---|---:|---:|\n| imports | {bare:.0f} | 1 |")
        held = {size: window_mib(python, size) for size in SIZES}
        for size, mib in held.items():
            print(f"| {size:,} batches | {mib:.0f} | {mib / bare:.1f} |")
        print(f"\n{(held[max(SIZES)] - held[0]) * 2**20 / max(SIZES):.0f} bytes a batch of nine destinations.")


if __name__ == "__main__":
    main()
