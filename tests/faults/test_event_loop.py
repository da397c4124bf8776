"""Every step of the event loop is short, whatever the API answers up to `max_response_size`, so scrapes do not wait."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from support.conversation import read_parts

from inkit_exporter.api.batches import DESTINATIONS, AccountLabels, Batch, Counts
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import ApiSettings, PollSettings
from inkit_exporter.metrics.account import AccountMetrics
from inkit_exporter.metrics.exposition import TEXT, Exposition
from inkit_exporter.metrics.process import ProcessMetrics
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState, States
from inkit_exporter.status.batches import Query
from inkit_exporter.status.report import make_status
from inkit_exporter.transport import open_session, read_body
from inkit_exporter.window.window import KEPT, Snapshot, TopBatches

pytestmark = pytest.mark.alone

STEP_SECONDS = 3 * 0.02  # a machine that runs tests is slower
LIMIT = int(ApiSettings().max_response_size)
RECORD = b'{"id": "fb_1", "created_at": "2026-11-20T00:00:00Z", "status": "Completed", "destinations": {}%s}'


def page(items: bytes, metadata: bytes = b"{}") -> bytes:
    return b'{"items": [%s], "metadata": %s}' % (items, metadata)


def named(name: bytes, length: int) -> bytes:
    return page(RECORD % (b', "name": "%s"' % (name * (length // len(name)))))


ROOM = LIMIT - 300
BODIES: dict[str, Callable[[], bytes]] = {
    "a long name": lambda: named(b"a", ROOM),
    "a long name that is escaped": lambda: named(rb"\u0041", ROOM),
    "a long name of two-byte characters": lambda: named("é".encode(), ROOM),
    "half characters": lambda: named(rb"\ud800", ROOM),
    "bytes that are not UTF-8": lambda: named(b"\xff", ROOM),
    "a few bytes that are not UTF-8": lambda: page(b",".join([RECORD % b', "name": "\xff"'] * 20_000)),
    "no number": lambda: page(b",".join([b"NaN        "] * (ROOM // 12))),
    "tiny values": lambda: page(b",".join([b"123456789"] * (ROOM // 10))),
    "tiny objects": lambda: page(b",".join([b"{}       "] * (ROOM // 10))),
    "many records": lambda: page(b",".join([RECORD % b""] * 45_000)),
    "many that are none": lambda: page(b",".join([b'{"id": 123456789012345}'] * 60_000)),
    "blanks": lambda: b" " * LIMIT,
    "blanks amid the list": lambda: page(b" " * ROOM),
    "HTML": lambda: (b"<html>" * LIMIT)[:LIMIT],
    "brackets": lambda: b'{"items": ' + b"[" * ROOM,
    "a large pagination": lambda: page(RECORD % b"", b'{"pagination": {"x": "%s"}}' % (b"a" * ROOM)),
    "a body cut short": lambda: page(b",".join([RECORD % b', "name": "aaaaaaaaaaaaaaaaaaaa"'] * 50_000))[:ROOM],
    "many destinations": lambda: page(
        b'{"id": "a", "created_at": "2026-11-20T00:00:00Z", "status": "x", "destinations": {%s}}'
        % b",".join(b'"%d": {"count": "1", "completed": 1}' % number for number in range(50_000))
    ),
    "a number of millions of digits": lambda: page(RECORD.replace(b'"fb_1"', b"1" * (2**21 - 300)) % b""),
}


@pytest.mark.parametrize("case", BODIES)
def test_every_step_of_reading_a_page_is_short(case: str) -> None:
    body = BODIES[case]()
    assert len(body) <= LIMIT

    def longest() -> float:
        steps, parts = [0.0], read_parts(body, AccountLabels(), time.time())
        while True:
            started = time.thread_time()
            try:
                next(parts)
            except (StopIteration, BadResponse):
                return max(*steps, time.thread_time() - started)
            steps.append(time.thread_time() - started)

    assert min(longest() for _ in range(3)) < STEP_SECONDS


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(answer), 2**16):
            writer.write(answer[start : start + 2**16])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield "http://{}:{}/".format(*server.sockets[0].getsockname())


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Yield the CPU time of each step that the other tasks take."""
    steps: list[float] = []

    async def watch() -> None:
        while True:
            started = time.thread_time()
            await asyncio.sleep(0)
            steps.append(time.thread_time() - started)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield steps
        await asyncio.sleep(0)
    finally:
        watching.cancel()


async def longest_step_of_receiving(url: str, expected: int) -> float:
    async with open_session() as session, watched() as steps, session.get(url) as response:
        assert len(await read_body(response, LIMIT)) == expected
    return max(steps)


@pytest.mark.parametrize("chunk", [b"1\r\n \r\n", b"1;" + b"x" * 100 + b"\r\n \r\n"])
async def test_every_step_of_receiving_tiny_chunks_is_short(chunk: bytes) -> None:
    number = 200_000
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * number + b"0\r\n\r\n"
    async with answering(answer) as url:
        assert min([await longest_step_of_receiving(url, number) for _ in range(3)]) < STEP_SECONDS


def failing_account(name: str) -> AccountState:
    batches = tuple(
        Batch(f"fb_{i}", "", 1e9 - i, "failed", {to: Counts(i, 0, i, 0) for to in DESTINATIONS}, final=True)
        for i in range(KEPT)
    )
    top = TopBatches(batches, KEPT, (None,) * KEPT)
    documents = {(to, "failed"): Counts(KEPT, 0, KEPT, 0) for to in DESTINATIONS}
    snapshot = Snapshot(
        documents, {"failed": KEPT}, 1e9, None, truncated=False, newest=batches, failing=top, unfinished=top
    )
    return AccountState(account=name, settings=PollSettings(), usage=Usage(RateLimiter(60)), snapshot=snapshot)


@pytest.mark.parametrize("names", [None, [f"inkit_metric_that_nobody_knows_{i}" for i in range(1_000)]])
async def test_every_step_of_rendering_the_metrics_of_many_accounts_is_short(names: list[str] | None) -> None:
    states = States()

    async def longest() -> float:
        for i in range(200):
            states.publish(AccountState(account=f"account {i}", settings=PollSettings(), usage=Usage(RateLimiter(60))))
        async with watched() as steps:
            await (exposition.selected(TEXT, [*names, f"{time.time()}"]) if names else exposition.text(TEXT))
        return max(steps)

    exposition = Exposition(
        lambda: {state.account: AccountMetrics(state) for state in states}, lambda: states.changes, ProcessMetrics(0, 1)
    )
    assert min([await longest() for _ in range(3)]) < STEP_SECONDS


@pytest.mark.parametrize("query", [Query(), Query(order="failed", limit=KEPT), Query(destination=frozenset({"box"}))])
async def test_every_step_of_the_status_report_is_short(query: Query) -> None:
    states = [failing_account(f"account {i}") for i in range(100)]

    async def longest() -> float:
        async with watched() as steps:
            report = await make_status(states, query, None)
        assert len(report.accounts) == 100 and len(report.failing_batches.listed) == query.limit
        return max(steps)

    assert min([await longest() for _ in range(3)]) < STEP_SECONDS
