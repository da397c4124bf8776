"""The rules for Prometheus: valid, documented, exact in their limits, and with a runbook."""

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from support import ROOT
from support.contract import exposed
from support.edges import EDGES, TOLD
from support.rules import ALERTS, CONSTANTS, PROMETHEUS, RECORDED, RULES, only
from support.worlds import World, failed_expressions, promtool

from inkit_exporter.api.statuses import FAILED

RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
RUNBOOKS_URL = "https://github.com/inkit-exporter/inkit-exporter/blob/main/docs/runbooks.md#"
COPIES = ('cluster="eu", namespace="inkit"', 'cluster="us", namespace="documents"')


@pytest.mark.parametrize(
    "command", [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml")], ids=" ".join
)
@pytest.mark.process
@pytest.mark.debian
def test_promtool_accepts_the_rules(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_severity_summary_description_and_runbook(alert: str) -> None:
    annotations = ALERTS[alert]["annotations"]
    assert ALERTS[alert]["labels"]["severity"] in {"critical", "warning"}
    assert annotations["description"].endswith(".")
    assert annotations["runbook_url"] == RUNBOOKS_URL + alert.lower()
    assert len(re.findall(rf"^## {alert}$", RUNBOOKS, flags=re.MULTILINE)) == 1


@pytest.mark.parametrize("alert", ALERTS)
def test_every_runbook_has_meaning_impact_diagnosis_and_remedy(alert: str) -> None:
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


def test_every_runbook_belongs_to_an_alert() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOKS, flags=re.MULTILINE) == list(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.process
@pytest.mark.debian
def test_every_alert_begins_and_ends_on_time_and_the_test_notices_numbers_that_are_20_percent_off(
    alert: str, tmp_path: Path
) -> None:
    """In two clusters. Mutants of the alert run beside it, each with one number changed, or `for` by one evaluation."""
    unnoticed: set[str] | None = None
    for world in EDGES[alert]:
        mutants = _mutants(alert, world.step)
        # Without a target, no cluster is known.
        copies = COPIES if alert != "InkitExporterMissing" and world is EDGES[alert][0] else ("",)
        checks = world.expectations("alertname, cluster, namespace", f', alertname="{alert}"', copies)
        differences = {
            f"{_evaluations(alert, world.minutes)} - {_evaluations(name, world.minutes)}": name for name in mutants
        }
        checks += [
            {"expr": expression, "eval_time": f"{world.minutes}m", "exp_samples": [{"labels": "{}", "value": 0}]}
            for expression in differences
        ]
        test = {**world.test(*copies), "promql_expr_test": checks}
        if world is EDGES[alert][0]:
            test["alert_rule_test"] = [_told(alert, world, copies)]
        found = promtool(tmp_path, only([*mutants.values(), ALERTS[alert]]), [test], world.step)
        noticed = {differences.get(expression) for expression in failed_expressions(found)}
        assert None not in noticed, found
        assert "alertname: " not in found, found
        unnoticed = (mutants.keys() if unnoticed is None else unnoticed) - {name for name in noticed if name}
    assert not unnoticed, {name: mutants[name] for name in unnoticed or ()}


def _told(alert: str, world: World, copies: Sequence[str]) -> dict[str, Any]:
    """Return the expected labels and annotations when the alert begins."""
    rule, told = ALERTS[alert], TOLD[alert]
    annotations = {name: rule["annotations"][name] for name in ("description", "runbook_url", "dashboard_url")}
    annotations["dashboard_url"] = re.sub(
        r"{{ urlquery \$labels\.(\w+) }}", lambda found: quote(told.labels[found[1]]), annotations["dashboard_url"]
    )
    annotations["summary"] = told.summary
    labels = {"severity": rule["labels"]["severity"], **told.labels}
    expected = [
        {"exp_labels": labels | dict(re.findall(r'(\w+)="(\w+)"', copy)), "exp_annotations": annotations}
        for copy in copies
    ]
    return {"eval_time": f"{world.fires[0].begin}m", "alertname": alert, "exp_alerts": expected}


@pytest.mark.parametrize("alert", ALERTS)
def test_a_summary_can_be_read_on_a_phone(alert: str) -> None:
    assert len(TOLD[alert].summary) <= 100


def _evaluations(alert: str, minutes: int) -> str:
    """Return the query for the number of evaluations at which an alert fired."""
    return f'(sum(count_over_time(ALERTS{{alertstate="firing", alertname="{alert}"}}[{minutes + 1}m])) or vector(0))'


def _mutants(alert: str, step: int) -> dict[str, dict[str, Any]]:
    """Return copies of the alert, each with one number changed. 0, 1 and 2 stay, because they are no thresholds."""
    rule = ALERTS[alert]
    found = []
    duration = re.fullmatch(r"(\d+)([mh])", rule["for"])
    assert duration is not None
    minutes = int(duration[1]) * {"m": 1, "h": 60}[duration[2]]
    found += [{**rule, "for": f"{minutes + other}m"} for other in (-step, step)]
    for factor in (0.8, 1.2):
        for number in re.finditer(r"(?:[<>]|>=) (-?(?![012]\b(?!\.))[\d.]+)(?=$|[\s)*])", rule["expr"]):
            other = f"{rule['expr'][: number.start(1)]}{float(number[1]) * factor:g}{rule['expr'][number.end(1) :]}"
            found.append({**rule, "expr": other})
        for name, value in CONSTANTS.items():
            if f"scalar(max({name}))" in rule["expr"]:
                other = rule["expr"].replace(f"scalar(max({name}))", f"{value * factor:g}")
                found.append({**rule, "expr": other})
    return {f"{alert}{number}": {**one, "alert": f"{alert}{number}"} for number, one in enumerate(found)}


def test_every_metric_in_rules_and_runbooks_exists() -> None:
    expressions = "\n".join(rule["expr"] for rule in RULES)
    for text in (expressions, RUNBOOKS):
        for name in re.findall(r"\binkit_[a-z_]+(?![a-z_:])", text):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in exposed(), name
        assert set(re.findall(r"\binkit:[a-z_0-9]+:[a-z0-9_]+", text)) <= RECORDED


def test_the_rules_and_the_exporter_take_the_same_statuses_for_failed() -> None:
    (rule,) = (rule for rule in RULES if rule.get("record") == "inkit:batches_failed:max")
    words, without = re.findall(r'batch_status(?:=~|!~)"(.+)"', rule["expr"])
    assert FAILED.pattern == f"(?!{without}){words}"


def test_the_scrape_job_has_the_name_that_the_rules_expect() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert set(re.findall(r'job="(\w+)"', "\n".join(rule["expr"] for rule in RULES))) == jobs


@pytest.mark.process
@pytest.mark.debian
def test_the_documented_command_renames_the_job_and_sets_the_addresses(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "alerting.md").read_text()
    (command,) = re.findall(r"^    \$ sed (.+) deploy/prometheus/rules.yml >rules.yml$", document, flags=re.MULTILINE)
    done = subprocess.run(
        ["sed", *shlex.split(command), PROMETHEUS / "rules.yml"], capture_output=True, text=True, check=True
    )
    assert not re.search(r'job="inkit"|github\.com|localhost', done.stdout.partition("groups:")[2])
    (tmp_path / "rules.yml").write_text(done.stdout)
    subprocess.run(["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, check=True)
    world = EDGES["InkitExporterDown"][0]
    series = [{**one, "series": one["series"].replace("inkit", "documents")} for one in world.test()["input_series"]]
    test = {**world.test(), "input_series": series, "promql_expr_test": world.expectations("alertname")}
    assert not promtool(tmp_path, done.stdout, [test])
