"""One account's requests: what they contain, which errors answers cause, and what is retried."""

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import formatdate
from itertools import pairwise
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web
from msgspec import field
from structlog.testing import capture_logs
from support import PATIENCE_SECONDS
from support.api import TOKEN, Api, Handler, batch, hang
from support.clock import WallClock
from support.conversation import joined
from support.faults import FAULTS
from support.faulty import PAGE_SIZE, Account, Server, http, listening

from inkit_exporter import __version__
from inkit_exporter.api.batches import AccountLabels, Page, PageRequest
from inkit_exporter.api.client import Client
from inkit_exporter.api.errors import (
    ApiError,
    AuthError,
    BadResponse,
    ConnectionFailed,
    PageRefused,
    QueryRefused,
    RateLimited,
    RequestTimeout,
    ServerError,
    TransientError,
    check_status,
)
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, ApiSettings, Bytes, Filters, PollSettings, Seconds
from inkit_exporter.demo import page_of
from inkit_exporter.errors import ConfigError
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.transport import open_session

BATCH = batch("fb_1")
ONE = json.dumps(page_of([BATCH], 1, PAGE_SIZE)).encode()
RECORD = json.dumps(BATCH).encode()


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (100, BadResponse, "instead of 200; check base_url"),
        (201, BadResponse, "instead of 200; check base_url"),
        (202, BadResponse, "instead of 200; check base_url"),
        (299, BadResponse, "instead of 200; check base_url"),
        (300, BadResponse, "a redirect; the exporter follows none, check base_url"),
        (399, BadResponse, "a redirect; the exporter follows none, check base_url"),
        (400, QueryRefused, "it refuses the query"),
        (401, AuthError, "check the account's token"),
        (403, AuthError, "the key's role lacks the permission"),
        (404, PageRefused, "check base_url"),
        (405, BadResponse, "instead of 200; check base_url"),
        (422, QueryRefused, "it refuses the query"),
        (429, RateLimited, "over its rate limit"),
        (499, BadResponse, "instead of 200; check base_url"),
        (500, ServerError, "an error on the API's side"),
        (599, ServerError, "an error on the API's side"),
    ],
)
def test_each_error_status_has_a_reason_and_a_remedy(status: int, kind: type[ApiError], remedy: str) -> None:
    with pytest.raises(ApiError, match=f"^the API answered {status}.*{remedy}") as raised:
        check_status(status, 7.0, worked_before=False)
    assert type(raised.value) is kind
    if isinstance(raised.value, TransientError):
        assert raised.value.retry_after == 7


def test_a_403_after_a_success_hints_at_a_firewall_or_rate_limiter() -> None:
    with pytest.raises(AuthError, match=r"^the API answered 403, although .* a firewall or rate limiter .* key's role"):
        check_status(403, None, worked_before=True)
    with pytest.raises(AuthError, match=r"^the API answered 401: the API key is not accepted"):
        check_status(401, None, worked_before=True)


def test_retry_after_may_be_missing() -> None:
    for status in (429, 503):
        with pytest.raises(TransientError) as raised:
            check_status(status, None, worked_before=False)
        assert raised.value.retry_after is None


class Keys:
    """Returns the next token at each call, and then keeps the last one."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)

    def __call__(self) -> str:
        if not self.tokens:
            raise ConfigError("there is no token any more")
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]


class Recorder(Usage):
    """A client's usage that also records each request's code and duration."""

    ended: list[tuple[str, float]] = field(default_factory=list)

    def add(self, code: str, seconds: float) -> None:
        super().add(code, seconds)
        self.ended.append((code, seconds))

    @property
    def codes(self) -> list[str]:
        return [code for code, _ in self.ended]


@asynccontextmanager
async def client_of(
    base_url: str,
    *,
    batches: Literal["workflow", "document"] = "workflow",
    filters: Filters | None = None,
    page_size: int = 100,
    patience: float = 10.0,
    lookback: float = 86_400.0,
    token: Callable[[], str] = lambda: TOKEN,
    rate_limiter: RateLimiter | None = None,
    seconds: float = 5.0,
    max_attempts: int = 1,
    max_response_size: int = 100_000,
) -> AsyncIterator[tuple[Client, Recorder]]:
    usage = Recorder(rate_limiter or RateLimiter(1000))
    async with open_session() as session:
        client = Client(
            AccountSettings(name="a", base_url=base_url, batches=batches, filters=filters or Filters()),
            PollSettings(page_size=page_size, interval=Seconds(patience), lookback=Seconds(lookback)),
            ApiSettings(
                timeout=Seconds(seconds), max_attempts=max_attempts, max_response_size=Bytes(max_response_size)
            ),
            token=token,
            session=session,
            usage=usage,
            labels=AccountLabels(),
        )
        yield client, usage


async def whole(client: Client, number: int) -> Page:
    """Request a page and join its parts."""
    return joined(await client.page(PageRequest(number)))


def then(*answers: web.Response | None) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """Answer with these in turn, and then always with the last. None is the simulator's answer."""
    left = list(answers)

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is None:
            return await handler(request)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    return fault


