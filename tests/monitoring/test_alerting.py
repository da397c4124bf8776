"""From a broken destination to a message, through Prometheus and Alertmanager with the very files of `deploy/`."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from support.api import Api, Handler, batch
from support.exporter import Exporter, StartExporter
from support.monitoring import (
    DEPLOY,
    PACE,
    Inbox,
    alertmanager,
    free_address,
    inbox,
    prometheus,
    query,
    replace,
    shorten,
    shorten_rules,
)
from support.rules import ALERTS

# An hour more would be long to wait.
RULES = re.sub(
    r"(alert: InkitNothingFinishes.+?for: )1h",
    r"\g<1>10m",
    (DEPLOY / "prometheus" / "rules.yml").read_text(),
    flags=re.DOTALL,
)
PROMETHEUS = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
ALERTMANAGER = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()

PATIENT = ("--query.lookback-delta=10s", "--rules.alert.resend-delay=2s")
"""Prometheus' defaults are nearly at our pace too: a machine that stands still for some seconds must not look like an
alert that nobody sends any more (after four times the delay), nor like series that have ended."""


async def firing(prometheus: aiohttp.ClientSession) -> set[str]:
    """Alerts that Prometheus has firing."""
    alerts = (await query(prometheus, "alerts"))["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


async def value(prometheus: aiohttp.ClientSession, expression: str) -> float:
    """An instant query's one value, 0 where there is none."""
    found = (await query(prometheus, "query", query=expression))["result"]
    return float(found[0]["value"][1]) if found else 0.0


async def until(
    condition: Callable[[], Awaitable[bool]], seen: Callable[[], object] = str, seconds: float = 60
) -> None:
    """Wait for a condition; fails after so many seconds, with what was seen until then."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never came true; seen: {seen()}") from None


@dataclass
class World:
    """All that runs, and what has arrived."""

    api: Api
    exporter: Exporter
    exporter_address: str
    prometheus: aiohttp.ClientSession
    alertmanager: aiohttp.ClientSession
    inbox: Inbox

    async def hidden(self) -> set[str]:
        """Alerts that Alertmanager has and inhibits."""
        async with self.alertmanager.get("/api/v2/alerts") as response:
            alerts = await response.json()
        return {alert["labels"]["alertname"] for alert in alerts if alert["status"]["inhibitedBy"]}

    def arrived(self) -> dict[str, list[tuple[str, str]]]:
        """Name and status of all that has arrived, by receiver."""
        return {receiver: self.inbox.names(receiver) for receiver in self.inbox.alerts}

    async def arrives(self, receiver: str, alert: str, status: str = "firing") -> dict[str, Any]:
        """Wait until a receiver is told of an alert; returns it."""

        async def has_arrived() -> bool:
            return (alert, status) in self.inbox.names(receiver)

        await until(has_arrived, self.arrived)
        return self.inbox.alerts[receiver][self.inbox.names(receiver).index((alert, status))]


@asynccontextmanager
async def world(api: Api, exporter: StartExporter, folder: Path, **poll: str) -> AsyncIterator[World]:
    """Everything started, and scraped.

    Alertmanager comes last: Prometheus knows no targets in its first five seconds, which at our pace are a quarter of
    an hour and rightly an InkitExporterDown.
    """
    running = await exporter(poll={"interval": shorten("60s"), "stale_after": shorten("5m")} | poll)
    here, there = running.url.authority, free_address()
    # Milliseconds are too short a timeout on a busy machine; it may be as long as the interval.
    scraping = replace(
        PROMETHEUS, {"localhost:10465": here, "localhost:9093": there, "scrape_timeout: 10s": "scrape_timeout: 30s"}
    )
    (folder / "rules.yml").write_text(shorten_rules(RULES))
    async with inbox() as received, prometheus(shorten(scraping), folder, *PATIENT) as metrics:
        routing = shorten(replace(ALERTMANAGER, {"localhost:9095": received.address}))

        async def scraped() -> bool:
            return await value(metrics, "inkit_up") == 1 and not await firing(metrics)

        await until(scraped)
        async with alertmanager(routing, folder, there) as alerts:
            yield World(api, running, here, metrics, alerts, received)


@dataclass
class Traffic:
    """Batches that keep coming; those for Salesforce fail while it is broken. There is plenty for Box, and it works."""

    api: Api
    broken: bool = False

    async def flow(self) -> None:
        for number in range(10_000):
            salesforce = (0, 2, 0) if self.broken else (2, 0, 0)
            new = batch(f"fb_{number}", age=0, destinations={"salesforce": salesforce, "box": (2000, 0, 0)})
            self.api.batches = [new, *self.api.batches]
            await asyncio.sleep(0.2)


def expected(alert: str, **labels: str) -> tuple[dict[str, str], dict[str, str]]:
    """Labels, and the annotations that are the same each time."""
    annotations = ALERTS[alert]["annotations"]
    severity = ALERTS[alert]["labels"]["severity"]
    return {"alertname": alert, "severity": severity, **labels}, {
        name: annotations[name] for name in ("description", "runbook_url")
    }


def told(alert: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and annotations of an alert that arrived, as far as they are the same each time."""
    return alert["labels"], {name: alert["annotations"][name] for name in ("description", "runbook_url")}


