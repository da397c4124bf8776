"""`--web.config.file`: TLS, basic auth, headers and rate limit, as clients see them."""

import asyncio
import re
import resource
import signal
import ssl
import subprocess
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import bcrypt
import pytest
import trustme
from aiohttp.web import BaseRequest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs
from support import PATIENCE_SECONDS, ROOT
from support.api import Api
from support.connections import Connect
from support.exporter import StartExporter, run_to_end, write_config
from support.web import CLIENTS, HASH, SERVER, VERIFIED, Server, World, ask_in_memory

from inkit_exporter.errors import ConfigError
from inkit_exporter.web import limits
from inkit_exporter.web.server import serve as serve_http
from inkit_exporter.web.toolkit import guard
from inkit_exporter.web.toolkit.config import WebConfig, load
from inkit_exporter.web.toolkit.guard import ReloadingWebConfig
from inkit_exporter.web.toolkit.tls import Read, TlsSection

REFERENCE = (ROOT / "docs" / "web-configuration.md").read_text()


async def test_tls_is_served_and_plain_http_is_not(world: World, serve: Any) -> None:
    world.write(SERVER)
    server = await serve()
    assert (await server.get(tls=world.client()))[0] == 200
    assert not await server.admits(None)
    assert not await server.admits(ssl.create_default_context())  # the client does not know the CA
    assert any("protected_by=tls_server_config" in line for line in server.exporter.log)


async def no_answer(_: BaseRequest) -> NoReturn:
    raise AssertionError


