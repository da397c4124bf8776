"""A test runs every command in README and docs, or a row below says why none does."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from contextlib import AsyncExitStack
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from support import ROOT
from support.api import TOKEN, Api, batch
from support.commands import Block, blocks
from support.connections import free_address
from support.exporter import StartExporter, start_process
from support.monitoring import alertmanager
from support.samples import up

BLOCKS = blocks()

_HERE = "tests/project/test_commands.py::"
_COMMAND_LINE = "tests/config/test_command_line.py::"
_INSTALLED = "tests/deployment/test_packaging.py::test_the_installed_command_serves_metrics_and_page"
_CLUSTER = "needs a cluster; tests/deployment/ validates what is applied"
_DOCKER = "needs a Docker daemon; tests/deployment/test_compose.py starts the services without it"
_GITHUB = "needs a release on GitHub"
_SYSTEMD = "needs a machine that systemd has started; tests/deployment/test_systemd.py checks the unit"
_TESTS = "runs the tests themselves"
_LONG = "takes from half an hour to a night"

# For each pattern of commands: the test that runs them, or the reason why none does.
ROWS = {
    "make demo": _COMMAND_LINE + "test_the_demo_needs_no_key_and_shows_all_destinations_changing",
    "make check": _TESTS,
    "make test": _TESTS,
    "make format": "changes the files of this repository",
    ".venv/bin/pytest tests/*": _TESTS,
    "make mutate*": _LONG,
    "make bench-report": _LONG,
    "make compat": "downloads today's servers; a scheduled workflow runs it",
    ".venv/bin/uvx mutmut==* show NAME": "needs the result of `make mutate`",
    "gh attestation verify *": _GITHUB,
    "INKIT_API_TOKEN=$(cat PATH_OF_THE_TOKEN) .venv/bin/python exporter.py --once*": _COMMAND_LINE
    + "test_without_a_config_file_the_token_in_the_environment_is_enough",
    "curl -si -H *": _HERE + "test_the_captured_answer_does_not_contain_the_token",
    "inkit-exporter --config.file=/etc/*": _COMMAND_LINE
    + "test_startup_logs_one_line_with_version_accounts_and_addresses",
    "inkit-exporter --config.file=config.yaml --once": _COMMAND_LINE
    + "test_once_prints_the_exposition_and_its_exit_status_shows_success",
    "inkit-exporter --config.file=config.yaml --shard=*": _COMMAND_LINE
    + "test_a_shard_polls_only_its_own_accounts_and_exports_its_number",
    "prometheus --config.file=deploy/*": "tests/monitoring/test_prometheus.py::"
    "test_prometheus_scrapes_what_the_api_holds_and_any_batch_id",
    "alertmanager --config.file=deploy/*": _HERE + "test_amtool_adds_an_alert_and_a_silence",
    "amtool config routes test *": "tests/monitoring/test_alertmanager.py::test_the_document_shows_amtools_output",
    "sed -e *": "tests/monitoring/test_rules.py::test_the_documented_command_renames_the_job_and_sets_the_addresses",
    "amtool check-config *": _HERE + "test_amtool_adds_an_alert_and_a_silence",
    "amtool alert add *": _HERE + "test_amtool_adds_an_alert_and_a_silence",
    "amtool silence add *": _HERE + "test_amtool_adds_an_alert_and_a_silence",
    "cd deploy/compose && docker compose up": _DOCKER,
    "docker *": _DOCKER,
    "install -o 65534 *": "needs root, to give the file to another user",
    "kubectl *": _CLUSTER,
    "helm -n *": _CLUSTER,
    "helm template *": "tests/deployment/test_helm.py::test_the_readme_and_the_manifest_are_up_to_date_with_the_chart",
    "python3 -m venv /opt/inkit-exporter": _INSTALLED,
    "/opt/inkit-exporter/bin/pip install *": _INSTALLED,
    "install -D *": _HERE + "test_the_steps_with_systemd_install_a_valid_configuration_and_remove_all_files",
    "/opt/inkit-exporter/bin/inkit-exporter --config.check *": _HERE
    + "test_the_steps_with_systemd_install_a_valid_configuration_and_remove_all_files",
    "rm -r /opt/inkit-exporter *": _HERE
    + "test_the_steps_with_systemd_install_a_valid_configuration_and_remove_all_files",
    "systemctl *": _SYSTEMD,
    "journalctl *": _SYSTEMD,
    "curl http://localhost:10465/-/ready": _HERE + "test_curl_and_jq_read_the_status",
    "curl -s http://localhost:10465/api/v1/status | jq *": _HERE + "test_curl_and_jq_read_the_status",
    "openssl req *": _HERE + "test_tls_and_a_password_work_as_documented",
    "inkit-exporter --config.check --web.config.file=web.yml": _HERE + "test_tls_and_a_password_work_as_documented",
    "inkit-exporter --demo --web.config.file=web.yml": _HERE + "test_tls_and_a_password_work_as_documented",
    "curl --cacert *": _HERE + "test_tls_and_a_password_work_as_documented",
}

# First lines of indented blocks without commands. The blocks in docs/metrics.md are queries.
NO_COMMANDS = {
    "deploy/grafana/provisioning  at  /etc/grafana/provisioning",
    "count by (shards) (inkit_exporter_shard_info)",
    "- job_name: federate",
    "exporter a  <-  Prometheus, replica a  \\",
    "- job_name: inkit",
    "# kustomization.yaml",
    "accounts:",
    "HTTPS_PROXY=http://exporter:p%40ssword@proxy.example:3128",
}


def test_every_command_in_the_documents_is_run_or_has_a_reason() -> None:
    commands = [(f"{block.document}:{block.line}", command) for block in BLOCKS for command in block.commands]
    assert len(commands) > 50
    for place, command in commands:
        rows = [pattern for pattern in ROWS if fnmatchcase(command, pattern)]
        assert len(rows) == 1, f"{place}: {command}: add a row to ROWS that says which test runs it, or why none does"
    for pattern in ROWS:
        assert any(fnmatchcase(command, pattern) for _, command in commands), f"no document shows {pattern}"


def test_every_block_without_commands_is_listed() -> None:
    for block in BLOCKS:
        if not block.commands and not block.language and block.document != "docs/metrics.md":
            first = block.text.splitlines()[0]
            assert first in NO_COMMANDS, f"{block.document}:{block.line}: {first}: commands that are not recognised?"


@pytest.mark.parametrize("test", sorted({row for row in ROWS.values() if "::" in row}))
def test_the_test_that_runs_a_command_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), flags=re.MULTILINE)


def commands(document: str, pattern: str = "*") -> list[str]:
    """Return the commands of a document that match a pattern."""
    found = [command for block in BLOCKS if block.document == document for command in block.commands]
    chosen = [command for command in found if fnmatchcase(command, pattern)]
    assert chosen
    return chosen


def command_of(document: str, pattern: str = "*") -> str:
    """Return the only command of a document that matches a pattern."""
    (command,) = commands(document, pattern)
    return command


async def shell(command: str, folder: Path, replace: dict[str, str] | None = None) -> str:
    """Run a command with machine-dependent texts replaced, and return its output. `inkit-exporter` is this exporter."""
    for shown, real in (replace or {}).items():
        command = command.replace(shown, real)
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    exporter = programs / "inkit-exporter"
    exporter.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "exporter.py"} "$@"\n')
    exporter.chmod(0o755)
    env = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "INKIT_API_TOKEN": TOKEN}
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{command}\n{out.decode()}{err.decode()}"
    return out.decode()


@pytest.mark.debian
async def test_curl_and_jq_read_the_status(api: Api, exporter: StartExporter, tmp_path: Path) -> None:
    api.batches = [batch("fb_1", name="Payslips", destinations={"box": (0, 3, 0)})]
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    here = {"localhost:10465": str(running.url.authority)}
    assert (await shell(command_of("docs/status.md"), tmp_path, here)).split() == [
        "[",
        '"default",',
        '"fb_1",',
        '"Payslips"',
        "]",
    ]
    assert await shell(command_of("docs/operating.md", "curl *"), tmp_path, here) == "ready\n"


@pytest.mark.process
@pytest.mark.debian
async def test_the_captured_answer_does_not_contain_the_token(api: Api, tmp_path: Path) -> None:
    api.batches = [batch("fb_1", name=f"the token {TOKEN}")]
    answer = await shell(command_of("docs/api.md", "curl *"), tmp_path, {"https://api.inkit.com/v1": api.base_url})
    assert answer.startswith("HTTP/1.1 200 OK") and '"fb_1"' in answer and "the token TOKEN" in answer
    assert TOKEN not in answer


@pytest.mark.process
@pytest.mark.debian
async def test_tls_and_a_password_work_as_documented(tmp_path: Path) -> None:
    document = "docs/web-configuration.md"
    (config,) = [block.text for block in BLOCKS if block.document == document and "basic_auth_users" in block.text]
    (tmp_path / "web.yml").write_text(config)
    certificate, check, _, scrape = commands(document)
    await shell(certificate, tmp_path)
    assert "ok" in (await shell(check, tmp_path)).lower()
    async with start_process("--demo", "--web.config.file=web.yml", folder=tmp_path) as running:
        await running.wait_until_started()
        _, port = running.address
        assert "inkit_up" in await shell(scrape, tmp_path, {"localhost:10465": f"localhost:{port}"})


@pytest.mark.process
@pytest.mark.debian
async def test_amtool_adds_an_alert_and_a_silence(tmp_path: Path) -> None:
    document = "docs/alerting.md"
    (_, flag) = shlex.split(command_of(document, "alertmanager *"))
    config = (ROOT / flag.partition("=")[2]).read_text()
    async with AsyncExitStack() as open_:
        address = open_.enter_context(free_address())
        here = {"localhost:9093": address, "deploy/": f"{ROOT}/deploy/"}
        assert "SUCCESS" in await shell(command_of(document, "amtool check-config *"), tmp_path, here)
        await open_.enter_async_context(alertmanager(config, tmp_path, address))
        await shell(command_of(document, "amtool alert add *"), tmp_path, here)
        await shell(command_of(document, "amtool silence add *"), tmp_path, here)
        for kind, label in (("alert", "payroll"), ("silence", "production")):
            shown = await shell(f"amtool {kind} query --output=json --alertmanager.url=http://{address}", tmp_path)
            assert label in shown


@pytest.mark.process
@pytest.mark.debian
async def test_the_steps_with_systemd_install_a_valid_configuration_and_remove_all_files(tmp_path: Path) -> None:
    document = "docs/operating.md"
    (tmp_path / "machine").mkdir()
    (tmp_path / "token").write_text(TOKEN)
    here = {" /etc/": f" {tmp_path}/machine/etc/", "=/etc/": f"={tmp_path}/machine/etc/"}
    here |= {"/opt/": f"{tmp_path}/machine/opt/", "PATH_OF_THE_TOKEN": f"{tmp_path}/token"}
    here |= {" deploy/": f" {ROOT}/deploy/", " config.example": f" {ROOT}/config.example"}
    for step in commands(document, "install -D *"):
        await shell(step, tmp_path, here)
    config = tmp_path / "machine" / "etc" / "inkit-exporter" / "config.yaml"
    (accounts,) = [block for block in BLOCKS if block.document == document and block.text.startswith("accounts:")]
    config.write_text(replace_section(config.read_text(), accounts))
    programs = tmp_path / "machine" / "opt" / "inkit-exporter" / "bin"
    programs.mkdir(parents=True)
    (programs / "inkit-exporter").symlink_to(tmp_path / "programs" / "inkit-exporter")
    printed = await shell(command_of(document, "/opt/*/inkit-exporter *"), tmp_path, here)
    assert "ok" in printed.lower()
    assert [account["name"] for account in yaml.safe_load(config.read_text())["accounts"]] == ["production"]
    await shell(command_of(document, "rm *"), tmp_path, here)
    assert [path.name for path in (tmp_path / "machine").rglob("*") if path.is_file()] == []


def replace_section(config: str, section: Block) -> str:
    """Return a configuration in which this section replaces the one of the same name."""
    key = section.text.partition(":")[0]
    replaced, count = re.subn(rf"^{key}:.*\n(?:[ #].*\n|\n)+", section.text, config, flags=re.MULTILINE)
    assert count == 1
    return replaced
