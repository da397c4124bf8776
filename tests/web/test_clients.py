"""Many, slow and misbehaving clients: they are limited, and all others are served."""

import asyncio
import gzip
import os
import resource
import signal
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from support import PATIENCE_SECONDS
from support.api import Api, batch
from support.connections import Connect
from support.exporter import Exporter, StartExporter
from support.samples import sample_key, up

from inkit_exporter.web import limits
from inkit_exporter.web.routes import Handler, document
from inkit_exporter.web.server import serve

POLLS = sample_key("inkit_polls_total", account="default")


async def running(exporter: StartExporter, api: Api, *flags: str) -> tuple[Exporter, str, int]:
    """Start an exporter, wait for its first poll, and return it with host and port."""
    api.batches = [batch("a")]
    started = await exporter(*flags)
    await started.wait_for(lambda samples: up(samples) == 1)
    return started, *started.address


async def polls_go_on(started: Exporter) -> None:
    """Wait for two more successful polls."""
    before = (await started.samples())[POLLS]
    await started.wait_for(lambda samples: samples[POLLS] >= before + 2 and up(samples) == 1)


async def test_a_thousand_clients_are_answered_while_polls_continue(api: Api, exporter: StartExporter) -> None:
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
        assert all(statuses[1] == 200 for statuses in answers), "the health endpoint must always answer"
        assert any(statuses[0] == 200 for statuses in answers)
        assert clients < 100_000, "the exporter must poll meanwhile"
    await polls_go_on(started)
    samples = await started.samples()
    assert samples["process_resident_memory_bytes"] < memory + 64 * 2**20


async def test_silent_connections_block_no_other_client(api: Api, exporter: StartExporter, connect: Connect) -> None:
    started, host, port = await running(exporter, api, "--web.max-connections=50")
    silent = [await connect(host, port) for _ in range(100)]
    for _, writer in silent[40:]:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Slow")
    assert (await started.get("/-/healthy"))[0] == 200
    await polls_go_on(started)
    assert (await started.samples())["process_open_fds"] < 100
    async with asyncio.timeout(PATIENCE_SECONDS):
        with suppress(ConnectionError):
            assert await silent[0][0].read() == b"", "the server must close the oldest connection"


async def test_a_burst_of_connections_stays_within_the_limit_of_descriptors(api: Api, exporter: StartExporter) -> None:
    started, host, port = await running(exporter, api, "--web.max-connections=100")
    resource.prlimit(started.process.pid, resource.RLIMIT_NOFILE, (400, 400))
    started.process.send_signal(signal.SIGSTOP)  # so that all connections wait at the same time
    with ExitStack() as stack:
        for _ in range(700):
            client = stack.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex((host, port))
        started.process.send_signal(signal.SIGCONT)
        assert (await started.get("/-/healthy"))[0] == 200
        await polls_go_on(started)
    assert not [line for line in started.log if "level=error" in line]


async def test_the_exporter_may_open_as_many_descriptors_as_the_system_permits(exporter: StartExporter) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))  # the exporter inherits it
    try:
        started = await exporter()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await started.samples())[sample_key("process_max_fds")] == hard


async def test_the_exporter_outlives_a_lack_of_descriptors(api: Api, exporter: StartExporter, connect: Connect) -> None:
    started, host, port = await running(exporter, api)
    descriptors = started.process.pid, resource.RLIMIT_NOFILE
    before = resource.prlimit(*descriptors)
    resource.prlimit(*descriptors, (3, before[1]))
    await connect(host, port)  # the system accepts it, the exporter can't
    await started.wait_for_line("out of system resource")
    resource.prlimit(*descriptors, before)
    assert (await started.get("/-/healthy"))[0] == 200
    await polls_go_on(started)


async def test_clients_that_vanish_leave_nothing_behind(api: Api, exporter: StartExporter) -> None:
    started, host, port = await running(exporter, api)
    descriptors = (await started.samples())["process_open_fds"]
    for _ in range(300):
        with socket.create_connection((host, port)) as vanishing:
            vanishing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
            vanishing.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):  # they may use all of --web.max-requests for a moment
        while (await started.get("/metrics"))[0] == 503:
            await asyncio.sleep(0.01)
    await started.wait_for(lambda samples: samples["process_open_fds"] <= descriptors + 2)
    await polls_go_on(started)
    assert not [line for line in started.log if "level=error" in line or "Traceback" in line]


