"""The rules for Prometheus in `deploy/`."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from support import ROOT, read_yaml

PROMETHEUS = ROOT / "deploy" / "prometheus"
TEXT = (PROMETHEUS / "rules.yml").read_text()

RULES: list[dict[str, Any]] = [rule for group in read_yaml(TEXT)["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


CONSTANTS: dict[str, float] = {
    rule["record"]: float(number[1])
    for rule in RULES
    if "record" in rule and (number := re.fullmatch(r"vector\(([\d.]+)\)", rule["expr"]))
}
"""The numbers that users may adapt."""


def only(alerts: Sequence[dict[str, Any]]) -> str:
    """A rules file with nothing but these alerts and what they need."""
    names = recorded("\n".join(alert["expr"] for alert in alerts))
    needed = [rule for rule in RULES if rule.get("record") in names]
    group = {"name": "one", "rules": [*needed, *alerts]}
    return yaml.safe_dump({"groups": [group]}, sort_keys=False, width=10_000)


def recorded(expression: str) -> set[str]:
    """The recorded series that an expression reads, and what those read. One of them reads its own past."""
    found: set[str] = set()
    while new := set(re.findall(r"\binkit:[a-z_0-9]+:[a-z0-9_]+", expression)) - found:
        found |= new
        expression = "\n".join(rule["expr"] for rule in RULES if rule.get("record") in new)
    return found
