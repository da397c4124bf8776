"""Every fault at every request of a poll, all at the same time, each on another account, with the same invariants.

`/metrics` answers as usual, `inkit_up` is right, published snapshots are whole, and tokens go to no other host.
When the faults end, every account recovers within an interval, and no connection or task is left over.
"""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest
from support import PATIENCE_SECONDS
from support.api import TOKEN, batch
from support.exporter import Exporter, StartExporter
from support.faults import FAULTS
from support.faulty import PAGE_SIZE, Account, Server, listening
from support.samples import up

from inkit_exporter.config import AccountSettings, ApiSettings, Bytes, PollSettings, Seconds, Settings
from inkit_exporter.demo import JsonBatch
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import States
from inkit_exporter.transport import open_session

INTERVAL = 3.0
TIMEOUT = 5.0  # of a request; only the faulty ones take as long, even if the machine stands still for seconds
SLOWER = 0.5

Published = Mapping[str, Mapping[tuple[str, str], float]]


def before() -> list[JsonBatch]:
    """Return three pages of batches. Each poll reads page 1, and pages 2 and 3 for their unfinished batches."""
    return [
        batch(f"fb_{i}", age=60 + i, status="In Progress", destinations={"box": (0, 0, 5)})
        if i in (12, 14, 25)
        else batch(f"fb_{i}", age=60 + i)
        for i in range(3 * PAGE_SIZE)
    ]


def after(batches: list[JsonBatch]) -> list[JsonBatch]:
    """Return the batches with a new one, and with progress on pages 2 and 3."""
    progress = {
        "fb_12": batch("fb_12", status="In Progress", destinations={"box": (3, 0, 2)}),
        "fb_14": batch("fb_14", status="Completed", destinations={"box": (4, 1, 0)}),
        "fb_25": batch("fb_25", status="In Progress", destinations={"box": (1, 0, 4)}),
    }
    moved = [progress.get(old["id"], old) | {"created_at": old["created_at"]} for old in batches]
    return [batch("fb_new", age=0, destinations={"sepire": (7, 1, 0)}), *moved]


