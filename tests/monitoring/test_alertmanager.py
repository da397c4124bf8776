"""Alertmanager routes and inhibits each alert as the documentation says."""

import asyncio
import itertools
import re
import shlex
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
import yaml
from support import PATIENCE_SECONDS, ROOT
from support.connections import free_address
from support.edges import TOLD
from support.monitoring import DEPLOY, alertmanager
from support.rules import ALERTS

CONFIG = DEPLOY / "alertmanager" / "alertmanager.yml"
DOCUMENT = (ROOT / "docs" / "alerting.md").read_text()

Labels = dict[str, str]


def variants() -> dict[str, Labels]:
    """Return the labels of each alert in a cluster. InkitExporterDown may also come without `instance`."""
    place = {"cluster": "eu", "namespace": "inkit"}
    found: dict[str, Labels] = {}
    for alert, told in TOLD.items():
        labels = {"alertname": alert, "severity": ALERTS[alert]["labels"]["severity"]} | told.labels
        # Without a target, no cluster is known.
        found[alert] = labels if alert == "InkitExporterMissing" else labels | place
    gone = {name: text for name, text in found["InkitExporterDown"].items() if name != "instance"}
    return found | {"InkitExporterDown, without a target": gone}


VARIANTS = variants()


def check(*command: str) -> str:
    """Run a command from the repository's root, and return its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def routed(labels: Labels) -> list[str]:
    """Return the receivers of an alert."""
    pairs = [f"{name}={value}" for name, value in labels.items()]
    return check("amtool", "config", "routes", "test", f"--config.file={CONFIG}", *pairs).split()


@pytest.mark.process
@pytest.mark.debian
def test_amtool_accepts_the_configuration() -> None:
    assert "SUCCESS" in check("amtool", "check-config", str(CONFIG))


@pytest.mark.process
@pytest.mark.debian
def test_the_examples_in_comments_are_valid(tmp_path: Path) -> None:
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
def test_alerts_are_routed_by_severity_and_account(alert: str, account: str) -> None:
    labels = VARIANTS[alert] | ({"account": account} if "account" in VARIANTS[alert] else {})
    own_team = labels.get("account") == "payroll" and labels["alertname"] != "InkitApiFailing"
    receiver = {"critical": "pager", "warning": "tickets"}[labels["severity"]]
    assert routed(labels) == [f"payroll-{receiver}" if own_team else receiver]


@pytest.mark.process
@pytest.mark.debian
def test_every_alert_has_a_receiver() -> None:
    assert routed({"alertname": "Other"}) == ["tickets"]
    assert routed({"alertname": "Other", "account": "payroll", "severity": "page"}) == ["payroll-tickets"]


@pytest.mark.process
@pytest.mark.debian
def test_the_document_shows_amtools_output() -> None:
    shown = re.findall(r"^    \$ (amtool config routes test .+)\n    (\S+)$", DOCUMENT, flags=re.MULTILINE)
    assert len(shown) == 2
    for command, receiver in shown:
        assert check(*shlex.split(command)).split() == [receiver]


class Inhibition(NamedTuple):
    """A cause inhibits a symptom if these labels are equal."""

    cause: str
    symptom: str
    equal: frozenset[str]


def documented() -> set[Inhibition]:
    """Return the inhibitions in the document's table."""
    rows = re.findall(r"^\| (Inkit[\w, ]+) \| (Inkit[\w, ]+) \| ([a-z, ]+) \|$", DOCUMENT, flags=re.MULTILINE)
    return {
        Inhibition(cause, symptom, frozenset(equal.split(", ")))
        for cause, symptoms, equal in rows
        for symptom in symptoms.split(", ")
    }


def test_the_table_of_alerts_is_complete_and_names_what_inhibits_each() -> None:
    rows = re.findall(
        r"^\| (Inkit\w+) \| ([^|]+) \| (critical|warning) \| ([^|]+) \| ([^|]+) \|$", DOCUMENT, flags=re.MULTILINE
    )
    assert [(row[0], row[2]) for row in rows] == [(name, rule["labels"]["severity"]) for name, rule in ALERTS.items()]
    for name, _, _, _, hidden in rows:
        causes = {cause.split(",")[0] for cause, symptom, _ in documented() if symptom == name}
        assert set(re.findall(r"Inkit\w+", hidden)) == causes, name


def test_a_page_is_never_inhibited_by_a_ticket() -> None:
    for cause, symptom, _ in documented():
        assert VARIANTS[cause]["severity"] == "critical" or ALERTS[symptom]["labels"]["severity"] == "warning"


@pytest.mark.process
@pytest.mark.debian
async def test_a_symptom_is_inhibited_only_by_its_documented_causes_and_with_the_documented_labels_equal(
    tmp_path: Path,
) -> None:
    """Tries each pair of alerts with all labels equal, and each inhibiting pair with one label different."""
    pairs = [pair for pair in itertools.permutations(VARIANTS, 2) if len({name.split(",")[0] for name in pair}) == 2]
    found = set()
    async with AsyncExitStack() as open_:
        address = open_.enter_context(free_address())
        http = await open_.enter_async_context(alertmanager(CONFIG.read_text(), tmp_path, address))
        equal = {pair: _apart(pair, f"-{number}") for number, pair in enumerate(pairs)}
        hidden = await hidden_of(http, [labels for both in equal.values() for labels in both])
        hiding = [pair for pair, (_, symptom) in equal.items() if frozenset(symptom.items()) in hidden]
        trials = {
            (pair, label): _apart(pair, f"-{number}-{label}", different=label)
            for number, pair in enumerate(hiding)
            for label in VARIANTS[pair[1]].keys() - {"alertname", "severity"}
        }
        hidden = await hidden_of(http, [labels for both in trials.values() for labels in both])
    for pair in hiding:
        needed = {
            label
            for (one, label), (_, symptom) in trials.items()
            if one == pair and frozenset(symptom.items()) not in hidden
        }
        found.add(Inhibition(*pair, frozenset(needed)))
    assert found == documented()


def _apart(pair: tuple[str, str], suffix: str, different: str | None = None) -> tuple[Labels, Labels]:
    """Return the labels of two alerts that share values with no other pair. One label may differ between them."""
    cause, symptom = (
        {name: text if name in ("alertname", "severity") else text + suffix for name, text in VARIANTS[variant].items()}
        for variant in pair
    )
    if different:
        symptom[different] += "-other"
    return cause, symptom


async def hidden_of(http: aiohttp.ClientSession, alerts: list[Labels]) -> set[frozenset[tuple[str, str]]]:
    """Send Alertmanager these alerts, and return the labels of those that it inhibits.

    It takes note of causes one after another, after it has answered. The last one tells when it has noted all.
    """
    last = _apart(("InkitKeyRejected", "InkitApiFailing"), f"-last-{len(alerts)}")
    async with http.post("/api/v2/alerts", json=[{"labels": labels} for labels in (*alerts, *last)]) as response:
        assert response.status == 200, await response.text()
    hidden: set[frozenset[tuple[str, str]]] = set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while frozenset(last[1].items()) not in hidden:
            async with http.get("/api/v2/alerts") as response:
                known = await response.json()
            hidden = {frozenset(alert["labels"].items()) for alert in known if alert["status"]["inhibitedBy"]}
    assert {frozenset(labels.items()) for labels in alerts} <= {frozenset(one["labels"].items()) for one in known}
    return hidden
