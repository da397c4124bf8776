"""The catalogue of deviations from the API's documentation: right numbers, or an error that names the cause."""

import asyncio
import json
import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.deviant import Account, DeviantApi
from support.deviations import PAGE_SIZE, Deviation, Documents, load, load_all
from support.exporter import Exporter, StartExporter
from support.faulty import listening

INTERVAL = 4.0

_GAUGES = (
    "inkit_batch_documents",
    *(f"inkit_batch_documents_{name}" for name in ("completed", "failed", "in_progress")),
)
_OTHERS = (
    *("inkit_up", "inkit_batches", "inkit_polls_total", "inkit_poll_requests", "inkit_poll_failures_total"),
    *("inkit_invalid_batches_total", "inkit_repaired_batches_total", "inkit_api_clock_skew_seconds"),
)
_SAMPLE = re.compile(r"(inkit_\w+){(.*)} (\S+)")
_LABEL = re.compile(r'(\w+)="(.*?)"')


class Seen:
    """What one scrape says about one account. Samples by destination or status are left out if they are 0."""

    def __init__(self) -> None:
        self.documents: Documents = defaultdict(dict)
        self.batches: dict[str, int] = {}
        self.reasons: set[str] = set()
        self.values: dict[str, float] = {}

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        """Add a sample."""
        if name in _GAUGES and value:
            row = self.documents[labels["destination"]].setdefault(labels["batch_status"], [0, 0, 0, 0])
            row[_GAUGES.index(name)] = int(value)
        elif name == "inkit_batches" and value:
            self.batches[labels["batch_status"]] = int(value)
        elif name == "inkit_poll_failures_total" and value:
            self.reasons.add(labels["reason"])
        elif name not in _GAUGES:
            self.values[name] = value

    @property
    def polls(self) -> float:
        """Return how many polls have ended."""
        return self.values.get("inkit_polls_total", 0)


async def scrape(running: Exporter) -> dict[str, Seen]:
    """Scrape, and return each account's samples."""
    status, text = await running.get("/metrics?" + "&".join(f"name[]={name}" for name in (*_GAUGES, *_OTHERS)))
    assert status == 200
    seen: dict[str, Seen] = defaultdict(Seen)
    for name, labels, value in _SAMPLE.findall(text):
        found = dict(_LABEL.findall(labels))
        seen[found.pop("account")].add(name, found, float(value))
    return seen


@pytest.mark.process
async def test_every_deviation_gives_right_numbers_or_fails_with_its_cause_named(
    exporter: StartExporter, tmp_path: Path
) -> None:
    now = time.time()
    catalogue = load_all()
    catalogue |= {"as-documented": Deviation("Everything is as documented.", catalogue["next-page-null"].expect)}
    accounts = {name: Account(name, deviation, now) for name, deviation in catalogue.items()}
    for account in accounts.values():
        (tmp_path / account.name).write_text(account.token)
    problems: dict[str, list[str]] = defaultdict(list)
    async with listening((api := DeviantApi(accounts)).converse) as port:
        running = await exporter(
            poll={"interval": f"{INTERVAL:.0f}s", "page_size": PAGE_SIZE, "stale_after": "1m"},
            limits={"max_response_size": "200kB", "timeout": "20s"},
            accounts=[
                account.deviation.account
                | {"name": name, "api_token_file": str(tmp_path / name), "base_url": account.base_url(port)}
                for name, account in accounts.items()
            ],
        )
        polls, seen = dict[str, float](), await scrape(running)
        slow, until = set(accounts), time.monotonic() + 15 * INTERVAL
        while slow and time.monotonic() < until:
            await asyncio.sleep(0.1)
            seen = await scrape(running)
            for name in [name for name in accounts.keys() - polls if seen[name].polls]:
                problems[name] += first_poll(accounts[name], seen[name])
                if catalogue[name].expect.numbers:
                    accounts[name].go_on()
                polls[name] = seen[name].polls
            # On a busy machine, the list may change during a poll. The next poll sees it, and the one after is usual.
            slow = {name for name in accounts if seen[name].polls < polls.get(name, math.inf) + 3}
        for name in slow:
            problems[name].append("its polls do not end")
        answer = json.loads((await running.get("/api/v1/status"))[1])
        told = {status["account"]: status for status in answer["accounts"]}
        logged = running.log
        for name, account in accounts.items():
            problems[name] += later_polls(account, seen[name])
            lines = [line for line in logged if re.search(rf" account={name}\s", line)]
            problems[name] += log(account.deviation, lines)
            problems[name] += error(account.deviation, told[name])
    assert not api.strange
    assert "secret-" not in "".join(logged) + json.dumps(answer)
    if wrong := [f"{name}: {problem}" for name in accounts for problem in dict.fromkeys(problems[name])]:
        pytest.fail(
            "\n".join((f"{sum(map(bool, problems.values()))} of {len(accounts)} files:", *wrong)), pytrace=False
        )


