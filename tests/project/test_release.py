"""The release: one version everywhere, notes, bill of materials, and valid workflows."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from support import ROOT

from inkit_exporter import __version__

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = ("README.md", "docs/*.md", "deploy/**/*.yaml", "deploy/**/*.yml", ".github/ISSUE_TEMPLATE/*.yml")
IMAGE = re.compile(r"inkit-exporter/inkit-exporter[:@](\S+?)(?=[\s\"'`)]|$)", flags=re.MULTILINE)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # it takes time
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_image_has_the_codes_version_everywhere() -> None:
    named = {
        (path.name, version)
        for pattern in FILES
        for path in ROOT.glob(pattern)
        for version in IMAGE.findall(path.read_text())
    }
    assert {"operating.md", "compose.yaml"} <= {name for name, _ in named}
    assert {version for _, version in named} == {__version__}


def test_the_examples_of_commands_have_the_codes_version() -> None:
    arguments = [
        version
        for path in (ROOT / "docs").glob("*.md")
        for version in re.findall(r"(?:VERSION=|--version |newTag: )(\d[\w.]*)", path.read_text())
    ]
    assert set(arguments) == {__version__}


def test_the_chart_has_the_codes_version() -> None:
    charts = list(ROOT.glob("deploy/helm/*/Chart.yaml"))
    for chart in charts:
        described = yaml.safe_load(chart.read_text())
        assert (described["version"], described["appVersion"]) == (__version__, __version__)


def test_the_changelog_begins_with_unreleased_and_then_the_codes_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])


@pytest.mark.process
def test_the_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    notes = run("tools/release_notes.sh", __version__)
    assert (notes.returncode, notes.stderr) == (0, "")
    assert notes.stdout.startswith("### Added\n") and "\n- " in notes.stdout and "\n## " not in notes.stdout
    unknown = run("tools/release_notes.sh", "9.9.9")
    assert unknown.returncode == 1
    assert "another version than 9.9.9" in unknown.stderr


@pytest.mark.process
def test_the_readme_on_pypi_has_no_relative_links() -> None:
    made = run("tools/pypi_readme.sh", "v1.2.3")
    links = re.findall(r"\]\(([^)]*)\)", made.stdout)
    assert len(links) == len(re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())) > 10
    assert all(link.startswith(("https://", "#")) for link in links)
    blob = "https://github.com/inkit-exporter/inkit-exporter/blob/v1.2.3/"
    assert all((ROOT / link.removeprefix(blob).split("#")[0]).exists() for link in links if link.startswith(blob))


@pytest.mark.process
def test_the_bill_of_materials_lists_the_locked_packages_with_their_hashes() -> None:
    made = run("tools/sbom.sh")
    assert (made.returncode, made.stderr) == (0, "")
    bill = json.loads(made.stdout)
    assert bill["metadata"]["component"]["name"] == "inkit-exporter"
    assert bill["metadata"]["component"]["version"] == __version__
    lock = (ROOT / "requirements.txt").read_text()
    assert {(part["name"], part["version"]) for part in bill["components"]} == set(
        re.findall(r"^([\w.-]+)==([\w.]+)", lock, flags=re.MULTILINE)
    )
    hashes = {digest["content"] for part in bill["components"] for digest in part["externalReferences"][0]["hashes"]}
    assert hashes == set(re.findall(r"--hash=sha256:(\w+)", lock))


@pytest.mark.process
def test_workflows_and_templates_are_valid_and_zizmor_finds_nothing() -> None:
    check = run("make", "-s", "check-workflows")
    assert check.returncode == 0, check.stdout + check.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_grant_permissions_only_to_jobs_and_run_existing_scripts(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    targets = set(re.findall(r"^([a-z./-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for name, job in workflow["jobs"].items():
        assert "permissions" in job, name
        assert "uses" in job or job["timeout-minutes"] <= 40, name
        for step in job.get("steps", []):
            assert re.fullmatch(r"[\w./-]+@v\d+(\.\d+\.\d+)?", step.get("uses", "a/b@v1")), step
            for script in re.findall(r"tools/\w+\.sh", step.get("run", "")):
                assert (ROOT / script).stat().st_mode & 0o111, script
            assert set(re.findall(r"^make (\S+)", step.get("run", ""), flags=re.MULTILINE)) <= targets


def test_only_the_tag_of_a_whole_release_publishes_and_a_second_try_can_finish() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow[True]["push"] == {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}  # YAML reads `on` as true
    (upload,) = [step for step in workflow["jobs"]["pypi"]["steps"] if "pypi-publish" in step["uses"]]
    assert upload["with"] == {"skip-existing": True}


def test_an_image_gets_its_tags_after_it_has_started() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    steps = workflow["jobs"]["image"]["steps"]
    assert "push-by-digest=true" in next(step for step in steps if step.get("id") == "push")["with"]["outputs"]
    commands = [step["run"] for step in steps if "run" in step]
    assert re.findall(r"smoke_image.sh \S+ (\S+)", commands[0]) == ["linux/amd64", "linux/arm64"]
    assert commands[1].startswith("docker buildx imagetools create --tag")


@pytest.mark.process
@pytest.mark.parametrize(("unreleased", "status"), [("", 0), ("\n### Added\n- A thing.\n", 1)], ids=["no", "yes"])
def test_a_tag_is_refused_while_changes_are_unreleased(tmp_path: Path, unreleased: str, status: int) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    (check,) = [step["run"] for step in workflow["jobs"]["build"]["steps"] if "Unreleased" in step.get("run", "")]
    (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n{unreleased}\n## [0.2.0] - 2026-12-01\n\n- Another.\n")
    assert subprocess.call(["bash", "-e", "-c", check], cwd=tmp_path, stdout=subprocess.DEVNULL) == status


def test_continuous_integration_runs_the_oldest_and_the_newest_python() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    oldest, newest = job["strategy"]["matrix"]["python"]
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()
    assert f"python:{newest}-slim" in (ROOT / "Dockerfile").read_text()


def test_pre_commit_runs_targets_of_the_makefile() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    makefile = (ROOT / "Makefile").read_text()
    for hook in repository["hooks"]:
        assert f"\n{hook['entry'].removeprefix('make ')}:" in makefile


def test_the_audit_tool_comes_from_the_lock() -> None:
    assert "\n\t$(BIN)/pip-audit --strict" in (ROOT / "Makefile").read_text()
    assert "\npip-audit==" in (ROOT / "requirements-dev.txt").read_text()


def test_the_compatibility_page_shows_what_make_compat_prints() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text()
    rows = dict(re.findall(r"^\| (\w[\w-]*) \| (\d\S+) \|$", page, flags=re.MULTILINE))
    assert list(rows) == ["inkit-exporter", "Python", "Prometheus", "Alertmanager", "VictoriaMetrics"]
    assert rows["inkit-exporter"] == __version__
    assert int(rows["Prometheus"].split(".")[0]) >= 3
    assert re.search(r"^Last run on \d{4}-\d\d-\d\d:$", page, flags=re.MULTILINE)
