"""The rules for Prometheus are valid, tested, and have a runbook."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_documentation import exposed

PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
RUNBOOKS_URL = "https://github.com/inkit-exporter/inkit-exporter/blob/main/docs/runbooks.md#"

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


@pytest.mark.parametrize(
    "command",
    [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(alert: str) -> None:
    annotations = ALERTS[alert]["annotations"]
    assert ALERTS[alert]["labels"]["severity"] in {"critical", "warning"}
    assert annotations["summary"]
    assert annotations["description"]
    assert annotations["runbook_url"] == RUNBOOKS_URL + alert.lower()
    assert len(re.findall(rf"^## {alert}$", RUNBOOKS, flags=re.MULTILINE)) == 1


def test_every_runbook_is_of_an_alert() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE) == list(ALERTS)


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for test in yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]:
        for check in test["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == ALERTS.keys()


def test_every_metric_in_rules_and_runbooks_exists() -> None:
    expressions = "\n".join(rule["expr"] for rule in RULES)
    for text in (expressions, RUNBOOKS):
        for name in re.findall(r"\binkit_[a-z_]+(?![a-z_:])", text):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in exposed(), name
        assert set(re.findall(r"\binkit:[a-z_]+:[a-z0-9_]+", text)) <= RECORDED


def test_the_scrape_job_has_the_name_that_the_rules_look_for() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert set(re.findall(r'job="(\w+)"', "\n".join(rule["expr"] for rule in RULES))) == jobs
