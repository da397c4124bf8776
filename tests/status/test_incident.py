"""What the status page shows at night: which destination fails, since when, where most of it is, and what helps."""

import re
from collections.abc import Sequence
from typing import Any

from support import ROOT
from support.api import Api, batch
from support.browser import Browser
from support.exporter import Exporter, StartExporter
from support.page import colours, open_page, said, table
from support.rules import RULES
from support.samples import up

from inkit_exporter.status import failing

SCRIPT = "".join(path.read_text() for path in (ROOT / "inkit_exporter" / "status").glob("*.js"))
PROGRESS = {"page": 60, "of_pages": 100, "seconds_left": 40}


def incident() -> list[dict[str, Any]]:
    """Salesforce has failed for half an hour. Before that, and elsewhere, a few documents failed as usual."""
    broken = [
        batch(f"fb_{i}", age=60 * i, destinations={"salesforce": (1, 4 + i % 5, 0), "box": (9, i % 2, 0)})
        for i in range(1, 31)
    ]
    usual = [
        batch(f"fb_{i}", age=60 * i, destinations={"salesforce": (300, 0, 0), "box": (9, i % 2, 0)})
        for i in range(31, 61)
    ]
    return broken + usual


async def start(
    api: Api, exporter: StartExporter, batches: list[dict[str, Any]], names: Sequence[str] = ("production",)
) -> Exporter:
    api.batches = batches
    running = await exporter(poll={"interval": "1h"}, accounts=[{"name": name} for name in names])
    await running.wait_for(lambda s: all(up(s, name) == 1 for name in names))
    return running


async def show(browser: Browser, changes: str) -> None:
    """Change the report, draw the page again, and stop it from asking for another report."""
    await browser.run(f"load = () => {{}}; const [account] = latest.accounts; {changes}; draw()")


