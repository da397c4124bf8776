"""Try the exporter with today's Prometheus, Alertmanager and VictoriaMetrics, set up as in docs/growing.md.

    make compat

It downloads them from Debian's newest suite, and runs all of them on loopback with the files of `deploy/` and shortened
times. It makes documents fail, and follows them to an alert and into long-term storage. It prints what it has seen, and
the table of docs/compatibility.md. `make test` leaves it out, because it needs a package mirror.
"""

import asyncio
import os
import platform
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import yaml

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.api import Api, batch
from support.api import serving as serving_api
from support.connections import free_address
from support.edges import EDGES
from support.exporter import Exporter, start_process, write_config
from support.monitoring import (
    DEPLOY,
    Inbox,
    alertmanager,
    inbox,
    prometheus,
    query,
    replace,
    serving,
    shorten,
    shorten_rules,
)
from support.rules import ALERTS, only
from support.worlds import promtool

import inkit_exporter

REPLICAS = "Prometheus a", "Prometheus b"
BASELINE = [batch("fb_before", destinations={"salesforce": (5, 0, 0), "box": (5, 0, 0)})]
FAILED = 'inkit_documents_failed_total{destination="salesforce"}'
PACKAGES = {
    "prometheus": "Prometheus",
    "prometheus-alertmanager": "Alertmanager",
    "victoria-metrics": "VictoriaMetrics",
}


def versions() -> list[tuple[str, str]]:
    """Return name and version of each program."""
    lines = (ROOT / ".compat" / "versions").read_text().splitlines()
    packaged = dict(line.split() for line in lines)
    return [
        ("inkit-exporter", inkit_exporter.__version__),
        ("Python", platform.python_version()),
        *((name, packaged[package]) for package, name in PACKAGES.items()),
    ]


def documented(heading: str) -> list[str]:
    """Return the YAML of a section of docs/growing.md, and the flags that it names."""
    text = (ROOT / "docs" / "growing.md").read_text()
    (section,) = re.findall(rf"^\*\*{heading}\.\*\*(.*?)(?=^\*\*|^## )", text, flags=re.MULTILINE | re.DOTALL)
    (block,) = re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
    return [block, *re.findall(r"`(-[a-zA-Z.]+=\S+)`", section)]


def said(text: str) -> None:
    """Print what has been seen."""
    print(f"ok  {text}", flush=True)


async def until(condition: Callable[[], Awaitable[object]], what: str, seconds: float = 120) -> Any:
    """Wait for the first true value of a condition, and return it. After the time limit, end the run."""
    seen: object = None
    try:
        async with asyncio.timeout(seconds):
            while not (seen := await condition()):  # noqa: ASYNC110 - another program makes it true
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise SystemExit(f"not in {seconds:.0f} seconds: {what}; seen: {seen}") from None
    said(what)
    return seen


async def value(http: aiohttp.ClientSession, expression: str) -> float | None:
    """Return the value of an instant query, or None without one. More than one series end the run."""
    found = (await query(http, "query", query=expression))["result"]
    if len(found) > 1:
        raise SystemExit(f"more than one series: {expression}: {found}")
    return float(found[0]["value"][1]) if found else None


async def fail_documents(api: Api) -> None:
    """Create batches all the time, whose documents for Salesforce fail."""
    for number in range(10_000):
        new = batch(f"fb_{number}", age=0, destinations={"salesforce": (0, 2, 0), "box": (200, 0, 0)})
        api.batches = [new, *api.batches]
        await asyncio.sleep(0.2)


@asynccontextmanager
async def exporting(api: Api, folder: Path) -> AsyncIterator[Exporter]:
    """Start the exporter, which polls a simulated API."""
    config = write_config(folder, api.base_url, poll={"interval": shorten("60s"), "stale_after": shorten("5m")})
    async with start_process(f"--config.file={config}") as running:
        await running.wait_until_started()
        yield running


def prometheus_config(replica: str, *, exporter: str, alerts: str, storage: str) -> str:
    """Return the configuration of `deploy/`, with the additions of docs/growing.md for VictoriaMetrics."""
    ours = replace(
        (DEPLOY / "prometheus" / "prometheus.yml").read_text(),
        {"localhost:10465": exporter, "localhost:9093": alerts, "scrape_timeout: 10s": "scrape_timeout: 30s"},
    )
    config = yaml.safe_load(shorten(ours))
    block, *_ = documented("VictoriaMetrics")
    added = yaml.safe_load(
        replace(block, {"https://victoriametrics.example": f"http://{storage}", "replica: a": f"replica: {replica}"})
    )
    config["global"] |= added.pop("global")
    config["alerting"] |= added.pop("alerting")
    # Only OpenMetrics, because the text format has no exemplars.
    config["scrape_configs"][0]["scrape_protocols"] = ["OpenMetricsText1.0.0"]
    return yaml.safe_dump(config | added)


def check_files(folder: Path) -> None:
    """Check that the servers' tools accept the files of `deploy/`."""
    for command in (
        ("promtool", "check", "rules", str(DEPLOY / "prometheus" / "rules.yml")),
        ("promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")),
        ("amtool", "check-config", str(DEPLOY / "alertmanager" / "alertmanager.yml")),
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    for alert, worlds in EDGES.items():
        # Ranges in Prometheus 3 exclude the sample at their start, so an alert may fire a minute earlier or later.
        world = worlds[0]
        found = promtool(
            folder, only([ALERTS[alert]]), [{**world.test(), "promql_expr_test": [world.ever()]}], world.step
        )
        if found:
            raise SystemExit(f"{alert}: {world}: {found}")
    said("promtool and amtool accept the rules and both configurations, and each alert fires")


