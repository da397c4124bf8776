"""Flags, exit statuses, and how the process starts and ends."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support import PATIENCE_SECONDS, ROOT
from support.api import TOKEN, Api, batch, hang
from support.exporter import (
    HUNG_UP,
    StartExporter,
    demo,
    hang_up_while_it_starts,
    run_to_end,
    start_process,
    write_config,
)
from support.samples import documents, up

import inkit_exporter
from inkit_exporter.cli import make_parser, parse_address


@pytest.mark.process
async def test_version_prints_the_version() -> None:
    assert await run_to_end("--version") == (0, f"inkit-exporter {inkit_exporter.__version__}\n", "")


@pytest.mark.parametrize("command", [["exporter.py"], ["-m", "inkit_exporter"]])
@pytest.mark.process
def test_both_ways_to_start_print_the_same_and_survive_a_reload_signal(command: list[str], tmp_path: Path) -> None:
    """The test of the wheel tries the installed command."""
    started = subprocess.run(
        [sys.executable, *command, "--version"],
        cwd=ROOT, env=hang_up_while_it_starts(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (started.stdout, started.stderr) == (f"inkit-exporter {inkit_exporter.__version__}\n", HUNG_UP)


@pytest.mark.process
async def test_once_prints_the_exposition_and_its_exit_status_shows_success(api: Api, tmp_path: Path) -> None:
    api.batches = [batch("fb_1")]
    path = write_config(tmp_path, api.base_url)
    status, out, err = await run_to_end("--once", f"--config.file={path}")
    assert (status, err) == (0, "")
    assert 'inkit_batch_documents{account="default",batch_status="completed",destination="inkit_storage"} 1.0\n' in out


NO_NAMES = """
import socket

def refuse(*arguments, **options):
    raise socket.gaierror(socket.EAI_NONAME, "no look-ups here")

