"""Serving by a web configuration: TLS for connections, and what a request must pass before it is answered."""

import asyncio
import secrets
import ssl
import time
from base64 import b64decode
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import bcrypt
import structlog
from aiohttp import hdrs, web

from inkit_exporter.errors import ConfigError
from inkit_exporter.web.limits import HEALTH_PATHS
from inkit_exporter.web.routes import READ, Handler
from inkit_exporter.web.toolkit.config import RateLimit, WebConfig, load

log = structlog.get_logger()


class ReloadingWebConfig:
    """A web configuration that is read again when a file changes. Raises ConfigError if it is invalid at first.

    While a file is invalid, nothing is served except health over plain HTTP. `latest` is the last valid configuration;
    `ssl_context` gives the context of the current one if that is valid, and is None without TLS.
    """

    def __init__(self, path: Path) -> None:
        self.latest = load(path)
        self.ssl_context = self._current_context if self.latest.context else None
        self._path = path
        self._error: str | None = None

    def current(self) -> WebConfig | None:
        """The configuration that the files have now; None, and an error in the log, if they are invalid."""
        if self._error is None and self.latest.up_to_date:
            return self.latest
        try:
            config = load(self._path)
            self._check_protections(config.protections)
        except ConfigError as error:
            if str(error) != self._error:
                self._error = str(error)
                log.error("web configuration is broken, nothing is served until it is fixed", error=self._error)
            return None
        self.latest, self._error = config, None
        log.info("web configuration read again", path=str(self._path))
        return config

    def protect(self, handler: Handler) -> Handler:
        """Puts the rate limit, then the password, before every answer except those about health."""
        limiter, passwords = _RateLimiter(), _Passwords()

        async def protected(request: web.BaseRequest) -> web.StreamResponse:
            if request.path in HEALTH_PATHS and request.method in READ:
                return await handler(request)
            if (current := self.current()) is None:
                return web.Response(status=500, text="the web configuration is broken; the log says how\n")
            if not limiter.allow(current.rate_limit, time.monotonic_ns()):
                return web.Response(status=429, text="too many requests\n")
            if current.users:
                correct = await passwords.check(current, request.headers.get(hdrs.AUTHORIZATION, ""))
                if correct is None:
                    headers = {hdrs.RETRY_AFTER: "1"}
                    return web.Response(status=503, text="too many passwords to check\n", headers=headers)
                if not correct:
                    challenge = {hdrs.WWW_AUTHENTICATE: 'Basic realm="exporter"'}
                    return web.Response(status=401, text="unauthorized\n", headers=challenge)
            return await handler(request)

        return protected

    def _current_context(self) -> ssl.SSLContext | None:
        current = self.current()
        return current.context if current else None

    def _check_protections(self, new: frozenset[str]) -> None:
        """A file that is still being written looks as if its end had been deleted: that must not remove protections."""
        if lost := self.latest.protections - new:
            keys = ", ".join(sorted(lost))
            raise ConfigError(f"{self._path}: {keys}: can't be switched off while running; restart, or put it back")
        if "tls_server_config" in new - self.latest.protections:
            raise ConfigError(f"{self._path}: tls_server_config: can't be switched on while running; restart")


class _RateLimiter:
    """A token bucket, kept as the time when it will be full: the generic cell rate algorithm, in exact integers."""

    def __init__(self) -> None:
        self._limit: RateLimit | None = None
        self._full_at_ns = 0

    def allow(self, limit: RateLimit | None, now_ns: int) -> bool:
        if limit != self._limit:
            self._limit, self._full_at_ns = limit, now_ns
        if limit is None:
            return True
        full_at_ns = max(self._full_at_ns, now_ns) + limit.interval_ns
        if full_at_ns - now_ns > limit.burst * limit.interval_ns:
            return False
        self._full_at_ns = full_at_ns
        return True


_MAX_PASSWORD_BYTES = 72  # bcrypt ignores further bytes, so any longer password with the same beginning would match
_MAX_WAITING = 16
_MAX_REMEMBERED = 100  # of each outcome, so that a flood of wrong passwords does not push out the right ones


class _Passwords:
    """Checks passwords in a thread, as bcrypt is slow on purpose, and remembers the outcomes under a keyed hash."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._outcomes: dict[bool, deque[bytes]] = {outcome: deque(maxlen=_MAX_REMEMBERED) for outcome in (True, False)}
        self._thread = ThreadPoolExecutor(1, "password")  # DNS lookups that hang may occupy all of asyncio's threads
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def check(self, config: WebConfig, header: str) -> bool | None:
        """Whether an Authorization header is right; None if too many passwords wait for their check."""
        credentials = _credentials(header)
        if credentials is None or len(credentials[1]) > _MAX_PASSWORD_BYTES:
            return False
        user, password = credentials
        hashed = config.users.get(user, config.decoy)
        parts = (user, hashed, password)
        key = blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), key=self._key).digest()
        if (outcome := self._remembered(key)) is not None or self._waiting >= _MAX_WAITING:
            return outcome
        self._waiting += 1
        try:
            async with self._turn:
                if (outcome := self._remembered(key)) is None:
                    matches = asyncio.get_running_loop().run_in_executor(self._thread, bcrypt.checkpw, password, hashed)
                    outcome = await matches and user in config.users
                    self._outcomes[outcome].append(key)
        finally:
            self._waiting -= 1
        return outcome

    def _remembered(self, key: bytes) -> bool | None:
        return next((outcome for outcome, keys in self._outcomes.items() if key in keys), None)


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    """User and password of an Authorization header (RFC 7617), if it has them."""
    scheme, _, encoded = header.partition(" ")
    try:
        user, colon, password = b64decode(encoded.strip(" "), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon and scheme.lower() == "basic" else None
