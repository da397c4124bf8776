"""Standard output and standard error: UTF-8, priorities for the journal, and a full disk."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from support import ROOT
from support.api import TOKEN, Api, batch
from support.exporter import StartExporter, write_config

pytestmark = pytest.mark.process
FULL = Path("/dev/full")


def run(
    *arguments: str, env: dict[str, str] | None = None, stdout: int | IO[bytes] = subprocess.PIPE
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, str(ROOT / "exporter.py"), *arguments],
        env=os.environ | (env or {}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}]
)
async def test_output_is_utf8_under_every_locale(api: Api, tmp_path: Path, env: dict[str, str]) -> None:
    api.batches = [batch("a")]
    config = f"--config.file={write_config(tmp_path, api.base_url, name='Zürich')}"
    once = await asyncio.to_thread(run, "--once", config, env=env)
    assert once.returncode == 0, once.stderr
    assert 'inkit_up{account="Zürich"} 1.0' in once.stdout.decode()
    check = await asyncio.to_thread(run, "--config.check", config, env=env)
    assert (check.returncode, check.stderr) == (0, b"")
    assert "accounts: Zürich" in check.stdout.decode()


@pytest.mark.parametrize("command", ["--once", "--config.check"])
async def test_on_a_full_disk_it_exits_with_one_line(api: Api, tmp_path: Path, command: str) -> None:
    config = f"--config.file={write_config(tmp_path, api.base_url)}"
    with FULL.open("wb") as full:  # noqa: ASYNC230
        ended = await asyncio.to_thread(run, command, config, "--log.level=error", stdout=full)
    assert ended.returncode == 1
    assert re.fullmatch(
        "inkit-exporter: standard output can't be written: No space left on device; [^\n]*\n", ended.stderr.decode()
    )


@pytest.mark.parametrize("closed", [1, 2])
@pytest.mark.parametrize("command", ["--once", "--config.check"])
async def test_closed_output_is_not_an_error(api: Api, tmp_path: Path, command: str, closed: int) -> None:
    config = write_config(tmp_path, api.base_url)
    program = shlex.join([sys.executable, str(ROOT / "exporter.py"), command, f"--config.file={config}"])
    process = await asyncio.create_subprocess_shell(
        f"{program} {closed}>&-", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert bool(out) is (closed == 2)


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
async def test_lines_for_the_journal_begin_with_their_priority(api: Api, tmp_path: Path, log_format: str) -> None:
    api.batches = [batch("a")]
    config = write_config(
        tmp_path,
        api.base_url,
        poll={"interval": "1s"},
        accounts=({"name": "a"}, {"name": "b", "base_url": "http://127.0.0.1:9/v1"}),
    )
    arguments = "--once", f"--config.file={config}", "--log.level=debug", f"--log.format={log_format}"
    read, write = os.pipe()
    stat = os.fstat(write)
    with os.fdopen(read, "rb") as journal, os.fdopen(write, "wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "exporter.py"),
            *arguments,
            env=os.environ | {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        stderr.close()
        lines = (await asyncio.to_thread(journal.read)).decode().splitlines()
        assert await process.wait() == 1
    assert TOKEN not in str(lines)
    seen = {re.search(r'level"?[=:] ?"?(\w+)', line)[1]: line[:3] for line in lines}  # type: ignore[index]
    assert seen.items() >= {"debug": "<7>", "error": "<3>"}.items()
    (tmp_path / "log").touch()
    other = await asyncio.to_thread(run, *arguments, env={"JOURNAL_STREAM": "1:1"})
    assert b"<" not in other.stderr[:1] and other.stderr


async def test_other_lines_have_no_priority(api: Api, exporter: StartExporter) -> None:
    running = await exporter()
    assert all(line.startswith("ts=") for line in running.log)
