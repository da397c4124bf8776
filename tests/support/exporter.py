"""The exporter as a process, and its metrics."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import aiohttp
import pytest
import yaml
from yarl import URL

from support import PATIENCE_SECONDS, ROOT
from support.api import TOKEN, Api
from support.samples import Samples, parse_samples


@dataclass
class Exporter:
    """A running exporter process that serves at `url`."""

    process: asyncio.subprocess.Process
    http: aiohttp.ClientSession
    stderr: IO[bytes]
    url: URL = field(default_factory=URL)
    logged: bytearray = field(default_factory=bytearray)

    @property
    def log(self) -> list[str]:
        """All lines that it has written to standard error until now."""
        self.collect_log()
        *lines, _ = self.logged.split(b"\n")
        return [line.decode() + "\n" for line in lines]

    def collect_log(self) -> None:
        """Empty the pipe that is its standard error."""
        if self.stderr.closed:
            return
        if (data := self.stderr.read()) == b"":  # without a writer; None if there is nothing
            asyncio.get_running_loop().remove_reader(self.stderr)
        self.logged += data or b""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for raw connections."""
        assert self.url.host and self.url.port
        return self.url.host, self.url.port

    async def wait_until_started(self) -> None:
        """Wait until it serves, and use its first address from now on."""
        line = await self.wait_for_line("msg=started")
        await self.connect(line.split("addresses=")[1].split()[0].split(",")[0])

    async def connect(self, authority: str) -> None:
        """Use the address `HOST:PORT` from now on."""
        await self.http.close()
        self.url = URL(f"http://{authority}")
        self.http = aiohttp.ClientSession(self.url)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """GET a path; returns status and text."""
        async with self.http.get(path, headers=headers) as response:
            return response.status, await response.text()

    async def samples(self) -> Samples:
        """Scrape `/metrics`; returns the samples by name and labels."""
        status, text = await self.get("/metrics")
        assert status == 200
        return parse_samples(text)

    async def wait_for(self, condition: Callable[[Samples], bool], seconds: float = PATIENCE_SECONDS) -> Samples:
        """Scrape until a condition holds. Fails after that many seconds, with the log."""
        samples: Samples = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    samples = await self.samples()
                    if condition(samples):
                        return samples
                    await asyncio.sleep(0.05)
        except TimeoutError:
            ours = {name: value for name, value in samples.items() if name.startswith("inkit_")}
            raise AssertionError(f"never held; samples: {ours}\nlog: {''.join(self.log)}") from None

    async def wait_for_line(self, text: str, start: int = 0, seconds: float = PATIENCE_SECONDS) -> str:
        """Wait for a log line that contains a text, after the first `start` lines. Fails after that many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    ended = self.process.returncode is not None
                    if found := next((line for line in self.log[start:] if text in line), ""):
                        return found
                    assert not ended, "".join(self.log)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"never logged: {text}\nlog: {''.join(self.log)}") from None

    async def stop(self) -> int:
        """Send SIGTERM; returns the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()


StartExporter = Callable[..., Awaitable[Exporter]]


@pytest.fixture
async def exporter(tmp_path: Path, api: Api) -> AsyncIterator[StartExporter]:
    """Start exporters of the simulated API. They are stopped after the test, and must end with status 0."""
    started: list[Exporter] = []
    async with AsyncExitStack() as processes:

        async def start(
            *flags: str,
            poll: dict[str, Any] | None = None,
            limits: dict[str, Any] | None = None,
            env: dict[str, str] | None = None,
            **account: Any,
        ) -> Exporter:
            path = write_config(tmp_path, account.pop("base_url", api.base_url), poll=poll, limits=limits, **account)
            process = start_process(f"--config.file={path}", *flags, env=env)
            started.append(running := await processes.enter_async_context(process))
            await running.wait_until_started()
            return running

        yield start
        for running in started:
            assert await running.stop() == 0, "".join(running.log)
    assert TOKEN not in "".join(line for running in started for line in running.log)


def write_config(
    folder: Path,
    base_url: str,
    *,
    poll: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    accounts: Sequence[dict[str, Any]] = (),
    **account: Any,
) -> Path:
    """Write a configuration that polls fast, and the token beside it; returns the path."""
    token = folder / "token"
    if not token.exists():
        token.write_text(TOKEN + "\n")
    one = {"name": "default", "api_token_file": str(token), "base_url": base_url} | account
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "accounts": [one | extra for extra in accounts] or [one],
                "poll": {"interval": "200ms"} | (poll or {}),
                "api": {"timeout": "20s", "requests_per_minute": 6000, "max_attempts": 1} | (limits or {}),
            }
        )
    )
    return path


@asynccontextmanager
async def demo(*flags: str, **process: Any) -> AsyncIterator[tuple[Exporter, str]]:
    """Run `--demo`; yields the exporter and its first output. It must end with status 0."""
    async with start_process("--demo", *flags, **process) as running:
        assert running.process.stdout is not None
        printed = ""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (
                not (address := re.search(r"http://localhost:(\d+)/metrics", printed))
                or "INKIT_API_TOKEN" not in printed
            ):
                assert not running.process.stdout.at_eof(), printed
                printed += (await running.process.stdout.readline()).decode()
        await running.connect(f"127.0.0.1:{address[1]}")
        yield running, printed
        assert await running.stop() == 0


@asynccontextmanager
async def start_process(
    *arguments: str,
    env: dict[str, str] | None = None,
    program: Path = ROOT / "exporter.py",
    folder: Path | None = None,
) -> AsyncIterator[Exporter]:
    """Run the exporter on a free port, in a folder. It is killed if it outlives the block."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    with open(read, "rb", buffering=0) as stderr:  # noqa: ASYNC230, PTH123 - a pipe
        with open(write, "wb") as its_stderr:  # noqa: ASYNC230, PTH123
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(program),
                "--web.listen-address=127.0.0.1:0",
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=its_stderr,
                env={k: v for k, v in os.environ.items() if k != "INKIT_API_TOKEN"} | (env or {}),
                cwd=folder,
            )
        running = Exporter(process, aiohttp.ClientSession(), stderr)
        asyncio.get_running_loop().add_reader(stderr, running.collect_log)
        try:
            yield running
        finally:
            await running.http.close()
            if process.returncode is None:
                process.kill()
            await process.wait()
            running.collect_log()
            asyncio.get_running_loop().remove_reader(stderr)


async def run_to_end(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the exporter until it ends; returns exit status, stdout and stderr."""
    async with start_process(*arguments, env=env) as running, asyncio.timeout(2 * PATIENCE_SECONDS):
        assert running.process.stdout is not None
        out = await running.process.stdout.read()
        status = await running.process.wait()
    return status, out.decode(), running.logged.decode()


HUNG_UP = "hung up\n"

_HANG_UP = """
import os, sys

def hook(event, args):
    global hung_up
    if event == {event!r} and str(args[0]).endswith({name!r}) and not hung_up:
        hung_up = True
        os.kill(os.getpid(), {number})
        print("hung up", file=sys.stderr)

hung_up = False
sys.addaudithook(hook)
"""


def hang_up_while_it_starts(
    folder: Path,
    package: Path = ROOT,
    number: signal.Signals = signal.SIGHUP,
    moment: tuple[str, str] = ("import", "aiohttp"),
) -> dict[str, str]:
    """The environment of a process that gets a signal while it starts, and if it lives on, writes HUNG_UP.

    The moment is an audit event and how its first argument ends.
    """
    event, name = moment
    (folder / "sitecustomize.py").write_text(_HANG_UP.format(number=int(number), event=event, name=name))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{package}"}
