"""The scripts of tools/ leave a machine as they found it."""

import os
import subprocess
from pathlib import Path

import pytest
from support import ROOT

OWN_POLICY = "#!/bin/sh\nexit 104  # of the machine itself\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Return a fake machine with root: apt-get asks policy-rc.d, like packages, and can fail or be killed."""
    programs = {
        "id": "echo 0",
        "apt-get": f"""
            [ "$1" = install ] || exit 0
            code=0; {tmp_path}/policy-rc.d prometheus start || code=$?
            echo "$@" "policy $code" >>{tmp_path}/installed
            if [ -e {tmp_path}/killed ]; then kill -KILL $PPID; fi
            if [ -e {tmp_path}/fails ]; then exit 100; fi
        """,
    }
    (tmp_path / "bin").mkdir()
    for name, lines in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def install(machine: Path) -> int:
    env = {"PATH": f"{machine}/bin:{os.environ['PATH']}", "POLICY_RC_D": f"{machine}/policy-rc.d"}
    command = [str(ROOT / "tools" / "debian_packages.sh"), "dash=sh", "nothing=no-such-program"]
    return subprocess.run(command, env=env, capture_output=True, check=False).returncode


def installed(machine: Path) -> list[str]:
    return (machine / "installed").read_text().splitlines()


@pytest.mark.parametrize("own", [None, OWN_POLICY], ids=["without a policy", "with its own policy"])
@pytest.mark.parametrize("trouble", [None, "fails", "killed"])
@pytest.mark.process
def test_installing_packages_starts_no_service_and_restores_the_policy(
    machine: Path, own: str | None, trouble: str | None
) -> None:
    policy = machine / "policy-rc.d"
    if own:
        policy.write_text(own)
        policy.chmod(0o755)
    if trouble:
        (machine / trouble).touch()
        assert install(machine) == {"fails": 100, "killed": -9}[trouble]
        (machine / trouble).unlink()
        (machine / "installed").unlink()
    assert install(machine) == 0
    assert installed(machine) == ["install -y -qq --no-install-recommends nothing policy 101"]
    assert (policy.read_text() if policy.exists() else None) == own
    assert not list(machine.glob("policy-rc.d.*"))
