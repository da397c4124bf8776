"""Exporters with a web configuration, and clients of theirs."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import pytest
import trustme
import yaml

from support.api import Api
from support.exporter import Exporter, StartExporter

SERVER = {"cert_file": "server.pem", "key_file": "server.key"}
CLIENTS = SERVER | {"client_ca_file": "clients.pem"}
VERIFIED = CLIENTS | {"client_auth_type": "RequireAndVerifyClientCert"}
HASH = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()


@dataclass
class World:
    """A folder with a web configuration and the certificates it names."""

    folder: Path
    ca: trustme.CA
    clients_ca: trustme.CA

    @property
    def path(self) -> Path:
        return self.folder / "web.yml"

    def write(self, tls: dict[str, Any] | None = None, **sections: Any) -> Path:
        """Write the configuration, as an editor does: in place of the old file."""
        return self.write_text(yaml.safe_dump(({"tls_server_config": tls} if tls else {}) | sections))

    def write_text(self, text: str) -> Path:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        return new.rename(self.path)

    def issue(self) -> trustme.LeafCert:
        """A new certificate for the server, put where the old one was."""
        cert = self.ca.issue_cert("127.0.0.1", "localhost")
        (self.folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
        (self.folder / "server.key").write_bytes(cert.private_key_pem.bytes())
        return cert

    def client(self, cert: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """A client that trusts the server's CA, and maybe has a certificate of its own."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if cert:
            cert.configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


@pytest.fixture
def world(tmp_path: Path, authorities: tuple[trustme.CA, trustme.CA]) -> World:
    folder = tmp_path / "web"
    folder.mkdir()
    world = World(folder, *authorities)
    world.issue()
    world.clients_ca.cert_pem.write_to_path(str(folder / "clients.pem"))
    return world


@dataclass
class Server:
    """An exporter that may speak TLS."""

    exporter: Exporter

    @property
    def address(self) -> tuple[str, int]:
        return self.exporter.address

    async def get(
        self, path: str = "/metrics", tls: ssl.SSLContext | None = None, auth: tuple[str, str] | None = None, **kw: Any
    ) -> tuple[int, Any]:
        """Status and headers over a connection of its own."""
        url = f"{'https' if tls else 'http'}://{':'.join(map(str, self.address))}{path}"
        headers = ({"Authorization": aiohttp.encode_basic_auth(*auth)} if auth else {}) | kw.pop("headers", {})
        async with (
            aiohttp.ClientSession() as http,
            http.request(kw.pop("method", "GET"), url, ssl=tls or True, headers=headers, **kw) as response,
        ):
            await response.read()
            return response.status, response.headers

    async def admits(self, tls: ssl.SSLContext | None) -> bool:
        """Whether a client gets an answer, be it over a connection of its own or not at all."""
        try:
            return (await self.get(tls=tls))[0] == 200
        except (aiohttp.ClientError, ConnectionError):
            return False

    async def connect(self, tls: ssl.SSLContext) -> ssl.SSLObject:
        """The TLS connection, once its handshake is done and it has brought an answer."""
        reader, writer = await asyncio.open_connection(*self.address, ssl=tls)
        try:
            writer.write(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            assert b" 200 OK" in await reader.readline()
            connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        finally:
            writer.close()
        return connection


@pytest.fixture
def serve(api: Api, exporter: StartExporter, world: World) -> Callable[..., Any]:
    async def serve(*flags: str) -> Server:
        return Server(await exporter(f"--web.config.file={world.path}", *flags))

    return serve


async def ask_in_memory(
    address: tuple[str, int], client: ssl.SSLContext, request: bytes, latency: float = 0.0
) -> bytes:
    """The answer's first bytes, over a link with this latency in seconds.

    The request leaves together with the last message of the handshake, as TLS 1.3 allows.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    reader, writer = await asyncio.open_connection(*address)

    async def done(step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                await asyncio.sleep(latency)
                if data := await reader.read(2**16):
                    incoming.write(data)
                else:
                    incoming.write_eof()

    try:
        await done(tls.do_handshake)
        tls.write(request)
        answer: bytes = await done(tls.read)
        return answer
    finally:
        writer.transport.abort()