async def test_a_client_that_never_completes_its_handshake_is_disconnected(
    world: World, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT_SECONDS", 0.1)
    config = ReloadingWebConfig(world.write(SERVER))
    address, tls = ("127.0.0.1", 0), config.ssl_context
    async with serve_http(no_answer, [address], server_name="test", ssl_context=tls) as (served,):
        reader, _ = await connect(*served.split(":"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.read() == b""


async def test_hanging_handshakes_are_limited_and_block_no_other_client(
    world: World, serve: Any, connect: Connect
) -> None:
    world.write(SERVER)
    server = await serve("--web.max-connections=20")
    silent = [await connect(*server.address) for _ in range(40)]
    assert (await server.get(tls=world.client()))[0] == 200
    async with asyncio.timeout(PATIENCE_SECONDS):
        with suppress(ConnectionError):
            assert await silent[0][0].read() == b"", "the server must close the oldest connection"
    assert not silent[-1][0].at_eof()
    assert not [line for line in server.exporter.log if "level=error" in line]


async def test_a_request_right_after_the_handshake_is_answered(world: World, serve: Any) -> None:
    """In TLS 1.3, a client may send its first request together with its last handshake message."""
    world.write(SERVER)
    server = await serve()
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await ask_in_memory(server.address, world.client(), b"GET /-/healthy HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 OK")


async def test_a_renewed_certificate_is_served_without_a_restart(world: World, serve: Any) -> None:
    world.write(SERVER)
    server = await serve()
    before = (await server.connect(world.client())).getpeercert()
    world.issue()
    after = (await server.connect(world.client())).getpeercert()
    assert before["serialNumber"] != after["serialNumber"]


async def test_after_a_broken_edit_no_client_is_served_until_the_file_is_fixed(world: World, serve: Any) -> None:
    world.write(SERVER, basic_auth_users={"alice": HASH})
    server = await serve()
    client, alice = world.client(), ("alice", "right")
    url = f"https://127.0.0.1:{server.address[1]}/metrics"
    async with aiohttp.ClientSession(headers={"Authorization": aiohttp.encode_basic_auth(*alice)}) as http:
        async with http.get(url, ssl=client) as response:
            assert response.status == 200
        world.write(SERVER | {"key_file": "clients.pem"}, basic_auth_users={"alice": HASH})
        async with http.get(url, ssl=client) as response:  # on the earlier connection
            assert response.status == 500
    for _ in range(3):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await server.connect(client)  # the health endpoint is not served either
    complaints = [line for line in server.exporter.log if "web configuration is broken" in line]
    assert len(complaints) == 1
    assert f"{world.path}: tls_server_config.key_file: " in complaints[0]
    world.write(SERVER, basic_auth_users={"alice": HASH})
    assert (await server.get(tls=client, auth=alice))[0] == 200
    world.path.unlink()
    assert not await server.admits(client)
    world.write(SERVER, basic_auth_users={"alice": HASH})
    assert (await server.get(tls=client, auth=alice))[0] == 200


async def test_a_change_that_came_while_too_many_files_were_open_is_read_later(world: World, serve: Any) -> None:
    world.write(basic_auth_users={"alice": HASH})
    server = await serve()
    exporter = server.exporter
    auth = {"Authorization": aiohttp.encode_basic_auth("alice", "right")}
    assert (await exporter.get("/metrics", **auth))[0] == 200
    descriptors = exporter.process.pid, resource.RLIMIT_NOFILE
    before = resource.prlimit(*descriptors)
    resource.prlimit(*descriptors, (3, before[1]))
    world.write(basic_auth_users={"alice": HASH, "bob": HASH})
    assert (await exporter.get("/metrics", **auth))[0] == 500  # on the earlier connection
    await exporter.wait_for_line("web.yml: can't be read: Too many open files")
    resource.prlimit(*descriptors, before)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await server.get(auth=("bob", "right")))[0] != 200:
            await asyncio.sleep(0.05)


async def test_a_truncated_file_removes_no_protection(world: World, serve: Any) -> None:
    whole = {"tls_server_config": SERVER, "basic_auth_users": {"alice": HASH}}
    world.write(**whole)
    server = await serve()
    for missing in ([*whole], ["tls_server_config"], ["basic_auth_users"]):
        world.write(**{key: section for key, section in whole.items() if key not in missing})
        assert not await server.admits(world.client())
        assert not await server.admits(None)
        await server.exporter.wait_for_line(f"{', '.join(sorted(missing))}: can't be switched off while running")
    world.write(**whole)
    assert (await server.get(tls=world.client(), auth=("alice", "right")))[0] == 200


async def test_switching_on_tls_needs_a_restart(world: World, serve: Any) -> None:
    world.write(basic_auth_users={"alice": HASH})
    server = await serve()
    world.write(SERVER, basic_auth_users={"alice": HASH})
    assert (await server.get(auth=("alice", "right")))[0] == 500
    await server.exporter.wait_for_line("can't be switched on while running")


async def test_each_client_auth_type_admits_the_right_clients(world: World, serve: Any) -> None:
    good = world.client(world.clients_ca.issue_cert("client.example"))
    stranger = world.client(trustme.CA().issue_cert("client.example"))
    nobody = world.client()

    async def admitted() -> list[bool]:
        return [await server.admits(client) for client in (nobody, stranger, good)]

    world.write(SERVER | {"client_auth_type": "NoClientCert"})
    server = await serve()
    assert await admitted() == [True, True, True]
    world.write(CLIENTS | {"client_auth_type": "VerifyClientCertIfGiven"})
    assert await admitted() == [True, False, True]
    world.write(SERVER | {"client_auth_type": "VerifyClientCertIfGiven"})  # verified with the system's CAs
    assert await admitted() == [True, False, False]
    world.write(VERIFIED)
    assert await admitted() == [False, False, True]
    world.write(SERVER)  # client certificates can't be switched off while running
    assert await admitted() == [False, False, False]


async def test_a_client_is_allowed_by_an_exact_match_of_any_alternative_name(world: World, serve: Any) -> None:
    names = ["client.example", "10.1.2.3", "2001:db8::1", "ops@client.example"]
    world.write(VERIFIED | {"client_allowed_sans": names})
    server = await serve()
    for name in names:
        assert await server.admits(world.client(world.clients_ca.issue_cert("other.example", name))), name
    for name in ("x.client.example", "client.example.org", "10.1.2.4", "::1", "dev@client.example"):
        stranger = world.clients_ca.issue_cert(name, common_name="client.example")
        assert not await server.admits(world.client(stranger)), name


async def test_an_intermediate_ca_may_be_the_trusted_one(world: World, serve: Any) -> None:
    intermediate = world.clients_ca.create_child_ca()
    intermediate.cert_pem.write_to_path(str(world.folder / "clients.pem"))
    world.write(VERIFIED)
    server = await serve()
    assert await server.admits(world.client(intermediate.issue_cert("client.example")))
    assert not await server.admits(world.client(world.clients_ca.issue_cert("client.example")))


async def test_the_configured_versions_suites_and_curves_are_used(world: World, serve: Any) -> None:
    def client(**attributes: Any) -> ssl.SSLContext:
        context = world.client()
        for name, value in attributes.items():
            setattr(context, name, value)
        return context

    old, new = ({"maximum_version": ssl.TLSVersion.TLSv1_2}, {"minimum_version": ssl.TLSVersion.TLSv1_3})
    world.write(SERVER)
    server = await serve()
    assert (await server.connect(client(**old))).version() == "TLSv1.2"
    assert (await server.connect(client())).version() == "TLSv1.3"

    world.write(SERVER | {"min_version": "TLS13"})
    assert [await server.admits(client(**old)), await server.admits(client())] == [False, True]
    world.write(SERVER | {"max_version": "TLS12"})
    assert [await server.admits(client(**new)), await server.admits(client())] == [False, True]
    world.write(SERVER | {"cipher_suites": ["TLS_AES_128_GCM_SHA256"]})  # no suite for TLS 1.2
    assert [await server.admits(client(**old)), await server.admits(client())] == [False, True]

    suites = ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]
    world.write(SERVER | {"cipher_suites": suites})
    chosen = (await server.connect(client(**old))).cipher()
    assert chosen is not None and chosen[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    weak = client(**old)
    weak.set_ciphers("ECDHE-ECDSA-AES128-SHA")
    assert not await server.admits(weak)

    world.write(SERVER | {"curve_preferences": ["CurveP384"]})
    for curve, admitted in {"secp384r1": True, "prime256v1": False}.items():
        only = client()
        only.set_ecdh_curve(curve)
        assert await server.admits(only) is admitted


async def test_every_suite_and_curve_of_exporter_toolkit_is_known(world: World) -> None:
    ecdhe = [
        f"TLS_ECDHE_{key}_WITH_{name}"
        for key in ("RSA", "ECDSA")
        for name in (
            "AES_128_CBC_SHA",
            "AES_256_CBC_SHA",
            "AES_128_GCM_SHA256",
            "AES_256_GCM_SHA384",
            "CHACHA20_POLY1305_SHA256",
        )
    ]
    for suite in ecdhe:
        context = load(world.write(SERVER | {"cipher_suites": [suite]})).context
        assert context is not None
        (name,) = [one["name"] for one in context.get_ciphers() if one["protocol"] != "TLSv1.3"]
        assert name.startswith("ECDHE-" + suite.split("_")[2] + "-")
    for curve in ("CurveP256", "CurveP384", "CurveP521", "X25519"):
        load(world.write(SERVER | {"curve_preferences": [curve]}))


async def test_certificate_key_and_client_ca_may_be_inline(world: World, serve: Any) -> None:
    texts = {
        key: (world.folder / name).read_text() for key, name in {"cert": "server.pem", "key": "server.key"}.items()
    }
    client_ca = {"client_ca": (world.folder / "clients.pem").read_text()}
    world.write(texts | client_ca | {"client_auth_type": "RequireAndVerifyClientCert"})
    server = await serve()
    assert await server.admits(world.client(world.clients_ca.issue_cert("client.example")))
    assert not await server.admits(world.client())


async def test_only_health_and_readiness_need_no_password(world: World, serve: Any) -> None:
    world.write(basic_auth_users={"alice": HASH, "bob": bcrypt.hashpw(b"", bcrypt.gensalt(4)).decode()})
    server = await serve("--web.enable-lifecycle")
    for path in ("/metrics", "/", "/api/v1/status", "/no/such/page", "/-/healthy/", "//-/healthy", "/-/reload"):
        status, headers = await server.get(path)
        assert (status, headers.get("WWW-Authenticate")) == (401, 'Basic realm="exporter"'), path
    assert (await server.get("/-/reload", method="POST"))[0] == 401
    assert (await server.get("/-/healthy", method="POST"))[0] == 401
    assert (await server.get("/-/healthy"))[0] == 200
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await server.get("/-/ready"))[0] != 200:
            await asyncio.sleep(0.05)
    for path, method in {"/metrics": "GET", "/": "GET", "/api/v1/status": "GET", "/-/reload": "POST"}.items():
        assert (await server.get(path, auth=("alice", "right"), method=method))[0] == 200
    assert (await server.get("/no/such/page", auth=("alice", "right")))[0] == 404
    assert (await server.get(auth=("bob", "")))[0] == 200
    for user, password in {"alice": "wrong", "carol": "right", "": "right", "ålice": "ß" * 40, "bob": "right"}.items():
        assert (await server.get(auth=(user, password)))[0] == 401, user
    for header in ("Basic", "Basic !", "Basic YWxpY2U=", "Bearer YWxpY2U6cmlnaHQ=", "Basic YWxpY2U6cmlnaHQ= x", "\xff"):
        assert (await server.get(headers={"Authorization": header}))[0] == 401, header
    assert (await server.get(headers={"Authorization": "bAsIc YWxpY2U6cmlnaHQ="}))[0] == 200


async def test_a_changed_password_is_used_from_the_next_request(world: World, serve: Any) -> None:
    world.write(basic_auth_users={"alice": HASH})
    server = await serve()
    assert (await server.get(auth=("alice", "right")))[0] == 200
    world.write(basic_auth_users={"alice": bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode()})
    assert (await server.get(auth=("alice", "right")))[0] == 401
    assert (await server.get(auth=("alice", "new")))[0] == 200


async def test_a_password_longer_than_bcrypt_reads_is_refused(world: World, serve: Any) -> None:
    world.write(basic_auth_users={"alice": bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()})
    server = await serve()
    assert (await server.get(auth=("alice", "x" * 72)))[0] == 200
    assert (await server.get(auth=("alice", "x" * 73)))[0] == 401


async def test_slow_password_checks_happen_once_and_delay_no_other_request(world: World, serve: Any) -> None:
    """Other requests end before a check does. If the machine stands still meanwhile, another check may tell."""
    users = ["alice", "bob", "carol"]
    world.write(basic_auth_users=dict.fromkeys(users, bcrypt.hashpw(b"right", bcrypt.gensalt(13)).decode()))
    server = await serve()

    async def answered_before_check(status: int, user: str, password: str, **other: Any) -> bool:
        check = asyncio.create_task(server.get(auth=(user, password)))
        for _ in range(5):
            assert (await server.get(**other))[0] == 200
        before = not check.done()
        assert (await check)[0] == status
        return before

    async def any_of(checks: Iterable[Awaitable[bool]]) -> bool:
        for check in checks:
            if await check:
                return True
        return False

    assert await any_of(answered_before_check(200, user, "right", path="/-/healthy") for user in users), "it blocks"
    for user, password in {"alice": "wrong", "nobody": "right"}.items():  # both take as long as a check
        checks = (answered_before_check(401, user, password, auth=("alice", "right")) for _ in range(3))
        assert await any_of(checks), f"{user}'s password was not checked, or alice's right one was checked again"


async def test_a_flood_of_wrong_passwords_is_limited_and_known_users_are_served(
    world: World, serve: Any, connect: Connect
) -> None:
    world.write(basic_auth_users={"alice": bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode()})
    server = await serve()
    assert (await server.get(auth=("alice", "right")))[0] == 200
    server.exporter.process.send_signal(signal.SIGSTOP)  # so that all wait at the same time
    flood = [await connect(*server.address) for _ in range(40)]
    for i, (_, writer) in enumerate(flood):
        auth = aiohttp.encode_basic_auth("alice", f"wrong {i}")
        writer.write(f"GET /metrics HTTP/1.0\r\nAuthorization: {auth}\r\n\r\n".encode())
    server.exporter.process.send_signal(signal.SIGCONT)
    assert (await server.get(auth=("alice", "right")))[0] == 200
    assert {(await reader.readline()).split()[1] for reader, _ in flood} == {b"401", b"503"}


async def test_the_rate_limit_is_a_token_bucket_for_all_paths_except_health_and_readiness(
    world: World, serve: Any
) -> None:
    world.write(rate_limit={"interval": "1h", "burst": 3})
    server = await serve()
    assert [(await server.get())[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    assert (await server.get("/-/healthy"))[0] == 200
    world.write(rate_limit={"interval": "200ms", "burst": 1})
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await server.get())[0] == 200
        while (await server.get())[0] != 429:
            pass
        while (await server.get())[0] != 200:
            await asyncio.sleep(0.05)
    world.write(rate_limit={"interval": 0, "burst": 0})
    assert {(await server.get())[0] for _ in range(5)} == {200}


async def test_every_answer_has_the_configured_headers(world: World, serve: Any) -> None:
    headers = {
        "Strict-Transport-Security": "max-age=31536000",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "deny",
        "X-XSS-Protection": 0,
        "Content-Security-Policy": "default-src 'none'",
    }
    world.write(http_server_config={"headers": headers, "http2": False}, basic_auth_users={"alice": HASH})
    server = await serve()
    alice = ("alice", "right")
    for path, auth, expected in (
        ("/", None, 401),
        ("/", alice, 200),
        ("/nowhere", alice, 404),
        ("/-/healthy", None, 200),
    ):
        status, answered = await server.get(path, auth=auth)
        assert status == expected
        assert all(str(value) in answered.getall(name) for name, value in headers.items())
        own = 1 if (path, status) == ("/", 200) else 0  # the page keeps its own policy; browsers apply both
        assert len(answered.getall("Content-Security-Policy")) == 1 + own


BAD: dict[str, tuple[str, str]] = {
    "unknown section": ("tls_config: {}", "tls_config: unknown key"),
    "unknown key": ("tls_server_config: {cert_fil: x}", "tls_server_config.cert_fil: unknown key"),
    "a list": ("[]", "expected a mapping, got a list; see docs/web-configuration.md"),
    "no YAML": ("a: [", "line 1"),
    "key given twice": ("basic_auth_users: {}\nbasic_auth_users: {}", "given twice"),
    "certificate without key": ("tls_server_config: {cert_file: server.pem}", "tls_server_config.key_file: missing"),
    "key without certificate": ("tls_server_config: {key_file: server.key}", "tls_server_config.cert_file: missing"),
    "only a version": ("tls_server_config: {min_version: TLS13}", "tls_server_config.cert_file: missing"),
    "only a policy": ("tls_server_config: {client_auth_type: NoClientCert}", "tls_server_config.cert_file: missing"),
    "no such file": ("tls_server_config: {cert_file: no.pem, key_file: server.key}", "no.pem can't be read"),
    "no certificate": ("tls_server_config: {cert_file: server.key, key_file: server.key}", "cert_file: contains no"),
    "no key": ("tls_server_config: {cert_file: server.pem, key_file: server.pem}", "key_file: is not a PEM key"),
    "another's key": ("tls_server_config: {cert_file: clients.pem, key_file: server.key}", "key_file: is not the key"),
    "both forms": ("tls_server_config: {cert: x, cert_file: server.pem, key_file: server.key}", "excludes cert_file"),
    "hash": ("basic_auth_users: {alice: secret}", "basic_auth_users.alice: is not a bcrypt hash"),
    "cost": (f"basic_auth_users: {{alice: {HASH.replace('$04', '$03')}}}", "basic_auth_users.alice: is not a bcrypt"),
    "hash cut short": (f"basic_auth_users: {{alice: {HASH[:-1]}}}", "basic_auth_users.alice: is not a bcrypt hash"),
    "user without a hash": ("basic_auth_users: {alice: }", "basic_auth_users.alice: is not a bcrypt hash"),
    "user with a colon": (f"basic_auth_users: {{'a:b': {HASH}}}", "colon"),
    "header": ("http_server_config: {headers: {Server: x}}", "headers.Server: `Server` is unknown"),
    "header's value": ("http_server_config: {headers: {X-Frame-Options: allow}}", "must be deny or sameorigin"),
    "header of two lines": ('http_server_config: {headers: {X-XSS-Protection: "0\\r\\nA: b"}}', "one line"),
    "no duration": ("rate_limit: {interval: soon, burst: 1}", "rate_limit.interval: is not a duration"),
    "unit forgotten": ("rate_limit: {interval: 5, burst: 1}", "rate_limit.interval: is not a duration"),
    "no burst": ("rate_limit: {interval: 1s}", "rate_limit.burst: must be 1 or more"),
}
BAD_TLS: dict[str, tuple[dict[str, Any], str]] = {
    "CA without a policy": (CLIENTS, "client_auth_type: missing"),
    "CA with no policy": (CLIENTS | {"client_auth_type": "NoClientCert"}, "client_auth_type: missing"),
    "policy without a CA": (SERVER | {"client_auth_type": "RequireAndVerifyClientCert"}, "client_ca_file: missing"),
    "CA without certificates": (VERIFIED | {"client_ca_file": "server.key"}, "client_ca_file: contains no valid"),
    "unknown policy": (CLIENTS | {"client_auth_type": "Sometimes"}, "client_auth_type: `Sometimes` is unknown"),
    "any certificate": (CLIENTS | {"client_auth_type": "RequireAnyClientCert"}, "client_auth_type: Python can't"),
    "any certificate, as once": (SERVER | {"client_auth_type": "RequireClientCert"}, "client_auth_type: Python can't"),
    "asking only": (SERVER | {"client_auth_type": "RequestClientCert"}, "client_auth_type: Python can't"),
    "names for nobody": (SERVER | {"client_allowed_sans": ["a"]}, "client_allowed_sans: needs"),
    "names, but certificates are optional": (
        CLIENTS | {"client_auth_type": "VerifyClientCertIfGiven", "client_allowed_sans": ["a"]},
        "client_allowed_sans: needs",
    ),
    "no names": (VERIFIED | {"client_allowed_sans": []}, "client_allowed_sans: is empty"),
    "unknown version": (SERVER | {"min_version": "TLS14"}, "min_version: `TLS14` is unknown"),
    "SSL": (SERVER | {"max_version": "TLS10"}, "max_version: OpenSSL no longer speaks TLS10"),
    "no version": (SERVER | {"min_version": "TLS13", "max_version": "TLS12"}, "max_version: no TLS version fits"),
    "no suite": (SERVER | {"max_version": "TLS12", "cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, "max_version: no TLS"),
    "insecure suite": (SERVER | {"cipher_suites": ["TLS_RSA_WITH_RC4_128_SHA"]}, "cipher_suites: `TLS_RSA_WITH_RC4"),
    "unknown curve": (SERVER | {"curve_preferences": ["CurveP1"]}, "curve_preferences: `CurveP1` is unknown"),
    "several curves": (SERVER | {"curve_preferences": ["CurveP256", "X25519"]}, "Python takes one curve only"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_error_for_an_invalid_file_names_the_place(world: World, case: str) -> None:
    text, complaint = BAD[case]
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(world.path))}: .*{re.escape(complaint)}"):
        load(world.write_text(text))


@pytest.mark.parametrize("case", BAD_TLS)
def test_the_error_for_contradictory_tls_settings_names_the_place(world: World, case: str) -> None:
    tls, complaint = BAD_TLS[case]
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(world.path))}: tls_server_config\.[a-z_]+: .*") as refused:
        load(world.write(tls))
    assert complaint in str(refused.value)


def test_comments_in_certificates_may_have_any_letters(world: World) -> None:
    for name in ("server.pem", "clients.pem"):
        path = world.folder / name
        path.write_bytes("# Főtanúsítvány\n".encode() + path.read_bytes())
    load(world.write(VERIFIED))
    texts = {"cert": "server.pem", "key": "server.key", "client_ca": "clients.pem"}
    inline = {key: (world.folder / name).read_text() for key, name in texts.items()}
    load(world.write(inline | {"client_auth_type": "RequireAndVerifyClientCert"}))


def test_a_key_with_a_password_is_refused_without_a_prompt(world: World) -> None:
    key = load_pem_private_key((world.folder / "server.key").read_bytes(), password=None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (world.folder / "server.key").write_bytes(encrypted)
    with pytest.raises(ConfigError, match="key_file: is not a PEM key without a password"):
        load(world.write(SERVER))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "basic_auth_users:\ntls_server_config:\nhttp_server_config:\n",
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: , min_version: TLS10}",
        "tls_server_config: {cert_file: server.pem, key_file: server.key, curve_preferences: [X25519]}",
        "tls_server_config: {cert_file: server.pem, key_file: server.key, cipher_suites: [TLS_AES_128_GCM_SHA256]}",
        "tls_server_config: {cert_file: server.pem, key_file: server.key, prefer_server_cipher_suites: false}",
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_auth_type: VerifyClientCertIfGiven}",
        "http_server_config: {headers: {X-Frame-Options: sameorigin, X-XSS-Protection: 0}, http2: true}",
        "http_server_config: {headers: {Content-Security-Policy: }}",
        f"basic_auth_users: {{alice: {HASH}, 'bob@example': {HASH.replace('$2b', '$2y')}}}",
    ],
)
@pytest.mark.process
@pytest.mark.debian
def test_configurations_that_exporter_toolkit_accepts_are_accepted(world: World, text: str) -> None:
    world.write_text(text)
    subprocess.run(["promtool", "check", "web-config", str(world.path)], check=True, capture_output=True)
    load(world.path)


