"""The Grafana dashboard: it matches its source, its layout is sound, and a real Prometheus has data for every query."""

import asyncio
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
from aiohttp import web
from grafana_foundation_sdk.models import units
from support import PATIENCE_SECONDS, ROOT
from support.api import Api, Handler, batch, serving
from support.contract import exposed
from support.exporter import StartExporter
from support.monitoring import prometheus, query
from support.rules import ALERTS, RECORDED, RULES, recorded
from support.samples import up

from deploy.grafana.dashboard import COMMITTED, render

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads(COMMITTED.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
ANNOTATIONS: list[dict[str, Any]] = DASHBOARD["annotations"]["list"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [one["expr"] for one in ANNOTATIONS]
DOCS_URL = "https://github.com/inkit-exporter/inkit-exporter/blob/main/"

MAY_BE_ABSENT = {"cluster", "namespace"}
EVERYTHING = {
    "job": "inkit", "cluster": ".*", "namespace": ".*", "instance": ".+", "account": ".+", "destination": ".+",
}  # fmt: skip
"""The text that Grafana inserts for each variable when "All" is selected."""

by_title = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def test_the_committed_dashboard_matches_its_source() -> None:
    assert render() == COMMITTED.read_text(encoding="utf-8"), "run: make dashboard"


def test_panels_have_unique_ids_and_do_not_overlap() -> None:
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not covered & cells, panel["title"]
        cells |= covered
    height = max(y for _, y in cells) + 1
    assert len(cells) == 24 * height, "the grid has holes"


@by_title
def test_every_panel_has_a_description_a_unit_and_a_text_for_no_data(
    panel: dict[str, Any],
) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert len(panel["description"]) > 40
    assert panel["description"].endswith(".")
    assert defaults["noValue"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)
    overrides = panel["fieldConfig"]["overrides"]
    if panel["type"] == "table":
        columns = panel["transformations"][1]["options"]["renameByName"].values()
        assert {one["matcher"]["options"] for one in overrides} <= set(columns)
        shown = [each["value"] for one in overrides for each in one["properties"] if each["id"] == "unit"]
        hidden = panel["transformations"][1]["options"]["excludeByName"].keys() - {"Time"}
        assert len(shown) == len(panel["targets"]) - len(hidden)
    else:
        shown = [defaults["unit"]]
    for unit in shown:
        assert unit.startswith("suffix:") or unit in vars(units).values(), unit


def test_every_metric_of_the_dashboard_exists() -> None:
    for text in (*EXPRESSIONS, *(json.dumps(variable["query"]) for variable in VARIABLES.values())):
        for name in re.findall(r"\binkit_[a-z_]+(?![a-z_:])", text):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in exposed(), name
        assert set(re.findall(r"\binkit:[a-z_]+:[a-z0-9_]+", text)) <= RECORDED


def test_every_alert_and_every_document_that_a_panel_names_exists() -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    assert set(re.findall(r"\bInkit[A-Z]\w+", text)) <= ALERTS.keys()
    for path in re.findall(re.escape(DOCS_URL) + r"([\w./]+)", text):
        assert (ROOT / path).is_file(), path


def test_the_dashboard_has_a_fixed_uid_the_readers_time_zone_and_multi_value_variables() -> None:
    assert DASHBOARD["uid"] == "inkit-exporter"
    assert DASHBOARD["timezone"] == "browser"
    assert DASHBOARD["refresh"] == "1m"
    for name, all_of_them in EVERYTHING.items():
        assert VARIABLES[name]["multi"]
        assert VARIABLES[name]["includeAll"]
        # `.+` would match every job of this Prometheus.
        assert VARIABLES[name].get("allValue") == (all_of_them if name != "job" else None)


@pytest.mark.parametrize("alert", ALERTS)
def test_the_link_of_an_alert_opens_a_panel_about_the_same_metric(alert: str) -> None:
    """Both read a common metric, directly or through recording rules."""
    (number,) = re.findall(r"\?viewPanel=(\d+)", ALERTS[alert]["annotations"]["dashboard_url"])
    (panel,) = [panel for panel in PANELS if panel["id"] == int(number)]
    expressions = "\n".join(target["expr"] for target in panel["targets"])
    assert metrics_of(ALERTS[alert]["expr"]) & metrics_of(expressions)
    for variable in re.findall(r"var-(\w+)=", ALERTS[alert]["annotations"]["dashboard_url"]):
        assert f"${variable}" in expressions


def metrics_of(expression: str) -> set[str]:
    """Return the metrics that an expression reads, also through recording rules, except a very common one."""
    names = recorded(expression)
    text = "\n".join([expression, *(rule["expr"] for rule in RULES if rule.get("record") in names)])
    found = set(re.findall(r"\binkit_[a-z_]+\b|\bup\b", re.sub(r"(?:by|without|on) \([^)]*\)", "", text)))
    return found - {"inkit_poll_interval_seconds"}


def test_compose_mounts_the_provisioned_files() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    ((provider,),) = _provisioned("dashboards", "providers")
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    ((source,),) = _provisioned("datasources", "datasources")
    assert (source["uid"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert "prometheus" in compose
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    assert "--enable-feature=exemplar-storage" in compose["prometheus"]["command"]


def _provisioned(folder: str, key: str) -> list[list[dict[str, Any]]]:
    return [yaml.safe_load(path.read_text())[key] for path in (GRAFANA / "provisioning" / folder).glob("*.yml")]


class World(NamedTuple):
    """A Prometheus that scrapes an exporter with two accounts, which use different APIs."""

    http: aiohttp.ClientSession
    production: Api
    staging: Api
    instance: str


@pytest.mark.debian
async def test_every_query_finds_data_and_the_overview_shows_whether_something_fails(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    async with serving(Api()) as staging:
        kept = f"--storage.path={tmp_path / 'storage'}"
        running = await exporter(
            kept, accounts=[{"name": "production"}, {"name": "staging", "base_url": staging.base_url}]
        )
        await running.wait_for(lambda s: up(s, "production") == up(s, "staging") == 1)
        instance = running.url.authority
        config = _impatient(tmp_path, instance)
        async with prometheus(config, tmp_path, "--enable-feature=exemplar-storage") as http:
            world = World(http, api, staging, instance)
            await _a_calm_day(world)
            calm_until = time.time()
            await _a_failure(world)
            await _the_tables_name_what_failed(world, calm_until)
            await _every_query_finds_data(world)
            assert await running.stop() == 0
            await _an_exporter_that_is_down_is_shown_as_down(world)


async def _a_calm_day(world: World) -> None:
    """Check that the overview shows zeros because nothing fails, not because data are missing."""

    async def scraped() -> None:
        assert len((await query(world.http, "query", query="inkit_up"))["result"]) == 2

    await _soon(scraped)  # `increase` needs an earlier sample
    for listing in (world.production.batches, world.staging.batches):
        listing[:] = [
            batch("fb_waiting", age=50, status="In Progress", destinations={"box": (0, 0, 3)}),
            batch("fb_done", destinations={"salesforce": (40, 0, 0), "inkit_storage": (40, 0, 0)}),
        ]

    async def calm() -> None:
        for title in ("Exporters down", "Accounts down", "Firing alerts", "Destinations with failures now"):
            assert await _number(world, title) == 0, title
        assert await _number(world, "Failed documents") == 0
        assert 0 < await _number(world, "Longest standstill") < 60
        assert 0 <= await _number(world, "Data age") < 60
        assert await _rows(world, "Failing now") == []

    await _soon(calm)


async def _a_failure(world: World) -> None:
    """Make Salesforce fail in one account and the API in the other, and check the overview."""
    world.production.batches.insert(0, batch("fb_failed", age=1, destinations={"salesforce": (10, 30, 0)}))

    async def server_error(_: web.Request, __: Handler) -> web.StreamResponse:
        return web.Response(status=500)

    world.staging.fault = server_error

    async def failing() -> None:
        assert await _number(world, "Accounts down") == 1
        assert await _number(world, "Destinations with failures now") == 1
        assert await _number(world, "Failed documents") > 0.1
        assert await _number(world, "Firing alerts") >= 2
        assert await _number(world, "Exporters down") == 0

    await _soon(failing)


async def _the_tables_name_what_failed(world: World, calm_until: float) -> None:
    async def named() -> None:
        (row,) = await _rows(world, "Failing now")
        assert row["metric"] == {"account": "production", "destination": "salesforce"}
        assert calm_until - 2 <= float(row["value"][1]) / 1000 <= time.time()
        alerts = {row["metric"]["alertname"]: row for row in await _rows(world, "What fires")}
        assert alerts["InkitDocumentsFailing"]["metric"]["account"] == "production"
        assert alerts["InkitDestinationFailing"]["metric"]["destination"] == "salesforce"
        assert (
            calm_until - 1 <= float(alerts["InkitDocumentsFailing"]["value"][1]) / 1000 <= time.time()
        )  # annotations are queried by whole seconds

    await _soon(named)


async def _every_query_finds_data(world: World) -> None:
    one_of_each = EVERYTHING | {
        "account": "production",
        "destination": "salesforce",
        "instance": re.escape(world.instance),
    }

    async def found() -> None:
        for chosen, panel in itertools.product((EVERYTHING, one_of_each), PANELS):
            labels: set[str] = set()
            for target in panel["targets"]:
                labels.update(*await _find_labels(world.http, target, chosen))
            if panel["type"] == "table":
                columns = panel["transformations"][1]["options"]["renameByName"]
                keys = {name for name in columns if not name.startswith("Value")} - MAY_BE_ABSENT
                some = chosen is one_of_each or panel["title"] == "What fires"
                assert labels == keys or (some and labels < keys), panel["title"]
        for annotation in ANNOTATIONS:
            assert await _run(world.http, annotation["expr"], EVERYTHING, instant=False), annotation["name"]
        for name, expected in {
            "job": {"inkit"},
            "account": {"production", "staging"},
            "destination": {"box", "salesforce"},
            "instance": {world.instance},
        }.items():
            assert expected <= set(await _choices(world.http, VARIABLES[name]["query"]["query"], EVERYTHING))

    await _soon(found)


async def _find_labels(http: aiohttp.ClientSession, target: dict[str, Any], chosen: dict[str, str]) -> list[set[str]]:
    """Run a query, which must find series, and return the labels of each."""
    series = await _run(http, target["expr"], chosen, instant=target["instant"])
    assert series, (target["expr"], chosen)
    for label in set(re.findall(r"{{(\w+)}}", target["legendFormat"])) - MAY_BE_ABSENT:
        assert all(label in one["metric"] for one in series), f"{label}: {target['expr']}"
    for label, value in chosen.items():
        pattern = re.compile(value)
        assert all(pattern.fullmatch(one["metric"][label]) for one in series if label in one["metric"])
    if target["exemplar"]:
        exemplars = await query(http, "query_exemplars", query=_filled(target["expr"], chosen), **_last_minute())
        assert any("batch_id" in one["labels"] for each in exemplars for one in each["exemplars"]), target["expr"]
    return [set(one["metric"]) for one in series]


async def _an_exporter_that_is_down_is_shown_as_down(world: World) -> None:
    async def down() -> None:
        assert await _number(world, "Exporters down") == 1
        for title in ("Accounts down", "Longest standstill", "Data age"):
            assert await _rows(world, title) == [], title

    await _soon(down)


def _impatient(folder: Path, instance: str) -> str:
    """Return a Prometheus configuration with the repository's rules, without their `for` and their history."""
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    rules = re.sub(r"^( +for: )\w+$", r"\g<1>0s", rules, flags=re.MULTILINE)
    history = r"\n +and present_over_time\(inkit:polls:max\[\w+\] offset \w+\)"
    (folder / "rules.yml").write_text(re.sub(history, "", rules).replace("interval: 2m", "interval: 500ms"))
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "inkit", "static_configs": [{"targets": [instance]}]}],
    }
    return str(yaml.safe_dump(config))


def _last_minute() -> dict[str, str]:
    now = time.time()
    return {"start": str(now - 60), "end": str(now)}


def _filled(expression: str, chosen: dict[str, str]) -> str:
    """Return an expression with Grafana's macros and variables replaced."""
    macros = {"__rate_interval": "10s", "__range": "60s", "__interval": "1s"}
    for name, value in (macros | chosen).items():
        expression = expression.replace(f"${name}", value.replace("\\", r"\\"))
    assert "$" not in expression, expression
    return expression


async def _run(http: aiohttp.ClientSession, expression: str, chosen: dict[str, str], *, instant: bool) -> Any:
    """Run a query, and return the series with a number other than NaN."""
    filled = _filled(expression, chosen)
    if instant:
        result = (await query(http, "query", query=filled))["result"]
        return [one for one in result if one["value"][1] != "NaN"]
    result = (await query(http, "query_range", query=filled, step="1", **_last_minute()))["result"]
    return [one for one in result if any(value != "NaN" for _, value in one["values"])]


async def _choices(http: aiohttp.ClientSession, call: str, chosen: dict[str, str]) -> Any:
    """Send the query that Grafana sends for `label_values(selector, label)`."""
    parts = re.fullmatch(r"label_values\((.+), (\w+)\)", call)
    assert parts is not None, call
    return await query(http, f"label/{parts[2]}/values", **{"match[]": _filled(parts[1], chosen)})


async def _rows(world: World, title: str) -> Any:
    """Run the first query of a panel, and return its series."""
    panel = next(panel for panel in PANELS if panel["title"] == title)
    return await _run(world.http, panel["targets"][0]["expr"], EVERYTHING, instant=True)


async def _number(world: World, title: str) -> float:
    (row,) = await _rows(world, title)
    return float(row["value"][1])


async def _soon(check: Callable[[], Awaitable[None]], seconds: float = PATIENCE_SECONDS) -> None:
    """Repeat a check until it passes. After the time limit, raise its last failure."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await check()
        except (AssertionError, ValueError, KeyError):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.3)