def first_poll(account: Account, seen: Seen) -> Iterator[str]:
    """Yield what is wrong after the first poll."""
    expect, values = account.deviation.expect, seen.values
    yield from numbers(account, seen)
    if seen.polls == 1 and (requests := values["inkit_poll_requests"]) > account.deviation.most_requests:
        yield f"the first poll made {requests:.0f} requests, not {account.deviation.most_requests} at most"
    # On a busy machine, a second poll may have ended or begun.
    polls = [seen.polls] if seen.polls == 1 else [seen.polls, seen.polls + 1]
    for name, right in {"invalid": expect.invalid, "repaired": expect.repaired}.items():
        number = values.get(f"inkit_{name}_batches_total")
        if not expect.fails and number not in [right * times for times in polls]:
            yield f"{name} batches: {number} after {seen.polls} polls, not {right} after each"


def later_polls(account: Account, seen: Seen) -> Iterator[str]:
    """Yield what is wrong after later polls, which saw the list change."""
    yield from numbers(account, seen)
    expect = account.deviation.expect
    if not expect.fails and (requests := seen.values.get("inkit_poll_requests", 0)) > expect.later_requests:
        yield f"a later poll made {requests:.0f} requests, not {expect.later_requests} at most"


def numbers(account: Account, seen: Seen) -> Iterator[str]:
    """Yield what is wrong with the published numbers."""
    expect = account.deviation.expect
    documents, batches = ({}, {}) if expect.fails else account.numbers()
    if (up := seen.values.get("inkit_up")) != (not expect.fails):
        yield f"up is {up}"
        return
    if seen.reasons != ({expect.fails} if expect.fails else set()):
        yield f"reason {seen.reasons}"
    for destination in sorted(seen.documents.keys() | documents):
        found, right = seen.documents.get(destination, {}), documents.get(destination, {})
        if found != right:
            yield f"documents at {destination}: {found}, not {right}"
    if seen.batches != batches:
        yield f"batches {seen.batches}, not {batches}"
    skew = seen.values.get("inkit_api_clock_skew_seconds")
    if (skew is None) != (expect.clock_skew is None) or abs((skew or 0) - (expect.clock_skew or 0)) > 5:
        yield f"clock skew {skew}, not {expect.clock_skew}"


def log(deviation: Deviation, lines: list[str]) -> Iterator[str]:
    """Yield what is wrong with the account's log: it must have each expected line once, and no other warning."""
    left = lines = [re.sub(r"ts=\S+ | account=\S+", "", line) for line in lines]
    for level in ("info", "warning"):
        for words in getattr(deviation.expect, level):
            found = [line for line in left if f"level={level} " in line and all(word in line for word in words)]
            if len(found) != 1:
                yield f"{len(found)} lines of level {level} with {words}: {found or lines}"
            left = [line for line in left if line not in found]
    if others := [line for line in left if "level=warning " in line]:
        yield f"logged {others}"


def error(deviation: Deviation, told: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the error on the status page."""
    text = told["error"] or ""
    if bool(text) != bool(deviation.expect.fails) or not all(word in text for word in deviation.expect.error):
        yield f"the error is {text!r}, without {deviation.expect.error}"


SOME = "what: Something is odd.\n"
NUMBERS = "expect: {numbers: documented}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (NUMBERS + "server: {page_size: 25}", "missing required field `what`"),
        ("what: odd\n" + NUMBERS + "server: {page_size: 25}", "must be a sentence"),
        (SOME + NUMBERS, "names no deviation"),
        (SOME + "batches: 7\n" + NUMBERS, "names no deviation"),
        (SOME + "server: {page_size: 25}", "missing required field `expect`"),
        (SOME + "server: {page_size: 25}\nexpect: {invalid: 1}", "`expect` needs"),
        (SOME + "server: {page_size: 25}\nexpect: {documents: {}}", "`expect` needs"),
        (SOME + "server: {page_size: 25}\nexpect: {numbers: documented, fails: auth, error: [key]}", "`expect` needs"),
        (SOME + "server: {page_size: 25}\nexpect: {fails: auth}", "`expect.error` must"),
        (SOME + NUMBERS + "server: {pagesize: 25}", "unknown field `pagesize`"),
        (SOME + NUMBERS + "page: [{spell: {metadata: shouting}}]", "unknown: {'shouting'}"),
    ],
)
def test_an_incomplete_or_misspelt_file_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        load(text)


def test_no_two_files_describe_the_same_deviation() -> None:
    catalogue = load_all()
    assert len({deviation.what for deviation in catalogue.values()}) == len(catalogue)
