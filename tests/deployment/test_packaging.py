"""What is installed: the wheel, the locked requirements, the image's recipe."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import HUNG_UP, ROOT, hang_up_while_it_starts
from support.contract import PROJECT


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


@pytest.mark.process
def test_the_wheel_holds_the_package_and_the_command_and_nothing_else(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "dist"),
        str(tmp_path / "src"),
    ]
    source = tmp_path / "src"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "exporter.py"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "inkit_exporter", source / "inkit_exporter", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "inkit_exporter",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }
    data = {"py.typed", "status/page.html", "status/page.css", "status/page.js"}
    assert {f"inkit_exporter/{name}" for name in data} <= set(names)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(tmp_path / "to")]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    command = tmp_path / "to" / "bin" / "inkit-exporter"
    for start in ([str(command)], ["-m", "inkit_exporter"]):
        version = subprocess.run(
            [sys.executable, *start, "--version"],
            env=hang_up_while_it_starts(tmp_path, tmp_path / "to"), check=True, capture_output=True, text=True,
            cwd=tmp_path,
        )  # fmt: skip
        assert version.stdout.startswith("inkit-exporter ")
        assert version.stderr == HUNG_UP


@pytest.mark.process
def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    check = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout) == (0, "")


def test_the_image_installs_exactly_the_locked_requirements() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip install --[^\n]*", dockerfile)
    assert installs == [
        "pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements.txt \\"
    ]
    assert "USER 65534:65534" in dockerfile
    context = (ROOT / ".dockerignore").read_text()
    for copied in re.findall(r"^COPY (?!--from)(\S+)", dockerfile, flags=re.MULTILINE):
        assert f"!{copied}" in context