async def test_the_failing_view_tells_where_since_when_and_links_to_the_runbook(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    running = await start(api, exporter, incident())
    await browser.devtools("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
    await open_page(browser, running)
    assert re.fullmatch(
        r"salesforce fails: 180 of 210 documents failed since [\w, ]*\d\d:\d\d GMT\+9 Runbook InkitDestinationFailing",
        await said(browser),
    )
    assert (await browser.run("return document.title")).startswith("salesforce fails: 180 of 210 documents")
    (salesforce, box) = await table(browser, "destinations")
    lines = salesforce[1].split("\n")
    assert lines[0] == "✖ failing" and lines[2:] == ["for 30 min, in 30 batches", "Runbook InkitDestinationFailing"]
    assert salesforce[2:4] == ["2.0%", "180\n86% of all failed"]
    assert (box[1], box[3]) == ("under the threshold", "30\n14% of all failed")
    # Where most documents failed comes first; then, among equals, the newest.
    rows = await table(browser, "failing")
    assert [row[0].split()[-1] for row in rows[:7]] == ["fb_9", "fb_19", "fb_29", "fb_3", "fb_4", "fb_13", "fb_14"]
    assert rows[0][3:] == [
        "9\n4.3% of all failed",
        "salesforce: 8 failed of 9 (89% failed)\nbox: 1 failed of 10 (10% failed)",
    ]
    red = await browser.run("return Array.from(document.querySelectorAll('#failing li .failed'), e => e.innerText)")
    assert red[0] == "8 failed" and "1 failed" not in red, "at box it is as usual"
    assert "GMT+9" in await browser.run("return document.getElementById('clock').innerText")

    # Filters and order are in the address, one beside the other.
    await browser.run("[...document.querySelectorAll('#order a')].find(a => a.innerText === 'newest first').click()")
    await browser.wait_for("location.search === '?order=newest' && document.readyState === 'complete'")
    assert [row[0].split()[-1] for row in await table(browser, "failing")][:2] == ["fb_1", "fb_2"]
    await browser.run("[...document.querySelectorAll('#destinations th a')].find(a => a.innerText === 'box').click()")
    await browser.wait_for("location.search === '?order=newest&destination=box' && document.readyState === 'complete'")
    assert [row[0] for row in await table(browser, "destinations")] == ["box"]
    assert [row[0].split()[-1] for row in await table(browser, "failing")][:2] == ["fb_1", "fb_3"]
    assert await said(browser) == (
        "30 batches have failed documents (5.3% of 570); no destination is over the threshold"
        " Runbook InkitDocumentsFailing"
    )
    assert await browser.run("return document.getElementById('verdict').className") == "verdict unknown"
    shown = await browser.run("return document.getElementById('json').href")
    assert shown == f"{str(running.url).rstrip('/')}/api/v1/status?order=newest&destination=box"
    await browser.run("document.querySelector('#filters a').click()")
    await browser.wait_for("location.search === '?order=newest' && document.readyState === 'complete'")
    assert len(await table(browser, "destinations")) == 2
    await browser.devtools("Emulation.setTimezoneOverride", timezoneId="")


async def test_as_usual_is_not_red(api: Api, exporter: StartExporter, browser: Browser) -> None:
    batches = [
        batch(f"fb_{i}", age=60 * i, destinations={"box": (140 - i % 4, i % 4, 0), "docusign": (140, 0, 0)})
        for i in range(100)
    ]
    running = await start(api, exporter, batches)
    await open_page(browser, running)
    assert await said(browser) == (
        "75 batches have failed documents (0.5% of 28,000); no destination is over the threshold"
    )
    assert await browser.run("return document.getElementById('verdict').className") == "verdict up"
    assert await browser.run("return document.querySelectorAll('.failed:not(i)').length") == 0

    # Nothing arrives, but at one of the two.
    await show(
        browser,
        """
        const [box] = account.window.destinations;
        box.failing = { since_timestamp_seconds: latest.timestamp_seconds - 60, maybe_earlier: true,
          newest_batch_created_timestamp_seconds: latest.timestamp_seconds - 60, batches: 3, failed: 12, finished: 12 };
    """,
    )
    sentence = "Nothing arrives at box: 12 of 12 documents failed since at least .* Runbook InkitDestinationDown"
    assert re.fullmatch(sentence, await said(browser))
    assert (await table(browser, "destinations"))[0][1].startswith("✖ nothing arrives\n")
    colour = "return document.getElementById('verdict').className"
    assert await browser.run(colour) == "verdict down"
    for fewer in ("batches = 2", "newest_batch_created_timestamp_seconds -= 7200"):
        await show(browser, f"account.window.destinations[0].failing.{fewer}")
        assert await browser.run(colour) == "verdict unknown"
    assert (await said(browser)).startswith(
        "box failed when it was last used: 12 of 12 documents failed since at least"
    )
    assert (await table(browser, "destinations"))[0][1].startswith("✖ failed last\n")

    # Batches that fail before they come to a destination: a part of them, and all.
    await show(
        browser,
        """
        account.window.destinations.forEach(destination => destination.failing = null);
        account.window.failing = { since_timestamp_seconds: latest.timestamp_seconds - 60, maybe_earlier: false,
          newest_batch_created_timestamp_seconds: latest.timestamp_seconds, batches: 13, failed: 13, finished: 20 };
    """,
    )
    assert re.fullmatch("13 of 20 batches failed since .* Runbook InkitBatchesFailing", await said(browser))
    assert await browser.run(colour) == "verdict unknown"
    await show(browser, "account.window.failing.finished = 13")
    assert re.fullmatch("13 of 13 batches failed since .* Runbook InkitAllBatchesFailing", await said(browser))
    assert await browser.run(colour) == "verdict down"


async def test_the_accounts_table_shows_progress_and_what_is_odd(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    running = await start(api, exporter, [batch("fb_1")])
    await open_page(browser, running)
    await show(
        browser,
        f"""
        Object.assign(account, {{ up: null, window: null, polling: true, progress: {PROGRESS}, requests_per_minute: 60,
          invalid_batches: 12, repaired_batches: 3, clock_skew_seconds: -75.2 }});
    """,
    )
    ((_, health, _, _, following, recent),) = await table(browser, "accounts")
    assert health == "… not polled yet"
    assert following.split("\n")[:3] == [
        "listing",
        "page 60 of about 100, 40 s left at 60 requests a minute",
        "every 60 min",
    ]
    bar = await browser.run("const bar = document.querySelector('progress'); return [bar.value, bar.max]")
    assert bar == [60, 100]
    assert recent.split("\n") == [
        "-",
        "unreadable or partly unreadable records: 12 since the start; Runbook InkitInvalidRecords",
        "records with an inferred count: 3 since the start; Runbook InkitRepairedRecords",
        "this clock is 75 s ahead of the API's; Runbook InkitClockWrong",
    ]
    await show(browser, "latest.storage = { healthy: true, error: null, failures: 0, size_bytes: 12 * 2 ** 20 }")
    line = "return document.getElementById('storage').innerText"
    assert await browser.run(line) == "Storage: healthy, 12.0 MiB"
    await show(browser, "Object.assign(latest.storage, { healthy: false, error: 'one: disk is full', failures: 3 })")
    assert await browser.run(line) == (
        "Storage: not healthy: one: disk is full. A restart loses what happened since Runbook InkitStorageUnhealthy; "
        "3 failures since the start"
    )
    await show(browser, "account.progress = { page: 60, of_pages: null, seconds_left: null }")
    assert (await table(browser, "accounts"))[0][4].split("\n")[1] == "page 60"
    assert await browser.run("return document.querySelector('progress').hasAttribute('value')") is False


async def test_axe_finds_nothing_and_the_keyboard_reaches_everything(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    running = await start(api, exporter, incident(), names=("one", "two"))
    await open_page(browser, running, "?account=one&account=two")
    await show(
        browser,
        f"""
        Object.assign(account, {{ up: false, reason: "auth", error: "the API answered 401", progress: {PROGRESS},
          down_since_timestamp_seconds: latest.timestamp_seconds - 300, invalid_batches: 12 }});
        account.window.stale = account.window.truncated = true;
    """,
    )
    for scheme, width in (("light", 1240), ("dark", 1240), ("dark", 360)):
        await colours(browser, scheme)
        await browser.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        assert await browser.accessibility() == [], (scheme, width)
        assert await browser.run("return document.documentElement.scrollWidth") <= width
    await browser.run("document.getElementById('lost').hidden = false; $('verdict').className = 'verdict up'")
    assert await browser.accessibility() == []

    # With the Tab key to every link and button; the focus stays while the ages around it change.
    stops = "[...document.querySelectorAll('a, button')]"
    wanted = await browser.run(f"return {stops}.filter(e => e.checkVisibility()).length")
    seen = []
    for _ in range(wanted):
        await browser.devtools("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(
            await browser.run(f"latest.timestamp_seconds += 61; draw(); return {stops}.indexOf(document.activeElement)")
        )
        assert await browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert seen == sorted(set(seen)) and len(seen) == wanted and seen[0] >= 0


def test_every_runbook_that_the_page_links_to_exists() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), flags=re.MULTILINE)
    named = set(re.findall(r'"(Inkit[A-Z]\w+)"', SCRIPT))
    assert len(named) >= 12 and named <= set(headings)


def test_the_page_has_the_thresholds_of_the_alerts() -> None:
    rules = {rule["record"]: float(rule["expr"][len("vector(") : -1]) for rule in RULES if is_constant(rule)}
    assert rules["inkit:failed_share_of_destination:ratio"] == failing.SHARE
    assert rules["inkit:ticket_floor:documents"] == failing.FEWEST
    assert rules["inkit:page_floor:batches"] == failing.FEWEST_BATCHES
    share, documents = rules["inkit:failed_share_of_account:ratio"], rules["inkit:ticket_floor_of_account:documents"]
    assert f"const MANY = {share:g}, ENOUGH = {documents:g};" in SCRIPT
    batches, documents = rules["inkit:page_floor:batches"], rules["inkit:page_floor:documents"]
    assert f"const LARGE = {{ batches: {batches:g}, documents: {documents:g} }};" in SCRIPT


def is_constant(rule: dict[str, Any]) -> bool:
    return "record" in rule and rule["expr"].startswith("vector(") and "labels" not in rule