async def test_a_request_has_sort_filters_token_and_user_agent(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(5)]
    filters = Filters(search="batch", destination_name="inkit_storage")
    with capture_logs() as logs:
        async with client_of(api.base_url + "//", filters=filters, page_size=2) as (client, usage):
            page = await whole(client, 2)
    assert [one.id for one in page.batches] == ["fb_2", "fb_3"]
    assert (page.pagination.more, page.pagination.total_count, page.invalid) == (True, 5, 0)
    (request,) = api.requests
    assert dict(request.query) == {
        "page": "2",
        "page_size": "2",
        "sort": "-created_at",
        "search": "batch",
        "destination_name": "inkit_storage",
    }
    assert request.headers["X-Inkit-API-Token"] == TOKEN
    assert request.headers["User-Agent"] == f"inkit-exporter/{__version__}"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Accept-Encoding"] == "identity"
    assert usage.codes == ["200"]
    assert 0 < usage.ended[0][1] < 5
    assert usage.requests == 1
    assert not usage.throttled_seconds
    (told,) = logs
    assert told.pop("seconds") == round(usage.ended[0][1], 3)
    assert told == {
        "log_level": "debug",
        "event": "request",
        "account": "a",
        "path": "/v1/invoke/batch",
        "page": "2",
        "code": "200",
    }


async def test_document_batches_are_requested_at_another_path_in_the_same_way(api: Api) -> None:
    api.batches, api.document_batches = [batch("fb_1")], [batch(f"rb_{i}", age=i) for i in range(5)]
    filters = Filters(search="batch")
    with capture_logs() as logs:
        async with client_of(api.base_url, batches="document", filters=filters, page_size=2) as (client, _):
            page = await whole(client, 2)
    assert [one.id for one in page.batches] == ["rb_2", "rb_3"]
    (request,) = api.requests
    assert request.path == "/v1/batch"
    assert dict(request.query) == {"page": "2", "page_size": "2", "sort": "-created_at", "search": "batch"}
    assert [told["path"] for told in logs] == ["/v1/batch"]


async def test_an_answer_that_is_no_page_is_a_bad_response_that_names_the_place(api: Api) -> None:
    api.fault = then(web.Response(body=b'{"metadata": {}}'))
    async with client_of(api.base_url) as (client, _):
        with pytest.raises(BadResponse, match=r"^page 3 is not a list of batches: .*items"):
            await whole(client, 3)


