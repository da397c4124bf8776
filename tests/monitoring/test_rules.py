"""The rules for Prometheus are valid, tested, and have a runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT
from support.contract import exposed
from support.rules import ALERTS, PROMETHEUS, RECORDED, RULE_TESTS, RULES, TEST_FILES

RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
RUNBOOKS_URL = "https://github.com/inkit-exporter/inkit-exporter/blob/main/docs/runbooks.md#"


@pytest.mark.parametrize(
    "command",
    [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", *TEST_FILES)],
    ids=" ".join,
)
@pytest.mark.process
@pytest.mark.debian
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


@pytest.mark.process
@pytest.mark.debian
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


def alerts_of(test: dict[str, Any]) -> set[str]:
    """The alerts that a test is about."""
    return {check["alertname"] for check in test["alert_rule_test"]}


def checks_of(alert: str) -> list[list[bool]]:
    """For each test of an alert, whether it fires at each time looked at."""
    return [
        [bool(check["exp_alerts"]) for check in test["alert_rule_test"] if check["alertname"] == alert]
        for test in RULE_TESTS
        if alert in alerts_of(test)
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


def passes(alert: dict[str, Any], folder: Path) -> bool:
    """Whether the tests of an alert like it so. Only what it needs is kept, to be fast."""
    groups = [{"name": "one", "rules": [*needed_by(alert), alert]}]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    for name, content in reversed(TEST_FILES.items()):  # those that are evaluated seldom are done sooner
        tests = [{**test, "promql_expr_test": []} for test in content["tests"] if alert["alert"] in alerts_of(test)]
        (folder / name).write_text(yaml.safe_dump(content | {"tests": tests}))
        command = ["promtool", "test", "rules", name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert re.search(r"SUCCESS|FAILED", done.stdout + done.stderr), done.stderr
        if done.returncode != 0:
            return False
    return True


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.process
@pytest.mark.debian
def test_the_tests_notice_an_alert_that_fires_one_evaluation_sooner_or_later(alert: str, tmp_path: Path) -> None:
    """Its `for` is changed by the minute that the tests evaluate at."""
    duration = re.fullmatch(r"(\d+)([mh])", ALERTS[alert]["for"])
    assert duration is not None
    minutes = int(duration[1]) * {"m": 1, "h": 60}[duration[2]]
    assert passes(ALERTS[alert], tmp_path)
    for other in (minutes - 1, minutes + 1):
        assert not passes(ALERTS[alert] | {"for": f"{other}m"}, tmp_path), other


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.process
@pytest.mark.debian
def test_the_tests_notice_a_threshold_that_is_a_fifth_lower_or_higher(alert: str, tmp_path: Path) -> None:
    """Of every number that something is compared with, but for 0 and 1, which are no matter of degree."""
    expression = ALERTS[alert]["expr"]
    for found in re.finditer(r"(?:[<>]|>=) ((?!0\b(?!\.))[\d.]+)", expression):
        for factor in (0.8, 1.2):
            other = f"{expression[: found.start(1)]}{float(found[1]) * factor:g}{expression[found.end(1) :]}"
            assert not passes(ALERTS[alert] | {"expr": other}, tmp_path), other


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
