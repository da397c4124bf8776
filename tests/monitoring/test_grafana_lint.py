"""The rules of Grafana's dashboard-linter, and the file of exceptions to them."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from deploy.grafana.dashboard import COMMITTED

DASHBOARD: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
EXCEPTIONS: dict[str, dict[str, Any]] = yaml.safe_load((COMMITTED.parent / ".lint").read_text())["exclusions"]
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Finding(NamedTuple):
    """A broken rule, and the panel that breaks it."""

    rule: str
    panel: str | None = None


def of_templates() -> Iterator[Finding]:
    """Yield what is wrong with the variables."""
    source = VARIABLES.get("datasource", {})
    if (source.get("type"), source.get("query"), source.get("label")) != ("datasource", "prometheus", "Data source"):
        yield Finding("template-datasource-rule")
    for name in ("job", "instance"):
        one = VARIABLES.get(name, {})
        as_wanted = (
            (one.get("type"), one.get("datasource"), one.get("multi"), one.get("allValue"))
            == ("query", _DATASOURCE, True, ".+")
            and str(one.get("label")).lower() == name
        )  # fmt: skip
        if not as_wanted:
            yield Finding(f"template-{name}-rule")
    if any(one["type"] == "query" and one["refresh"] != 2 for one in VARIABLES.values()):
        yield Finding("template-on-time-change-reload-rule")
    if DASHBOARD["editable"]:
        yield Finding("uneditable-dashboard-rule")


def of_panels() -> Iterator[Finding]:
    """Yield what is wrong with the panels and their queries."""
    for panel in PANELS:
        title = panel["title"]
        if panel["datasource"] != _DATASOURCE:
            yield Finding("panel-datasource-rule", title)
        if not panel["title"] or not panel["description"]:
            yield Finding("panel-title-description-rule", title)
        if not panel["fieldConfig"]["defaults"]["unit"]:
            yield Finding("panel-units-rule", title)
        if not panel["targets"]:
            yield Finding("panel-no-targets-rule", title)
        for target in panel["targets"]:
            yield from (Finding(rule, title) for rule in of_query(target["expr"]))


def of_query(expression: str) -> Iterator[str]:
    """Yield the rules that a query breaks."""
    without_lists = re.sub(r"\b(by|on|ignoring|without) \([^)]*\)", "", expression)
    for name, _, matchers in re.findall(r"\b((?:inkit|process|up|scrape|ALERTS)[\w:]*)(\{([^}]*)\})?", without_lists):
        if name.startswith("inkit") or name in ("up", "ALERTS", "ALERTS_FOR_STATE") or "process" in name or matchers:
            for label in ("job", "instance"):
                if f'{label}=~"${label}"' not in matchers and name != "ALERTS_FOR_STATE":
                    yield f"target-{label}-rule"
        if name.endswith("_total") and not re.search(rf"(rate|increase)\({name}", expression):
            yield "target-counter-agg-rule"
    if any(window != "$__rate_interval" for window in re.findall(r"(?:rate|increase)\([^\[]*\[([^\]:]+)", expression)):
        yield "target-rate-interval-rule"


def test_the_dashboard_follows_the_linters_rules_except_for_exceptions_with_a_reason() -> None:
    found = {*of_templates(), *of_panels()}
    excepted = {
        Finding(rule, entry["panel"] if entry else None)
        for rule, exception in EXCEPTIONS.items()
        for entry in exception.get("entries", [None])
    }
    assert found == excepted
    assert all(len(exception["reason"]) > 20 for exception in EXCEPTIONS.values())


def test_the_test_finds_queries_that_break_a_rule() -> None:
    assert set(of_query("sum(inkit_polls_total)")) == {
        "target-job-rule",
        "target-instance-rule",
        "target-counter-agg-rule",
    }
    assert set(of_query('rate(inkit_polls_total{job=~"$job", instance=~"$instance"}[5m])')) == {
        "target-rate-interval-rule"
    }
