"""Alertmanager sends each alert where the documentation says, and hides what it says under its cause."""

import itertools
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
import yaml
from support import ROOT
from support.monitoring import DEPLOY, alertmanager, free_address
from support.rules import ALERTS, RULE_TESTS

CONFIG = DEPLOY / "alertmanager" / "alertmanager.yml"
DOCUMENT = (ROOT / "docs" / "alerting.md").read_text()

Labels = dict[str, str]


def variants() -> dict[str, Labels]:
    """Labels of each alert, as the first test of its rule expects them; one may come without an instance."""
    found: dict[str, Labels] = {}
    for test in RULE_TESTS:
        for check in test["alert_rule_test"]:
            for expected in check["exp_alerts"]:
                labels = {"alertname": check["alertname"]} | expected["exp_labels"]
                without_target = "job" in labels and "instance" not in labels
                found.setdefault(check["alertname"] + (", without a target" if without_target else ""), labels)
    return found


VARIANTS = variants()


def check(*command: str) -> str:
    """Run a command from the repository's root; returns what it prints."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def routed(labels: Labels) -> list[str]:
    """Receivers of an alert."""
    pairs = [f"{name}={value}" for name, value in labels.items()]
    return check("amtool", "config", "routes", "test", f"--config.file={CONFIG}", *pairs).split()


@pytest.mark.process
@pytest.mark.debian
def test_amtool_finds_nothing_wrong() -> None:
    assert "SUCCESS" in check("amtool", "check-config", str(CONFIG))


@pytest.mark.process
@pytest.mark.debian
def test_the_examples_in_comments_are_valid_too(tmp_path: Path) -> None:
    path = tmp_path / "alertmanager.yml"
    services = re.compile(r"^    # (?=(?:pagerduty|slack)_configs:|  )", flags=re.MULTILINE)
    path.write_text(services.sub("    ", CONFIG.read_text()))
    receivers = yaml.safe_load(path.read_text())["receivers"]
    assert {kind for receiver in receivers for kind in receiver} == {
        "name",
        "webhook_configs",
        "pagerduty_configs",
        "slack_configs",
    }
    assert "SUCCESS" in check("amtool", "check-config", str(path))


@pytest.mark.parametrize("account", ["production", "payroll"])
@pytest.mark.parametrize("alert", VARIANTS)
@pytest.mark.process
@pytest.mark.debian
def test_an_alert_goes_where_its_severity_and_its_account_send_it(alert: str, account: str) -> None:
    labels = VARIANTS[alert] | ({"account": account} if "account" in VARIANTS[alert] else {})
    own_team = labels.get("account") == "payroll" and labels["alertname"] != "InkitApiFailing"
    receiver = {"critical": "pager", "warning": "tickets"}[labels["severity"]]
    assert routed(labels) == [f"payroll-{receiver}" if own_team else receiver]


@pytest.mark.process
@pytest.mark.debian
def test_no_alert_is_lost() -> None:
    assert routed({"alertname": "Other"}) == ["tickets"]
    assert routed({"alertname": "Other", "account": "payroll", "severity": "page"}) == ["payroll-tickets"]


@pytest.mark.process
@pytest.mark.debian
def test_the_document_shows_what_amtool_says() -> None:
    shown = re.findall(r"^    \$ (amtool config routes test .+)\n    (\S+)$", DOCUMENT, flags=re.MULTILINE)
    assert len(shown) == 2
    for command, receiver in shown:
        assert check(*shlex.split(command)).split() == [receiver]


class Inhibition(NamedTuple):
    """A symptom is hidden under a cause where these labels are equal."""

    cause: str
    symptom: str
    equal: frozenset[str]


def documented() -> set[Inhibition]:
    """The document's table."""
    rows = re.findall(r"^\| (Inkit[\w, ]+) \| (Inkit[\w, ]+) \| ([a-z, ]+) \|$", DOCUMENT, flags=re.MULTILINE)
    return {
        Inhibition(cause, symptom, frozenset(equal.split(", ")))
        for cause, symptoms, equal in rows
        for symptom in symptoms.split(", ")
    }


def test_what_wakes_somebody_is_not_hidden_by_what_does_not() -> None:
    for cause, symptom, _ in documented():
        assert VARIANTS[cause]["severity"] == "critical" or ALERTS[symptom]["labels"]["severity"] == "warning"


@pytest.mark.process
@pytest.mark.debian
async def test_a_symptom_is_hidden_under_its_cause_alone_and_where_the_documented_labels_are_equal(
    tmp_path: Path,
) -> None:
    """Each pair of alerts with all labels equal, and with each one different, each time in a world of its own."""
    trials: list[tuple[str, str, str | None, Labels, Labels]] = []
    pairs = [pair for pair in itertools.permutations(VARIANTS, 2) if len({name.split(",")[0] for name in pair}) == 2]
    for cause, symptom in pairs:
        scopes = sorted(VARIANTS[symptom].keys() - {"alertname", "severity"})
        for different in (None, *scopes):
            apart = f"-{len(trials)}"
            one, other = (
                {name: text if name in ("alertname", "severity") else text + apart for name, text in labels.items()}
                for labels in (VARIANTS[cause], VARIANTS[symptom])
            )
            if different:
                other[different] += "-other"
            trials.append((cause, symptom, different, one, other))

    address = free_address()
    async with alertmanager(CONFIG.read_text(), tmp_path, address) as http:
        hidden = await hidden_of(http, [labels for trial in trials for labels in trial[3:]])

    equal_where = {}
    for cause, symptom, different, _, labels in trials:
        if different is None and frozenset(labels.items()) in hidden:
            equal_where[cause, symptom] = set[str]()
    for cause, symptom, different, _, labels in trials:
        if different and (cause, symptom) in equal_where and frozenset(labels.items()) not in hidden:
            equal_where[cause, symptom].add(different)
        if (cause, symptom) not in equal_where:
            assert frozenset(labels.items()) not in hidden
    found = {Inhibition(cause, symptom, frozenset(equal)) for (cause, symptom), equal in equal_where.items()}
    assert found == documented()


async def hidden_of(http: aiohttp.ClientSession, alerts: list[Labels]) -> set[frozenset[tuple[str, str]]]:
    """Give Alertmanager these alerts; returns the labels of those that it inhibits."""
    async with http.post("/api/v2/alerts", json=[{"labels": labels} for labels in alerts]) as response:
        assert response.status == 200, await response.text()
    async with http.get("/api/v2/alerts") as response:
        known = await response.json()
    assert len(known) == len({frozenset(labels.items()) for labels in alerts})
    return {frozenset(alert["labels"].items()) for alert in known if alert["status"]["inhibitedBy"]}
