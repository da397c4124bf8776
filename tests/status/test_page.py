"""The status page, as Chromium shows it with and without JavaScript, and the JSON behind it."""

import json
import re
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bcrypt
import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support.api import Api, Handler, batch
from support.browser import Browser
from support.exporter import Exporter, StartExporter
from support.page import colours, open_page, said, table
from support.samples import documents, up

from inkit_exporter import __version__
from inkit_exporter.status.batches import BatchesStatus, BatchStatus
from inkit_exporter.status.page import render
from inkit_exporter.status.report import Status

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
COMMENT = "<!--<script>&"
HOSTILE = [
    SCRIPT,
    f"</script>{SCRIPT}",
    COMMENT,
    IMAGE,
    "</SCRIPT\t>]]>--!>",
    "{{report}} {{metrics}}",
    "a\u2028b\u2029c",
    "&lt;b&gt; &amp; &quot;",
    "\"'`${1}\\",
    "\\u003cb>",
]


async def status(running: Exporter, query: str = "") -> Any:
    code, text = await running.get("/api/v1/status" + query)
    assert code == 200
    return json.loads(text)


async def rgb(browser: Browser, selector: str, style: str = "color") -> list[float]:
    """Red, green and blue of the element, or of the background behind it."""
    colour = await browser.run(
        """
        let element = document.querySelector(arguments[0]), colour;
        do {
            colour = getComputedStyle(element)[arguments[1]];
            element = element.parentElement;
        } while (colour === "rgba(0, 0, 0, 0)" && element);
        return colour;
        """,
        selector,
        style,
    )
    return [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]


def luminance(colour: list[float]) -> float:
    """The luminance of a colour, as the Web Content Accessibility Guidelines define it."""
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


async def contrast(browser: Browser, selector: str) -> float:
    text, ground = (
        luminance(await rgb(browser, selector)),
        luminance(await rgb(browser, selector, "backgroundColor")),
    )
    return (max(text, ground) + 0.05) / (min(text, ground) + 0.05)