@pytest.mark.parametrize(
    ("content_type", "told"),
    [
        ("text/html; charset=utf-8", "(200, text/html; charset=utf-8)"),
        (f"text/{TOKEN}", "(200, text/***)"),
        ("x/" + "y" * 90, f"(200, x/{'y' * 78})"),
        (None, "(200, application/octet-stream)"),
    ],
)
async def test_an_answer_that_is_no_json_is_described_by_status_and_type_without_the_token(
    api: Api, content_type: str | None, told: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    api.fault = then(web.Response(body=f"<title>{TOKEN}</title>".encode(), headers=headers))
    async with client_of(api.base_url) as (client, _):
        with pytest.raises(BadResponse) as raised:
            await whole(client, 1)
    assert str(raised.value) == f"page 1 is not a list of batches: it is HTML or XML {told}"


async def test_unreadable_records_are_skipped_and_the_first_problem_is_reported(api: Api) -> None:
    api.batches = [batch("fb_0", age=0), batch("fb_1", age=1, created_at="1"), batch("fb_2", age=2)]
    async with client_of(api.base_url) as (client, _):
        page = await whole(client, 1)
    assert ([one.id for one in page.batches], page.invalid) == (["fb_0", "fb_2"], 1)
    assert page.problems == {"by this machine's clock it is not between 2015 and tomorrow - at `$.created_at`": 2}


async def test_even_a_short_page_is_refused_if_most_of_its_records_are_unreadable(api: Api) -> None:
    api.batches = [batch("fb_0"), batch("fb_1", age=1, created_at="x")]
    async with client_of(api.base_url) as (client, _):
        assert (await whole(client, 1)).invalid == 1
        api.batches[0]["id"] = None
        with pytest.raises(BadResponse, match=r"^page 1: 2 of 2 records can't be read"):
            await whole(client, 1)


async def test_a_large_page_is_read(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i, remark="x" * 100_000) for i in range(30)]
    api.batches[7]["created_at"] = "now"
    async with client_of(api.base_url, max_response_size=10**7) as (client, _):
        page = await whole(client, 1)
        assert [one.id for one in page.batches] == [f"fb_{i}" for i in range(30) if i != 7]
        assert page.invalid == 1
        api.fault = then(web.Response(body=ONE.replace(RECORD, b", ".join([RECORD] * 20_000))))
        assert len((await whole(client, 1)).batches) == 20_000, "5 MB"


@pytest.mark.parametrize("flood", [b"0," * 500_000, b"0," * 2_000_000, b"0," * 500_000 + b'"' + b"x" * 2**20 + b'",'])
async def test_a_flood_of_tiny_values_is_refused_before_it_is_decoded(api: Api, flood: bytes) -> None:
    api.fault = then(web.Response(body=ONE.replace(RECORD, flood + RECORD)))
    async with asyncio.timeout(30), client_of(api.base_url, max_response_size=10**7) as (client, _):
        with pytest.raises(BadResponse, match="page 1 is not a list of batches: it has too many small values"):
            await whole(client, 1)


@pytest.mark.parametrize("status", [400, 422])
async def test_refused_parameters_are_left_out_and_the_error_quotes_the_server_without_the_token(
    api: Api, status: int
) -> None:
    body = json.dumps({"detail": f"page_size is\tno good \u2028 for {TOKEN}" + "!" * 300}).encode()
    api.fault = then(None, None, web.Response(status=status, body=body))
    async with client_of(api.base_url, page_size=99) as (client, _):
        for left_out in (frozenset({"sort"}), frozenset({"sort", "page_size"})):
            joined(await client.page(PageRequest(1, left_out)))
        with pytest.raises(QueryRefused) as raised:
            await whole(client, 1)
    assert [set(request.query) for request in api.requests[:2]] == [{"page", "page_size"}, {"page"}]
    words = raised.value.words
    assert words.startswith('{"detail": "page_size is no good for ***!!!')
    assert (len(words), words.isprintable()) == (200, True)
    assert (
        str(raised.value)
        == f"the API answered {status}: it refuses the query; check the account's base_url; it says: {words}"
    )


async def test_a_refused_query_with_filters_names_them(api: Api) -> None:
    api.fault = then(web.Response(status=400))
    async with client_of(api.base_url, filters=Filters(search="x", destination_name="box")) as (client, _):
        with pytest.raises(QueryRefused) as raised:
            await whole(client, 1)
    named = "check the account's base_url and filters.search and filters.destination_name"
    assert str(raised.value) == f"the API answered 400: it refuses the query; {named}"


