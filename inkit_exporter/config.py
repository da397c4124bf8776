"""The configuration: reads YAML into validated, immutable settings. `config.example.yaml` explains every key."""

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct
from yarl import URL

from inkit_exporter import egress
from inkit_exporter.egress import EgressSettings, is_loopback
from inkit_exporter.errors import ConfigError
from inkit_exporter.yamlfile import Section, naming, read_file, read_settings

DEFAULT_BASE_URL: Final = "https://api.inkit.com/v1"
DEFAULT_TOKEN_ENV: Final = "INKIT_API_TOKEN"  # noqa: S105 - a name


class Seconds(float):
    """A duration in seconds, written as in Prometheus: `500ms`, `30s`, `5m`, `1h30m`, `7d`."""

    @classmethod
    def parse(cls, text: object) -> "Seconds":
        """Read a duration. Raises ValueError if it is none, or zero."""
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if not match or not text:
            raise ValueError(f"{text!r} is not a duration; write it like 500ms, 30s, 5m, 1h30m or 7d")
        numbers = map(int, match.groups("0"))
        seconds = sum(number * unit for number, unit in zip(numbers, _UNITS_MS.values(), strict=True)) / 1000
        if not 0 < seconds <= _MAX_SECONDS:
            raise ValueError(f"{text!r} must be longer than 0 and at most 100y")
        return cls(seconds)

    def __str__(self) -> str:
        return f"{float(self):g}s"


class Bytes(int):
    """A size in bytes, written `8MiB`, `500kB` or as a plain number."""

    @classmethod
    def parse(cls, value: object) -> "Bytes":
        """Read a size. Raises ValueError if it is none, or zero."""
        match = _SIZE.fullmatch(str(value))
        if not match or not (size := int(match[1]) * _SIZE_UNITS[match[2].lower()]):
            raise ValueError(f"{value!r} is not a size; write it like 8MiB, 512KiB or 1000000")
        return cls(size)


class StatusName(str):
    """A batch status, in any spelling."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> "StatusName":
        """Read a status. Raises ValueError unless it is text with a letter or digit, of at most 256 characters."""
        if not isinstance(value, str) or len(value) > 256 or not any(map(str.isalnum, value)):  # noqa: PLR2004
            raise ValueError(f"{value!r} is not a status; write it as the log or Inkit does, like Archived")
        return cls(value)


# Nobody needs more than the upper bound. It keeps results within what a float or a C integer can hold.
_PositiveInt = Annotated[int, Meta(ge=1, le=10**9)]
# Reading a larger page could delay scrapes by more than 20 ms.
_PageSize = Annotated[int, Meta(ge=1, le=1000)]


class Filters(Section, frozen=True):
    """The API's query parameters that narrow the list of batches."""

    search: str | None = None
    destination_name: str | None = None
    destination_status: str | None = None


class AccountSettings(Section, frozen=True):
    """One Inkit account: where its token and its API are."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    api_token_file: str | None = None
    api_token_env: str | None = None
    base_url: str = DEFAULT_BASE_URL
    batches: Literal["workflow", "document"] = "workflow"
    filters: Filters = Filters()


class PollSettings(Section, frozen=True):
    """How often and how far back the exporter lists batches."""

    interval: Seconds = Seconds(60)
    lookback: Seconds = Seconds(24 * 3600)
    page_size: _PageSize = 100
    max_batches: _PositiveInt = 10_000
    resync_interval: Seconds = Seconds(3600)
    stale_after: Seconds = Seconds(300)
    final_statuses: tuple[StatusName, ...] = ()


class ApiSettings(EgressSettings, frozen=True):
    """Limits of one account's requests, and their way to the API."""

    timeout: Seconds = Seconds(30)
    requests_per_minute: _PositiveInt = 60
    max_attempts: _PositiveInt = 4
    max_response_size: Bytes = Bytes(8 * 2**20)


class Settings(Section, frozen=True):
    """The whole configuration."""

    accounts: Annotated[tuple[AccountSettings, ...], Meta(min_length=1)]
    poll: PollSettings = PollSettings()
    api: ApiSettings = ApiSettings()


DEFAULT_SETTINGS: Final = Settings(accounts=(AccountSettings(name="default", api_token_env=DEFAULT_TOKEN_ENV),))
"""The settings without a file."""


def load(path: Path, shard: "Shard | None" = None) -> Settings:
    """Read and validate a configuration file. With a shard, only for that. Raises ConfigError with a remedy."""
    with naming(path):
        settings = parse(read_file(path).decode())
        return share(settings, shard) if shard else settings


def parse(text: str) -> Settings:
    """Validate a configuration, and the environment and file that `api` refers to. Raises ConfigError with a remedy."""
    settings, given = read_settings(text, Settings, reference="config.example.yaml", remedies=_TOKEN_REMEDIES)
    _check_accounts(settings.accounts)
    egress.check(settings.api, os.environ)
    return msgspec.structs.replace(settings, poll=_fit_to_interval(settings.poll, given=given.get("poll", {})))