async def refuse_dead_accounts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The API answers 503 to accounts that search for `dead`."""
    return web.Response(status=503) if request.query.get("search") == "dead" else await handler(request)


def two_accounts(first: str = "good", second: str = "dead") -> list[dict[str, Any]]:
    return [{"name": first}, {"name": second, "filters": {"search": "dead"}}]


async def test_the_page_shows_what_the_api_holds_and_follows_it(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    api.batches = [
        batch("fb_new", age=100, status="In Progress", destinations={"box": (1, 0, 2)}),
        batch("fb_bad", age=200, name=SCRIPT, destinations={"salesforce": (3, 4, 0), "box": (7, 0, 0)}),
        batch("fb_img", age=8000, name=IMAGE, status="In Progress", destinations={"docusign": (1200, 0, 34)}),
    ]
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    await open_page(browser, running)
    assert await said(browser) == "1 batch has failed documents (0.3% of 1,215); no destination is over the threshold"
    assert await browser.run("return document.getElementById('failing-sum').innerText") == "1 latest 3 min ago"
    ((account, health, _, cost, following, recent),) = await table(browser, "accounts")
    assert (account, health) == ("default", "✔ up")
    assert re.match(r"\d requests?\n\d+ of 6,000 in the last minute", cost)
    assert "every 200 ms" in following
    assert recent == "3 in 24 h\n2 in progress, 1 completed"
    assert await table(browser, "destinations") == [
        ["salesforce", "too few to tell", "57%", "4\n100% of all failed", "0", "3", "7"],
        ["docusign", "none failed", "0%", "0", "34", "1,200", "1,234"],
        ["box", "none failed", "0%", "0", "2", "8", "10"],
    ]
    ((name, age, state, failed, counts),) = await table(browser, "failing")
    assert (name, state, failed) == (f"{SCRIPT}\nfb_bad", "completed", "4\n100% of all failed")
    assert re.fullmatch(r"3 min\n[\w, ]*\d\d:\d\d UTC", age), age
    assert counts == "salesforce: 4 failed of 7 (57% failed)\n1 other: nothing failed or in progress"
    oldest, newest = await table(browser, "unfinished")
    state = oldest.pop(2)
    assert re.fullmatch(r"in progress\nunchanged for \d+ s", state), state
    assert oldest[0] == f"{IMAGE}\nfb_img" and oldest[1].startswith("2 h 13 min\n")
    assert oldest[2] == "docusign: 34 in progress of 1,234"
    assert newest[0] == "batch fb_new\nfb_new"
    # Names are text: nothing of them has become an element, and no alert, which would fail any of these commands.
    assert await browser.run("return [document.scripts.length, document.images.length]") == [2, 0]

    # It follows by itself, and leaves alone what has not changed: a selection stays.
    await browser.run("getSelection().selectAllChildren(document.querySelector('#failing code'))")
    api.batches = [batch("fb_4", destinations={"box": (0, 9, 0)}), *api.batches]
    await browser.wait_for("document.querySelectorAll('#failing tbody tr').length === 2")
    assert await browser.run("return getSelection().toString()") == "fb_bad"
    assert [row[0].split()[-1] for row in await table(browser, "failing")] == ["fb_4", "fb_bad"]
    box, *_ = await table(browser, "destinations")
    assert (box[0], *box[2:]) == ("box", "53%", "9\n69% of all failed", "2", "8", "19")
    api.batches = api.batches[:2]
    await running.wait_for(lambda s: documents(s, "failed").get(("salesforce", "completed")) == 0)
    await browser.run("return load()")
    assert [row[0].split()[-1] for row in await table(browser, "failing")] == ["fb_4"]
    api.batches = [batch("fb_5")]
    await running.wait_for(lambda s: not sum(documents(s, "failed").values()))
    await browser.run("return load()")
    assert await said(browser) == "The account is polled without errors"
    assert await browser.console() == []
    origins = await browser.run("return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)")
    assert set(origins) == {str(running.url).rstrip("/")}


async def test_a_failing_account_comes_first_and_is_red_by_day_and_by_night(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    api.fault = refuse_dead_accounts
    running = await exporter(accounts=two_accounts())
    await running.wait_for(lambda s: (up(s, "good"), up(s, "dead")) == (1, 0))
    await open_page(browser, running)
    (dead, good) = await table(browser, "accounts")
    assert dead[0] == "dead" and dead[1].startswith("✖ down: server_error\nthe API answered 503")
    assert "none succeeded yet" in dead[2]
    assert good[:2] == ["good", "✔ up"]
    assert await browser.run("return document.title") == "1 of 2 accounts is down: Inkit exporter"
    grounds = []
    for scheme in ("light", "dark"):
        await colours(browser, scheme)
        for selector in ("#verdict", "tr.down .health"):
            red, green, blue = await rgb(browser, selector)
            assert red > 1.4 * green and red > 1.4 * blue, (scheme, selector)
        red, green, blue = await rgb(browser, "tr.up .health")
        assert green > red and green > blue
        for selector in ("h1", "h1 small", "#verdict", "tr.down .health", "tr.up .health", "td small", "a", "thead th"):
            assert await contrast(browser, selector) >= 4.5, (scheme, selector)
        grounds.append(luminance(await rgb(browser, "body", "backgroundColor")))
    assert grounds[0] > 0.8 and grounds[1] < 0.05

    # One account by its link, and back.
    await browser.run("document.querySelector('#accounts tr:nth-child(2) a').click()")
    await browser.wait_for("location.search === '?account=good' && document.readyState === 'complete'")
    assert [row[0] for row in await table(browser, "accounts")] == ["good"]
    await browser.run("document.querySelector('#filters a').click()")
    await browser.wait_for("location.search === '' && document.readyState === 'complete'")
    assert len(await table(browser, "accounts")) == 2


async def test_the_page_says_when_it_gets_no_answer_and_recovers(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    await open_page(browser, running)
    hidden = "document.getElementById('lost').hidden"
    assert await browser.run(f"return {hidden}")
    network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await browser.devtools("Network.enable")
    await browser.devtools("Network.emulateNetworkConditions", offline=True, **network)
    await browser.run("return load()")
    assert not await browser.run(f"return {hidden}")
    said = await browser.run("return document.getElementById('lost').innerText")
    assert re.match(
        r"The exporter does not answer \(no connection\)\. What is shown here is as of [\d:]+ UTC, \d+ s ago", said
    )
    assert await browser.run("return getComputedStyle(document.getElementById('main')).filter") == "grayscale(1)"
    assert await browser.run("return document.title") == "Unreachable: Inkit exporter"
    await browser.devtools("Network.emulateNetworkConditions", offline=False, **network)
    await browser.run("return load()")
    assert await browser.run(f"return {hidden}")
    assert await browser.run("return document.title") == "Inkit exporter"


async def test_behind_a_password_the_page_follows_too(
    api: Api, exporter: StartExporter, browser: Browser, tmp_path: Path
) -> None:
    """Even with user and password in the address. `fetch` refuses such addresses, and relative ones inherit both."""
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: {bcrypt.hashpw(b'right', bcrypt.gensalt(4)).decode()}}}")
    running = await exporter(f"--web.config.file={path}")
    address = str(running.url)
    await browser.open(address.replace("://", "://alice:right@"))
    assert await browser.run("return load().then(() => [problem, latest.accounts.length])") == ["", 1]
    assert await browser.run("return document.getElementById('lost').hidden")


async def test_stale_numbers_are_marked(api: Api, exporter: StartExporter, browser: Browser) -> None:
    api.batches = [batch("fb_1", destinations={"box": (0, 1, 0)})]
    running = await exporter(poll={"stale_after": "400ms"}, accounts=[{"name": "one"}, {"name": "two"}])
    await running.wait_for(lambda s: (up(s, "one"), up(s, "two")) == (1, 1))

    async def fail(_: web.Request, __: Handler) -> web.StreamResponse:
        return web.Response(status=500)

    api.fault = fail
    await running.wait_for(lambda s: not any(name.startswith("inkit_batches{") for name in s))
    await open_page(browser, running, "?account=one&account=two")
    assert await said(browser) == "2 of 2 accounts are down; numbers are stale Runbook InkitApiFailing"
    assert "stale: as of" in (await table(browser, "accounts"))[0][5]
    assert (await table(browser, "destinations"))[0][1] == "one\nstale"
    assert (await table(browser, "failing"))[0][1] == "one\nstale"


async def test_nothing_is_cut_off_on_a_phone_and_long_lists_open_in_steps(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    api.batches = [
        batch(f"fb_{i:0200}", age=60 + i, name="x" * 200, status="In Progress", destinations={f"d{i:060}": (1, 2, 3)})
        for i in range(60)
    ]
    running = await exporter(name="a" * 64)
    await running.wait_for(lambda s: up(s, "a" * 64) == 1)
    await browser.devtools(
        "Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True
    )
    await open_page(browser, running)
    for lines, label in ((5, "Show 50 more of 60"), (55, "Show 5 more of 60"), (60, "Show fewer"), (5, "Show 50")):
        await browser.wait_for("document.querySelectorAll('#failing tbody tr').length === arguments[0]", lines)
        assert (await browser.run("return document.querySelector('#failing button').innerText")).startswith(label)
        assert await browser.run("return document.documentElement.scrollWidth") == 360
        await browser.run("document.querySelector('#failing button').click()")


async def test_the_page_draws_the_report_that_it_came_with_before_it_asks_for_another(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    api.batches = [batch("fb_1", age=100, destinations={"box": (0, 1, 0)})]
    running = await exporter(poll={"interval": "1h"})
    await running.wait_for(lambda s: up(s) == 1)
    await browser.devtools("Network.enable")
    await browser.devtools("Network.setBlockedURLs", urls=["*/api/v1/status*"])
    await open_page(browser, running)
    assert await said(browser) == "1 batch has failed documents (100% of 1); no destination is over the threshold"
    assert (await table(browser, "accounts"))[0][:2] == ["default", "✔ up"]
    assert await table(browser, "destinations") == [
        ["box", "too few to tell", "100%", "1\n100% of all failed", "0", "0", "1"]
    ]
    assert [row[0] for row in await table(browser, "failing")] == ["batch fb_1\nfb_1"]
    assert await browser.run("return document.getElementById('lost').hidden")
    await browser.run("return load()")  # it was blocked all the time
    assert "(no connection)" in await browser.run("return document.getElementById('lost').innerText")
    assert len(await table(browser, "failing")) == 1


async def test_text_in_the_report_cannot_become_markup(api: Api, exporter: StartExporter, browser: Browser) -> None:
    api.batches = [batch(f"fb_{i}", age=i, name=name, status="Failed") for i, name in enumerate(HOSTILE)]
    accounts = [SCRIPT, COMMENT, IMAGE, "{{report}}"]
    running = await exporter(accounts=[{"name": name} for name in accounts])
    await running.wait_for(lambda s: all(up(s, name) == 1 for name in accounts))
    await open_page(browser, running, "?account=" + quote(COMMENT))
    shown = await browser.run(
        "return Array.from(document.querySelectorAll('#failing tbody th span'), e => e.firstChild.data)"
    )
    assert shown == HOSTILE
    assert (await table(browser, "accounts"))[0][0] == COMMENT
    await open_page(browser, running)
    assert [row[0] for row in await table(browser, "accounts")] == accounts
    assert await browser.run("return [document.scripts.length, document.images.length]") == [2, 0]
    assert await browser.console() == []


@given(st.lists(st.text() | st.sampled_from(HOSTILE)))
def test_the_report_is_in_the_page_unchanged_and_without_a_character_of_markup(texts: list[str]) -> None:
    batches = [BatchStatus(text, text, text, 1.5, None, text, []) for text in texts]
    report = Status("1.0", 2.5, [], BatchesStatus(len(texts), batches), BatchesStatus(0, []), None)
    (embedded,) = re.findall(
        r'<script type="application/json" id="report">(.*?)</script>', render(report, "/metrics"), flags=re.DOTALL
    )
    assert not set(embedded) & set("<>&\n\r\u2028\u2029")
    assert msgspec.json.decode(embedded, type=Status) == report


async def test_without_its_script_the_page_links_to_the_json_and_the_metrics(
    api: Api, exporter: StartExporter, browser: Browser, tmp_path: Path
) -> None:
    """Either the browser has no JavaScript, or a policy of the operator forbids the script."""
    running = await exporter("--web.telemetry-path=/custom")
    path = tmp_path / "web.yml"
    path.write_text("http_server_config: {headers: {Content-Security-Policy: \"default-src 'self'\"}}")
    strict = await exporter(f"--web.config.file={path}", "--web.telemetry-path=/custom")
    sentence = "This page needs JavaScript: without it, read the status as JSON or the metrics."
    for one in (strict, running):
        if one is running:
            await browser.devtools("Emulation.setScriptExecutionDisabled", value=True)
        await open_page(browser, one)
        text = await browser.run("return document.body.innerText")
        assert sentence in text and f"Inkit exporter {__version__}" in text
        assert await browser.run("return document.getElementById('main').checkVisibility()") is False
        links = await browser.run("return Array.from(document.querySelectorAll('.scriptless a'), a => a.pathname)")
        assert links == ["/api/v1/status", "/custom"]
        for link in links:
            assert (await one.get(link))[0] == 200
    await browser.devtools("Emulation.setScriptExecutionDisabled", value=False)
    await open_page(browser, running)
    assert sentence not in await browser.run("return document.body.innerText")


async def test_a_clock_that_was_set_back_makes_no_time_negative(
    api: Api, exporter: StartExporter, browser: Browser
) -> None:
    running = await exporter(poll={"interval": "1h"})
    await running.wait_for(lambda s: up(s) == 1)
    await open_page(browser, running)
    await browser.run("latest.timestamp_seconds -= 60; draw(); load = () => {}")
    assert (await table(browser, "accounts"))[0][2].startswith("0 s ago")


async def test_the_page_allows_its_own_script_and_nothing_else(api: Api, exporter: StartExporter) -> None:
    running = await exporter()
    for path in ("/", "/api/v1/status"):
        async with running.http.get(path) as response:
            policy = dict(part.partition(" ")[::2] for part in response.headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
            assert not re.search(r"unsafe|\*|https?:", " ".join(policy.values()))
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Referrer-Policy"] == "no-referrer"
            assert response.headers["Cache-Control"] == "no-store"
            assert response.charset == ("utf-8" if path == "/" else None)


async def test_the_json_tells_what_the_api_holds_of_the_accounts_asked_for(api: Api, exporter: StartExporter) -> None:
    api.fault = refuse_dead_accounts
    api.batches = [
        batch("fb_3", age=10, status="Failed", destinations={}),
        batch(
            "fb_2", age=20, name=SCRIPT, status="In Progress", destinations={"box": (1, 2, 3), "docusign": (9, 0, 0)}
        ),
        batch("fb_1", age=30),
    ]
    running = await exporter(accounts=two_accounts(), poll={"interval": "1s"})
    await running.wait_for(lambda s: (up(s, "good"), up(s, "dead")) == (1, 0))
    both, one, none = [await status(running, query) for query in ("", "?account=good", "?account=absent")]
    assert [account["account"] for account in both["accounts"]] == ["dead", "good"]
    dead, good = both["accounts"]
    assert (dead["up"], dead["reason"], dead["window"]) == (False, "server_error", None)
    assert 0 <= both["timestamp_seconds"] - dead["down_since_timestamp_seconds"] < 60
    assert dead["last_successful_poll_timestamp_seconds"] is None
    assert (good["up"], good["reason"], good["error"], good["poll_interval_seconds"]) == (True, None, None, 1.0)
    # It may be a bit late, if the machine stands still.
    assert good["polling"] or -20 < good["next_poll_timestamp_seconds"] - both["timestamp_seconds"] <= 1
    window = good["window"]
    assert (window["batches"], window["failing_batches"], window["unfinished_batches"]) == (3, 2, 1)
    assert (window["batches_by_status"], window["stale"]) == ({"failed": 1, "in_progress": 1, "completed": 1}, False)
    destinations = [list(destination.values())[:5] for destination in window["destinations"]]
    assert destinations == [["box", 6, 1, 2, 3], ["docusign", 9, 9, 0, 0], ["inkit_storage", 1, 1, 0, 0]]
    assert both["failing_batches"]["total"] == 2
    assert [found["id"] for found in both["failing_batches"]["listed"]] == ["fb_3", "fb_2"]
    (unfinished,) = both["unfinished_batches"]["listed"]
    assert (unfinished["account"], unfinished["id"], unfinished["name"]) == ("good", "fb_2", SCRIPT)
    assert both["timestamp_seconds"] - unfinished["created_timestamp_seconds"] == pytest.approx(35, abs=16)
    assert both["timestamp_seconds"] - unfinished["last_change_timestamp_seconds"] == pytest.approx(15, abs=16)
    assert [found["last_change_timestamp_seconds"] is None for found in both["failing_batches"]["listed"]] == [
        True,
        False,
    ]
    assert [account["account"] for account in one["accounts"]] == ["good"]
    assert (none["accounts"], none["failing_batches"]["total"]) == ([], 0)


async def test_a_batch_that_ended_with_another_word_for_failed_counts_as_failed(
    api: Api, exporter: StartExporter
) -> None:
    words = ("Error", "Rejected", "Render Failed", "TimedOut", "Not Failed", "Partially Failed", "Cancelled")
    api.batches = [
        batch(f"fb_{word}", age=i, status=word, destinations={"box": (0, 0, 0)}) for i, word in enumerate(words)
    ]
    running = await exporter(poll={"interval": "1h"})
    await running.wait_for(lambda s: up(s) == 1)
    found = await status(running)
    (account,) = found["accounts"]
    assert account["window"]["failing"]["failed"] == 4
    for listing in (found, await status(running, "?destination=box")):
        assert {one["id"] for one in listing["failing_batches"]["listed"]} == {f"fb_{word}" for word in words[:4]}


async def test_the_json_lists_what_is_asked_for(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i, destinations={"box": (9 - i % 7, i % 7, 0)}) for i in range(60)]
    api.batches += [
        batch("fb_x", age=100, status="In Progress", destinations={"box": (9, 0, 0), "docusign": (0, 3, 1)}),
        batch("fb_y", age=200, status="In Progress", destinations={"box": (1, 0, 1), "docusign": (4, 0, 0)}),
        batch("fb_z", age=300, status="Failed", destinations={"docusign": (0, 0, 0)}),
    ]
    running = await exporter(poll={"interval": "1h"})
    await running.wait_for(lambda s: up(s) == 1)

    async def listed(query: str, which: str = "failing_batches") -> tuple[int, list[str]]:
        found = (await status(running, query))[which]
        return found["total"], [one["id"] for one in found["listed"]]

    total, default = await listed("")
    assert (total, len(default), default[:2]) == (53, 50, ["fb_1", "fb_2"])
    assert len((await listed("?limit=500"))[1]) == 53
    assert await listed("?limit=2") == (53, ["fb_1", "fb_2"])
    assert await listed("?limit=3&order=failed") == (53, ["fb_6", "fb_13", "fb_20"])
    assert await listed("?destination=docusign") == (2, ["fb_x", "fb_z"])
    assert await listed("?destination=docusign", "unfinished_batches") == (1, ["fb_x"])
    assert await listed("?destination=box", "unfinished_batches") == (1, ["fb_y"])
    assert await listed("?destination=box&destination=docusign", "unfinished_batches") == (2, ["fb_y", "fb_x"])
    assert await listed("?destination=absent") == (0, [])
    (account,) = (await status(running, "?destination=docusign"))["accounts"]
    assert [found["destination"] for found in account["window"]["destinations"]] == ["docusign"]
    for path in ("/", "/api/v1/status"):
        for query in ("limit=0", "limit=501", "limit=x"):
            assert await running.get(f"{path}?{query}") == (400, "limit must be a whole number from 1 to 500\n")
        assert await running.get(f"{path}?order=x") == (400, "order must be newest or failed\n")


async def test_the_json_tells_which_destination_fails_and_since_when(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch("fb_1", age=600, destinations={"box": (50, 1, 0), "docusign": (50, 1, 0)})]
    running = await exporter(poll={"interval": "200ms"})
    await running.wait_for(lambda s: up(s) == 1)
    at_first = (await status(running))["accounts"][0]["window"]["destinations"]
    assert [found["failing"] for found in at_first] == [None, None]
    assert [found["last_failed_timestamp_seconds"] for found in at_first] == [None, None], "it existed before"
    created = time.time()
    api.batches = [
        batch(f"fb_{i}", age=120 - i, destinations={"box": (1, 9, 0), "docusign": (9, 1, 0)}) for i in range(6, 2, -1)
    ] + api.batches
    await running.wait_for(lambda s: documents(s, "failed").get(("box", "completed")) == 37)
    now = await status(running)
    box, docusign = now["accounts"][0]["window"]["destinations"]
    since, newest = (box["failing"].pop(f"{name}_timestamp_seconds") for name in ("since", "newest_batch_created"))
    assert created - since == pytest.approx(117, abs=5) and newest > since
    assert box["failing"] == {"maybe_earlier": False, "batches": 4, "failed": 36, "finished": 40}
    assert docusign["failing"] is None
    assert now["timestamp_seconds"] - docusign["last_completed_timestamp_seconds"] == pytest.approx(10, abs=20)


async def test_what_is_sent_stays_small_with_many_accounts_destinations_and_batches(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    api.batches = [
        batch(f"fb_{i}", age=i, status="In Progress", destinations={f"d {i} {j}": (i, 1, j) for j in range(4)})
        for i in range(100)
    ]
    names = [f"account {i}" for i in range(100)]
    running = await exporter(
        accounts=[{"name": name} for name in names], poll={"interval": "3s"}, limits={"timeout": "30s"}
    )
    await running.wait_for(lambda s: all(up(s, name) == 1 for name in names), seconds=60)
    whole = await status(running)
    assert len(whole["accounts"]) == 100
    assert whole["unfinished_batches"]["total"] == 10_000 and len(whole["unfinished_batches"]["listed"]) == 50
    assert max(len(account["window"]["destinations"]) for account in whole["accounts"]) <= 33
    for path in ("/", "/api/v1/status"):
        async with running.http.get(path, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            body = await response.read()  # unfolded by the client library
        assert len(body) < 2**20 and len(zlib.compress(body)) < 2**16
