"""The way out to the API: through which proxy, and which certificate authorities are trusted."""

import os
import ssl
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from stat import S_ISREG
from typing import Final

from yarl import URL

from inkit_exporter.errors import ConfigError
from inkit_exporter.yamlfile import Section

_EXAMPLE: Final = "http://proxy.example:3128"


class EgressSettings(Section, frozen=True):
    """How requests reach the API. Those to a loopback address never use a proxy."""

    proxy_url: str | None = None
    proxy_from_environment: bool = False
    ca_file: str | None = None


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy. `authorization` is the value of its header Proxy-Authorization."""

    url: URL
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Proxy":
        """Read `http://[user:password@]host[:port]`. Raises ValueError, which does not quote the text."""
        with suppress(ValueError):
            url = URL(text)
            bare = url.with_user(None)
            if url.scheme in ("http", "https") and url.host and bare == bare.origin():
                given = f"{url.user or ''}:{url.password or ''}"
                return cls(bare, None if given == ":" else f"Basic {b64encode(given.encode()).decode()}")
        raise ValueError(f"is not the address of an HTTP proxy; write it like {_EXAMPLE}")


def check(settings: EgressSettings) -> None:
    """Check what the configuration says. Raises ConfigError."""
    if settings.proxy_url is None:
        return
    if settings.proxy_from_environment:
        raise ConfigError("api: has both proxy_url and proxy_from_environment; keep one")
    try:
        proxy = Proxy.parse(settings.proxy_url)
    except ValueError as error:
        raise ConfigError(f"api.proxy_url: {error}") from None
    if proxy.authorization:
        raise ConfigError(
            "api.proxy_url: must not have user or password; put the whole URL in the environment variable HTTPS_PROXY "
            "and set proxy_from_environment: true"
        )


def check_surroundings(settings: EgressSettings, environ: Mapping[str, str]) -> None:
    """Check what the configuration refers to: the file of authorities and the environment. Raises ConfigError."""
    if settings.ca_file is not None:
        authorities(settings.ca_file)
    if settings.proxy_from_environment:
        try:
            _proxy_of_environment(environ)
        except ValueError as error:
            raise ConfigError(f"api.proxy_from_environment: {error}") from None


def find_proxy(url: URL, settings: EgressSettings, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for an address, or None to connect directly. Raises ValueError."""
    host = url.raw_host or ""
    if is_loopback(host):
        return None
    if settings.proxy_url is not None:
        return Proxy.parse(settings.proxy_url)
    no_proxy = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if not settings.proxy_from_environment or is_excluded(no_proxy, host, url.port or 0):
        return None
    return _proxy_of_environment(environ)


def is_excluded(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY lists a host. It is read as golang.org/x/net/http/httpproxy reads it."""
    entries = (entry.strip().lower() for entry in no_proxy.split(","))
    return any(_matches(entry, host, str(port)) for entry in entries if entry)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def authorities(ca_file: str | None) -> ssl.SSLContext:
    """A context that trusts the certificates of a file, or else the system's authorities.

    Reads a file again when it has changed. Raises ConfigError if it can't be read.
    """
    if ca_file is None:
        return _read_authorities(None)
    try:
        status = os.stat(ca_file)  # noqa: PTH116 - pathlib says no more
        if not S_ISREG(status.st_mode):  # a pipe would block the exporter
            raise OSError(0, "not a regular file")
        return _read_authorities(ca_file, status.st_ino, status.st_size, status.st_mtime_ns)
    except ssl.SSLError:
        raise ConfigError(f"api.ca_file: {ca_file} contains no certificates in PEM format") from None
    except OSError as error:
        raise ConfigError(f"api.ca_file: {ca_file} cannot be read: {error.strerror or error}") from None


@lru_cache(maxsize=2)
def _read_authorities(ca_file: str | None, *_version: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    # Python 3.13 began to refuse authorities with small flaws, which those of companies often have. Go takes them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(("http/1.1",))
    return context


def _proxy_of_environment(environ: Mapping[str, str]) -> Proxy | None:
    """The proxy in HTTPS_PROXY or https_proxy, where `http://` may be missing. Raises ValueError."""
    text = environ.get("HTTPS_PROXY") or environ.get("https_proxy")
    if not text:
        return None
    try:
        return Proxy.parse(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise ValueError(f"HTTPS_PROXY {error}") from None


def _matches(entry: str, host: str, port: str) -> bool:
    address = _address(host)
    if entry == "*":
        return True
    if entry.rpartition("/")[2].isdecimal() and "/" in entry:
        with suppress(ValueError):
            return address is not None and address in ip_network(entry, strict=False)
    name, only_port = _split_port(entry)
    if not name or only_port not in ("", port):
        return False
    if (listed := _address(name)) is not None:
        return listed == address
    name = _ascii(name.removeprefix("*") if name.startswith("*.") else name)
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, str]:
    """Host and port of `host:port` or `[address]:port`; what is neither is a host as a whole."""
    host, colon, port = entry.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    return (host, port) if colon and ":" not in host else (entry, "")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _ascii(name: str) -> str:
    """A host name as it is sent (IDNA), with the dot that may precede it."""
    if name.isascii():
        return name
    with suppress(ValueError):
        bare = name.lstrip(".")
        return name[: -len(bare)] + (URL.build(scheme="http", host=bare).raw_host or bare)
    return name
