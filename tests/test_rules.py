"""The rules for Prometheus are valid, tested, and have a runbook."""

import re
import subprocess
from pathlib import Path
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
RULE_TESTS: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]


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


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_says_what_it_means_whom_it_hurts_how_to_be_sure_and_what_to_do(alert: str) -> None:
    text = RUNBOOKS.split(f"## {alert}\n")[1].split("\n## ")[0]
    assert re.findall(r"^\*\*(\w+)\.\*\* \S", text, flags=re.MULTILINE) == ["Meaning", "Impact", "Confirm", "Do"]


def test_promtool_can_read_every_query_in_the_documents(tmp_path: Path) -> None:
    runbooks = [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", RUNBOOKS)]
    queries = [code for code in runbooks if re.search(r"inkit[_:]\w|up\{", code)]
    queries += re.findall(
        r"^    (?!#)((?:.+\n(?:      .+\n)*))", (ROOT / "docs" / "metrics.md").read_text(), flags=re.MULTILINE
    )
    assert len(queries) > 40
    rules = [{"record": f"inkit:query:number{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_runbook_is_of_an_alert() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE) == list(ALERTS)


def checks_of(alert: str) -> list[list[bool]]:
    """For each test of an alert, whether it fires at each time looked at."""
    return [
        [bool(check["exp_alerts"]) for check in test["alert_rule_test"] if check["alertname"] == alert]
        for test in RULE_TESTS
        if any(check["alertname"] == alert for check in test["alert_rule_test"])
    ]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_to_be_silent_then_to_fire_then_to_end_and_not_to_fire_elsewhere(alert: str) -> None:
    assert any(fires[0] is False and True in fires and fires[-1] is False for fires in checks_of(alert))
    assert any(not any(fires) for fires in checks_of(alert))


def needed_by(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """The rules that record what an expression reads, and what those read, in the order of the file."""
    found = [one for one in RULES if one.get("record") in re.findall(r"inkit:[a-z_]+:[a-z0-9_]+", rule["expr"])]
    names = {one["record"] for needed in found for one in (*needed_by(needed), needed)}
    return [one for one in RULES if one.get("record") in names]


@pytest.mark.parametrize("alert", ALERTS)
def test_the_tests_notice_an_alert_that_fires_one_evaluation_sooner_or_later(alert: str, tmp_path: Path) -> None:
    """Its `for` is changed by the minute that the tests evaluate at. Only what the alert needs is kept, to be fast."""
    duration = re.fullmatch(r"(\d+)([mh])", ALERTS[alert]["for"])
    assert duration is not None
    minutes = int(duration[1]) * {"m": 1, "h": 60}[duration[2]]
    tests = [test for test in RULE_TESTS if any(check["alertname"] == alert for check in test["alert_rule_test"])]
    for name, wanted in (("as_it_is", minutes), ("sooner", minutes - 1), ("later", minutes + 1)):
        rules = [*needed_by(ALERTS[alert]), ALERTS[alert] | {"for": f"{wanted}m"}]
        (tmp_path / f"rules_{name}.yml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": rules}]}))
        content = {"rule_files": [f"rules_{name}.yml"], "evaluation_interval": "1m", "tests": tests}
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(content))
    command = ["promtool", "test", "rules", "as_it_is.yml", "sooner.yml", "later.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.findall(r"SUCCESS|FAILED", done.stdout + done.stderr) == ["SUCCESS", "FAILED", "FAILED"], done.stderr


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
