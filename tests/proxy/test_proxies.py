"""Polls through a proxy: a real one, with and without a password, and proxies that misbehave."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme
from support.api import TOKEN
from support.connections import free_address
from support.conversation import joined
from support.exporter import StartExporter, run_to_end, write_config
from support.faulty import listening
from support.proxies import BATCHES, answering, intercepting, relaying, secure_api, speaking, tinyproxy
from support.samples import documents, parse_samples, up

from inkit_exporter.api.batches import AccountLabels, PageRequest
from inkit_exporter.api.client import Client
from inkit_exporter.api.errors import ApiError, ConnectionFailed, RequestTimeout
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Seconds, load
from inkit_exporter.errors import ConfigError
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.transport import open_session

FAILED = ("box", "completed"), 2.0


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    """A certificate authority, whose certificate is in the file `ca.pem`."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@asynccontextmanager
async def client_of(
    base_url: str, folder: Path, proxy_url: str, timeout_seconds: float = 20.0
) -> AsyncIterator[Client]:
    """Return a client that trusts `ca.pem` and does not retry."""
    async with open_session() as session:
        yield Client(
            AccountSettings(name="default", base_url=base_url),
            PollSettings(),
            ApiSettings(
                timeout=Seconds(timeout_seconds),
                max_attempts=1,
                ca_file=str(folder / "ca.pem"),
                proxy_url=proxy_url,
            ),
            token=lambda: TOKEN,
            session=session,
            usage=Usage(RateLimiter(1000)),
            labels=AccountLabels(),
        )


async def ids(client: Client) -> list[str]:
    """Return the batch ids of the first page."""
    return [batch.id for batch in joined(await client.page(PageRequest(1))).batches]


@pytest.mark.debian
async def test_polls_go_through_the_proxy_on_one_connection_and_it_never_sees_the_token(
    ca: trustme.CA, exporter: StartExporter, tmp_path: Path
) -> None:
    async with secure_api(ca) as (account, _, base_url), tinyproxy(tmp_path) as (proxy, log):
        running = await exporter(
            base_url=base_url, limits={"proxy_url": f"http://{proxy}", "ca_file": str(tmp_path / "ca.pem")}
        )
        samples = await running.wait_for(lambda _: account.requests >= 3)
        assert documents(samples, "failed")[FAILED[0]] == FAILED[1]
    tunnels = re.findall(r"Request .*: (\w+) (\S+)", log.read_text())
    assert tunnels == [("CONNECT", base_url.split("/")[2])]
    assert TOKEN not in log.read_text()


@pytest.mark.process
@pytest.mark.debian
async def test_the_proxy_password_is_read_from_the_environment_and_shown_nowhere(
    ca: trustme.CA, tmp_path: Path
) -> None:
    """The exporter ignores a netrc file, which other programs would read."""
    (tmp_path / ".netrc").write_text("default login exporter password s3cret-word\n")
    (tmp_path / ".netrc").chmod(0o600)
    async with secure_api(ca) as (_, _, base_url), tinyproxy(tmp_path, "BasicAuth exporter s3cret-word") as (proxy, _):

        async def poll(user_info: str, **no_proxy: str) -> tuple[int, str, str]:
            limits = {"proxy_from_environment": True, "ca_file": str(tmp_path / "ca.pem")}
            path = write_config(tmp_path, base_url, limits=limits)
            env = {"HTTPS_PROXY": f"http://{user_info}{proxy}", "HOME": str(tmp_path)} | no_proxy
            return await run_to_end("--once", f"--config.file={path}", env=env)

        right, wrong, without = await asyncio.gather(
            poll("exporter:s3cret%2Dword@"), poll("exporter:an-old-word@"), poll("")
        )
    assert right[0] == 0
    assert documents(parse_samples(right[1]), "failed")[FAILED[0]] == FAILED[1]
    for status, out, err in (wrong, without):
        assert status == 1
        assert up(parse_samples(out)) == 0
        assert 'inkit_poll_failures_total{account="default",reason="connection"} 1.0' in out
        assert f"the proxy http://{proxy} wants other credentials" in err and "set them in HTTPS_PROXY" in err
        assert "-word" not in out + err