socket.getaddrinfo = refuse
"""


@pytest.mark.process
async def test_without_a_config_file_the_token_in_the_environment_is_enough(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NAMES)  # a test must not reach the real API
    env = {"INKIT_API_TOKEN": TOKEN, "https_proxy": "http://127.0.0.1:1", "PYTHONPATH": str(tmp_path)}
    status, out, err = await run_to_end("--once", env=env)
    assert status == 1
    assert 'inkit_up{account="default"} 0.0' in out
    assert "account is down" in err and "api.inkit.com" in err


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--shard=2/2", "--shard"),
        ("--shard=one", "--shard"),
        ("--web.listen-address=10465", "[HOST]:PORT"),
        ("--web.listen-address=:70000", "[HOST]:PORT"),
        ("--storage.path=", "argument --storage.path: it is empty"),
        ("--log.level=loud", "--log.level"),
        ("--log.format=xml", "--log.format"),
        ("--no-such-flag", "--no-such-flag"),
        ("--demo.seed=x", "--demo.seed"),
        ("--config.check config.example.yaml", "--config.file=PATH"),
    ],
)
def test_a_wrong_flag_is_refused_with_status_2_and_one_plain_line(
    flags: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(flags.split())
    check_refusal(ended.value.code, *capsys.readouterr(), word)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("", "INKIT_API_TOKEN"),
        ("--no-such-flag", "--no-such-flag"),
        ("--demo --once", "--demo"),
        ("--demo --web.config.file=/nowhere/web.yml", "/nowhere/web.yml"),
        ("--demo --web.listen-address=no..host:0", "--web.listen-address"),
        ("--demo --web.telemetry-path=metrics", "--web.telemetry-path"),
        ("--demo --web.telemetry-path=/", "--web.telemetry-path"),
        ("--demo --web.telemetry-path=/%2D/ready", "--web.telemetry-path"),
        ("--demo --web.telemetry-path=/{", "--web.telemetry-path"),
        ("--demo --web.telemetry-path=/metrics?all", "--web.telemetry-path"),
        ("--config.file=/nowhere/config.yaml", "/nowhere/config.yaml"),
        ("--config.check", "--config.file"),
    ],
)
@pytest.mark.process
async def test_bad_usage_exits_with_status_2_and_one_plain_line(flags: str, word: str) -> None:
    check_refusal(*await run_to_end(*flags.split()), word)


def check_refusal(status: object, out: str, err: str, word: str) -> None:
    assert (status, out) == (2, "")
    assert word in err
    assert err.startswith("inkit-exporter: ") and err.count("\n") == 1


@pytest.mark.process
async def test_an_address_in_use_is_bad_usage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, _, err = await run_to_end("--demo", f"--web.listen-address={address}")
    assert status == 2
    problem = f"{address}: Address already in use; choose another address or port"
    assert err == f"inkit-exporter: --web.listen-address: {problem}\n"


@pytest.mark.process
async def test_config_check_prints_ok_or_the_error(tmp_path: Path) -> None:
    good = write_config(tmp_path, "http://127.0.0.1:1/v1")
    assert await run_to_end("--config.check", f"--config.file={good}") == (0, f"{good}: ok, accounts: default\n", "")
    bad = tmp_path / "bad.yaml"
    bad.write_text("accounts: [{name: a, api_token_file: t}]\npoll: {intervall: 60s}\n")
    status, out, err = await run_to_end("--config.check", f"--config.file={bad}")
    assert (status, out) == (1, "")
    assert err == f"inkit-exporter: {bad}: poll.intervall: unknown key; config.example.yaml lists all keys\n"


@pytest.mark.process
async def test_the_example_configuration_passes_the_check_with_a_warning_about_the_missing_token() -> None:
    status, out, err = await run_to_end("--config.check", f"--config.file={ROOT / 'config.example.yaml'}")
    assert status == 0
    assert "ok, accounts: production" in out
    assert "warning" in err


@pytest.mark.process
async def test_the_error_for_an_unset_token_variable_names_file_and_setting(api: Api, tmp_path: Path) -> None:
    path = write_config(tmp_path, api.base_url, api_token_file=None, api_token_env="NO_SUCH_TOKEN")
    status, _, err = await run_to_end(f"--config.file={path}")
    assert status == 2
    assert err.startswith(f"inkit-exporter: {path}: accounts[0].api_token_env: ") and "NO_SUCH_TOKEN" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_exporter_even_during_a_request_that_hangs(
    api: Api, exporter: StartExporter, number: signal.Signals
) -> None:
    api.fault = hang
    running = await exporter(limits={"timeout": "1h"})
    await running.get("/metrics")  # leaves a client's connection open too
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not api.requests:
            await asyncio.sleep(0.01)
    running.process.send_signal(number)
    async with asyncio.timeout(10):  # it takes less than a second, but the machine may stand still for some
        assert await running.process.wait() == 0
    assert "Traceback" not in "".join(running.log)


@pytest.mark.process
async def test_ctrl_c_during_the_imports_shows_no_traceback(tmp_path: Path) -> None:
    status, out, err = await run_to_end("--demo", env=hang_up_while_it_starts(tmp_path, number=signal.SIGINT))
    assert (status, out, err) == (-signal.SIGINT, "", "")


_SLOW_TO_STOP = f"""
import asyncio, contextlib, sys
sys.path.insert(0, {str(ROOT)!r})
from inkit_exporter import __main__, demo

@contextlib.asynccontextmanager
async def serve_api(app, serve=demo.serve_api):
    async with serve(app) as url:
        yield url
    await asyncio.sleep(0.3)

