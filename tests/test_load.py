"""Many clients, slow ones, rude ones: they get less, everyone else what they came for."""

import asyncio
import resource
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web
from conftest import Api, Exporter, StartExporter, batch, sample_key, up

from inkit_exporter import connections, limits
from inkit_exporter.web import start

POLLS = sample_key("inkit_polls_total", account="default")


async def running(exporter: StartExporter, api: Api, *flags: str) -> tuple[Exporter, str, int]:
    """An exporter with something to tell, and where it listens."""
    api.batches = [batch("a")]
    started = await exporter(*flags)
    await started.wait_for(lambda samples: up(samples) == 1)
    url = started.http._base_url
    assert url and url.host and url.port
    return started, url.host, url.port


async def polls_go_on(started: Exporter) -> None:
    """The API is polled twice more, successfully."""
    before = (await started.samples())[POLLS]
    await started.wait_for(lambda samples: samples[POLLS] >= before + 2 and up(samples) == 1)


async def test_a_thousand_clients_are_answered_while_polls_go_on(api: Api, exporter: StartExporter) -> None:
    started, host, port = await running(exporter, api)
    await started.samples()
    memory = (await started.samples())["process_resident_memory_bytes"]

    async def client() -> list[int]:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as http:
            statuses = []
            for path in ("/metrics", "/-/healthy", "/metrics"):
                async with http.get(path) as response:
                    await response.read()
                    statuses.append(response.status)
            return statuses

    polled = len(api.requests)
    clients = 0
    while clients < 1000 or len(api.requests) < polled + 3:
        clients += 250
        answers = await asyncio.gather(*(client() for _ in range(250)))
        assert {status for statuses in answers for status in statuses} <= {200, 503}
        assert all(statuses[1] == 200 for statuses in answers), "health is always answered"
        assert any(statuses[0] == 200 for statuses in answers)
        assert clients < 100_000, "no poll meanwhile"
    await polls_go_on(started)
    samples = await started.samples()
    assert samples["process_resident_memory_bytes"] < memory + 64 * 2**20


async def test_connections_that_say_nothing_keep_nobody_out(api: Api, exporter: StartExporter) -> None:
    started, host, port = await running(exporter, api, "--web.max-connections=50")
    silent = [await asyncio.open_connection(host, port) for _ in range(40)]
    for _ in range(60):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Slow")
        silent.append((reader, writer))
    assert (await started.get("/-/healthy"))[0] == 200
    await polls_go_on(started)
    assert (await started.samples())["process_open_fds"] < 100
    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            assert await silent[0][0].read() == b"", "the oldest is closed"
    for _, writer in silent:
        writer.close()


async def test_a_burst_of_connections_takes_no_more_descriptors_than_there_are(
    api: Api, exporter: StartExporter
) -> None:
    started, host, port = await running(exporter, api, "--web.max-connections=100")
    resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE, (400, 400))
    started.process.send_signal(signal.SIGSTOP)  # so that they wait for it together
    with ExitStack() as stack:
        for _ in range(700):
            client = stack.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex((host, port))
        started.process.send_signal(signal.SIGCONT)
        assert (await started.get("/-/healthy"))[0] == 200
        await polls_go_on(started)
    assert not [line for line in started.log if "level=error" in line]


async def test_clients_that_vanish_leave_nothing_behind(api: Api, exporter: StartExporter) -> None:
    started, host, port = await running(exporter, api)
    descriptors = (await started.samples())["process_open_fds"]
    for _ in range(300):
        with socket.create_connection((host, port)) as vanishing:
            vanishing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
            vanishing.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    await started.wait_for(lambda samples: samples["process_open_fds"] <= descriptors + 2)
    await polls_go_on(started)
    assert not [line for line in started.log if "level=error" in line or "Traceback" in line]


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="long line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", id="long header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 10_000 + b"\r\n", id="many headers"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 100, id="headers without end"
        ),
        pytest.param(b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n", id="large body"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 4000, id="chunks"
        ),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 1000, id="TLS, or noise"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 1000, id="pipelined"),
    ],
)
async def test_rude_requests_are_refused_or_answered_and_change_nothing(
    api: Api, exporter: StartExporter, request_bytes: bytes
) -> None:
    started, host, port = await running(exporter, api)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request_bytes)
    with suppress(ConnectionError):  # which may overtake the answer, where it comes before the request has ended
        async with asyncio.timeout(5):
            status = (await reader.readline()).split()[1]
            assert status in {b"200", b"400", b"403", b"405", b"413", b"431"}
            if status != b"200":
                await reader.read()  # to the end: it is closed, and what was to follow is not waited for
    writer.close()
    assert (await started.get("/-/healthy"))[0] == 200
    await polls_go_on(started)
    assert not [line for line in started.log if "level=error" in line], "strangers write no errors into the log"


@asynccontextmanager
async def serving(handler: limits.Handler, most: int) -> AsyncIterator[tuple[str, int]]:
    """A handler at any path, behind the limit on requests."""
    limited = limits.limit_requests(handler, most, lambda response: response)
    stop, addresses = await start(limited, [("127.0.0.1", 0)], max_connections=0, ssl_context=None)
    host, port = addresses[0].split(":")
    yield host, int(port)
    await stop()


async def test_no_more_than_so_many_requests_at_a_time_but_health_always() -> None:
    open_now = asyncio.Event()
    waiting = asyncio.Semaphore(0)

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/metrics":
            waiting.release()
            await open_now.wait()
        return web.Response(text="done")

    async with serving(handler, most=2) as (host, port), aiohttp.ClientSession(f"http://{host}:{port}") as http:

        async def status(path: str) -> int:
            async with http.get(path) as response:
                return response.status

        first = [asyncio.create_task(status("/metrics")) for _ in range(2)]
        for _ in first:
            await waiting.acquire()
        assert await status("/metrics") == 503
        assert await status("/-/healthy") == 200
        assert await status("/-/ready") == 200
        open_now.set()
        assert await asyncio.gather(*first) == [200, 200]
        assert await status("/metrics") == 200


async def test_a_client_that_does_not_read_is_cut_off_and_gives_its_place_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 1)
    large = b"a" * 20_000_000  # more than the system buffers

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=large)

    async with serving(handler, most=1) as (host, port), aiohttp.ClientSession(f"http://{host}:{port}") as http:
        reader, writer = await asyncio.open_connection(host, port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.read(1)
        async with asyncio.timeout(10):
            while True:
                async with http.get("/metrics") as response:
                    if response.status == 200:
                        assert len(await response.read()) == len(large)
                        break
                await asyncio.sleep(0.02)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(large))
        writer.close()


async def test_with_no_limit_on_connections_none_is_closed(api: Api, exporter: StartExporter) -> None:
    started, host, port = await running(exporter, api, "--web.max-connections=0", "--web.max-requests=0")
    kept = [await asyncio.open_connection(host, port) for _ in range(600)]
    await started.wait_for(lambda samples: samples["process_open_fds"] > 600)
    for reader, writer in kept:
        assert not reader.at_eof()
        writer.close()
