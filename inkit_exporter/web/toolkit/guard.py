"""A web configuration at work: TLS for connections, rate limit and password for requests."""

import asyncio
import hmac
import secrets
import ssl
import time
from base64 import b64decode
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import bcrypt
import structlog
from aiohttp import hdrs, web

from inkit_exporter.errors import ConfigError
from inkit_exporter.web.limits import HEALTH_PATHS
from inkit_exporter.web.routes import READ, Handler
from inkit_exporter.web.toolkit.config import RateLimit, WebConfig, load
from inkit_exporter.web.toolkit.tls import REFUSING
from inkit_exporter.yamlfile import read_file

RETRY_SECONDS: Final = 1.0
"""After this time, an invalid configuration is read again even if no file has changed.

Reading may have failed because of the system, for example because too many files were open.
"""

log = structlog.get_logger()


class ReloadingWebConfig:
    """A web configuration that reloads when a file changes. Raises ConfigError if it is invalid at startup.

    While a file is invalid, the exporter serves nothing except health over plain HTTP. `latest` is the last valid
    configuration. `ssl_context` returns the context of the current one, or one that refuses all clients. It is None
    without TLS.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signatures: dict[Path, tuple[int, ...] | None] = {}  # of all files that were read
        self._problem: str | None = None  # of an invalid configuration
        self._retry_at = 0.0
        self.latest = self._load()
        _warn_of_slow_passwords(self.latest)
        self.ssl_context = self._current_context if self.latest.context else None

    def current(self) -> WebConfig | None:
        """The configuration in the files now. If they are invalid, None, and an error in the log."""
        if any(_sign(path) != signature for path, signature in self._signatures.items()):
            self._problem = ""
            self._reload()
        elif self._problem is not None and time.monotonic() >= self._retry_at:
            self._reload()
        return self.latest if self._problem is None else None

    def headers(self) -> Mapping[str, str]:
        """The headers of every answer."""
        return self.latest.headers

    def protect(self, handler: Handler) -> Handler:
        """Make a handler that first checks the rate limit and the password, except for health checks."""
        bucket, passwords = _TokenBucket(), _Passwords()

        async def protected(request: web.BaseRequest) -> web.StreamResponse:
            if request.path in HEALTH_PATHS and request.method in READ:
                return await handler(request)
            if (current := self.current()) is None:
                return web.Response(status=500, text="the web configuration is broken; the log says how\n")
            if not bucket.allow(current.rate_limit, time.monotonic_ns()):
                return web.Response(status=429, text="too many requests\n")
            if current.users and not await passwords.check(current, request):
                challenge = {hdrs.WWW_AUTHENTICATE: 'Basic realm="exporter"'}
                return web.Response(status=401, text="unauthorized\n", headers=challenge)
            return await handler(request)

        return protected

    def _current_context(self) -> ssl.SSLContext:
        current = self.current()
        return current.context if current and current.context else REFUSING

    def _reload(self) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        try:
            config = self._load()
            self._check_protections(config.protections)
        except ConfigError as error:
            if str(error) != self._problem:
                log.error("web configuration is broken, nothing is served until it is fixed", error=str(error))
            self._problem = str(error)
            return
        log.info("web configuration read again", path=str(self._path))
        if lost := self.latest.keys - config.keys:
            log.warning(
                "the web configuration has lost keys; put them back if that was not intended",
                path=str(self._path),
                keys=", ".join(sorted(lost)),
            )
        _warn_of_slow_passwords(config)
        self.latest, self._problem = config, None

    def _load(self) -> WebConfig:
        self._signatures = {}
        return load(self._path, self._read)

    def _read(self, path: Path) -> bytes:
        self._signatures[path] = _sign(path)  # before reading, so that a change meanwhile is noticed
        return read_file(path)

    def _check_protections(self, new: frozenset[str]) -> None:
        """Refuse to drop protections. A file that is still being written looks as if it had lost them."""
        if lost := self.latest.protections - new:
            keys = ", ".join(sorted(lost))
            raise ConfigError(f"{self._path}: {keys}: can't be switched off while running; restart, or put it back")
        if "tls_server_config" in new - self.latest.protections:
            raise ConfigError(f"{self._path}: tls_server_config: can't be switched on while running; restart")


def _warn_of_slow_passwords(config: WebConfig) -> None:
    for user in config.slow_users:
        log.warning("a password takes long to check, and others wait; make its hash with cost 10", user=user)


def _sign(path: Path) -> tuple[int, ...] | None:
    """What changes with a file; None if it is missing. This follows links: Kubernetes replaces a link, not the file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class _TokenBucket:
    """Stored as the time when it will be full (generic cell rate algorithm), in exact integers."""

    def __init__(self) -> None:
        self._limit = RateLimit()
        self._full_at_ns = 0

    def allow(self, limit: RateLimit, now_ns: int) -> bool:
        if limit != self._limit:
            self._limit, self._full_at_ns = limit, now_ns
        full_at_ns = max(self._full_at_ns, now_ns) + limit.interval
        if full_at_ns - now_ns > limit.burst * limit.interval:
            return False
        self._full_at_ns = full_at_ns
        return True


