"""The systemd unit is valid, hardened, and starts the exporter with flags that exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.contract import PROJECT, flags

from inkit_exporter.cli import make_parser

GUIDE = (ROOT / "docs" / "operating.md").read_text().split("## With systemd")[1].split("\n## ")[0]
SOCKET = ROOT / "deploy" / "systemd" / "inkit-exporter.socket"
UNIT = ROOT / "deploy" / "systemd" / "inkit-exporter.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the path of the unit, with a program that exists on this machine."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/inkit-exporter/bin/inkit-exporter", sys.executable))
    return path


@pytest.mark.process
@pytest.mark.debian
def test_systemd_accepts_the_unit_without_warnings(unit: Path) -> None:
    socket = unit.with_name(SOCKET.name)
    socket.write_text(SOCKET.read_text())
    check = subprocess.run(["systemd-analyze", "verify", unit, socket], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.process
@pytest.mark.debian
def test_the_unit_is_as_hardened_as_the_guide_says(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    measured = re.search(r"Overall exposure level for \S+: ([\d.]+)", check.stdout)
    assert measured is not None, check.stdout + check.stderr
    assert re.findall(r"exposure\sis ([\d.]+) of 10", GUIDE) == [measured[1]], check.stdout


def test_the_flags_in_the_unit_exist() -> None:
    used = set(re.findall(r"--[a-z.-]+(?==)", re.sub(r"(?m)^#   .*$", "", UNIT.read_text())))
    assert used
    assert used <= flags()


def test_the_flags_in_the_environment_file_exist() -> None:
    (assignment,) = re.findall(r"^[A-Z].*$", UNIT.with_suffix(".env").read_text(), flags=re.MULTILINE)
    name, flags = shlex.split(assignment)[0].split("=", 1)
    assert f" ${name}\n" in UNIT.read_text()
    assert make_parser().parse_args(flags.split()).web_listen_address == [("127.0.0.1", 10465)]


def test_the_documented_steps_put_all_files_where_the_unit_expects_them() -> None:
    settings = dict(re.findall(r"^(\w+)=(.+)$", UNIT.read_text(), flags=re.MULTILINE))
    program, config, storage, _ = settings["ExecStart"].split()
    assert storage == f"--storage.path=/var/lib/{settings['StateDirectory']}"
    assert settings["StateDirectoryMode"] == "0700"
    credential, token = settings["LoadCredential"].split(":")
    assert f"python3 -m venv {Path(program).parent.parent}\n" in GUIDE
    assert {Path(program).name} == PROJECT["scripts"].keys()
    for source, target in (
        ("config.example.yaml", config.removeprefix("--config.file=")),
        ("PATH_OF_THE_TOKEN", token),
        ("deploy/systemd/inkit-exporter.env", settings["EnvironmentFile"].removeprefix("-")),
        ("deploy/systemd/inkit-exporter.service", f"/etc/systemd/system/{UNIT.name}"),
        ("deploy/systemd/inkit-exporter.socket", f"/etc/systemd/system/{SOCKET.name}"),
    ):
        assert re.search(rf"install -D -m 6\d\d {source} {target}\n", GUIDE), target
    assert f"api_token_file: /run/credentials/{UNIT.name}/{credential}\n" in GUIDE
    assert f"{program} --config.check {config}\n" in GUIDE