async def scraped(http: aiohttp.ClientSession) -> bool:
    """Tell whether the exporter's account is up."""
    return await value(http, "inkit_up") == 1


async def evaluated(http: aiohttp.ClientSession) -> bool:
    """Tell whether every rule has been evaluated without an error."""
    groups = (await query(http, "rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return bool(rules) and all(rule["health"] == "ok" for rule in rules)


async def exemplified(http: aiohttp.ClientSession) -> bool:
    """Tell whether failed documents have an exemplar with a batch id."""
    now = datetime.now(UTC).timestamp()
    series = await query(http, "query_exemplars", query=FAILED, start=str(now - 60), end=str(now + 60))
    return any("batch_id" in exemplar["labels"] for one in series for exemplar in one["exemplars"])


async def totalled(http: aiohttp.ClientSession, documents: float) -> bool:
    """Tell whether the running total is right."""
    return await value(http, FAILED) == documents


async def firing(http: aiohttp.ClientSession) -> bool:
    """Tell whether the alert fires."""
    alerts = (await query(http, "alerts"))["alerts"]
    return ("InkitDestinationDown", "firing") in {(one["labels"]["alertname"], one["state"]) for one in alerts}


async def alerted(received: Inbox) -> list[dict[str, str]]:
    """Return the labels of the alerts that the pager received."""
    labels: list[dict[str, str]] = [alert["labels"] for alert in received.alerts.get("pager", [])]
    return [one for one in labels if one["alertname"] == "InkitDestinationDown"]


async def follow(
    api: Api, replicas: list[aiohttp.ClientSession], storage: aiohttp.ClientSession, received: Inbox
) -> None:
    """Follow failing documents to an alert and to long-term storage."""
    for name, http in zip(REPLICAS, replicas, strict=True):
        await until(partial(scraped, http), f"{name} scrapes the exporter, only as OpenMetrics")
        await until(partial(evaluated, http), f"{name} has evaluated every rule without an error")

    async with asyncio.TaskGroup() as tasks:
        failing = tasks.create_task(fail_documents(api))
        for name, http in zip(REPLICAS, replicas, strict=True):
            await until(partial(firing, http), f"InkitDestinationDown fires in {name}")
        alerts = await until(partial(alerted, received), "Alertmanager has sent InkitDestinationDown to the pager")
        await until(partial(exemplified, replicas[0]), "Prometheus keeps exemplars that name a batch")
        failing.cancel()
    if len(alerts) > 1 or "replica" in alerts[0]:
        raise SystemExit(f"the two Prometheus send an alert each: {alerts}")
    said("both replicas of Prometheus send the same alert, without the label of the replica")

    failed = 2.0 * (len(api.batches) - len(BASELINE))
    for name, http in zip((*REPLICAS, "VictoriaMetrics"), (*replicas, storage), strict=True):
        await until(
            partial(totalled, http, failed), f"{name} has all {failed:.0f} failed documents in the running total"
        )
    await until(partial(value, storage, 'count({__name__=~"inkit:.+"})'), "VictoriaMetrics has the recorded rules")

    samples = [await value(http, "count_over_time(inkit_up[10s])") or 0.0 for http in (*replicas, storage)]
    if not 0 < samples[2] <= 1.1 * max(samples[:2]) < 0.9 * sum(samples[:2]):
        raise SystemExit(f"VictoriaMetrics does not deduplicate: {samples}")
    said(f"of {samples[0]:.0f} and {samples[1]:.0f} samples in 10 seconds VictoriaMetrics keeps {samples[2]:.0f}")


async def check(folder: Path) -> None:
    """Start all servers, and check them."""
    _, *flags = documented("VictoriaMetrics")
    (folder / "rules.yml").write_text(shorten_rules((DEPLOY / "prometheus" / "rules.yml").read_text()))
    api = Api(batches=list(BASELINE))
    async with AsyncExitStack() as open_:
        alerts, stored = (open_.enter_context(free_address()) for _ in range(2))
        await open_.enter_async_context(serving_api(api))
        running = await open_.enter_async_context(exporting(api, folder))
        storage = await open_.enter_async_context(
            serving(
                "victoria-metrics",
                f"-storageDataPath={folder / 'victoria-metrics'}",
                "-search.latencyOffset=0s",
                *map(shorten, flags),
                address=stored,
                log=folder / "victoria-metrics.log",
                listen="-httpListenAddr",
            )
        )
        received = await open_.enter_async_context(inbox())
        replicas = []
        for replica in "ab":
            (folder / replica).mkdir()
            (folder / replica / "rules.yml").symlink_to(folder / "rules.yml")
            config = prometheus_config(replica, exporter=running.url.authority, alerts=alerts, storage=stored)
            flags_ = "--enable-feature=exemplar-storage", "--query.lookback-delta=10s", "--rules.alert.resend-delay=2s"
            replicas.append(await open_.enter_async_context(prometheus(config, folder / replica, *flags_)))
        routing = replace(
            (DEPLOY / "alertmanager" / "alertmanager.yml").read_text(), {"localhost:9095": received.address}
        )
        await open_.enter_async_context(alertmanager(shorten(routing), folder, alerts))
        await follow(api, replicas, storage, received)


def main() -> None:
    """Check, then print the table."""
    os.environ["PATH"] = f"{ROOT / '.compat' / 'root' / 'usr' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    with TemporaryDirectory() as folder:
        check_files(Path(folder))
        asyncio.run(check(Path(folder)))
    print(f"\nChecked on {datetime.now(UTC):%Y-%m-%d}:\n\n| program | version |\n|---|---|")
    for name, version in versions():
        print(f"| {name} | {version} |")


if __name__ == "__main__":
    main()