@pytest.mark.process
@pytest.mark.debian
def test_user_names_are_read_as_text_as_in_exporter_toolkit(world: World) -> None:
    world.write_text(f"basic_auth_users: {{no: {HASH}, 0123: {HASH}, 1e3: {HASH}}}")
    subprocess.run(["promtool", "check", "web-config", str(world.path)], check=True, capture_output=True)
    assert load(world.path).users.keys() == {b"no", b"0123", b"1e3"}


def test_durations_have_the_format_of_go(world: World) -> None:
    for interval, nanoseconds in {"1h1m1.5s": 3_661_500_000_000, "100ms": 10**8, "2us3ns": 2003}.items():
        limit = load(world.write(rate_limit={"interval": interval, "burst": 2})).rate_limit
        assert (limit.interval, limit.burst) == (nanoseconds, 2)


@pytest.mark.process
async def test_config_check_finds_errors_in_both_files(world: World) -> None:
    config = write_config(world.folder, "http://127.0.0.1:1/v1")
    flags = "--config.check", f"--config.file={config}", f"--web.config.file={world.path}"
    world.write(SERVER, basic_auth_users={"alice": HASH})
    told = f"{config}: ok, accounts: default\n{world.path}: ok, protected by: basic_auth_users, tls_server_config\n"
    assert await run_to_end(*flags) == (0, told, "")
    world.write(SERVER | {"key_file": "clients.pem"})
    status, _, err = await run_to_end(*flags)
    assert (status, len(err.splitlines())) == (1, 1)
    assert err.startswith(f"inkit-exporter: {world.path}: tls_server_config.key_file: ")


