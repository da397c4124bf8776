"""Code, README and documentation say the same."""

import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect
from support import ROOT
from support.contract import exposed, flags
from support.deviations import Deviation, load_all

from inkit_exporter.config import Settings
from inkit_exporter.state import Progress
from inkit_exporter.status import batches, failing, report
from inkit_exporter.storage.health import StorageHealth
from inkit_exporter.window.window import KEPT

OPERATING = (ROOT / "docs" / "operating.md").read_text()
REFERENCE = (ROOT / "docs" / "metrics.md").read_text()
README = (ROOT / "README.md").read_text()


def documented() -> dict[str, tuple[str, str]]:
    """Return type and labels of each metric in the reference's tables."""
    rows = re.findall(r"^\| `(inkit_\w+)` \| (\w+) \| ([^|]*) \|", REFERENCE, flags=re.MULTILINE)
    return {name: (kind, labels.strip()) for name, kind, labels in rows}


def test_the_documented_metrics_and_types_are_the_exposed_ones() -> None:
    assert {name: kind for name, (kind, _) in documented().items()} == {
        name: family.type for name, family in exposed().items()
    }


def test_every_metric_has_a_query() -> None:
    found = re.findall(r"^    (?!#).+", REFERENCE, flags=re.MULTILINE)
    for name in documented():
        assert [query for query in found if re.search(rf"\b{name}(_bucket)?\b", query)], name


def test_the_documented_labels_are_the_real_ones() -> None:
    for name, family in exposed().items():
        labels = [label for label in family.samples[0].labels if label != "le"]
        assert documented()[name][1] == ", ".join(f"`{label}`" for label in labels), name


def test_help_texts_say_more_than_the_name() -> None:
    for name, family in exposed().items():
        assert family.documentation.endswith("."), name
        assert name.replace("_", " ") not in family.documentation.lower()


def test_every_metric_named_anywhere_exists() -> None:
    names = exposed().keys() | {"inkit_exporter", "inkit_storage", "inkit_api_token"}
    pattern = re.compile(r"\binkit_[a-z_]+[a-z]\b")
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "config.example.yaml"):
        for name in pattern.findall(path.read_text().replace("INKIT_API_TOKEN", "")):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in names, f"{path.name}: {name}"


def test_the_flags_in_the_readme_are_the_existing_ones() -> None:
    assert set(re.findall(r"^\| `(--[a-z.-]+)", README, flags=re.MULTILINE)) == flags()


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("The answer", report.Status),
        ("`storage`", StorageHealth),
        ("Each of `accounts`", report.AccountStatus),
        ("`progress`", Progress),
        ("`window`", report.WindowStatus),
        ("Each of `destinations`", report.DestinationStatus),
        ("`failing`", failing.FailingStatus),
        ("`failing_batches`, `unfinished_batches`", batches.BatchesStatus),
        ("Each of `listed`", batches.BatchStatus),
    ],
)
def test_every_field_of_the_status_report_is_documented_with_its_type(heading: str, struct: type) -> None:
    text = (ROOT / "docs" / "status.md").read_text()
    (section,) = re.findall(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, flags=re.MULTILINE)
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    assert rows == [(field.encode_name, _json_type(field.type)) for field in described.fields]


def _json_type(field: inspect.Type) -> str:
    match field:
        case inspect.UnionType(types):
            return " or ".join(_json_type(part) for part in types)
        case inspect.CollectionType() | inspect.ListType():
            return "list"
        case inspect.DictType() | inspect.StructType():
            return "object"
    names = {
        "FloatType": "number",
        "IntType": "integer",
        "BoolType": "boolean",
        "StrType": "string",
        "NoneType": "null",
    }
    return names[type(field).__name__]


def test_the_documented_lengths_of_the_lists_are_the_real_ones() -> None:
    text = (ROOT / "docs" / "status.md").read_text()
    assert f"the first {batches.LISTED} of them" in text
    assert f"from 1 to {KEPT:,}" in text


def keys(settings: type[msgspec.Struct], place: str = "") -> Iterator[str]:
    """Yield the place of each configuration key, as in error messages, but not the sections."""
    for field in msgspec.structs.fields(settings):
        kind, name = inspect.type_info(field.type), place + field.name
        if isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.StructType):
            yield name
            yield from keys(kind.item_type.cls, f"{name}[].")
        elif isinstance(kind, inspect.StructType):
            if place:
                yield name
            yield from keys(kind.cls, f"{name}.")
        else:
            yield name