@pytest.mark.parametrize(
    ("settings", "env"),
    [
        ({"proxy_from_environment": True}, {"NO_PROXY": "0.0.0.0/32"}),
        ({}, {}),
    ],
    ids=["NO_PROXY lists the API", "the configuration does not ask for a proxy"],
)
@pytest.mark.process
async def test_the_proxy_of_the_environment_is_not_used_when_no_proxy_or_the_configuration_says_so(
    ca: trustme.CA, tmp_path: Path, settings: dict[str, bool], env: dict[str, str]
) -> None:
    async with secure_api(ca) as (_, _, base_url):
        path = write_config(tmp_path, base_url, limits=settings | {"ca_file": str(tmp_path / "ca.pem")})
        with free_address() as nobody:
            status, _, err = await run_to_end(
                "--once", f"--config.file={path}", env={"HTTPS_PROXY": f"http://{nobody}"} | env
            )
        assert status == 0, err


@pytest.mark.process
@pytest.mark.debian
async def test_a_proxy_can_be_reached_over_tls(ca: trustme.CA, tmp_path: Path) -> None:
    async with (
        secure_api(ca) as (_, _, base_url),
        tinyproxy(tmp_path) as (proxy, _),
        relaying(proxy, speaking(ca, "127.0.0.1")) as port,
        client_of(base_url, tmp_path, proxy_url=f"https://127.0.0.1:{port}") as client,
    ):
        assert await ids(client) == [batch["id"] for batch in BATCHES]


@pytest.mark.process
@pytest.mark.debian
async def test_a_proxy_that_refuses_the_port_is_named_in_the_error(ca: trustme.CA, tmp_path: Path) -> None:
    async with (
        secure_api(ca) as (_, _, base_url),
        tinyproxy(tmp_path, "ConnectPort 443") as (proxy, _),
        client_of(base_url, tmp_path, proxy_url=f"http://{proxy}") as client,
    ):
        with pytest.raises(ConnectionFailed, match=rf"through the proxy http://{proxy}: it answered 403; allow"):
            await client.page(PageRequest(1))


async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


HTML = b"<!DOCTYPE html><title>Please log in</title>"
HEAD = b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(HTML)
MISBEHAVING: dict[str, tuple[AbstractAsyncContextManager[int], type[ApiError], str]] = {
    "refuses": (
        answering(b"HTTP/1.1 502 Bad Gateway\r\n" + HEAD + HTML),
        ConnectionFailed,
        "it answered 502; look at its log there",
    ),
    "redirects": (answering(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), ConnectionFailed, "it answered 302"),
    "wants-a-password": (answering(b"HTTP/1.1 407 No\r\n\r\n"), ConnectionFailed, "wants other credentials"),
    "hangs": (listening(hang), RequestTimeout, "no complete answer within 0.5s through the proxy http://127.0.0.1:"),
    "closes": (answering(b""), ConnectionFailed, "through the proxy http://127.0.0.1:.* broke"),
    "answers-html": (answering(HTML), ConnectionFailed, "is not an HTTP proxy; check its address"),
    "answers-200-and-html": (answering(b"HTTP/1.1 200 OK\r\n" + HEAD + HTML), ConnectionFailed, "through the proxy"),
}


@pytest.mark.parametrize("kind", MISBEHAVING)
async def test_a_misbehaving_proxy_is_named_in_the_error_and_never_sees_the_token(
    ca: trustme.CA, tmp_path: Path, kind: str
) -> None:
    proxy, failure, words = MISBEHAVING[kind]
    async with AsyncExitStack() as open_, secure_api(ca) as (account, _, base_url):
        port = await open_.enter_async_context(proxy)
        timeout_seconds = 0.5 if kind == "hangs" else 20.0
        client = await open_.enter_async_context(
            client_of(base_url, tmp_path, f"http://127.0.0.1:{port}", timeout_seconds)
        )
        with pytest.raises(failure, match=words):
            await client.page(PageRequest(1))
        assert account.requests == 0