class Shard(Struct, frozen=True):
    """One of `count` exporters that share the accounts. `index` counts from 0."""

    index: int = 0
    count: int = 1

    def owns(self, account: str) -> bool:
        """Whether an account is on this shard, which has the highest hash for it (rendezvous hashing).

        A new shard takes its share of the accounts. No account moves between the others.
        """
        return self.index == max(range(self.count), key=lambda shard: sha256(f"{shard}/{account}".encode()).digest())


def share(settings: Settings, shard: Shard) -> Settings:
    """The settings with the accounts of a shard. Raises ConfigError if the environment lacks the token of one."""
    owned = []
    for i, account in enumerate(settings.accounts):
        if shard.owns(account.name):
            try:
                if account.api_token_env:  # a file may come later, but the environment stays as it is
                    read_token(account, os.environ)
            except ConfigError as error:
                raise ConfigError(f"accounts[{i}].api_token_env: {error}") from None
            owned.append(account)
    return msgspec.structs.replace(settings, accounts=tuple(owned))


def read_token(account: AccountSettings, environ: Mapping[str, str]) -> str:
    """The account's current API token, from its file or the environment.

    Raises ConfigError if there is none, or if a header can't carry it. The message never contains the token.
    """
    remedy = f"put the API token of account `{account.name}` there"
    if account.api_token_env:
        place, text = f"environment variable {account.api_token_env}", environ.get(account.api_token_env)
        if text is None:
            raise ConfigError(f"{place} is not set; export the API token of account `{account.name}` in it")
    else:
        place = f"api_token_file {account.api_token_file}"
        try:
            path = Path(account.api_token_file or "")  # checked settings have one
            text = read_file(path, _MAX_TOKEN_BYTES).decode()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__  # not its text, which may quote the token
            raise ConfigError(f"{place} can't be read ({reason}); {remedy}") from None
    token = text.strip()
    if not token:
        raise ConfigError(f"{place} is empty; {remedy}")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(
            f"{place} is not an API token: it has blanks, line breaks or non-ASCII characters; keep only the token"
        )
    return token


_MAX_TOKEN_BYTES = 2**16
_DAY_MS = 86_400_000
_UNITS_MS = {"y": 365 * _DAY_MS, "w": 7 * _DAY_MS, "d": _DAY_MS, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("(?a)" + "".join(rf"(?:(\d{{1,15}}){unit})?" for unit in _UNITS_MS))
_MAX_SECONDS = 100 * 365 * 86_400
_SIZE = re.compile(r"(?ai)(\d{1,15})\s*(|B|KB|KiB|MB|MiB|GB|GiB)")
_SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "kib": 2**10, "mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": 2**30}
_TOKEN_REMEDIES = dict.fromkeys(
    ("token", "api_token", "api_key", "key", "apitoken", "inkit_api_token"),
    "a token does not belong in this file; put it in a file of its own and set api_token_file to its path",
)


def _check_accounts(accounts: tuple[AccountSettings, ...]) -> None:
    names: set[str] = set()
    for i, account in enumerate(accounts):
        place = f"accounts[{i}]"
        if account.name != account.name.strip() or not account.name.isprintable():
            raise ConfigError(f"{place}.name: must not begin or end with blanks, or contain control characters")
        if account.name in names:
            raise ConfigError(f"{place}.name: `{account.name}` is used twice; give every account its own name")
        names.add(account.name)
        if account.api_token_file and account.api_token_env:
            raise ConfigError(f"{place}: has both api_token_file and api_token_env; keep one")
        if not (account.api_token_file or account.api_token_env):
            raise ConfigError(f"{place}: has no token; add api_token_file or api_token_env")
        _check_base_url(account.base_url, f"{place}.base_url")


def _check_base_url(text: str, place: str) -> None:
    try:
        url = URL(text)
        host = url.host or ""
    except ValueError as error:
        raise ConfigError(f"{place}: is not a URL ({error}); write it like {DEFAULT_BASE_URL}") from None
    if url.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:%-]+", host):
        raise ConfigError(f"{place}: is not an http(s) URL; write it like {DEFAULT_BASE_URL}")
    if url.user or url.password or url.query_string or url.fragment:
        raise ConfigError(f"{place}: must not have user, password, query or fragment; put the token in api_token_file")
    if url.scheme == "http" and not is_loopback(host):
        raise ConfigError(f"{place}: http would send the token unencrypted; use https, except for loopback hosts")


def _fit_to_interval(poll: PollSettings, given: Mapping[str, object]) -> PollSettings:
    """Make two durations at least as long as the interval: raise a default, refuse a value that the file gives."""
    for key in ("stale_after", "resync_interval"):
        value = getattr(poll, key)
        if key not in given:
            poll = msgspec.structs.replace(poll, **{key: Seconds(max(value, 2 * poll.interval))})
        elif value < poll.interval:
            raise ConfigError(f"poll.{key}: {value} is shorter than poll.interval, {poll.interval}; make it longer")
    return poll