def test_the_operating_guide_says_what_each_key_costs() -> None:
    table = OPERATING.split("| key | effect on API calls |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([\w.\[\]]+)` \|", table, flags=re.MULTILINE) == list(keys(Settings))


@pytest.mark.process
@pytest.mark.debian
def test_prometheus_accepts_the_configurations_in_the_documents(tmp_path: Path) -> None:
    text = "\n".join(path.read_text() for path in sorted(ROOT.glob("docs/*.md")))
    whole = re.findall(r"```yaml\n(global:.*?)```", text, flags=re.DOTALL)
    jobs = re.findall(r"(?:^ +- job_name: .*\n(?: {6,}.*\n)*)", text, flags=re.MULTILINE)
    assert len(whole) >= 2 and len(jobs) >= 2
    # Debian's Prometheus is built without service discovery by Kubernetes.
    jobs = [re.sub(r"kubernetes_sd_configs: .*", "static_configs: []", job) for job in jobs]
    path = tmp_path / "prometheus.yml"
    for config in (*whole, *(f"scrape_configs:\n{job}" for job in jobs)):
        path.write_text(config)
        check = subprocess.run(["promtool", "check", "config", path], capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stdout + check.stderr


def test_every_link_leads_to_an_existing_file_and_heading() -> None:
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", path.read_text()):
            target = path.parent / link if link else path
            assert target.exists(), f"{path.name}: {link}"
            assert not heading or heading in _headings(target), f"{path.name}: {link}#{heading}"


def test_every_tested_deviation_is_in_one_row_of_the_api_page_under_its_outcome() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    rows: dict[str, set[str]] = defaultdict(set)
    for heading, section in re.findall(r"^## What (?:is )?(.*)\n((?:(?!## ).*\n)*)", text, flags=re.MULTILINE):
        for names in re.findall(r"^\| .* \| ([^|]*) \|$", section, flags=re.MULTILINE):
            rows[heading] |= set(re.findall(r"`([\w*-]+)`", names))
    catalogue = load_all()
    for name, deviation in catalogue.items():
        found = [(heading, row) for heading, patterns in rows.items() for row in patterns if fnmatch(name, row)]
        assert [heading for heading, _ in found] == [_outcome(deviation)], (name, found)
    for pattern in set().union(*rows.values()):
        assert any(fnmatch(name, pattern) for name in catalogue), pattern


def _outcome(deviation: Deviation) -> str:
    """Return the heading for a deviation in the documentation."""
    counted = deviation.expect.invalid and not deviation.expect.fails
    return "fails the poll" if deviation.expect.fails else "left out and counted" if counted else "tolerated"


def _headings(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub names them."""
    lines = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_every_table_of_the_performance_page_was_printed_by_a_benchmark() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    blocks = re.findall(r"<!-- python (bench/\w+\.py).*? -->\n(.*?)<!-- end -->", page, flags=re.DOTALL)
    assert len(blocks) == page.count("<!-- end -->") >= 4
    for script, printed in blocks:
        assert (ROOT / script).is_file()
        assert printed.startswith("Python 3."), "the versions must come first"
        assert "|---" in printed
    assert page.count("|---") == sum(printed.count("|---") for _, printed in blocks)


def test_the_contributing_guide_names_the_debian_packages_of_the_tests() -> None:
    packages = re.search(r"^DEBIAN_PACKAGES = ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert packages is not None
    sentence = (ROOT / "CONTRIBUTING.md").read_text().split("also wants the Debian packages")[1].split(".")[0]
    assert re.findall(r"`([\w-]+)`", sentence) == re.findall(r"([\w-]+)=", packages[1])


def test_no_file_names_a_registry_or_a_home() -> None:
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]
    names = ("requirements.txt", "requirements-dev.txt", "pyproject.toml", "Dockerfile", "Makefile")
    for path in (*(ROOT / name for name in names), *ROOT.glob(".github/**/*.yml")):
        text = path.read_text()
        assert not [host for host in hosts if host in text]
        assert os.sep + "root" + os.sep not in text
