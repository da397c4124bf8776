"""From a failing destination to a notification: Prometheus and Alertmanager with the files of `deploy/`."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from support.api import Api, Handler, batch
from support.connections import free_address
from support.exporter import Exporter, StartExporter
from support.monitoring import (
    DEPLOY,
    PACE,
    Inbox,
    alertmanager,
    inbox,
    prometheus,
    query,
    replace,
    shorten,
    shorten_rules,
)
from support.rules import ALERTS

# Waiting another hour, even shortened, would take too long.
RULES = re.sub(
    r"(alert: InkitNothingFinishes.+?for: )1h",
    r"\g<1>10m",
    (DEPLOY / "prometheus" / "rules.yml").read_text(),
    flags=re.DOTALL,
)
PROMETHEUS = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
ALERTMANAGER = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text()

PATIENT = ("--query.lookback-delta=10s", "--rules.alert.resend-delay=2s")
"""Almost Prometheus' defaults, although the tests shorten times. If a busy machine pauses for some seconds, alerts must
not expire (after four times the delay), and series must not look ended."""


async def firing(prometheus: aiohttp.ClientSession) -> set[str]:
    """Return the names of the firing alerts in Prometheus."""
    alerts = (await query(prometheus, "alerts"))["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


async def value(prometheus: aiohttp.ClientSession, expression: str) -> float:
    """Return the first value of an instant query, or 0 without a result."""
    found = (await query(prometheus, "query", query=expression))["result"]
    return float(found[0]["value"][1]) if found else 0.0


async def until(
    condition: Callable[[], Awaitable[bool]], seen: Callable[[], object] = str, seconds: float = 60
) -> None:
    """Wait until a condition is true. After the time limit, fail and show what was seen."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"the condition was never true; seen: {seen()}") from None


@dataclass
class World:
    """The running programs, and the received notifications."""

    api: Api
    exporter: Exporter
    exporter_address: str
    prometheus: aiohttp.ClientSession
    alertmanager: aiohttp.ClientSession
    inbox: Inbox

    async def hidden(self) -> set[str]:
        """Return the names of the alerts that Alertmanager inhibits."""
        async with self.alertmanager.get("/api/v2/alerts") as response:
            alerts = await response.json()
        return {alert["labels"]["alertname"] for alert in alerts if alert["status"]["inhibitedBy"]}

    def arrived(self) -> dict[str, list[tuple[str, str]]]:
        """Return name and status of all received alerts, by receiver."""
        return {receiver: self.inbox.names(receiver) for receiver in self.inbox.alerts}

    async def arrives(self, receiver: str, alert: str, status: str = "firing") -> dict[str, Any]:
        """Wait until a receiver gets an alert, and return it."""

        async def has_arrived() -> bool:
            return (alert, status) in self.inbox.names(receiver)

        await until(has_arrived, self.arrived)
        return self.inbox.alerts[receiver][self.inbox.names(receiver).index((alert, status))]


@asynccontextmanager
async def world(api: Api, exporter: StartExporter, folder: Path, **poll: str) -> AsyncIterator[World]:
    """Start all programs, and wait for the first scrape.

    Alertmanager starts last. Prometheus knows no targets for its first five seconds, which stand for a quarter of an
    hour here, so InkitExporterDown fires rightly.
    """
    async with AsyncExitStack() as open_:
        here, there = (open_.enter_context(free_address()) for _ in range(2))
        running = await exporter(
            f"--web.listen-address={here}", poll={"interval": shorten("60s"), "stale_after": shorten("5m")} | poll
        )
        # On a busy machine, a timeout of milliseconds is too short. At most, it may be the interval.
        scraping = replace(
            PROMETHEUS, {"localhost:10465": here, "localhost:9093": there, "scrape_timeout: 10s": "scrape_timeout: 30s"}
        )
        (folder / "rules.yml").write_text(shorten_rules(RULES))
        received = await open_.enter_async_context(inbox())
        metrics = await open_.enter_async_context(prometheus(shorten(scraping), folder, *PATIENT))
        routing = shorten(replace(ALERTMANAGER, {"localhost:9095": received.address}))

        async def scraped() -> bool:
            return await value(metrics, "inkit_up") == 1 and not await firing(metrics)

        await until(scraped)
        alerts = await open_.enter_async_context(alertmanager(routing, folder, there))
        yield World(api, running, here, metrics, alerts, received)


@dataclass
class Traffic:
    """New batches all the time. Those for Salesforce fail while it is broken; the many for Box succeed."""

    api: Api
    broken: bool = False

    async def flow(self) -> None:
        for number in range(10_000):
            salesforce = (0, 2, 0) if self.broken else (2, 0, 0)
            new = batch(f"fb_{number}", age=0, destinations={"salesforce": salesforce, "box": (2000, 0, 0)})
            self.api.batches = [new, *self.api.batches]
            await asyncio.sleep(0.2)


def expected(alert: str, **labels: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the expected labels and constant annotations of an alert."""
    annotations = ALERTS[alert]["annotations"]
    severity = ALERTS[alert]["labels"]["severity"]
    return {"alertname": alert, "severity": severity, **labels}, {
        name: annotations[name] for name in ("description", "runbook_url")
    }


def told(alert: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels and constant annotations of a received alert."""
    return alert["labels"], {name: alert["annotations"][name] for name in ("description", "runbook_url")}


@pytest.mark.alone
@pytest.mark.debian
async def test_a_failing_destination_causes_a_ticket_and_then_a_page_that_resolves_when_it_works_again(
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
        # The symptom fired first, while the last half hour still had completed documents. Now it is inhibited.
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
async def test_an_unreachable_api_causes_one_page_and_its_symptoms_are_inhibited(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    """Documents are in progress and none finishes. `stale_after` is long, so the gauges stay."""
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
        await asyncio.sleep(3 * 300 / PACE)  # three intervals, in which Alertmanager could send notifications
        assert running.arrived() == {"pager": [("InkitApiFailing", "firing")]}

        api.fault = None
        await running.arrives("pager", "InkitApiFailing", "resolved")
        # The symptom lasts longer than its cause, and is now sent.
        ticket = await running.arrives("tickets", "InkitNothingFinishes")
        assert told(ticket) == expected("InkitNothingFinishes", **labels)


@pytest.mark.alone
@pytest.mark.debian
async def test_a_stopped_exporter_causes_one_page_that_resolves_when_it_is_back(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    async with world(api, exporter, tmp_path) as running:
        await running.exporter.stop()
        page = await running.arrives("pager", "InkitExporterDown")
        assert told(page) == expected("InkitExporterDown", job="inkit", instance=running.exporter_address)
        assert page["annotations"]["summary"] == f"Inkit exporter {running.exporter_address} does not answer"
        await asyncio.sleep(15 * 60 / PACE)  # longer than the `for` of all but two alerts about the exporter
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
def test_only_durations_are_shortened(written: str, shortened: str) -> None:
    assert shorten(written) == shortened


def test_shortened_rules_have_the_same_labels_and_texts() -> None:
    """Only the ranges of queries differ, which a summary may contain."""

    def said(text: str) -> list[Any]:
        groups = yaml.safe_load(re.sub(r"\[\w+\]", "[]", text))["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return [(rule.get("alert"), rule.get("record"), rule.get("labels"), rule.get("annotations")) for rule in rules]

    assert said(shorten_rules(RULES)) == said(RULES)