demo.serve_api = serve_api
__main__.main()
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_more_signals_do_not_disturb_an_exporter_that_stops(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "slow_to_stop.py"
    program.write_text(_SLOW_TO_STOP)
    async with start_process("--demo", program=program) as running:
        await running.wait_for_line("msg=started")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while running.process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(running.process.pid, number)  # not `send_signal`, which would take the exit status away
                await asyncio.sleep(0.01)
        assert running.process.returncode == 0, "".join(running.log)
        assert [line.partition(" level=")[2] for line in running.log[1:]] == ["info msg=stopping\n"]


async def test_startup_logs_one_line_with_version_accounts_and_addresses(api: Api, exporter: StartExporter) -> None:
    unset = {"INKIT_EXPORTER_REVISION": ""}
    running = await exporter(accounts=[{"name": "one"}, {"name": "two"}], env=unset)
    await running.wait_for(lambda s: up(s, "one") == 1 and up(s, "two") == 1)
    assert len(running.log) == 1
    assert re.search(
        rf"^ts=\S+Z level=info msg=started version={re.escape(inkit_exporter.__version__)} revision=unknown "
        r"accounts=one,two addresses=127\.0\.0\.1:\d+ telemetry_path=/metrics$",
        running.log[0].strip(),
    )


@pytest.mark.process
async def test_logs_can_be_json(api: Api, tmp_path: Path) -> None:
    path = write_config(tmp_path, "http://127.0.0.1:1/v1", name='a "quoted" name')
    _, _, err = await run_to_end("--once", "--log.format=json", f"--config.file={path}")
    line = json.loads(err)
    assert (line["level"], line["msg"], line["account"]) == ("error", "account is down", 'a "quoted" name')
    assert line["reason"] == "connection"


async def test_at_level_error_only_errors_are_logged(api: Api, exporter: StartExporter, tmp_path: Path) -> None:
    path = write_config(tmp_path, api.base_url)
    status, _, err = await run_to_end("--once", "--log.level=error", f"--config.file={path}")
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":10465", (None, 10465)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:9", ("::1", 9)),
        ("exporter.example:80", ("exporter.example", 80)),
    ],
)
def test_listen_addresses_have_the_same_format_as_those_of_prometheus(
    text: str, address: tuple[str | None, int]
) -> None:
    assert parse_address(text) == address


async def test_the_exporter_can_listen_on_several_addresses(api: Api, exporter: StartExporter) -> None:
    running = await exporter("--web.listen-address=127.0.0.2:0")
    addresses = running.log[0].split("addresses=")[1].split()[0].split(",")
    assert len(addresses) == 2
    for address in addresses:
        async with running.http.get(f"http://{address}/-/healthy") as response:
            assert response.status == 200


@pytest.mark.process
async def test_the_demo_needs_no_key_and_shows_all_destinations_changing() -> None:
    async with demo("--demo.seed=7") as (running, printed):
        assert f"INKIT_API_TOKEN=$(cat PATH_OF_THE_TOKEN) {sys.executable} {ROOT / 'exporter.py'}\n" in printed
        samples = await running.wait_for(lambda s: up(s, "demo") == 1)
        first = documents(samples, account="demo")
        assert len({destination for destination, _ in first}) == 9
        assert len({status for _, status in first}) >= 3
        await running.wait_for(
            lambda s: documents(s, "completed", account="demo") != documents(samples, "completed", account="demo")
        )


@pytest.mark.process
def test_the_demo_prints_the_command_that_started_it() -> None:
    command = [sys.executable, "-m", "inkit_exporter"]
    with subprocess.Popen(
        [*command, "--demo", "--web.listen-address=127.0.0.1:0"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        told = next(line for line in process.stdout if "INKIT_API_TOKEN" in line)
        process.terminate()
        process.communicate()
    assert told == f"  INKIT_API_TOKEN=$(cat PATH_OF_THE_TOKEN) {' '.join(command)}\n"
    assert process.returncode == 0


@pytest.mark.process
async def test_a_shard_polls_only_its_own_accounts_and_exports_its_number(api: Api, tmp_path: Path) -> None:
    names = [f"account-{i}" for i in range(6)]
    path = write_config(tmp_path, api.base_url, accounts=[{"name": name} for name in names])
    owned = []
    for index in range(2):
        status, out, _ = await run_to_end("--once", f"--config.file={path}", f"--shard={index}/2")
        assert status == 0
        assert f'inkit_exporter_shard_info{{shard="{index}",shards="2"}} 1.0' in out
        owned.append([name for name in names if f'inkit_up{{account="{name}"}} 1.0' in out])
    assert sorted(owned[0] + owned[1]) == names
    assert all(owned)


@pytest.mark.process
async def test_a_closed_output_pipe_causes_no_traceback(api: Api, tmp_path: Path) -> None:
    path = write_config(tmp_path, api.base_url)
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} {ROOT / 'exporter.py'} --once --config.file={path} | true",
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert err == b""
