"""Write the files that are generated from the Helm chart: its README.md and deploy/kubernetes/inkit-exporter.yaml."""

import json
import re
from pathlib import Path
from typing import Any, Final

import helm_python as helm
import yaml

ROOT: Final = Path(__file__).parent.parent
CHART: Final = ROOT / "deploy" / "helm" / "inkit-exporter"
README: Final = CHART / "README.md"
RENDERED: Final = ROOT / "deploy" / "kubernetes" / "inkit-exporter.yaml"

# In Helm's install order.
_TEMPLATES: Final = ("networkpolicy", "serviceaccount", "config", "service", "workload")
# Labels that are true only if Helm installed the objects.
_HELMS_LABELS: Final = re.compile(r"^ +(app\.kubernetes\.io/managed-by|helm\.sh/chart): .*\n", flags=re.MULTILINE)
_HEAD: Final = """\
# The Helm chart with its defaults, for kubectl and kustomize. docs/kubernetes.md has the steps.
# `make chart` makes it. Change deploy/helm/inkit-exporter instead.
"""
_TABLE: Final = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- end of values -->)", flags=re.DOTALL)


def rendered() -> str:
    """Return the chart's objects with the default values, as one file without a namespace."""
    with helm.Chart.load(CHART) as chart:
        templates = {Path(path).stem: text for path, text in chart.render(name=chart.name).items() if text.strip()}
    if templates.keys() != {*_TEMPLATES, "NOTES"}:
        raise SystemExit(f"tools/chart.py: _TEMPLATES must list these templates in install order: {sorted(templates)}")
    objects = [_HELMS_LABELS.sub("", templates[name]).strip() for name in _TEMPLATES]
    return _HEAD + "".join(f"---\n{text}\n" for text in objects)


def readme() -> str:
    """Return the chart's README.md, with a table of its current values."""
    text = (CHART / "values.yaml").read_text()
    document = yaml.compose(text)
    if not isinstance(document, yaml.MappingNode):
        raise SystemExit("tools/chart.py: values.yaml is not a mapping")
    rows = _rows(document, yaml.safe_load(text), text.splitlines())
    table = "".join(f"| {' | '.join(row)} |\n" for row in [("value", "default", "meaning"), ("---",) * 3, *rows])
    return _TABLE.sub(lambda _: table, README.read_text())


def _rows(
    node: yaml.MappingNode, values: dict[str, Any], lines: list[str], prefix: str = ""
) -> list[tuple[str, str, str]]:
    """Return one row for each value with a comment above it."""
    rows = []
    for key, child in node.value:
        value = values[key.value]
        comment = _comment_above(key.start_mark.line, lines)
        if comment:
            rows.append((f"`{prefix}{key.value}`", f"`{json.dumps(value)}`", comment))
        elif isinstance(child, yaml.MappingNode):
            rows += _rows(child, value, lines, f"{prefix}{key.value}.")
        else:
            raise SystemExit(f"tools/chart.py: {prefix}{key.value} has no comment in values.yaml")
    return rows


def _comment_above(line: int, lines: list[str]) -> str:
    first = line
    while first and lines[first - 1].lstrip().startswith("# "):
        first -= 1
    return " ".join(text.strip().removeprefix("# ") for text in lines[first:line])


if __name__ == "__main__":
    README.write_text(readme())
    RENDERED.write_text(rendered())
