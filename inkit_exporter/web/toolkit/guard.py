"""Serving by a web configuration: TLS for connections, and what each request must pass before it is answered."""

import asyncio
import binascii
import secrets
import ssl
import time
from base64 import b64decode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import bcrypt
import structlog
from aiohttp import hdrs, web

from inkit_exporter.errors import ConfigError
from inkit_exporter.web.limits import HEALTH_PATHS, Handler
from inkit_exporter.web.toolkit.config import RateLimit, WebSettings, load

log = structlog.get_logger()


class LiveWebSettings:
    """The web configuration as the files have it now; while they are broken there is none, and nothing is served."""

    def __init__(self, path: Path) -> None:
        """Read the files. Raises ConfigError."""
        self._path = path
        self._settings = load(path)
        self._complaint: str | None = None
        self.ssl_context = _CurrentContext(ssl.PROTOCOL_TLS_SERVER, self) if self._settings.context else None

    def current(self) -> WebSettings | None:
        """The settings to serve with, read again if a file has changed; None if that went wrong, which is logged."""
        if self._complaint is None and self._settings.up_to_date:
            return self._settings
        try:
            settings = load(self._path)
            self._refuse_switching(settings.protections)
        except ConfigError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("web configuration is broken, nothing is served until it is mended", error=self._complaint)
            return None
        self._settings, self._complaint = settings, None
        log.info("web configuration read again", path=str(self._path))
        return settings

    @property
    def protections(self) -> frozenset[str]:
        """The keys that keep somebody out."""
        return self._settings.protections

    @property
    def headers(self) -> Mapping[str, str]:
        """For every answer."""
        return self._settings.headers

    def _refuse_switching(self, new: frozenset[str]) -> None:
        """A file that is being written looks as if its end had been deleted: that must not open the doors."""
        if lost := self._settings.protections - new:
            keys = ", ".join(sorted(lost))
            raise ConfigError(f"{self._path}: {keys}: can't be switched off while running; restart, or put it back")
        if "tls_server_config" in new - self._settings.protections:
            raise ConfigError(f"{self._path}: tls_server_config: can't be switched on while running; restart")


def protect(handler: Handler, live: LiveWebSettings) -> Handler:
    """Put the rate limit, then the password, before each answer but those for health."""
    limiter, passwords = _Limiter(), _Passwords()

    async def refuse(request: web.BaseRequest) -> web.Response | None:
        settings = live.current()
        if settings is None:
            return web.Response(status=500, text="the web configuration is broken; the log says how\n")
        if not limiter.take(settings.rate_limit, time.monotonic_ns()):
            return web.Response(status=429, text="too many requests\n")
        if settings.users:
            match await passwords.match(settings, request.headers.get(hdrs.AUTHORIZATION, "")):
                case None:
                    retry = {hdrs.RETRY_AFTER: "1"}
                    return web.Response(status=503, text="too many passwords to check\n", headers=retry)
                case False:
                    challenge = {hdrs.WWW_AUTHENTICATE: 'Basic realm="exporter"'}
                    return web.Response(status=401, text="unauthorized\n", headers=challenge)
        return None

    async def guarded(request: web.BaseRequest) -> web.StreamResponse:
        is_open = request.path in HEALTH_PATHS and request.method in {hdrs.METH_GET, hdrs.METH_HEAD}
        refusal = None if is_open else await refuse(request)
        return await handler(request) if refusal is None else refusal

    return guarded


class _Limiter:
    """The token bucket, kept as the time at which it will be full (the generic cell rate algorithm): exact integers."""

    def __init__(self) -> None:
        self._limit: RateLimit | None = None
        self._full_at = 0

    def take(self, limit: RateLimit | None, now_ns: int) -> bool:
        if limit != self._limit:
            self._limit, self._full_at = limit, now_ns
        if limit is None:
            return True
        full_at = max(self._full_at, now_ns) + limit.interval_ns
        if full_at - now_ns > limit.burst * limit.interval_ns:
            return False
        self._full_at = full_at
        return True


class _Passwords:
    """Checks of passwords, slow by intent: one at a time, off the event loop, remembered under a keyed hash."""

    _REMEMBERED = 100  # of each outcome; so that a flood of wrong passwords pushes out no right one
    _WAITING = 16

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[bool, dict[bytes, None]] = {True: {}, False: {}}
        self._thread = ThreadPoolExecutor(1, "password")  # asyncio's own may wait for look-ups of names that hang
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def match(self, settings: WebSettings, header: str) -> bool | None:
        """Whether a header has a user's name and password; None if too many others are being checked."""
        credentials = _credentials(header)
        if credentials is None or len(credentials[1]) > _MAX_PASSWORD:
            return False
        user, password = credentials
        hashed = settings.users.get(user, settings.decoy)
        parts = (user, hashed, password)
        key = blake2b(b"".join(b"%d:%b" % (len(part), part) for part in parts), key=self._key).digest()
        for outcome, keys in self._known.items():
            if key in keys:
                return outcome
        if self._waiting >= self._WAITING:
            return None
        self._waiting += 1
        try:
            async with self._turn:
                if key not in self._known[True] and key not in self._known[False]:
                    loop = asyncio.get_running_loop()
                    right = await loop.run_in_executor(self._thread, bcrypt.checkpw, password, hashed)
                    self._remember(key, outcome=right and user in settings.users)
        finally:
            self._waiting -= 1
        return key in self._known[True]

    def _remember(self, key: bytes, *, outcome: bool) -> None:
        keys = self._known[outcome]
        if len(keys) >= self._REMEMBERED:
            del keys[next(iter(keys))]
        keys[key] = None


_MAX_PASSWORD = 72  # bcrypt looks at no further bytes: a longer one would be right whatever its end


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    """User and password of an Authorization header (RFC 7617); None unless it has them."""
    scheme, _, encoded = header.partition(" ")
    try:
        user, colon, password = b64decode(encoded.strip(" "), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon and scheme.lower() == "basic" else None


class _CurrentContext(ssl.SSLContext):
    """Gives each new connection the context of the moment, whole.

    Switching contexts in a callback of the handshake would change the certificate only, not the CAs nor the versions.
    """

    def __new__(cls, protocol: int, _live: LiveWebSettings) -> "_CurrentContext":
        return super().__new__(cls, protocol)

    def __init__(self, _protocol: int, live: LiveWebSettings) -> None:
        self._live = live

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        settings = self._live.current()
        context = settings.context if settings else None
        return (context or _NOBODY).wrap_bio(*args, **kwargs)


_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate it refuses every handshake
