"""One account's requests to the API: a page of the list, or one batch; with budget, retries and kinds of error."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol
from urllib.parse import quote

import aiohttp
import msgspec
import stamina
import structlog
from msgspec import Raw
from yarl import URL

from inkit_exporter import __version__
from inkit_exporter.api.batches import (
    AT_ONCE_BYTES,
    AccountLabels,
    Batch,
    Body,
    MalformedBatch,
    MalformedPage,
    Page,
    Pagination,
    Record,
    decode_page,
    make_batch,
    split_page,
)
from inkit_exporter.api.errors import (
    AuthError,
    BadResponse,
    ConnectionFailed,
    NotFound,
    QueryRefused,
    RequestTimeout,
    TransientError,
    check_status,
)
from inkit_exporter.api.rate_limit import Budget
from inkit_exporter.config import AccountSettings, ApiSettings
from inkit_exporter.errors import ConfigError

DEFAULT_PAGE_SIZE: Final = 25
"""The API's documented page size, for when it refuses the configured one."""

# Records made batches in one go, about 0.1 ms, or 0.5 where each is decoded apart: in between, scrapes are answered.
_RECORDS_AT_ONCE = 200
# The API writes 14 bytes or more for each value. Millions of tiny ones would unfold to thirty times their bytes.
_LEAST_BYTES_A_VALUE = 10
_COUNT_AT_ONCE = 2**20
# So many records, none of which can be read, are more likely those of another API than slips.
_ANOTHER_API = 10

log = structlog.get_logger()


class RequestMeter(Protocol):
    """What the client tells of its requests."""

    def request(self, code: str, seconds: float) -> None:
        """One request ended, with an HTTP status or what came instead: a `reason` of ours, or `cancelled`."""

    def throttled(self, seconds: float) -> None:
        """A request waited for the account's budget, or for the time that the API named."""