@pytest.mark.process
async def test_an_invalid_file_at_startup_exits_with_status_2(world: World) -> None:
    world.write(basic_auth_users={"alice": "secret"})
    status, _, err = await run_to_end("--demo", f"--web.config.file={world.path}")
    assert status == 2
    assert err.splitlines()[-1].startswith(f"inkit-exporter: {world.path}: basic_auth_users.alice: ")
    assert "secret" not in err


def keys_of_the_sections() -> set[str]:
    sections = {
        "http_server_config": ("http2", "headers"),
        "rate_limit": ("interval", "burst"),
        "tls_server_config": TlsSection.__struct_fields__,
    }
    return {f"{section}.{key}" for section, keys in sections.items() for key in keys} | {"basic_auth_users"}


def test_every_key_is_documented() -> None:
    keys = REFERENCE.partition("## exporter-toolkit's test files")[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", keys, flags=re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`([a-z_0-9.]+)`", row)} == keys_of_the_sections()


def test_the_documented_example_is_valid(world: World) -> None:
    block = re.search(r"```yaml\n(tls_server_config:.*?)```", REFERENCE, flags=re.DOTALL)
    assert block is not None
    settings = load(world.write_text(block[1]))
    assert settings.protections == {"tls_server_config", "basic_auth_users"}


