"""The way out to the API: through which proxy, and which certificate authorities are trusted."""

import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from yarl import URL

from inkit_exporter.errors import ConfigError, reason_of
from inkit_exporter.yamlfile import Section, read_file


class EgressSettings(Section, frozen=True):
    """How requests reach the API. Those to a loopback address never use a proxy."""

    proxy_url: str | None = None
    proxy_from_environment: bool = False
    ca_file: str | None = None


def check(settings: EgressSettings, environ: Mapping[str, str]) -> None:
    """Check the settings, and the environment and the file that they refer to. Raises ConfigError."""
    _configured_proxy(settings, environ)
    if settings.ca_file is not None:
        authorities(settings.ca_file)


def find_proxy(url: URL, settings: EgressSettings, environ: Mapping[str, str]) -> URL | None:
    """The HTTP proxy for an address, with user and password; None to connect directly. Raises ConfigError."""
    host, written, port = url.raw_host or "", url.host or "", url.port or 0  # `written` may have letters like ü
    if is_loopback(host):
        return None
    if settings.proxy_from_environment:
        no_proxy = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
        if is_excluded(no_proxy, host, port) or is_excluded(no_proxy, written, port):
            return None
    return _configured_proxy(settings, environ)


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
    try:
        return _read_authorities(ca_file, read_file(Path(ca_file)) if ca_file is not None else b"")
    except ssl.SSLError:
        raise ConfigError(f"api.ca_file: {ca_file} contains no certificates in PEM format") from None
    except OSError as error:
        raise ConfigError(f"api.ca_file: {ca_file} can't be read: {reason_of(error)}") from None


@lru_cache(maxsize=2)
def _read_authorities(ca_file: str | None, _content: bytes) -> ssl.SSLContext:  # the content is only a cache key
    context = ssl.create_default_context(cafile=ca_file)
    # Python 3.13 began to refuse authorities with small flaws, which those of companies often have. Go takes them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(("http/1.1",))
    return context


def _configured_proxy(settings: EgressSettings, environ: Mapping[str, str]) -> URL | None:
    """The proxy that the settings or the environment name. Raises ConfigError, which does not quote a password."""
    if settings.proxy_url is not None:
        if settings.proxy_from_environment:
            raise ConfigError("api: has both proxy_url and proxy_from_environment; keep one")
        proxy = _parse_proxy("api.proxy_url:", settings.proxy_url)
        if proxy != proxy.with_user(None):
            raise ConfigError(
                "api.proxy_url: must not have user or password; put the whole URL in the environment variable "
                "HTTPS_PROXY and set proxy_from_environment: true"
            )
        return proxy
    text = environ.get("HTTPS_PROXY") or environ.get("https_proxy") if settings.proxy_from_environment else None
    if not text:
        return None
    return _parse_proxy("api.proxy_from_environment: HTTPS_PROXY", text if "://" in text else f"http://{text}")


def _parse_proxy(place: str, text: str) -> URL:
    """Read `http://[user:password@]host[:port]`."""
    with suppress(ValueError):
        url = URL(text)
        valid = url.scheme in ("http", "https") and url.host and url.with_user(None) == url.origin()
        if valid and ":" not in (url.user or ""):  # RFC 7617, 2
            return url
    raise ConfigError(f"{place} is not the address of an HTTP proxy; write it like http://proxy.example:3128")


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
    name = name.removeprefix("*") if name.startswith("*.") else name
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
