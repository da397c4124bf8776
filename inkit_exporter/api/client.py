"""Requests pages of the list for one account: waits for the rate limit, retries, and raises errors by kind."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Final

import aiohttp
import msgspec
import stamina
import structlog
from yarl import URL

from inkit_exporter.api.batches import EARLIEST, AccountLabels, Page, PageRequest
from inkit_exporter.api.errors import (
    AuthError,
    BadResponse,
    ConnectionFailed,
    QueryRefused,
    RateLimited,
    RequestTimeout,
    TransientError,
    check_status,
)
from inkit_exporter.api.pages import read_page
from inkit_exporter.api.usage import Usage
from inkit_exporter.clock import boot_time
from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings
from inkit_exporter.errors import ConfigError
from inkit_exporter.transport import BodyError, Way, parse_date, parse_retry_after, quote, read_body

_PATHS: Final = {"workflow": "invoke/batch", "document": "batch"}

log = structlog.get_logger()


class Client:
    """Requests pages for one account.

    `token` reads the account's token; it raises ConfigError if there is none. `usage` counts every request. A request
    fails at once if the API asks to wait longer than `poll.interval`. Its last attempt began at `alive_at` (by
    `time.monotonic`), and takes at most `patience` seconds.
    """

    def __init__(
        self,
        account: AccountSettings,
        poll: PollSettings,
        api: ApiSettings,
        *,
        token: Callable[[], str],
        session: aiohttp.ClientSession,
        usage: Usage,
        labels: AccountLabels,
    ) -> None:
        self.alive_at = time.monotonic()
        self.patience = api.timeout
        self._poll = poll
        self._api = api
        self._token = token
        self._session = session
        self._usage = usage
        self._labels = labels
        self._sent_at: float | None = None  # of the request under way
        self._warned = False  # of a `Retry-After` that is not obeyed
        self._url = URL(account.base_url.rstrip("/")) / _PATHS[account.batches]
        self._way = Way(self._url, api)
        filters = {k: v for k, v in msgspec.structs.asdict(account.filters).items() if v is not None}
        self._query = {"page_size": str(poll.page_size), "sort": "-created_at"} | filters
        self._suspects = " and ".join(["base_url", *(f"filters.{name}" for name in filters)])
        self._log = log.bind(account=account.name)
        self._retry = stamina.AsyncRetryingCaller(api.max_attempts, timeout=None)

    async def page(self, request: PageRequest) -> Iterator[Page]:
        """Request a page of the list, newest first. It comes in parts; other tasks may run between them.

        Raises:
            ApiError: one of its kinds, after all attempts. Iterating over the parts may raise BadResponse.
        """
        try:
            return await self._retry(self._backoff, self._with_current_token, request)
        except ConfigError as error:
            raise AuthError(str(error)) from None

    def _backoff(self, error: Exception) -> bool | float:
        """Whether to retry. A pause that the API asks for begins here, for all requests with this token."""
        if not isinstance(error, TransientError):
            return False
        if not error.retry_after:
            return True  # after stamina's backoff
        self._usage.rate_limiter.pause(error.retry_after)  # the next attempt waits for its turn, so for 0 seconds here
        return 0.0 if error.retry_after <= self._poll.interval else False

    async def _with_current_token(self, request: PageRequest) -> Iterator[Page]:
        """Attempt a request. If the API refuses the token and the token has been replaced, try the new one."""
        token = self._token()
        try:
            return await self._attempt(request, token)
        except AuthError:
            if (replaced := self._token()) == token:
                raise
        return await self._attempt(request, replaced)

    async def _attempt(self, request: PageRequest, token: str) -> Iterator[Page]:
        await self._wait_for_turn()
        query = {name: value for name, value in self._query.items() if name not in request.left_out}
        self._sent_at, code = None, "cancelled"
        try:
            async with self._session.get(
                self._url,
                params={"page": request.number, **query},
                headers={"X-Inkit-API-Token": token},
                timeout=aiohttp.ClientTimeout(total=self._api.timeout),
                allow_redirects=False,
                middlewares=(self._send,),
                ssl=self._way.tls(),
                proxy=self._way.proxy,
                proxy_headers=self._way.proxy_headers,
            ) as response:
                code = str(response.status)
                return await self._read(response, request.number, token)
        except BodyError as error:
            raise BadResponse(str(error)) from None
        except TimeoutError:
            code = RequestTimeout.reason
            raise RequestTimeout(f"no complete answer within {self._api.timeout}{self._way.via}") from None
        except (aiohttp.ClientError, ConfigError, OSError, ValueError) as error:
            if words := self._way.explain(error):
                code = ConnectionFailed.reason
                raise ConnectionFailed(words) from None
            code = BadResponse.reason
            raise BadResponse(f"the answer is not valid HTTP ({type(error).__name__})") from None
        finally:
            if self._sent_at is not None:
                seconds, page = time.monotonic() - self._sent_at, str(request.number)
                self._usage.add(code, seconds)
                self._log.debug("request", path=self._url.path, page=page, code=code, seconds=round(seconds, 3))

    async def _read(self, response: aiohttp.ClientResponse, number: int, token: str) -> Iterator[Page]:
        now = self._api_time(response.headers.get("Date", ""))
        retry_after = self._retry_after(response, now, token)
        try:
            check_status(response.status, retry_after, worked_before="200" in self._usage.by_code)
        except QueryRefused as error:
            raise await self._explained(error, response, token) from None
        if (ahead := time.time() - now - 1) > self._poll.lookback:  # `Date` is cut to whole seconds
            problem = f"this machine's clock is {ahead:.0f}s ahead of the API's, more than poll.lookback"
            raise BadResponse(f"{problem}; set the clock")
        body = await read_body(response, self._api.max_response_size)
        if response.status == HTTPStatus.NO_CONTENT:
            body = b'{"items": []}'
        content_type = response.headers.get("Content-Type", "no Content-Type").replace(token, "***")[:80]
        head, also_final = f"{response.status}, {content_type}", self._poll.final_statuses
        return read_page(body, number, self._labels, time.time(), also_final=also_final, secret=token, head=head)

    def _retry_after(self, response: aiohttp.ClientResponse, now: float, token: str) -> float | None:
        text = response.headers.get("Retry-After", "")
        seconds = parse_retry_after(text, now)
        if text and seconds is None and not self._warned:
            self._warned = True
            problem = "ignoring a Retry-After that is no time within 5 minutes, using our own backoff"
            self._log.warning(problem, value=text.replace(token, "***")[:40])
        return seconds

    async def _explained(self, refusal: QueryRefused, response: aiohttp.ClientResponse, token: str) -> QueryRefused:
        """The refusal, with the names of the filters, which may be its reason, and the server's own words."""
        with suppress(BodyError, aiohttp.ClientError, OSError):
            refusal.words = quote(await read_body(response, self._api.max_response_size), token)
        said = f"; it says: {refusal.words}" if refusal.words else ""
        return QueryRefused(f"{refusal}; check the account's {self._suspects}{said}", refusal.words)

    async def _send(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """Send a request once. If a kept connection turns out to be closed, aiohttp calls this again."""
        if self._sent_at is not None:
            raise aiohttp.ServerDisconnectedError  # the next attempt waits for its turn
        self._sent_at = time.monotonic()
        return await handler(request)

    async def _wait_for_turn(self) -> None:
        limiter = self._usage.rate_limiter
        while (delay := limiter.delay()) > 0:
            started = boot_time()
            if (pause := limiter.resume_at - started) > self._poll.interval:
                raise RateLimited(f"the API asked another account with this token to wait {pause:.0f}s", pause)
            await asyncio.sleep(delay)
            self._usage.throttled_seconds += boot_time() - started
        self.alive_at = time.monotonic()
        limiter.count_request()  # at once, because another account with the same token may wait too

    def _api_time(self, date: str) -> float:
        """The API's wall time by the `Date` of an answer, or our wall time if that is not a valid time."""
        ours, theirs = time.time(), parse_date(date)
        if theirs is None or theirs < EARLIEST:
            return ours
        self._usage.clock_skew = theirs - ours
        return theirs