ODD = {
    "long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
    "headers without end": b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 100,
    "large body": b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n",
    "chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 4000,
    "TLS, or noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 1000,
    "pipelined": b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 1000,
}


async def test_odd_requests_are_refused_or_answered_and_change_nothing(
    api: Api, exporter: StartExporter, connect: Connect
) -> None:
    started, host, port = await running(exporter, api)
    for case, request in ODD.items():
        reader, writer = await connect(host, port)
        writer.write(request)
        with suppress(ConnectionError):  # a reset may overtake an answer that is sent before the request ends
            async with asyncio.timeout(PATIENCE_SECONDS):
                status = (await reader.readline()).split()[1]
                assert status in {b"200", b"400", b"403", b"405", b"413", b"431"}, case
                if status != b"200":
                    await reader.read()  # until the server closes, without waiting for the rest of the request
        assert (await started.get("/-/healthy"))[0] == 200, case
        await polls_go_on(started)
        assert not [line for line in started.log if "level=error" in line], case


@asynccontextmanager
async def serving(
    handler: Handler, max_requests: int = 0, max_connections: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve a handler at any path, with limits on requests and connections."""
    limited = limits.limit_requests(handler, max_requests)
    address, context = ("127.0.0.1", 0), (lambda: tls) if tls else None
    async with serve(
        limited, [address], server_name="test", max_connections=max_connections, ssl_context=context
    ) as addresses:
        host, port = addresses[0].split(":")
        yield host, int(port)


async def test_simultaneous_requests_are_limited_but_health_is_always_answered() -> None:
    open_now = asyncio.Event()
    waiting = asyncio.Semaphore(0)

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/metrics":
            waiting.release()
            await open_now.wait()
        return web.Response(text="done")

    async with serving(handler, max_requests=2) as (host, port), aiohttp.ClientSession(f"http://{host}:{port}") as http:

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


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return TLS contexts for server and client."""
    ca, server, client = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("localhost").configure_cert(server)
    ca.configure_trust(client)
    return server, client


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_client_that_does_not_read_loses_its_place_to_the_next_request(
    connect: Connect, *, encrypted: bool
) -> None:
    large = b"a" * 20_000_000  # more than fits into the system's buffers
    server, client = tls_contexts() if encrypted else (None, None)
    name: Any = {"server_hostname": "localhost"} if encrypted else {}

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=large)

    async with serving(handler, max_requests=1, tls=server) as (host, port), asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await connect(host, port, limit=1, ssl=client, **name)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.read(1)
        another, its_writer = await connect(host, port, ssl=client, **name)
        its_writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = await another.read()
        assert answer.startswith(b"HTTP/1.0 200") and answer.endswith(large)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(large))


