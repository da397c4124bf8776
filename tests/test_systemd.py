"""The systemd unit is valid, hardened, and starts the exporter with flags that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from inkit_exporter.flags import make_parser

UNIT = ROOT / "deploy" / "systemd" / "inkit-exporter.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that exists on this machine."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/inkit-exporter/bin/inkit-exporter", sys.executable))
    return path


def test_systemd_has_nothing_to_say_of_the_unit(unit: Path) -> None:
    check = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")


def test_the_unit_stays_hardened(unit: Path) -> None:
    """The exposure is 1.2 of 10 as `systemd-analyze security` counts; the threshold is in tenths."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=12", "--no-pager", str(unit)]
    check = subprocess.run(command, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout


def test_the_unit_uses_flags_that_exist() -> None:
    flags = set(re.findall(r"--[a-z.-]+(?==)", re.sub(r"(?m)^#   .*$", "", UNIT.read_text())))
    assert flags
    assert flags <= {option for action in make_parser()._actions for option in action.option_strings}
