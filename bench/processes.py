"""Programs as processes of their own: started, measured from the outside, ended."""

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
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def get(url: str, encoding: str = "identity") -> bytes:
    """The body as it came, nothing while there is none."""
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
    """A server, from its first answer at the URL, asked for every `poll` seconds, to the end of the block."""
    # As users run it: with bytecode, which the first start writes.
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
    """User and system time of a process so far, to the nanosecond, of threads that have ended too.

    Linux names the clock of another process so, see clock_getcpuclockid(3), which Python has not.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_mib(pid: int) -> float:
    """Resident memory of a process now."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else float("nan")
