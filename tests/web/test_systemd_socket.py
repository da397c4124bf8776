"""`--web.systemd-socket`: the exporter serves on sockets that systemd opened."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support import PATIENCE_SECONDS, ROOT
from support.api import TOKEN, Api
from support.connections import Connect
from support.exporter import run_to_end, write_config

# Like systemd, this makes the sockets descriptors 3 and up, and sets LISTEN_PID.
PASS_ON = """
import fcntl, os, sys

passed, *arguments = sys.argv[1:]
copies = [fcntl.fcntl(int(descriptor), fcntl.F_DUPFD, 100) for descriptor in passed.split(",")]
for descriptor, copy in enumerate(copies, start=3):
    os.dup2(copy, descriptor)
    os.close(copy)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(copies))}
os.execv(sys.executable, [sys.executable, *arguments])
"""


@asynccontextmanager
async def start(folder: Path, api: Api, *sockets: socket.socket) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an exporter with these sockets. It ends with the block."""
    config = write_config(folder, api.base_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PASS_ON,
        ",".join(str(one.fileno()) for one in sockets),
        str(ROOT / "exporter.py"),
        "--web.systemd-socket",
        f"--config.file={config}",
        pass_fds=[one.fileno() for one in sockets],
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.process
async def test_it_serves_only_on_the_sockets_of_systemd(tmp_path: Path, api: Api, connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        port = tcp.getsockname()[1]
        early = await connect(*tcp.getsockname())  # waits for the exporter, as during a restart
        async with start(tmp_path, api, tcp, local) as process, asyncio.timeout(PATIENCE_SECONDS):
            for reader, writer in (early, await connect(path=tmp_path / "socket")):
                writer.write(b"GET /-/healthy HTTP/1.0\r\n\r\n")
                assert (await reader.read()).endswith(b"healthy\n")
            process.terminate()
            _, log = await process.communicate()
    assert process.returncode == 0
    assert TOKEN not in log.decode()
    (started,) = [line for line in log.decode().splitlines() if "msg=started" in line]
    assert f"127.0.0.1:{port}" in started
    assert str(tmp_path / "socket") in started
    assert ":10465" not in started


@pytest.mark.process
async def test_a_descriptor_that_is_no_listening_socket_is_refused_in_one_line(tmp_path: Path, api: Api) -> None:
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        for one in (idle, datagrams):
            async with start(tmp_path, api, one) as process:
                _, log = await process.communicate()
            assert process.returncode == 2
            assert log.decode().count("\n") == 1 and "descriptor 3 does not listen" in log.decode()


@pytest.mark.process
@pytest.mark.parametrize("environment", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "x"}])
async def test_without_a_socket_it_exits_with_a_remedy(tmp_path: Path, api: Api, environment: dict[str, str]) -> None:
    config = write_config(tmp_path, api.base_url)
    status, _, err = await run_to_end("--web.systemd-socket", f"--config.file={config}", env=environment)
    assert (status, err.count("\n")) == (2, 1)
    assert "systemd passed no socket; start the socket unit" in err
    assert os.sep not in err