@pytest.mark.alone
@pytest.mark.debian
async def test_a_broken_destination_is_a_ticket_then_a_page_that_ends_when_it_is_repaired(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    async with world(api, exporter, tmp_path) as running, asyncio.TaskGroup() as tasks:
        traffic = Traffic(api)
        flow = tasks.create_task(traffic.flow())

        async def delivering() -> bool:
            return await value(running.prometheus, 'inkit_documents_completed_total{destination="salesforce"}') > 0

        await until(delivering)
        assert running.inbox.alerts == {}
        traffic.broken = True

        page = await running.arrives("pager", "InkitDestinationDown")
        labels = {"job": "inkit", "account": "default", "destination": "salesforce"}
        assert told(page) == expected("InkitDestinationDown", **labels)
        assert re.fullmatch(
            r"salesforce takes no documents of default: \d+ failed, none arrived",
            page["annotations"]["summary"],
        )
        # The symptom came first, when some documents of the last half hour had arrived still. Now it is hidden.
        (ticket,) = running.inbox.alerts["tickets"]
        assert told(ticket) == expected("InkitDestinationFailing", **labels)
        assert "InkitDestinationFailing" in await running.hidden()

        traffic.broken = False
        await running.arrives("pager", "InkitDestinationDown", "resolved")
        assert running.inbox.names("pager") == [
            ("InkitDestinationDown", "firing"),
            ("InkitDestinationDown", "resolved"),
        ]
        assert running.inbox.alerts.keys() == {"pager", "tickets"}
        flow.cancel()


@pytest.mark.alone
@pytest.mark.debian
async def test_an_api_that_is_away_is_one_page_and_what_follows_of_it_is_hidden(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    """Documents are in progress, and none finishes. The numbers are kept for long."""
    waits = batch("fb_waits", age=60, status="In Progress", destinations={"box": (0, 0, 5)})
    quick = batch("fb_quick", age=0, status="In Progress", destinations={"box": (0, 0, 1)})

    async def no_answer(request: web.Request, _: Handler) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with world(api, exporter, tmp_path, stale_after=shorten("12h")) as running:
        api.batches = [quick, waits]

        async def in_progress(documents: int) -> bool:
            return await value(running.prometheus, "sum(inkit_batch_documents_in_progress)") == documents

        await until(lambda: in_progress(6))
        api.batches = [batch("fb_quick", age=0, destinations={"box": (1, 0, 0)}), waits]
        await until(lambda: in_progress(5))
        api.fault = no_answer

        page = await running.arrives("pager", "InkitApiFailing")
        labels = {"account": "default", "job": "inkit"}
        assert told(page) == expected("InkitApiFailing", **labels)
        assert re.fullmatch(
            r"Inkit's API fails default \(connection\): no data for [\d.]+m?s",
            page["annotations"]["summary"],
        )

        async def all_symptoms_are_hidden() -> bool:
            return "InkitNothingFinishes" in await running.hidden()

        await until(all_symptoms_are_hidden, running.arrived)
        assert await firing(running.prometheus) >= {"InkitApiFailing", "InkitNothingFinishes"}
        await asyncio.sleep(3 * 300 / PACE)  # three intervals in which Alertmanager could send something
        assert running.arrived() == {"pager": [("InkitApiFailing", "firing")]}

        api.fault = None
        await running.arrives("pager", "InkitApiFailing", "resolved")
        # What is still wrong when the cause is gone is told then.
        ticket = await running.arrives("tickets", "InkitNothingFinishes")
        assert told(ticket) == expected("InkitNothingFinishes", **labels)


@pytest.mark.alone
@pytest.mark.debian
async def test_an_exporter_that_is_gone_is_one_page_that_ends_when_it_is_back(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    async with world(api, exporter, tmp_path) as running:
        await running.exporter.stop()
        page = await running.arrives("pager", "InkitExporterDown")
        assert told(page) == expected("InkitExporterDown", job="inkit", instance=running.exporter_address)
        assert page["annotations"]["summary"] == f"Inkit exporter {running.exporter_address} does not answer"
        await asyncio.sleep(15 * 60 / PACE)  # longer than `for` of any alert about the exporter but for two
        assert await firing(running.prometheus) == {"InkitExporterDown"}
        await exporter(f"--web.listen-address={running.exporter_address}")
        await running.arrives("pager", "InkitExporterDown", "resolved")
        assert running.arrived() == {"pager": [("InkitExporterDown", "firing"), ("InkitExporterDown", "resolved")]}


@pytest.mark.parametrize(
    ("written", "shortened"),
    [
        ("for: 5m", "for: 1500ms"),
        ("increase(a[3d]) > 20", "increase(a[1296000ms]) > 20"),
        ("inkit:documents_failed:increase30m >= 10", "inkit:documents_failed:increase30m >= 10"),
        ("rate1h > 14.4 in 2 hours", "rate1h > 14.4 in 2 hours"),
    ],
)
def test_durations_are_shortened_and_nothing_else(written: str, shortened: str) -> None:
    assert shorten(written) == shortened


def test_shortened_rules_say_the_same() -> None:
    """But for the windows of queries, which a summary may contain."""

    def said(text: str) -> list[Any]:
        groups = yaml.safe_load(re.sub(r"\[\w+\]", "[]", text))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return [(rule.get("alert"), rule.get("record"), rule.get("labels"), rule.get("annotations")) for rule in rules]

    assert said(shorten_rules(RULES)) == said(RULES)