_MAX_PASSWORD_BYTES = 72  # bcrypt ignores further bytes, so every longer password would match
_MAX_WAITING = 32  # takes two seconds at the usual cost of a hash
_MAX_REMEMBERED = 100
_REFUSAL_SECONDS = 2.0  # slows down clients that guess, which leaves room for others


class _Passwords:
    """Checks passwords in a thread, because bcrypt is slow on purpose. It remembers right ones under a keyed hash.

    It checks one at a time, and prefers addresses with few waiting. If too many wait, the address with the most waiting
    loses its oldest.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: deque[bytes] = deque(maxlen=_MAX_REMEMBERED)
        # Not asyncio's threads: DNS lookups that hang may occupy them all.
        self._thread = ThreadPoolExecutor(1, "password")
        self._checking = False
        self._waiting: dict[asyncio.Future[bool], str] = {}  # oldest first, with the client's address

    async def check(self, config: WebConfig, request: web.BaseRequest) -> bool:
        """Whether a request has a right password. Raises HTTPServiceUnavailable if too many wait for their check."""
        if (credentials := _credentials(request.headers.get(hdrs.AUTHORIZATION, ""))) is None:
            return False
        user, password = credentials
        hashed = config.users.get(user, config.decoy)
        key = hmac.digest(self._key, repr((user, hashed, password)).encode(), "sha256")
        if key in self._right:
            return True
        if self._checking:
            await self._wait(request.remote or "")
        self._checking = True
        try:
            if key not in self._right and request.transport is not None:  # else the client has gone
                check = asyncio.get_running_loop().run_in_executor(self._thread, bcrypt.checkpw, password, hashed)
                if await check and user in config.users:
                    self._right.append(key)
        finally:
            self._checking = bool(self._waiting)
            if self._waiting:
                self._end_wait(min, admitted=True)
        return key in self._right

    async def _wait(self, address: str) -> None:
        wait: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[wait] = address
        if len(self._waiting) > _MAX_WAITING:
            self._end_wait(max, admitted=False)
        if not await wait:
            await asyncio.sleep(_REFUSAL_SECONDS)
            headers = {hdrs.RETRY_AFTER: "1"}
            raise web.HTTPServiceUnavailable(text="too many passwords to check\n", headers=headers)

    def _end_wait(self, choose: Callable[..., asyncio.Future[bool]], *, admitted: bool) -> None:
        """End the oldest wait of the address with the most (`max`) or fewest (`min`)."""
        waits = Counter(self._waiting.values())
        wait = choose(self._waiting, key=lambda wait: waits[self._waiting[wait]])
        del self._waiting[wait]
        if not wait.done():  # else the server shuts down
            wait.set_result(admitted)


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    """User and password in an Authorization header (RFC 7617). None without, or if the password is too long."""
    scheme, _, encoded = header.partition(" ")
    try:
        user, colon, password = b64decode(encoded.strip(" "), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon and scheme.lower() == "basic" and len(password) <= _MAX_PASSWORD_BYTES else None