def hash_of_cost(cost: int) -> str:
    return f"$2b${cost:02}" + HASH[6:]


@pytest.mark.parametrize(
    ("costs", "expected"), [([4], 4), ([4, 10, 18], 10), ([10, 10, 31], 10), ([18, 19], 14), ([12, 13], 12)]
)
def test_a_password_check_of_an_unknown_user_costs_the_median_and_at_most_a_second(
    world: World, costs: list[int], expected: int
) -> None:
    users = {f"user{i}": hash_of_cost(cost) for i, cost in enumerate(costs)}
    assert load(world.write(basic_auth_users=users)).decoy.startswith(b"$2b$%02d$" % expected)


def test_a_hash_that_takes_long_to_check_is_logged_at_startup(world: World) -> None:
    with capture_logs() as logs:
        ReloadingWebConfig(world.write(basic_auth_users={"alice": HASH, "bob": hash_of_cost(20)}))
    (told,) = [line for line in logs if line["log_level"] == "warning"]
    assert told["user"] == "bob" and "cost" in told["event"]


def test_removed_keys_are_logged(world: World) -> None:
    users = {"alice": HASH}
    rest = {
        "http_server_config": {"headers": {"X-Frame-Options": "deny"}},
        "rate_limit": {"interval": "1s", "burst": 9},
    }
    config = ReloadingWebConfig(world.write(SERVER | {"min_version": "TLS13"}, basic_auth_users=users, **rest))
    with capture_logs() as logs:
        world.write(SERVER, basic_auth_users=users)
        assert config.current() is not None
        assert config.current() is not None
    (told,) = [line for line in logs if line["log_level"] == "warning"]
    assert told["keys"].split(", ") == [
        "http_server_config.headers.X-Frame-Options",
        "rate_limit.burst",
        "rate_limit.interval",
        "tls_server_config.min_version",
    ]