def oracle(batches: list[JsonBatch]) -> dict[str, dict[tuple[str, str], float]]:
    """Return the gauges that must be published for these batches, without zeros."""
    sums: dict[str, dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
    for one in batches:
        for destination, counts in one["destinations"].items():
            labels = destination, one["status"].lower().replace(" ", "_")
            for metric, name in (("", "count"), ("_completed", "completed"), ("_failed", "failed")):
                sums[metric][labels] += counts[name]
            sums["_in_progress"][labels] += counts["in_progress"]
    return {name: there for name, of in sums.items() if (there := {labels: n for labels, n in of.items() if n})}


_DOCUMENTS = re.compile(
    r'^inkit_batch_documents(\w*)\{account="(.*?)",batch_status="(.*?)",destination="(.*?)"\} (\S+)$'
)
_OF_ACCOUNT = re.compile(r'^(inkit_\w+)\{account="([^"]*)"(?:,(\w+)="([^"]*)")?\} (\S+)$')


class Scrape:
    """What one scrape says about each account."""

    def __init__(self, text: str, seconds: float) -> None:
        self.text = text
        self.seconds = seconds
        self.documents: dict[str, dict[str, dict[tuple[str, str], float]]] = defaultdict(lambda: defaultdict(dict))
        self.up: dict[str, float] = {}
        self.succeeded_at: dict[str, float] = {}
        self.failures: dict[str, dict[str, float]] = defaultdict(dict)
        self.requests: dict[str, float] = defaultdict(float)
        for line in text.splitlines():
            if match := _DOCUMENTS.match(line):
                if float(match[5]):
                    self.documents[match[2]][match[1]][match[4], match[3]] = float(match[5])
            elif match := _OF_ACCOUNT.match(line):
                name, account, _, label, value = match.groups()
                if name == "inkit_up":
                    self.up[account] = float(value)
                elif name == "inkit_last_successful_poll_timestamp_seconds":
                    self.succeeded_at[account] = float(value)
                elif name == "inkit_poll_failures_total" and float(value):
                    self.failures[account][label] = float(value)
                elif name == "inkit_api_requests_total":
                    self.requests[account] += float(value)


async def scrape(running: Exporter) -> Scrape:
    started = time.monotonic()
    status, text = await running.get("/metrics")
    seconds = time.monotonic() - started
    assert status == 200
    return Scrape(text, seconds)


def matrix() -> Iterator[tuple[Account, str]]:
    """Yield each account with its fault, and the failure reason that the exporter must count."""
    for place in ("first", "second", "third"):
        for name, (reason, fault) in FAULTS.items():
            yield Account(f"{place}-{name}", place, fault), reason


def sockets(running: Exporter) -> int:
    """Return how many sockets the exporter has open."""
    return sum(str(fd.readlink()).startswith("socket:") for fd in Path(f"/proc/{running.process.pid}/fd").iterdir())


@pytest.mark.alone
async def test_every_fault_on_every_request_fails_the_poll_and_the_account_recovers(
    exporter: StartExporter, tmp_path: Path
) -> None:
    told = {account.name: (account, reason) for account, reason in matrix()}
    accounts = {name: account for name, (account, _) in told.items()}
    for name, account in accounts.items():
        account.batches = before()
        (tmp_path / name).write_text(account.token)
    strangers: list[bytes] = []

    async def meet(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        strangers.append(await reader.read(1000))

    async with (
        listening(meet) as foreign,
        listening((server := Server(accounts, f"http://127.0.0.1:{foreign}/")).converse) as port,
    ):
        running = await exporter(
            poll={"interval": f"{INTERVAL * 1000:.0f}ms", "page_size": PAGE_SIZE, "stale_after": "1m"},
            limits={"timeout": f"{TIMEOUT * 1000:.0f}ms", "max_response_size": "100kB"},
            accounts=[
                {"name": name, "api_token_file": str(tmp_path / name), "base_url": account.base_url(port)}
                for name, account in accounts.items()
            ],
        )
        old = oracle(before())
        new = oracle(after(before()))
        usual = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while set((healthy := await scrape(running)).up.values()) != {1.0} or len(healthy.up) < len(accounts):
                usual.append(healthy.seconds)
                await asyncio.sleep(0.1)
        assert all(healthy.documents[name] == old for name in accounts)

        for account in accounts.values():
            account.worsen(after(account.batches))
        until = time.monotonic() + PATIENCE_SECONDS
        seconds = []
        last_success: dict[str, float] = {}
        while len(last_success) < len(accounts):
            assert time.monotonic() < until, accounts.keys() - last_success
            broken = await scrape(running)
            seconds.append(broken.seconds)
            for name in accounts:
                assert broken.documents[name] == old, name
                if not broken.up[name]:
                    assert last_success.setdefault(name, broken.succeeded_at[name]) == broken.succeeded_at[name], name
            await asyncio.sleep(0.1)
        wrong = {
            name: (reason, broken.up[name], broken.failures[name])
            for name, (_, reason) in told.items()
            if (broken.up[name], set(broken.failures[name])) != (0.0, {reason})
        }
        assert not wrong
        assert median(seconds) < SLOWER + 3 * median(usual), "scrapes wait for faulty requests"
        pages = [(await running.get(path))[1] for path in ("/", "/api/v1/status")]
        assert [(await running.get(path))[0] for path in ("/-/healthy", "/-/ready")] == [200, 200]

        for account in accounts.values():
            account.broken = False
        repaired, recovered, asked = time.monotonic(), broken, dict.fromkeys(accounts, 0)
        # A poll under way may still meet a fault until its request times out.
        while late := [name for name in accounts if (recovered.documents[name], recovered.up[name]) != (new, 1.0)]:
            assert time.monotonic() - repaired < INTERVAL + 3 * TIMEOUT, late
            await asyncio.sleep(0.1)
            asked = {name: account.requests for name, account in accounts.items()}
            recovered = await scrape(running)
        assert not strangers and not server.strange
        log = running.log
        for name, account in accounts.items():
            assert recovered.succeeded_at[name] > last_success[name]
            logged = [line for line in log if f" account={name} " in line and 'msg="account is ' in line]
            assert ['msg="account is down"' in line for line in logged] == [True, False], name
            assert asked[name] <= recovered.requests[name] + 1, "one request may be under way"
            for text in (*pages, recovered.text, *log):
                assert account.token not in text, name
        assert sockets(running) <= len(accounts) + 10


@pytest.mark.usefixtures("clock")
async def test_no_fault_leaves_a_task_or_an_open_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, used = aiohttp.TCPConnector.connect, []

    async def noted(self: aiohttp.TCPConnector, *arguments: Any, **named: Any) -> aiohttp.connector.Connection:
        used.append(await connect(self, *arguments, **named))
        return used[-1]

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", noted)
    accounts = {account.name: account for account, _ in matrix()}
    for account in accounts.values():
        account.batches, account.token = before(), TOKEN
    async with listening(Server(accounts).converse) as port, open_session() as session:
        settings = Settings(
            accounts=tuple(
                AccountSettings(name=name, api_token_env=name, base_url=account.base_url(port))
                for name, account in accounts.items()
            ),
            poll=PollSettings(page_size=PAGE_SIZE),
            api=ApiSettings(timeout=Seconds(1.5), max_attempts=1, max_response_size=Bytes(100_000)),
        )
        polled = Accounts(session, dict.fromkeys(accounts, TOKEN), States())
        polled.apply(settings)
        assert await polled.poll_once()
        for account in accounts.values():
            account.worsen(after(account.batches))
        await polled.poll_once()
        assert len(used) > len(accounts)
        assert all(connection.closed for connection in used), "a connection was not released"
        ours = [task for task in asyncio.all_tasks() if "listening" not in repr(task.get_coro())]
        assert ours == [asyncio.current_task()]


@pytest.mark.alone
async def test_any_number_of_hanging_accounts_do_not_delay_another(exporter: StartExporter) -> None:
    hanging = [f"hangs-{i}" for i in range(120)]
    accounts = {name: Account(name, "any", FAULTS["hang-before-headers"][1], broken=True) for name in hanging}
    accounts["works"] = Account("works", "", None, before())
    for account in accounts.values():
        account.token = TOKEN
    async with listening((server := Server(accounts)).converse) as port:
        running = await exporter(
            poll={"interval": "1s", "stale_after": "1h"},
            limits={"timeout": "1h"},
            accounts=[{"name": name, "base_url": account.base_url(port)} for name, account in accounts.items()],
        )
        samples = await running.wait_for(lambda s: up(s, "works") == 1)
        assert not any(up(samples, name) for name in hanging)
        assert server.connections == len(accounts)
