"""Attacks over real sockets on loopback, and what an honest scraper sees meanwhile."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
import bcrypt
import pytest
import trustme
import yaml
from support.api import Api, batch
from support.connections import Connect
from support.exporter import Exporter, StartExporter
from support.web import ask_in_memory

from inkit_exporter.web import limits

ANSWERED_WITHIN_SECONDS = 2.0
SCRAPE_TIMEOUT_SECONDS = 10.0  # of Prometheus
MEMORY_LIMIT = 256 * 2**20  # as in the manifests
GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


pytestmark = pytest.mark.alone
Certificates = tuple[dict[str, str], ssl.SSLContext]


async def scrape(
    exporter: Exporter, tls: ssl.SSLContext | None = None, auth: tuple[str, str] | None = None
) -> tuple[int | None, float]:
    """Scrape over a new connection. Return the status, None without an answer, and the duration in seconds."""
    url = f"{'https' if tls else 'http'}://{':'.join(map(str, exporter.address))}/metrics"
    headers = {"Authorization": aiohttp.encode_basic_auth(*auth)} if auth else {}
    started, status = time.monotonic(), None
    with suppress(aiohttp.ClientError, TimeoutError):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SCRAPE_TIMEOUT_SECONDS)) as http,
            http.get(url, ssl=tls or True, headers=headers) as response,
        ):
            await response.read()
            status = response.status
    return status, time.monotonic() - started


def assert_answered(scrapes: list[tuple[int | None, float]], within_seconds: float) -> None:
    """All were answered, and all but one in time: during that one, the machine may stand still."""
    assert {status for status, _ in scrapes} == {200}, scrapes
    *_, second_longest, _ = sorted(seconds for _, seconds in scrapes)
    assert second_longest < within_seconds, scrapes


def ask_without_reading(exporter: Exporter, data: bytes) -> socket.socket:
    """Open a connection, send a request and never read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(exporter.address)
    client.settimeout(0)
    with suppress(BlockingIOError):
        client.send(data)
    return client


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return a `tls_server_config`, and a client context that trusts its certificate."""
    folder, ca, client = tmp_path_factory.mktemp("attacks"), trustme.CA(), ssl.create_default_context()
    cert = ca.issue_cert("127.0.0.1")
    cert.cert_chain_pems[0].write_to_path(str(folder / "cert"))
    cert.private_key_pem.write_to_path(str(folder / "key"))
    ca.configure_trust(client)
    return {"cert_file": str(folder / "cert"), "key_file": str(folder / "key")}, client


@pytest.fixture
def start(api: Api, exporter: StartExporter, tmp_path: Path) -> Callable[..., object]:
    api.batches = [batch("a")]

    async def start(*flags: str, **web: object) -> Exporter:
        (tmp_path / "web.yml").write_text(yaml.safe_dump(web))
        return await exporter(f"--web.config.file={tmp_path / 'web.yml'}", *flags)

    return start


def users(cost: int = 8, **passwords: str) -> dict[str, str]:
    return {
        user: bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode() for user, password in passwords.items()
    }


async def test_a_flood_of_connections_and_idle_ones_block_no_handshake(
    start: StartExporter, certificates: Certificates, connect: Connect
) -> None:
    tls, client = certificates
    exporter = await start("--web.max-connections=128", tls_server_config=tls)
    for ssl_context in (client, None):
        for _ in range(limits.MAX_HANDSHAKES):
            await connect(*exporter.address, ssl=ssl_context)

    async def flood() -> None:
        # As many as come meanwhile at worst: more would make a slow handshake the oldest one.
        for _ in range(limits.MAX_HANDSHAKES - len(slow)):
            await connect(*exporter.address)
            await asyncio.sleep(1 / 300)

    request = b"GET /metrics HTTP/1.0\r\n\r\n"
    slow = [ask_in_memory(exporter.address, client, request, latency=0.1) for _ in range(20)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flood())
        answers = await asyncio.gather(*slow)
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.0 200 OK"}


async def test_half_open_handshakes_need_less_memory_than_the_manifests_allow(
    start: StartExporter, certificates: Certificates, connect: Connect
) -> None:
    tls, client = certificates
    exporter = await start(tls_server_config=tls)
    hello = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1").do_handshake()
    first_bytes = hello.read()
    for _ in range(600):
        _, writer = await connect(*exporter.address)
        writer.write(first_bytes)
    assert (await scrape(exporter, client))[0] == 200
    assert resident_bytes(exporter) < MEMORY_LIMIT / 2


async def test_requests_that_wait_behind_another_need_less_memory_than_the_manifests_allow(
    start: StartExporter, connect: Connect
) -> None:
    """Each connection sends many requests without waiting for answers. Wrong passwords make the first one wait."""
    exporter = await start(basic_auth_users=users(alice="right"))
    assert (await scrape(exporter, auth=("alice", "right")))[0] == 200  # so that the exporter remembers the password
    header = f"Authorization: {aiohttp.encode_basic_auth('alice', 'wrong')}\r\nX: {'a' * 15_000}\r\n\r\n"
    requests = GET.removesuffix(b"\r\n") + header.encode()
    for _ in range(400):
        _, writer = await connect(*exporter.address)
        writer.write(requests * 20)
    for _ in range(10):
        assert (await scrape(exporter, auth=("alice", "right")))[0] == 200
        assert resident_bytes(exporter) < MEMORY_LIMIT
        await asyncio.sleep(0.2)


def resident_bytes(exporter: Exporter) -> int:
    return int(Path(f"/proc/{exporter.process.pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("passwords", [True, False])
async def test_clients_that_do_not_read_do_not_block_others(start: StartExporter, *, passwords: bool) -> None:
    headers = {"Content-Security-Policy": "a" * 4000}  # so that answers fill the system's buffers
    exporter = await start(
        http_server_config={"headers": headers}, basic_auth_users=users(alice="right") if passwords else None
    )
    auth = ("alice", "right") if passwords else None
    assert (await scrape(exporter, auth=auth))[0] == 200
    with ExitStack() as stack:
        for _ in range(45):
            stack.enter_context(ask_without_reading(exporter, GET * 5000))
        scrapes = []
        for _ in range(20):
            scrapes.append(await scrape(exporter, auth=auth))
            await asyncio.sleep(0.05)
    assert_answered(scrapes, ANSWERED_WITHIN_SECONDS)


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
async def test_clients_that_guess_passwords_do_not_block_the_right_ones(start: StartExporter, source: str) -> None:
    """The guesses come from another address, or from the same, as behind an ingress."""
    exporter = await start(basic_auth_users=users(alice="right", bob="right", carol="right"))

    async def guess(number: int) -> None:
        while True:
            reader, writer = await asyncio.open_connection(*exporter.address, local_addr=(source, 0))
            try:
                while True:
                    auth = aiohttp.encode_basic_auth("alice", f"{number} {time.monotonic()}")
                    writer.write(GET.replace(b"\r\n\r\n", f"\r\nAuthorization: {auth}\r\n\r\n".encode()))
                    assert (await reader.readuntil(b"\r\n\r\n")).split()[1] in {b"401", b"503"}
                    await reader.readline()
            finally:
                writer.transport.abort()

    guessers = [asyncio.create_task(guess(i)) for i in range(30)]
    await asyncio.sleep(0.5)
    scrapes = [await scrape(exporter, auth=(user, "right")) for user in ("alice", "bob", "carol")]
    limit = SCRAPE_TIMEOUT_SECONDS if source == "127.0.0.1" else ANSWERED_WITHIN_SECONDS
    assert_answered(scrapes, limit)
    assert not any(guesser.done() for guesser in guessers)
    for guesser in guessers:
        guesser.cancel()
    await asyncio.wait(guessers)
