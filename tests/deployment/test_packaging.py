"""What is installed: the wheel, the locked requirements, the image's recipe."""

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


def test_the_lock_files_hold_what_the_project_asks_for_at_one_version() -> None:
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
    """The wheel, built from a copy of what it is made of."""
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
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "inkit_exporter",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    data = {"py.typed", "status/page.html", "status/page.css", "status/page.js"}
    assert {f"inkit_exporter/{name}" for name in data} <= set(names)


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The command of the installed wheel, in a folder where nothing of the repository is found."""
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
def test_each_way_to_start_the_installed_package_survives_a_signal_to_reload(installed: Path, tmp_path: Path) -> None:
    env = hang_up_while_it_starts(tmp_path, tmp_path)
    for start in ([str(installed)], ["-m", "inkit_exporter"]):
        command = [sys.executable, *start, "--version"]
        version = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert version.stdout.startswith("inkit-exporter ")
        assert version.stderr == HUNG_UP


@pytest.mark.process
def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
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
