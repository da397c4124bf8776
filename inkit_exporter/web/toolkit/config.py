"""Reads and validates the file of a web configuration. docs/web-configuration.md documents every key."""

import re
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from msgspec import field

from inkit_exporter.errors import ConfigError
from inkit_exporter.web.toolkit.tls import Read, TlsContext, TlsSection, choose, make_context
from inkit_exporter.yamlfile import Section, naming, read_file, read_settings


class Nanoseconds(int):
    """A duration, written as in Go: `100ms`, `1m30s`, or 0."""

    @classmethod
    def parse(cls, text: object) -> "Nanoseconds":
        """Read a duration. Raises ValueError if it is none."""
        if not isinstance(text, str) or not re.fullmatch(f"(?a)0|({_DURATION.pattern})+", text):
            raise ValueError("is not a duration; write it like 100ms, 1s or 1m30s, or 0 for no limit")
        return cls(sum(int(Decimal(number) * _DURATION_UNITS[unit]) for number, unit in _DURATION.findall(text)))


class RateLimit(Section, frozen=True):
    """A token bucket: `burst` requests at once, and one more after each interval. An interval of 0 means no limit."""

    interval: Nanoseconds = Nanoseconds(0)
    burst: int = 0


@dataclass(frozen=True)
class WebConfig:
    """A valid web configuration, with its certificates.

    `users` has bcrypt hashes by name. `decoy` is the hash for passwords of unknown users. `protections` are the keys
    that protect the exporter, `keys` are all keys in the file.
    """

    context: TlsContext | None
    users: Mapping[bytes, bytes]
    decoy: bytes
    headers: Mapping[str, str]
    rate_limit: RateLimit
    protections: frozenset[str]
    keys: frozenset[str]

    @property
    def slow_users(self) -> Sequence[str]:
        """The users whose passwords take about a second to check, or more."""
        return [user.decode() for user, hashed in self.users.items() if _cost(hashed) >= _SLOW_COST]


def load(path: Path, read: Read = read_file) -> WebConfig:
    """Read and validate a web configuration and the files that it names.

    Raises ConfigError with file, place and remedy.
    """
    with naming(path):
        config, given = read_settings(read(path).decode(), _File, reference="docs/web-configuration.md")
        tls = config.tls_server_config
        context = make_context(tls, path.parent, read)
        if config.rate_limit.interval and config.rate_limit.burst < 1:
            raise ConfigError("rate_limit.burst: must be 1 or more, or every request would be refused")
        users = {user.encode(): _check_hash(user, text) for user, text in config.basic_auth_users.items()}
        protections = {
            "tls_server_config": context,
            "client_auth_type": tls.client_auth_type == "RequireAndVerifyClientCert",
            "client_allowed_sans": tls.client_allowed_sans,
            "basic_auth_users": users,
        }
        return WebConfig(
            context=context,
            users=users,
            decoy=_make_decoy(users.values()),
            headers=_check_headers(config.http_server_config.headers),
            rate_limit=config.rate_limit,
            protections=frozenset(key for key, on in protections.items() if on),
            keys=frozenset(_keys(given)),
        )


def _make_decoy(hashes: Collection[bytes]) -> bytes:
    """A bcrypt hash that no password matches. Its cost is the usual one, but one slow hash must not slow all checks."""
    cost = min(statistics.median_low(map(_cost, hashes)), _SLOW_COST) if hashes else 10
    return b"$2b$%02d$" % cost + b"." * 53


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _keys(node: object, place: str = "") -> Iterator[str]:
    """The keys of all values, joined by dots."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _keys(value, f"{place}.{key}".lstrip("."))
    else:
        yield place


class _HttpSection(Section, frozen=True):
    http2: bool = True  # accepted, without effect
    headers: dict[str, str | None] = field(default_factory=dict)


class _File(Section, frozen=True):
    tls_server_config: TlsSection = TlsSection()
    http_server_config: _HttpSection = _HttpSection()
    rate_limit: RateLimit = RateLimit()
    basic_auth_users: dict[str, str | None] = field(default_factory=dict)


_HEADERS: Mapping[str, tuple[str, ...]] = {
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
    "Content-Security-Policy": (),
}
_HASH = re.compile(r"(?a)\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_SLOW_COST = 14  # takes about a second; each step more doubles the time
_DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)")


def _check_hash(user: str, text: str | None) -> bytes:
    if ":" in user:
        raise ConfigError("basic_auth_users: a user's name can't hold a colon; rename it")
    if text is None or not _HASH.fullmatch(text):
        raise ConfigError(f'basic_auth_users.{user}: is not a bcrypt hash; make one with htpasswd -nBC 10 ""')
    return text.encode()


def _check_headers(headers: Mapping[str, str | None]) -> Mapping[str, str]:
    headers = {name: text and text.removesuffix("\n") for name, text in headers.items()}  # YAML's block texts end so
    for name, text in headers.items():
        place = f"http_server_config.headers.{name}"
        accepted = choose(name, _HEADERS, place)
        if text and accepted and text not in accepted:
            raise ConfigError(f"{place}: must be {' or '.join(accepted)}")
        if text and not text.isprintable():
            raise ConfigError(f"{place}: must be one line of text")
    return {name: text for name, text in headers.items() if text}
