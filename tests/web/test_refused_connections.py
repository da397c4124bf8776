"""Refused clients get a TLS alert or an error message, never only a reset."""

import asyncio
import os
import ssl
from typing import Any

import pytest
import trustme
from support.connections import Connect
from support.exporter import StartExporter
from support.web import SERVER, VERIFIED, World

from inkit_exporter.web import limits

CONFIGURED: dict[str, dict[str, Any]] = {
    "no certificate": VERIFIED,
    "a stranger's certificate": VERIFIED,
    "an old version": SERVER | {"min_version": "TLS13"},
    "no common suite": SERVER | {"max_version": "TLS12", "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]},
}
ALERTS = {
    "no certificate": {"TLSv1_2": "HANDSHAKE_FAILURE", "TLSv1_3": "CERTIFICATE_REQUIRED"},
    "a stranger's certificate": {"TLSv1_2": "UNKNOWN_CA", "TLSv1_3": "UNKNOWN_CA"},
    "an old version": {"TLSv1_2": "PROTOCOL_VERSION"},
    "no common suite": {"TLSv1_2": "HANDSHAKE_FAILURE"},
}


async def ask(server: Any, client: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection(*server.address, ssl=client)
    try:
        writer.write(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        return await reader.read()
    finally:
        writer.close()


async def test_a_client_whose_handshake_fails_gets_the_alert_that_says_why(world: World, serve: Any) -> None:
    world.write(SERVER)
    server = await serve()
    for case in ("an old version", "no common suite", "no certificate", "a stranger's certificate"):
        world.write(CONFIGURED[case])
        client = world.client(trustme.CA().issue_cert("a") if "stranger" in case else None)
        if case == "no common suite":
            client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        for version, alert in ALERTS[case].items():
            client.maximum_version = client.minimum_version = ssl.TLSVersion[version]
            with pytest.raises(ssl.SSLError, match=f"(?i)alert.{alert}|{alert.replace('_', '.')}"):
                await ask(server, client)


async def test_while_the_configuration_is_broken_clients_get_an_alert(world: World, serve: Any) -> None:
    world.write(SERVER)
    server = await serve()
    world.write(SERVER | {"key_file": "nowhere"})
    with pytest.raises(ssl.SSLError, match="internal error"):
        await ask(server, world.client())


async def test_a_client_without_an_allowed_name_gets_a_tls_close(world: World, serve: Any) -> None:
    world.write(VERIFIED | {"client_allowed_sans": ["good.example"]})
    server = await serve()
    assert await ask(server, world.client(world.clients_ca.issue_cert("bad.example"))) == b""
    assert b" 200 OK" in await ask(server, world.client(world.clients_ca.issue_cert("good.example")))


async def test_plain_http_at_the_tls_port_gets_a_400_that_names_https(
    world: World, serve: Any, connect: Connect
) -> None:
    world.write(SERVER)
    server = await serve()
    for line in (b"GET / HTTP/1.1", b"HEAD /metrics HTTP/1.0", b"POST /-/reload HTTP/1.1"):
        for parts in ([line + b"\r\n\r\n"], [line[:2], line[2:], b"\r\n\r\n"]):
            reader, writer = await connect(*server.address)
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.02)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n") and b"https" in answer


async def test_headers_are_accepted_up_to_the_documented_size(exporter: StartExporter, connect: Connect) -> None:
    running = await exporter()
    fits = limits.MAX_REQUEST_BYTES - 500
    for path in ("/metrics", "/-/healthy"):
        assert (await running.get(path, Cookie="a" * fits))[0] == 200
        assert (await running.get(f"{path}?{'a' * 10_000}", Cookie="a" * (fits - 10_000)))[0] == 200
        reader, writer = await connect(*running.address)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {'a' * limits.MAX_REQUEST_BYTES}\r\n\r\n".encode())
        assert (await reader.readline()).split()[1] in {b"400", b"431"}


async def test_named_pipes_instead_of_files_do_not_block_the_server(world: World, serve: Any) -> None:
    world.write(SERVER)
    server = await serve()
    for name in ("server.key", "server.pem", "web.yml"):
        path = world.folder / name
        good = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert not await server.admits(world.client())
        told = await server.exporter.wait_for_line(f"{name}{':' if name == 'web.yml' else ''} can")
        assert "not a regular file" in told
        path.unlink()
        path.write_bytes(good)
        assert await server.admits(world.client())