@pytest.mark.usefixtures("clock")
async def test_every_fault_has_its_error_class_and_no_error_contains_the_token() -> None:
    some = [batch(f"fb_{i}") for i in range(PAGE_SIZE)]
    accounts = {name: Account(name, "any", fault, some, broken=True) for name, (_, fault) in FAULTS.items()}

    async def ask(name: str, port: int) -> None:
        token = accounts[name].token
        url = f"http://127.0.0.1:{port}/{name}/v1"
        async with client_of(url, token=lambda: token, seconds=3) as (client, usage):
            with pytest.raises(ApiError) as raised:
                await whole(client, 1)
            assert raised.value.reason == FAULTS[name][0], name
            assert token not in str(raised.value), name
            assert str(raised.value) and "None" not in str(raised.value), name
            (code,) = set(usage.codes)
            assert code.isdigit() or code == raised.value.reason, name

    visits = []

    async def visit(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        visits.append(await reader.read(1000))

    async with listening(visit) as foreign:
        server = Server(accounts, f"http://127.0.0.1:{foreign}/steal")
        async with listening(server.converse) as port:
            await asyncio.gather(*(ask(name, port) for name in FAULTS))
    assert not visits and not server.strange


async def test_a_cancelled_request_is_counted_as_cancelled(api: Api) -> None:
    started = asyncio.Event()

    async def hang(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    api.fault = hang
    async with client_of(api.base_url) as (client, usage):
        task = asyncio.create_task(whole(client, 1))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert usage.codes == ["cancelled"]


async def chunked(request: web.Request, _handler: Handler) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(ONE)
    return response


async def test_an_answer_is_limited_in_size_with_or_without_content_length(api: Api) -> None:
    for api.fault in (then(web.Response(body=ONE)), chunked):
        async with client_of(api.base_url, max_response_size=len(ONE)) as (client, _):
            assert len((await whole(client, 1)).batches) == 1
        limit = len(ONE) - 1
        async with client_of(api.base_url, max_response_size=limit) as (client, usage):
            with pytest.raises(BadResponse, match=rf"larger than max_response_size \({limit} bytes\)"):
                await whole(client, 1)
        assert usage.codes == ["200"]


RAW = zlib.compress(ONE)[2:-4]


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(ONE), "gzip"),
        (gzip.compress(ONE), "x-gzip"),
        (gzip.compress(ONE), " GZip "),
        (gzip.compress(ONE), None),
        (zlib.compress(ONE), "deflate"),
        (RAW, "deflate"),
        (RAW, "Deflate"),
        (ONE, "gzip"),
        (ONE, "identity"),
        (ONE, ""),
    ],
)
async def test_a_compressed_answer_is_read_although_the_request_accepts_none(body: bytes, encoding: str | None) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(http(body, content_encoding=encoding))

    async with listening(answer) as port, client_of(f"http://127.0.0.1:{port}/v1") as (client, usage):
        for _ in range(2):
            assert [one.id for one in (await whole(client, 1)).batches] == ["fb_1"]
        assert usage.codes == ["200", "200"]


async def test_the_size_limit_applies_to_the_decompressed_answer(api: Api) -> None:
    api.fault = then(web.Response(body=gzip.compress(ONE), headers={"Content-Encoding": "gzip"}))
    async with client_of(api.base_url, max_response_size=len(ONE)) as (client, _):
        assert len((await whole(client, 1)).batches) == 1
    async with client_of(api.base_url, max_response_size=len(ONE) - 1) as (client, _):
        with pytest.raises(
            BadResponse, match=rf"decompressed answer is larger than max_response_size \({len(ONE) - 1} bytes\)"
        ):
            await whole(client, 1)


@pytest.mark.parametrize(("pack", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
async def test_a_decompression_bomb_fails_as_too_large_before_it_is_decompressed(
    api: Api, pack: Callable[[bytes], bytes], encoding: str
) -> None:
    api.fault = then(web.Response(body=pack(bytes(2**26)), headers={"Content-Encoding": encoding}))
    async with client_of(api.base_url, max_response_size=2**20) as (client, _):
        tracemalloc.start()
        try:
            with pytest.raises(BadResponse, match="decompressed answer is larger than max_response_size"):
                await whole(client, 1)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 4 * 2**20, "a growing body may be in memory twice"


async def test_a_large_compressed_answer_does_not_block_the_event_loop(api: Api) -> None:
    """It measures CPU time, because other programs may be using the machine."""
    body = ONE.replace(RECORD, RECORD + b" " * (8 * 2**20 - len(ONE)))
    api.fault = then(web.Response(body=gzip.compress(body), headers={"Content-Encoding": "gzip"}))
    turns = [time.thread_time()]

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            turns.append(time.thread_time())

    async with client_of(api.base_url, max_response_size=8 * 2**20) as (client, _):
        turning = asyncio.create_task(take_turns())
        parts = await client.page(PageRequest(1))
        turning.cancel()
    assert sum(len(part.batches) for part in parts) == 1
    assert max(later - sooner for sooner, later in pairwise(turns)) < 0.02


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (ONE, "br", "the answer is compressed as br; only gzip and deflate can be read"),
        (ONE, "zstd", "the answer is compressed as zstd; "),
        (ONE, TOKEN, "the answer is compressed as something; "),
        (gzip.compress(ONE)[:-1], "gzip", "the answer's compressed data are cut short"),
        (gzip.compress(ONE)[:-8] + bytes(8), "gzip", "the answer's compressed data are damaged"),
        (ONE, "deflate", "the answer's compressed data are damaged"),
    ],
)
async def test_an_answer_that_cannot_be_decompressed_is_a_bad_response_that_says_why(
    api: Api, body: bytes, encoding: str, error: str
) -> None:
    api.fault = then(web.Response(body=body, headers={"Content-Encoding": encoding}))
    async with client_of(api.base_url, max_attempts=3) as (client, usage):
        with pytest.raises(BadResponse, match=f"^{error}"):
            await whole(client, 1)
    assert usage.codes == ["200"]