def test_a_broken_file_is_read_again_at_once_only_when_it_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "RETRY_SECONDS", 1000)
    config = ReloadingWebConfig(world.write(SERVER, basic_auth_users={"alice": HASH}))
    loads = []

    def counting(path: Path, read: Read) -> WebConfig:
        loads.append(path)
        return load(path, read)

    monkeypatch.setattr(guard, "load", counting)
    for number, broken in enumerate(({"key_file": "clients.pem"}, {"key_file": "nowhere"}, {"cert": "x"}), start=1):
        world.write(SERVER | broken, basic_auth_users={"alice": HASH})
        assert [config.current() for _ in range(5)] == [None] * 5
        assert len(loads) == number
    (world.folder / "server.key").rename(world.folder / "nowhere")
    world.write(SERVER | {"key_file": "nowhere"}, basic_auth_users={"alice": HASH})
    assert config.current() is not None
    (world.folder / "nowhere").rename(world.folder / "server.key")
    assert config.current() is None
    (world.folder / "server.key").rename(world.folder / "nowhere")
    assert config.current() is not None


def test_the_final_line_break_of_a_yaml_block_is_removed(world: World) -> None:
    text = "http_server_config:\n  headers:\n    Content-Security-Policy: |\n      default-src 'self'\n"
    assert load(world.write_text(text)).headers == {"Content-Security-Policy": "default-src 'self'"}
    with pytest.raises(ConfigError, match="must be one line"):
        load(world.write_text(text + "      sandbox\n"))


