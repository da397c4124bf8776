"""Code, reference and README say the same."""

import os
import re
from pathlib import Path

from conftest import ROOT
from prometheus_client import Metric

from inkit_exporter.config import Shard
from inkit_exporter.flags import make_parser
from inkit_exporter.metrics import AccountMetrics, ProcessMetrics
from inkit_exporter.model import Counts
from inkit_exporter.poller import AccountState
from inkit_exporter.window import Snapshot

REFERENCE = (ROOT / "docs" / "metrics.md").read_text()
README = (ROOT / "README.md").read_text()


SNAPSHOT = Snapshot({("box", "completed"): Counts(1, 1, 0, 0)}, {"completed": 1}, 1.0, 1.0, truncated=False)


def exposed() -> dict[str, Metric]:
    """Every family of the exporter's own, by the name it has in the text format."""
    state = AccountState("a", 1.0, 1.0, up=True, snapshot=SNAPSHOT)
    registries = AccountMetrics(state, clock=lambda: 0.0).registry, ProcessMetrics(Shard()).registry
    families = [family for registry in registries for family in registry.collect()]
    return {_name(family): family for family in families if family.name.startswith("inkit_")}


def _name(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


def documented() -> dict[str, tuple[str, str]]:
    """Name → (type, labels) of the reference's tables."""
    rows = re.findall(r"^\| `(inkit_\w+)` \| (\w+) \| ([^|]*) \|", REFERENCE, flags=re.MULTILINE)
    return {name: (kind, labels.strip()) for name, kind, labels in rows}


def test_every_metric_is_documented_and_every_documented_one_exposed_with_its_type() -> None:
    assert {name: kind for name, (kind, _) in documented().items()} == {
        name: family.type for name, family in exposed().items()
    }


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


def test_every_flag_is_in_the_readme_and_every_flag_there_exists() -> None:
    flags = {option for action in make_parser()._actions for option in action.option_strings} - {"-h", "--help"}
    assert set(re.findall(r"^\| `(--[a-z.-]+)", README, flags=re.MULTILINE)) == flags


def test_every_link_to_a_file_leads_to_one() -> None:
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_no_file_names_a_registry_or_a_home() -> None:
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]
    for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml", "Dockerfile", "Makefile"):
        text = Path(ROOT / name).read_text()
        assert not [host for host in hosts if host in text]
        assert os.sep + "root" + os.sep not in text
