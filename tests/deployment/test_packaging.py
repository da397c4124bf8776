"""Packaging: the wheel, the lock files and the Dockerfile."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support import ROOT
from support.contract import PROJECT
from support.exporter import HUNG_UP, demo, hang_up_while_it_starts
from support.samples import documents, up


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    blocks = re.findall(
        r"^([\w.-]+)==([\w.]+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", text, flags=re.MULTILINE
    )
    pins = re.findall(r"^[\w.-]+==", text, flags=re.MULTILINE)
    assert len(blocks) == len(pins), "a pin without a hash"
    return {package.lower().replace("_", "-"): version for package, version, _ in blocks}


def test_the_lock_files_satisfy_the_project_and_agree_on_versions() -> None:
    runtime, everything = locked("requirements.txt"), locked("requirements-dev.txt")
    assert runtime.items() <= everything.items()
    for requirement in PROJECT["dependencies"]:
        name, least = requirement.lower().split(">=")
        assert [int(part) for part in runtime[name].split(".")] >= [int(part) for part in least.split(".")]
    for requirement in PROJECT["optional-dependencies"]["dev"]:
        assert requirement.lower().split(">=")[0] in everything


def test_every_dependency_earns_its_line_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text().lower()
    for requirement in PROJECT["dependencies"]:
        assert f"| {requirement.lower().split('>=')[0]} |" in readme


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from a copy of its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "exporter.py"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "inkit_exporter", source / "inkit_exporter", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.process
def test_the_wheel_contains_only_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "inkit_exporter",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    data = {"py.typed", "status/page.html", "status/page.css", "status/page.js"}
    assert {f"inkit_exporter/{name}" for name in data} <= set(names)


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """Return the installed command, in a folder without the repository's files."""
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", f"--target={tmp_path}", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return tmp_path / "bin" / "inkit-exporter"


@pytest.mark.process
async def test_the_installed_command_serves_metrics_and_page(installed: Path, tmp_path: Path) -> None:
    async with demo(program=installed, folder=tmp_path, env={"PYTHONPATH": str(tmp_path)}) as (running, printed):
        assert f" {installed}\n" in printed
        samples = await running.wait_for(lambda s: up(s, "demo") == 1)
        assert sum(documents(samples, account="demo").values()) > 0
        assert [(await running.get(path))[0] for path in ("/", "/api/v1/status")] == [200, 200]


@pytest.mark.process
def test_both_ways_to_start_the_installed_package_survive_a_reload_signal(installed: Path, tmp_path: Path) -> None:
    env = hang_up_while_it_starts(tmp_path, tmp_path)
    for start in ([str(installed)], ["-m", "inkit_exporter"]):
        command = [sys.executable, *start, "--version"]
        version = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert version.stdout.startswith("inkit-exporter ")
        assert version.stderr == HUNG_UP


@pytest.mark.process
def test_hadolint_accepts_the_dockerfile() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    check = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout) == (0, "")


def test_the_image_installs_exactly_the_locked_requirements_and_keeps_no_pip() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (install,) = re.findall(r"-m pip .* install (.*)", dockerfile)
    assert {"--only-binary=:all:", "--require-hashes", "--requirement"} <= set(install.split())
    assert install.split()[-1] == "/requirements.txt"
    assert "venv --without-pip" in dockerfile and "-name 'pip[-0-9]*'" in dockerfile
    assert len(set(re.findall(r"^FROM (\S+)", dockerfile, flags=re.MULTILINE))) == 1
    assert "USER 65534:65534" in dockerfile
    context = (ROOT / ".dockerignore").read_text()
    for copied in re.findall(r"^COPY (?!--from)(\S+)", dockerfile, flags=re.MULTILINE):
        assert f"!{copied}" in context