async def test_if_no_proxy_listens_the_error_says_so(ca: trustme.CA, tmp_path: Path) -> None:
    with free_address() as nobody:
        proxy = f"http://{nobody}"
        async with secure_api(ca) as (_, _, base_url), client_of(base_url, tmp_path, proxy_url=proxy) as client:
            with pytest.raises(ConnectionFailed, match=f"^cannot connect to the proxy {proxy}: Connect call failed"):
                await client.page(PageRequest(1))


async def test_a_proxy_that_inspects_tls_is_refused_until_its_ca_is_trusted(ca: trustme.CA, tmp_path: Path) -> None:
    """The exporter reads the CA file again when it changes."""
    inspector = trustme.CA()
    async with secure_api(ca) as (account, server, base_url):
        host = base_url.split("/")[2].split(":")[0]
        async with (
            intercepting(server, speaking(inspector, host)) as port,
            client_of(base_url, tmp_path, proxy_url=f"http://127.0.0.1:{port}") as client,
        ):
            with pytest.raises(ConnectionFailed, match=r"is not trusted: .*; see api\.ca_file"):
                await client.page(PageRequest(1))
            assert account.requests == 0
            (tmp_path / "ca.pem").unlink()
            with pytest.raises(ConnectionFailed, match=r"^api\.ca_file: .* can't be read: No such file"):
                await client.page(PageRequest(1))
            (tmp_path / "ca.pem").write_text("not a certificate")
            with pytest.raises(ConnectionFailed, match=r"^api\.ca_file: .* contains no certificates in PEM format"):
                await client.page(PageRequest(1))
            inspector.cert_pem.write_to_path(tmp_path / "ca.pem")
            assert await ids(client) == [batch["id"] for batch in BATCHES]


async def test_an_api_on_loopback_is_reached_without_the_proxy(ca: trustme.CA, tmp_path: Path) -> None:
    with free_address() as nobody:
        async with (
            secure_api(ca, "127.0.0.1") as (_, _, base_url),
            client_of(base_url, tmp_path, proxy_url=f"http://{nobody}") as client,
        ):
            assert await ids(client) == [batch["id"] for batch in BATCHES]


@pytest.mark.parametrize(
    ("api", "env", "error"),
    [
        ("ca_file: no-such-file", {}, "api.ca_file: no-such-file can't be read: No such file or directory"),
        ("ca_file: .", {}, "api.ca_file: . can't be read: Is a directory"),
        ("ca_file: /dev/null", {}, "api.ca_file: /dev/null can't be read: not a regular file"),
        (f"ca_file: {__file__}", {}, f"api.ca_file: {__file__} contains no certificates in PEM format"),
        (
            "proxy_from_environment: true",
            {"HTTPS_PROXY": "socks5://u:s3cret@p:1080"},
            "api.proxy_from_environment: HTTPS_PROXY is not the address of an HTTP proxy; "
            "write it like http://proxy.example:3128",
        ),
    ],
)
def test_the_ca_file_and_the_proxy_variable_are_checked_when_the_configuration_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: str, env: dict[str, str], error: str
) -> None:
    """The exporter loads it at startup, at a reload, and for `--config.check`."""
    path = tmp_path / "config.yaml"
    path.write_text(f"accounts: [{{name: a, api_token_file: t}}]\napi: {{{api}}}\n")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value) == f"{path}: {error}"


@pytest.mark.process
async def test_an_invalid_ca_file_ends_the_startup_and_fails_the_check(tmp_path: Path) -> None:
    path = write_config(tmp_path, "https://api.example/v1", limits={"ca_file": __file__})
    error = f"inkit-exporter: {path}: api.ca_file: {__file__} contains no certificates in PEM format\n"
    started, checked = await asyncio.gather(
        run_to_end(f"--config.file={path}"), run_to_end("--config.check", f"--config.file={path}")
    )
    assert (started, checked) == ((2, "", error), (1, "", error))