FIPS = """
import hashlib

def refuse(*arguments, **options):
    raise ValueError("[digital envelope routines] unsupported")

for name in ("blake2b", "blake2s", "md5", "sha1"):
    setattr(hashlib, name, refuse)
new = hashlib.new

def checked(name, *data, **options):
    return (refuse if name in ("blake2b", "md5", "sha1") else new)(name, *data, **options)

hashlib.new = checked
"""


async def test_the_exporter_works_without_the_hash_functions_that_fips_forbids(
    world: World, api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FIPS)
    world.write(SERVER, basic_auth_users={"alice": HASH})
    environment = {"PYTHONPATH": str(tmp_path)}
    server = Server(await exporter(f"--web.config.file={world.path}", "--shard=0/1", env=environment))
    assert (await server.get(tls=world.client(), auth=("alice", "right")))[0] == 200
    assert (await server.get("/", tls=world.client(), auth=("alice", "right")))[0] == 200
    assert (await server.get(tls=world.client(), auth=("alice", "wrong")))[0] == 401


@pytest.mark.process
async def test_config_check_warns_of_a_slow_hash(world: World) -> None:
    world.write(basic_auth_users={"alice": HASH, "bob": hash_of_cost(20)})
    status, out, err = await run_to_end("--config.check", f"--web.config.file={world.path}")
    assert (status, out) == (0, f"{world.path}: ok, protected by: basic_auth_users\n")
    assert err == f"{world.path}: basic_auth_users.bob: warning: takes long to check; use cost 10\n"