@asynccontextmanager
async def serving_one_at_a_time(
    handler: Handler, second_waits: asyncio.Event | threading.Event
) -> AsyncIterator[tuple[str, int]]:
    """Serve a handler, one request at a time. Others wait for their turn, and the event tells when `/second` does."""
    limited = limits.limit_requests(handler, 1)

    async def telling(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/second":
            asyncio.get_running_loop().call_soon(second_waits.set)
        return await limited(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "TURN_TIMEOUT_SECONDS", PATIENCE_SECONDS)
        async with serving(telling) as address, asyncio.timeout(PATIENCE_SECONDS):
            yield address


async def test_a_request_waits_its_turn_while_answers_are_made_or_not_read(connect: Connect) -> None:
    """At first, the answer before it is being made. Then it is ready, but its client does not read it."""
    first_arrived, second_waits = asyncio.Event(), asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/second":
            return web.Response(body=b"done")
        first_arrived.set()
        await second_waits.wait()
        return web.Response(body=b"a" * 20_000_000)  # more than fits into the system's buffers

    async with serving_one_at_a_time(handler, second_waits) as address:
        _, writer = await connect(*address, limit=1)
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        await first_arrived.wait()
        another, its_writer = await connect(*address)
        its_writer.write(b"GET /second HTTP/1.0\r\n\r\n")
        assert (await another.read()).startswith(b"HTTP/1.0 200")


async def test_an_answer_that_is_being_compressed_is_not_cut_off(connect: Connect) -> None:
    first_arrived, second_waits = asyncio.Event(), threading.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        first_arrived.set()
        return document(request, os.urandom(10_000), "text/plain", executor)

    async def get(path: str) -> bytes:
        reader, writer = await connect(*address)
        writer.write(f"GET {path} HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n".encode())
        answer = await reader.read()
        return gzip.decompress(answer.partition(b"\r\n\r\n")[2])

    with ThreadPoolExecutor(1) as executor:
        executor.submit(second_waits.wait, PATIENCE_SECONDS)  # so that nothing is compressed before
        async with serving_one_at_a_time(handler, second_waits) as address:
            first = asyncio.create_task(get("/first"))
            await first_arrived.wait()
            assert len(await get("/second")) == len(await first) == 10_000


async def test_an_answer_that_no_client_reads_keeps_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANSWER_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(limits, "IDLE_TIMEOUT_SECONDS", 0.5)
    transports = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        transports.append(request.transport)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return web.Response(body=b"a" * 40_000)  # more than fits into both buffers

    async with serving(handler) as address, asyncio.timeout(PATIENCE_SECONDS):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(address)
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            while not transports or transports[0].get_extra_info("socket").fileno() >= 0:
                await asyncio.sleep(0.01)


async def test_connections_count_until_they_are_closed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_TIMEOUT_SECONDS", 0.1)
    server, client = tls_contexts()
    protocols, sockets = [], []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        protocols.append(request.protocol)
        sockets.append(request.transport.get_extra_info("socket"))
        return web.Response(text="done")

    async with serving(handler, max_connections=2, tls=server) as (host, port), asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(6):
            reader, writer = await connect(host, port, ssl=client, server_hostname="localhost")
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"done")
            assert isinstance(writer.transport, asyncio.Transport)
            writer.transport.pause_reading()  # so it does not answer the TLS close
            while protocols[-1].transport is not None:
                await asyncio.sleep(0.01)
        while sum(socket.fileno() >= 0 for socket in sockets) > 2:
            await asyncio.sleep(0.01)


async def done(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="done")


async def test_many_requests_of_one_connection_are_answered_in_whatever_parts_they_come(connect: Connect) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1000 + b"\r\n\r\n"
    async with serving(done) as address, asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await connect(*address)
        for i in range(2 * limits.MAX_REQUEST_BYTES // len(request)):
            cut = len(request) - 1 - i % 4
            writer.write(request[:cut])
            await asyncio.sleep(0.002)
            writer.write(request[cut:])
            assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")


async def test_an_unexpected_handshake_error_closes_only_that_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = tls_contexts()

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError

    async with serving(done, tls=server) as (host, port), asyncio.timeout(PATIENCE_SECONDS):
        with monkeypatch.context() as broken:
            broken.setattr(server, "wrap_bio", fail)
            reader, writer = await connect(host, port)
            writer.write(b"\x16")
            assert await reader.read() == b""
        reader, writer = await connect(host, port, ssl=client, server_hostname="localhost")
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"done")


async def test_handshakes_do_not_delay_the_shutdown_and_errors_pass_through(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_SECONDS", 3600)
    server, client = tls_contexts()
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(LookupError):
            async with serving(done, tls=server) as address:
                reader, writer = await connect(*address)
                writer.write(outgoing.read())
                await reader.read(1)
                raise LookupError
        with suppress(ConnectionError):
            await reader.read()


async def test_without_a_connection_limit_no_connection_is_closed(
    api: Api, exporter: StartExporter, connect: Connect
) -> None:
    started, host, port = await running(exporter, api, "--web.max-connections=0", "--web.max-requests=0")
    kept = [await connect(host, port) for _ in range(600)]
    await started.wait_for(lambda samples: samples["process_open_fds"] > 600)
    assert not any(reader.at_eof() for reader, _ in kept)