class Client:
    """One account's view of the API.

    Args:
        account: name, base URL and filters.
        api: limits of one request.
        page_size: what to ask for; the API may use another.
        patience: the longest wait, in seconds, for a time that the API named; longer ones fail the request at once.
        token: reads the account's token, and raises ConfigError if there is none.
        session: as `open_session` makes it.
        meter: is told of every request.
        budget: of the account.
        labels: the account's label values so far.
    """

    def __init__(
        self,
        account: AccountSettings,
        api: ApiSettings,
        *,
        page_size: int,
        patience: float,
        token: Callable[[], str],
        session: aiohttp.ClientSession,
        meter: RequestMeter,
        budget: Budget,
        labels: AccountLabels,
    ) -> None:
        self.page_size = page_size
        self.requests = 0
        self.budget = budget
        self.labels = labels
        self._api = api
        self._patience = patience
        self._read_token = token
        self._token: str | None = None
        self._sent_at: float | None = None
        self._told_of_malformed = False
        self._session = session
        self._meter = meter
        self._url = URL(account.base_url.rstrip("/")) / "invoke" / "batch"
        self._query = {k: v for k, v in msgspec.structs.asdict(account.filters).items() if v is not None}
        self._log = log.bind(account=account.name)

    def refresh_token(self) -> None:
        """Read the token again; the first request does it as well.

        Raises:
            AuthError: there is none.
        """
        try:
            self._token = self._read_token()
        except ConfigError as error:
            self._token = None
            raise AuthError(str(error)) from None

    async def page(self, number: int) -> Page:
        """Page `number`, from 1, of the list in the order newest first.

        A page size that the API refuses gives way, once and for good, to the documented default.

        Raises:
            ApiError: one of its kinds, after as many attempts as it is worth.
        """
        try:
            return await self._page(number, self.page_size)
        except QueryRefused:
            if number != 1 or self.page_size == DEFAULT_PAGE_SIZE:
                raise
        page = await self._page(number, DEFAULT_PAGE_SIZE)
        self._log.warning(
            "the API refuses the page size, using its default", page_size=self.page_size, default=DEFAULT_PAGE_SIZE
        )
        self.page_size = DEFAULT_PAGE_SIZE
        return page

    async def batch(self, batch_id: str) -> Batch | None:
        """One batch by its id; None if the API has none of that id.

        Raises:
            ApiError: as `page`.
        """
        try:
            body = await self._get(self._url.joinpath(quote(batch_id, safe=""), encoded=True), {})
            return make_batch(body, self.labels)
        except NotFound:
            return None
        except MalformedBatch as error:
            raise BadResponse(f"the API's answer is not a batch: {error}") from None

    async def _page(self, number: int, page_size: int) -> Page:
        query = {"page": str(number), "page_size": str(page_size), "sort": "-created_at", **self._query}
        body = await self._get(self._url, query)
        try:
            records, pagination = await _decode(body)
        except MalformedPage as error:
            raise BadResponse(f"page {number} is not a list of batches: {error}") from None
        batches: list[Batch] = []
        for i, record in enumerate(records, start=1):
            try:
                batches.append(make_batch(record, self.labels))
            except MalformedBatch as error:
                tell = self._log.debug if self._told_of_malformed else self._log.warning
                tell("skipped a malformed batch; later ones are told at debug", page=number, record=i, error=str(error))
                self._told_of_malformed = True
            if i % _RECORDS_AT_ONCE == 0:
                await asyncio.sleep(0)
        if len(records) >= _ANOTHER_API and not batches:
            raise BadResponse(f"page {number} has {len(records)} records and none can be read as a batch")
        return Page(batches, pagination, invalid=len(records) - len(batches))

    async def _get(self, url: URL, query: Mapping[str, str]) -> Body:
        retries = stamina.retry_context(
            on=self._backoff,
            attempts=self._api.max_attempts,
            timeout=None,
            wait_initial=0.25,
            wait_max=10.0,
            wait_jitter=0.5,
        )
        async for attempt in retries:
            with attempt:
                return await self._authorised(url, query)
        raise AssertionError("the last attempt returns or raises")

    def _backoff(self, error: Exception) -> bool | float:
        """Whether to try again, and after how long: stamina's backoff where the API names no time."""
        if not isinstance(error, TransientError):
            return False
        if not error.retry_after:
            return True
        self.budget.pause(error.retry_after)
        # The budget keeps the pause, for this attempt and for all that the account asks.
        return 0.0 if error.retry_after <= self._patience else False

    async def _authorised(self, url: URL, query: Mapping[str, str]) -> Body:
        if self._token is None:
            self.refresh_token()
        sent = self._token
        try:
            return await self._attempt(url, query)
        except AuthError:
            self.refresh_token()
            if self._token == sent:
                raise
        return await self._attempt(url, query)

    async def _attempt(self, url: URL, query: Mapping[str, str]) -> Body:
        await self._wait_for_budget()
        self._sent_at = None
        code = "cancelled"
        try:
            async with self._session.get(
                url,
                params=query,
                headers={"X-Inkit-API-Token": self._token or ""},
                timeout=aiohttp.ClientTimeout(total=self._api.timeout),
                allow_redirects=False,
                middlewares=(self._send,),
            ) as response:
                code = str(response.status)
                check_status(response.status, response.headers.get("Retry-After"), time.time())
                return await _read(response, self._api.max_response_size)
        except TimeoutError:
            code = RequestTimeout.reason
            raise RequestTimeout(f"no whole answer within {self._api.timeout}") from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            code = ConnectionFailed.reason
            raise ConnectionFailed(_describe(error)) from None
        except (aiohttp.ClientError, ValueError) as error:
            code = BadResponse.reason
            raise BadResponse(f"the answer is not HTTP as it should be ({type(error).__name__})") from None
        finally:
            if self._sent_at is not None:
                seconds = time.monotonic() - self._sent_at
                self._meter.request(code, seconds)
                self._log.debug("request", path=url.path, page=query.get("page"), code=code, seconds=round(seconds, 3))

    async def _send(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        """Count each sending, as aiohttp sends again by itself where a kept connection turns out to be closed."""
        now = time.monotonic()
        if self._sent_at is not None:
            self._meter.request(ConnectionFailed.reason, now - self._sent_at)
            self._sent_at = None
            if self.budget.delay() > 0:
                raise aiohttp.ServerDisconnectedError
        self._sent_at = now
        self.budget.spend()
        self.requests += 1
        return await handler(request)

    async def _wait_for_budget(self) -> None:
        started = time.monotonic()
        while (delay := self.budget.delay()) > 0:  # noqa: ASYNC110 - until a time, which a 429 may move
            await asyncio.sleep(delay)
        if (waited := time.monotonic() - started) > 0.001:  # noqa: PLR2004 - less is only the clock's
            self._meter.throttled(waited)


def open_session() -> aiohttp.ClientSession:
    """A session without cookies, and without compression, as the size of what it unfolds to could not be bounded."""
    return aiohttp.ClientSession(
        # An account has one connection in use, at most; a common limit would let some hold up the others.
        connector=aiohttp.TCPConnector(limit=0),
        headers={
            "User-Agent": f"inkit-exporter/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


async def _decode(body: Body) -> tuple[Sequence[Record | Raw], Pagination]:
    """A page's records and its pagination; each record still undecoded if one is malformed, or if they are many.

    Raises:
        MalformedPage: it is not JSON of the documented shape.
    """
    if len(body) <= AT_ONCE_BYTES:
        with suppress(MalformedPage):
            return decode_page(body)
    values = 0
    for start in range(0, len(body), _COUNT_AT_ONCE):
        values += body.count(b",", start, start + _COUNT_AT_ONCE)
        await asyncio.sleep(0)
    if values > max(_COUNT_AT_ONCE, len(body)) / _LEAST_BYTES_A_VALUE:
        raise MalformedPage("its values are too many and too small to be batches")
    return split_page(body)


async def _read(response: aiohttp.ClientResponse, limit: int) -> Body:
    too_large = BadResponse(f"the answer is larger than max_response_size ({limit} bytes)")
    if (response.content_length or 0) > limit:
        response.close()
        raise too_large
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            response.close()
            raise too_large
    return body


def _describe(error: Exception) -> str:
    """The cause in words, if they are the system's or TLS's; aiohttp's may quote the server, which may quote us."""
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) and str(error) else type(error).__name__
