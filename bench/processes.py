"""Start programs as processes, measure them from outside, and end them."""

import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def get(url: str, encoding: str = "identity") -> bytes:
    """The body of an answer as bytes; empty while nothing answers."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": encoding})  # noqa: S310 - loopback's http
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310
            body: bytes = response.read()
            return body
    except OSError:
        return b""


@contextmanager
def running(
    command: Sequence[str], url: str, env: Mapping[str, str] | None = None, poll: float = 0.05
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block. It begins when the URL answers, which is tried every `poll` seconds."""
    # Users run it with bytecode, which the first start writes.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        command, env={**own, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not get(url):
            assert process.poll() is None and time.monotonic() < deadline, f"{command[0]} does not answer at {url}"
            time.sleep(poll)
        yield process
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, to the nanosecond. Threads that have ended count too.

    Python has no clock_getcpuclockid(3), so this computes the clock's number as Linux does.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else float("nan")
