"""Faults other than a wrong answer: nobody listens, TLS fails, no token, an unknown name, a clock that jumps."""

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest
import trustme
from support.api import TOKEN, Api, batch
from support.connections import free_address
from support.exporter import StartExporter, run_to_end, write_config
from support.faulty import Account, Server, listening
from support.samples import documents, failures, sample_key, up

OLD = [batch("fb_1"), batch("fb_2", destinations={"box": (1, 1, 0)})]
NEW = [batch("fb_3", age=1), *OLD]
INTERVAL = 1.0
TIMEOUT = 1.0

Door = Callable[[int], AbstractAsyncContextManager[int]]
"""Starts a server on a port."""


async def speak_no_tls(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


async def say_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_every_connection_fault_fails_the_poll_and_the_account_recovers(
    exporter: StartExporter, tmp_path: Path
) -> None:
    trusted, stranger = trustme.CA(), trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "trusted")

    def speaks(certificate: trustme.LeafCert | None) -> Door:
        context = None
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
        return lambda port: listening(server.converse, port, context)

    good = trusted.issue_cert("127.0.0.1")
    faults: dict[str, tuple[str, str, Door | None]] = {
        "refused": ("http", "connection", None),
        "tls-refused": ("https", "connection", None),
        "tls-not-spoken": ("https", "connection", lambda port: listening(speak_no_tls, port)),
        "tls-hangs": ("https", "timeout", lambda port: listening(say_nothing, port)),
        "tls-of-another-host": ("https", "connection", speaks(trusted.issue_cert("127.0.0.2"))),
        "tls-of-a-stranger": ("https", "connection", speaks(stranger.issue_cert("127.0.0.1"))),
    }
    accounts = {name: Account(name, "", None, OLD) for name in faults}
    for account in accounts.values():
        account.token = TOKEN
    server = Server(accounts)
    async with AsyncExitStack() as every:
        doors = {name: await every.enter_async_context(AsyncExitStack()) for name in accounts}
        whole = {name: speaks(good if scheme == "https" else None) for name, (scheme, _, _) in faults.items()}
        addresses = {name: every.enter_context(free_address()) for name in accounts}
        ports = {name: int(address.rpartition(":")[2]) for name, address in addresses.items()}
        for name in accounts:
            await doors[name].enter_async_context(whole[name](ports[name]))
        running = await exporter(
            poll={"interval": f"{INTERVAL:.0f}s", "stale_after": "1m"},
            limits={"timeout": f"{TIMEOUT:.0f}s"},
            env={"SSL_CERT_FILE": str(tmp_path / "trusted")},
            accounts=[
                {"name": name, "base_url": accounts[name].base_url(ports[name], scheme)}
                for name, (scheme, _, _) in faults.items()
            ],
        )
        samples = await running.wait_for(lambda s: all(up(s, name) == 1 for name in accounts))
        old = {name: documents(samples, account=name) for name in accounts}
        for name, (_, _, broken) in faults.items():
            await doors[name].aclose()
            accounts[name].batches = NEW
            if broken:
                await doors[name].enter_async_context(broken(ports[name]))
        samples = await running.wait_for(lambda s: all(up(s, name) == 0 for name in accounts))
        for name, (_, reason, _) in faults.items():
            told = {key for key, value in samples.items() if value and f'"{name}",reason=' in key}
            late = sample_key("inkit_poll_failures_total", account=name, reason="timeout")  # the machine stood still
            assert told - {late} == {sample_key("inkit_poll_failures_total", account=name, reason=reason)} - {late}
            assert told
            assert documents(samples, account=name) == old[name]
        assert (await running.get("/-/healthy"))[0] == 200
        assert not server.strange
        for name in accounts:
            await doors[name].aclose()
            await doors[name].enter_async_context(whole[name](ports[name]))
        samples = await running.wait_for(lambda s: all(up(s, name) == 1 for name in accounts))
        for name in accounts:
            assert documents(samples, account=name)["inkit_storage", "completed"] == 2
        assert not any("Traceback" in line for line in running.log)


def replace(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)