def dated(seconds_ahead: float, status: int = 200, **headers: str) -> web.Response:
    """Return an answer from a server whose clock is ahead."""
    date = {"Date": formatdate(time.time() + seconds_ahead, usegmt=True)}
    return web.Response(status=status, body=ONE, headers=date | {k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.usefixtures("wall_clock")
async def test_clock_skew_is_measured_at_the_last_answer_with_a_date(api: Api) -> None:
    async with client_of(api.base_url) as (client, usage):
        assert usage.clock_skew is None
        for ahead in (0, 5000, -5000, 10**9):
            api.fault = then(dated(ahead))
            await whole(client, 1)
            assert usage.clock_skew == pytest.approx(ahead, abs=1.5)
        for no_time in ("soon", "", "Thu, 01 Jan 1970 00:00:00 GMT", "Sun, 99 Foo 2026 99:99:99 GMT"):
            api.fault = then(web.Response(body=ONE, headers={"Date": no_time}))
            await whole(client, 1)
            assert usage.clock_skew == pytest.approx(10**9, abs=1.5)
        for status in (401, 422, 429, 503):
            api.fault = then(dated(status, status))
            with pytest.raises(ApiError):
                await whole(client, 1)
            assert usage.clock_skew == pytest.approx(status, abs=1.5)


async def test_without_a_date_header_the_clock_skew_is_unknown() -> None:
    async def undated(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(ONE))

    async with listening(undated) as port, client_of(f"http://127.0.0.1:{port}/v1") as (client, usage):
        await whole(client, 1)
        assert usage.clock_skew is None


async def test_a_clock_ahead_by_more_than_the_lookback_is_an_error_not_an_empty_window(
    api: Api, wall_clock: WallClock
) -> None:
    async with client_of(api.base_url, lookback=3600.0, max_attempts=3) as (client, usage):
        api.fault = then(dated(-3595))
        assert len((await whole(client, 1)).batches) == 1
        api.fault = then(dated(-3605))
        with pytest.raises(BadResponse, match=r"^this machine's clock is 360\ds ahead of the API's, more than poll"):
            await whole(client, 1)
        assert usage.codes == ["200", "200"]
        for status, kind in ((401, AuthError), (503, ServerError)):
            api.fault = then(dated(-3605, status, Retry_After="300"))
            with pytest.raises(kind):
                await whole(client, 1)
    # A skew below a second may only come from rounding, as `Date` has whole seconds.
    async with client_of(api.base_url, lookback=0.1) as (client, _):
        for _ in range(20):
            api.fault = then(dated(0))
            await whole(client, 1)
            wall_clock.now += 0.05


@pytest.mark.usefixtures("wall_clock")
async def test_a_date_in_retry_after_is_compared_with_the_apis_clock(api: Api) -> None:
    for ahead in (-3600, 3600):
        api.fault = then(dated(ahead, 503, Retry_After=formatdate(time.time() + ahead + 40, usegmt=True)))
        async with client_of(api.base_url) as (client, _):
            with pytest.raises(ServerError) as raised:
                await whole(client, 1)
            assert raised.value.retry_after == pytest.approx(40, abs=1.1)


async def test_if_nobody_listens_the_error_is_the_systems() -> None:
    async with client_of("http://127.0.0.1:1/v1") as (client, usage):
        with pytest.raises(ConnectionFailed, match=r"^cannot connect to 127\.0\.0\.1:\d+: Connect call failed"):
            await whole(client, 1)
    assert (usage.codes, usage.requests) == (["connection"], 1)


async def test_a_request_without_an_answer_ends_after_the_timeout(api: Api) -> None:
    api.fault = hang
    async with asyncio.timeout(30), client_of(api.base_url, seconds=0.2) as (client, usage):
        with pytest.raises(RequestTimeout, match=r"no complete answer within 0\.2s"):
            await whole(client, 1)
    assert usage.codes == ["timeout"]
    assert 0.19 < usage.ended[0][1] < 10


async def test_temporary_failures_are_retried_with_backoff_up_to_max_attempts(api: Api) -> None:
    api.fault = then(web.Response(status=503), web.Response(status=429), None)
    async with client_of(api.base_url, max_attempts=3) as (client, usage):
        started = time.monotonic()
        await whole(client, 1)
        waited = time.monotonic() - started
    assert usage.codes == ["503", "429", "200"]
    assert 0.3 <= waited < 10, "waits of 0.1 s and 0.2 s, each with up to a second of jitter"
    assert not usage.throttled_seconds
    api.fault = then(web.Response(status=503))
    async with asyncio.timeout(30), client_of(api.base_url, max_attempts=2) as (client, usage):
        with pytest.raises(ServerError):
            await whole(client, 1)
    assert usage.codes == ["503", "503"]


@pytest.mark.parametrize("status", [401, 403, 404, 302])
async def test_permanent_failures_are_not_retried(api: Api, status: int) -> None:
    api.fault = then(web.Response(status=status))
    async with client_of(api.base_url, max_attempts=4) as (client, usage):
        with pytest.raises(ApiError):
            await whole(client, 1)
    assert usage.codes == [str(status)]


@pytest.mark.usefixtures("clock")
async def test_all_requests_of_the_account_wait_for_retry_after(api: Api) -> None:
    api.fault = then(web.Response(status=429, headers={"Retry-After": "1"}), None)
    limiter = RateLimiter(1000)
    async with client_of(api.base_url, rate_limiter=limiter, max_attempts=2, patience=1.0) as (client, usage):
        started = time.monotonic()
        asked = asyncio.create_task(whole(client, 1))
        while not usage.codes:
            await asyncio.sleep(0.01)
        assert 0.5 < limiter.delay() <= 1
        await asked
        assert time.monotonic() - started >= 1
    assert usage.codes == ["429", "200"]
    assert 0.5 < usage.throttled_seconds < 10


@pytest.mark.usefixtures("clock", "wall_clock")
async def test_a_retry_after_beyond_the_patience_fails_at_once_and_still_pauses_the_account(api: Api) -> None:
    for when in ("40", formatdate(time.time() + 41, usegmt=True)):
        api.fault = then(web.Response(status=503, headers={"Retry-After": when}))
        limiter = RateLimiter(1000)
        patient = client_of(api.base_url, rate_limiter=limiter, max_attempts=4, patience=38.0)
        async with asyncio.timeout(30), patient as (client, usage):
            with pytest.raises(ServerError) as raised:
                await whole(client, 1)
            assert raised.value.retry_after == pytest.approx(40, abs=1.5)
            assert usage.codes == ["503"]
            assert limiter.delay() == pytest.approx(40, abs=1.5)


@pytest.mark.usefixtures("clock")
async def test_a_request_waits_for_the_rate_limiter_and_the_wait_is_counted(api: Api) -> None:
    limiter = RateLimiter(1000)
    async with client_of(api.base_url, rate_limiter=limiter) as (client, usage):
        started = time.monotonic()
        limiter.pause(0.3)
        await whole(client, 1)
        assert 0.3 <= time.monotonic() - started < 10
        waited = usage.throttled_seconds
        assert 0.25 < waited < 10
        await whole(client, 1)
        assert usage.throttled_seconds == waited


@pytest.mark.usefixtures("clock")
async def test_clients_with_the_same_limiter_share_its_limit(api: Api) -> None:
    limiter = RateLimiter(5)
    async with AsyncExitStack() as stack:
        clients = [
            (await stack.enter_async_context(client_of(api.base_url, rate_limiter=limiter)))[0] for _ in range(12)
        ]
        asking = [asyncio.create_task(whole(client, 1)) for client in clients]
        await asyncio.wait(asking, timeout=1)
        assert len(api.requests) == sum(task.done() for task in asking) == 5
        assert limiter.in_last_minute() == 5
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


@pytest.mark.usefixtures("clock")
async def test_a_pause_for_one_client_delays_the_others_or_fails_them_without_a_request(api: Api) -> None:
    api.fault = then(web.Response(status=429, headers={"Retry-After": "1"}), None)
    limiter = RateLimiter(1000)
    asks = client_of(api.base_url, rate_limiter=limiter)
    patient = client_of(api.base_url, rate_limiter=limiter, patience=1.0)
    impatient = client_of(api.base_url, rate_limiter=limiter, patience=0.1, max_attempts=3)
    async with asks as (client, _), patient as (waits, waited), impatient as (fails, failed):
        with pytest.raises(RateLimited):
            await whole(client, 1)
        with pytest.raises(RateLimited, match="asked another account with this token to wait 1s"):
            await whole(fails, 1)
        assert not failed.requests and not failed.throttled_seconds
        await whole(waits, 1)
        assert waited.throttled_seconds > 0.5
        assert limiter.in_last_minute() == len(api.requests) == 2
        await whole(fails, 1)


async def test_a_refused_token_is_read_again_and_the_new_one_used(api: Api) -> None:
    keys = Keys("old", TOKEN)
    async with client_of(api.base_url, token=keys) as (client, usage):
        await whole(client, 1)
        await whole(client, 1)
    assert usage.codes == ["401", "200", "200"]


async def test_an_unchanged_refused_token_fails_without_another_request(api: Api) -> None:
    keys = Keys("old")
    async with client_of(api.base_url, token=keys) as (client, usage):
        with pytest.raises(AuthError, match="check the account's token"):
            await whole(client, 1)
    assert usage.codes == ["401"]
    keys = Keys("old", "as bad")
    async with client_of(api.base_url, token=keys) as (client, usage):
        with pytest.raises(AuthError, match="check the account's token"):
            await whole(client, 1)
    assert usage.codes == ["401", "401"]


async def test_no_request_is_sent_without_a_token(api: Api) -> None:
    keys = Keys(TOKEN)
    async with client_of(api.base_url, token=keys) as (client, _):
        keys.tokens.clear()
        with pytest.raises(AuthError, match="there is no token any more"):
            await whole(client, 1)
        assert not api.requests
        keys.tokens.append(TOKEN)
        await whole(client, 1)


async def test_a_request_on_a_closed_kept_alive_connection_is_counted_and_retried() -> None:
    async def one_answer_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(ONE))
        await reader.readuntil(b"\r\n\r\n")

    async with listening(one_answer_each) as port:
        url = f"http://127.0.0.1:{port}/v1"
        limiter = RateLimiter(3)
        async with client_of(url, rate_limiter=limiter, max_attempts=2) as (client, usage):
            await whole(client, 1)
            await whole(client, 1)
            assert usage.codes == ["200", "connection", "200"]
            assert (usage.requests, limiter.in_last_minute()) == (3, 3)
            assert all(0 < seconds < 5 for _, seconds in usage.ended)
        async with client_of(url, rate_limiter=RateLimiter(2)) as (client, usage):
            await whole(client, 1)
            with pytest.raises(ConnectionFailed, match=r"broke \(ServerDisconnectedError\)$"):
                await whole(client, 1)
            assert usage.codes == ["200", "connection"]
            assert usage.requests == 2


async def test_cookies_are_not_sent_back_and_accounts_do_not_block_each_other(api: Api) -> None:
    cookies: list[Any] = []

    async def bake(request: web.Request, handler: Handler) -> web.StreamResponse:
        cookies.append(dict(request.cookies))
        response = await handler(request)
        response.set_cookie("session", "s")
        return response

    api.fault = bake
    # By name: aiohttp never keeps cookies of an IP address.
    async with client_of(api.base_url.replace("127.0.0.1", "localhost")) as (client, _):
        await whole(client, 1)
        await whole(client, 1)
    assert cookies == [{}, {}]

    everybody = asyncio.Barrier(101)

    async def wait_for_all(request: web.Request, handler: Handler) -> web.StreamResponse:
        await everybody.wait()
        return await handler(request)

    api.fault = wait_for_all
    async with open_session() as session:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(_ask(session, api.base_url) for _ in range(101)))


async def _ask(session: aiohttp.ClientSession, base_url: str) -> None:
    async with session.get(f"{base_url}/invoke/batch", headers={"X-Inkit-API-Token": TOKEN}) as response:
        assert response.status == 200