async def test_every_token_fault_fails_the_poll_and_the_account_recovers(
    exporter: StartExporter, tmp_path: Path
) -> None:
    breaks: dict[str, Callable[[Path], object]] = {
        "removed": Path.unlink,
        "emptied": lambda path: path.write_text("\n"),
        "two-lines": lambda path: path.write_text("a\nb"),
        "not-text": lambda path: path.write_bytes(b"\xff\xfe"),
        "a-folder": lambda path: replace(path, Path.mkdir),
        "a-pipe": lambda path: replace(path, os.mkfifo),
        "another-one": lambda path: path.write_text("another-one"),
    }
    accounts = {name: Account(name, "", None, OLD) for name in breaks}
    paths = {name: tmp_path / f"token-{name}" for name in breaks}
    for name, account in accounts.items():
        paths[name].write_text(account.token)
    async with listening((server := Server(accounts)).converse) as port:
        running = await exporter(
            poll={"interval": "500ms", "stale_after": "1m"},
            accounts=[
                {"name": name, "base_url": account.base_url(port), "api_token_file": str(paths[name])}
                for name, account in accounts.items()
            ],
        )
        samples = await running.wait_for(lambda s: all(up(s, name) == 1 for name in accounts))
        for name, damage in breaks.items():
            damage(paths[name])
        down = await running.wait_for(lambda s: all(up(s, name) == 0 for name in accounts))
        for account in accounts.values():
            account.batches = NEW
        broken = await running.wait_for(
            lambda s: all(failures(s, "auth", name) > failures(down, "auth", name) for name in accounts)
        )
        for name in accounts:
            assert documents(broken, account=name) == documents(samples, account=name)
        for path in paths.values():
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        for name, account in accounts.items():
            paths[name].write_text(account.token)
        samples = await running.wait_for(lambda s: all(up(s, name) == 1 for name in accounts))
        assert all(documents(samples, account=name)["inkit_storage", "completed"] == 2 for name in accounts)
        assert not server.strange
        for account in accounts.values():
            assert not any(account.token in line for line in running.log)


@pytest.mark.process
async def test_an_unknown_host_name_is_a_connection_failure(tmp_path: Path) -> None:
    path = write_config(tmp_path, "https://inkit.invalid/v1")
    status, out, err = await run_to_end("--once", f"--config.file={path}")
    assert status == 1
    assert 'reason="connection"} 1.0' in out
    assert "inkit.invalid" in err and "Traceback" not in err


@pytest.mark.debian
async def test_setting_the_clock_ahead_and_back_changes_neither_polls_nor_totals(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    """Libfaketime changes the exporter's wall clock, but not its monotonic clock, as when somebody sets the time."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    offset = tmp_path / "offset"

    def jump(hours: int) -> None:
        (tmp_path / "next").write_text(f"{hours:+d}h\n")
        (tmp_path / "next").rename(offset)

    jump(0)
    api.batches = [batch("fb_1", age=3600), batch("fb_2", age=20 * 3600, destinations={"box": (5, 0, 0)})]
    running = await exporter(
        env={
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    )
    success = sample_key("inkit_last_successful_poll_timestamp_seconds", account="default")
    polls = sample_key("inkit_polls_total", account="default")
    skew = sample_key("inkit_api_clock_skew_seconds", account="default")

    async def holds_at(hours: int, destinations: set[str]) -> None:
        samples = await running.wait_for(
            lambda s: (
                abs(s.get(success, 0) - time.time() - hours * 3600) < 60
                and {destination for (destination, _), number in documents(s).items() if number} == destinations
            )
        )
        assert up(samples) == 1
        later = await running.wait_for(lambda s: s[polls] >= samples[polls] + 2)
        assert later[sample_key("inkit_batches_created_total", account="default")] == 0
        assert later[sample_key("inkit_documents_completed_total", account="default", destination="box")] == 0
        assert (await running.get("/-/healthy"))[0] == 200

    async def has_skew(seconds: float) -> None:
        await running.wait_for(lambda s: s[skew] == pytest.approx(seconds, abs=2))

    both = {"inkit_storage", "box"}
    for hours, there in ((0, both), (12, {"inkit_storage"}), (0, both), (-12, both)):
        jump(hours)
        await holds_at(hours, there)
        await has_skew(-hours * 3600)
    assert sum("clock differs" in line for line in running.log) == 1
    assert "clock_skew_seconds=-43" in await running.wait_for_line("clock differs")
    # With a clock ahead by more than the lookback, the window would be empty.
    jump(10_000)
    samples = await running.wait_for(lambda s: up(s) == 0)
    assert failures(samples, "bad_response") >= 1
    await has_skew(-36_000_000)
    assert "ahead of the API's, more than poll.lookback" in await running.wait_for_line("account is down")
    assert {destination for destination, _ in documents(samples)} == both
    jump(0)
    await holds_at(0, both)
