"""While the API fails: what is retried and when, what stays published, and which token is used."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.api import TOKEN, Api, Handler, batch
from support.exporter import StartExporter, write_config
from support.samples import documents, failures, sample_key, up

GOOD = {("inkit_storage", "completed"): 1.0}

Fault = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def answer(status: int, **headers: str) -> Fault:
    async def fault(_request: web.Request, _handler: Handler) -> web.Response:
        return web.Response(status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return fault


def searching(*words: str) -> list[dict[str, Any]]:
    """An account for each word. It sends the word in each request, so a fault can tell them apart."""
    return [{"name": word, "filters": {"search": word}} for word in words]


async def answer_what_is_searched_for(request: web.Request, _handler: Handler) -> web.StreamResponse:
    """A fault: the status that the account is named after."""
    return web.Response(status=int(request.query["search"]))


async def test_permanent_failures_cost_one_request_a_poll(api: Api, exporter: StartExporter) -> None:
    api.fault, statuses = answer_what_is_searched_for, ("401", "403", "404", "302")
    running = await exporter(poll={"page_size": 25}, limits={"max_attempts": 4}, accounts=searching(*statuses))
    samples = await running.wait_for(lambda s: all(up(s, status) == 0 for status in statuses))
    for status in statuses:
        assert samples[sample_key("inkit_poll_requests", account=status)] == 1, status


async def test_an_api_that_refuses_every_request_costs_one_request_a_poll_after_the_first_tries(
    api: Api, exporter: StartExporter
) -> None:
    api.fault, statuses = answer_what_is_searched_for, ("400", "422")
    running = await exporter(limits={"max_attempts": 4}, accounts=searching(*statuses))
    samples = await running.wait_for(lambda s: all(failures(s, "bad_response", status) >= 3 for status in statuses))
    for status in statuses:
        polls = samples[sample_key("inkit_polls_total", account=status)]
        assert samples[sample_key("inkit_api_requests_total", account=status, code=status)] <= 3 + polls + 1
        assert samples[sample_key("inkit_poll_requests", account=status)] == 1
    assert not [line for line in running.log if "the API refuses" in line]


async def test_temporary_failures_are_retried_up_to_max_attempts(api: Api, exporter: StartExporter) -> None:
    api.fault = answer(500)
    running = await exporter(poll={"interval": "1h"}, limits={"max_attempts": 3})
    samples = await running.wait_for(lambda s: up(s) == 0)
    assert samples[sample_key("inkit_poll_requests", account="default")] == 3
    assert samples[sample_key("inkit_api_requests_total", account="default", code="500")] == 3


async def test_a_poll_succeeds_if_a_retry_succeeds(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch("fb_1")]

    async def first_fails(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(status=503) if len(api.requests) == 1 else await handler(request)

    api.fault = first_fails
    running = await exporter(poll={"interval": "1h"}, limits={"max_attempts": 2})
    samples = await running.wait_for(lambda s: up(s) is not None)
    assert up(samples) == 1
    assert documents(samples) == GOOD


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_obeyed_in_both_its_forms(api: Api, exporter: StartExporter, form: str) -> None:
    times: list[float] = []

    async def throttle_once(request: web.Request, handler: Handler) -> web.StreamResponse:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            now = datetime.now(UTC)
            value = "2" if form == "seconds" else format_datetime(now + timedelta(seconds=2), usegmt=True)
            return web.Response(status=429, headers={"Retry-After": value, "Date": format_datetime(now, usegmt=True)})
        return await handler(request)

    api.fault = throttle_once
    running = await exporter(poll={"interval": "30s"}, limits={"max_attempts": 2})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert 1.9 <= times[1] - times[0] <= 20
    assert samples[sample_key("inkit_api_throttled_seconds_total", account="default")] >= 1.9


async def test_a_retry_after_longer_than_the_interval_fails_the_poll_and_pauses_the_account(
    api: Api, exporter: StartExporter
) -> None:
    api.fault = answer(429, Retry_After="300")
    running = await exporter(limits={"max_attempts": 4})
    samples = await running.wait_for(lambda s: up(s) == 0)
    assert failures(samples, "rate_limited") == 1
    await asyncio.sleep(1)  # five intervals, in which the exporter must send no request
    assert len(api.requests) == 1


async def test_a_pause_between_polls_counts_as_throttled_time(api: Api, exporter: StartExporter) -> None:
    asked = answer(429, Retry_After="2")

    async def first_pauses(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await (asked(request, handler) if len(api.requests) == 1 else handler(request))

    api.fault = first_pauses
    running = await exporter()  # the pause is longer than the interval, so no request waits, but the next poll
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert failures(samples, "rate_limited") == 1
    assert 1.5 < samples[sample_key("inkit_api_throttled_seconds_total", account="default")] < 10


async def test_an_implausible_retry_after_is_ignored_and_logged_once(api: Api, exporter: StartExporter) -> None:
    values = "1764106109", "30000", "2026-11-25T21:30:00Z", "301", "soon"

    async def throttle(request: web.Request, _handler: Handler) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": request.query["search"]})

    api.fault = throttle
    running = await exporter(limits={"max_attempts": 2}, accounts=searching(*values))
    await running.wait_for(lambda s: all(failures(s, "rate_limited", value) >= 3 for value in values))
    for value in values:
        assert sum(request.query["search"] == value for request in api.requests) >= 6, value
    api.fault = None
    await running.wait_for(lambda s: all(up(s, value) == 1 for value in values))
    lines = [line for line in running.log if "Retry-After" in line]
    assert all("level=warning" in line for line in lines)
    assert sorted(line.partition("value=")[2].split()[0] for line in lines) == sorted(values)


async def test_a_403_after_successful_polls_hints_at_a_firewall_or_rate_limiter(
    api: Api, exporter: StartExporter
) -> None:
    api.fault = answer(403)
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 0)
    assert "firewall" not in await running.wait_for_line("account is down")
    api.fault = None
    await running.wait_for(lambda s: up(s) == 1)
    api.fault, seen = answer(403), len(running.log)
    assert "a firewall or rate limiter may refuse the exporter" in await running.wait_for_line("account is down", seen)
    assert failures(await running.samples(), "auth") >= 2


async def test_only_requests_have_a_time_limit_not_polls(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(10)]

    async def slow(request: web.Request, handler: Handler) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return await handler(request)

    api.fault = slow
    running = await exporter(poll={"stale_after": "1s", "page_size": 1})
    samples = await running.wait_for(lambda s: up(s) is not None)
    assert up(samples) == 1
    assert samples[sample_key("inkit_poll_duration_seconds", account="default")] > 2


async def test_a_stale_snapshot_is_withdrawn_and_replaced_as_soon_as_the_api_recovers(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch("fb_1")]
    running = await exporter("--web.enable-lifecycle", poll={"stale_after": "1h"})
    await running.wait_for(lambda s: documents(s) == GOOD)
    api.fault = answer(500)
    kept = await running.wait_for(lambda s: up(s) == 0)
    assert documents(kept) == GOOD
    write_config(tmp_path, api.base_url, poll={"stale_after": "1s"})
    async with running.http.post("/-/reload") as response:
        assert response.status == 200
    withdrawn = await running.wait_for(lambda s: documents(s) == {})
    assert up(withdrawn) == 0
    assert not any(key.startswith(("inkit_batches{", "inkit_window_truncated", "inkit_newest")) for key in withdrawn)
    assert sample_key("inkit_last_successful_poll_timestamp_seconds", account="default") in withdrawn
    api.fault = None
    await running.wait_for(lambda s: up(s) == 1 and documents(s) == GOOD)


async def test_a_replaced_token_is_used_at_the_next_poll(api: Api, exporter: StartExporter, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("revoked")
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 0)
    assert failures(samples, "auth") >= 1
    token.write_text(TOKEN)
    await running.wait_for(lambda s: up(s) == 1)


async def test_a_token_replaced_during_a_poll_is_read_again_at_the_401(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    async def rotate(request: web.Request, handler: Handler) -> web.StreamResponse:
        token.write_text(TOKEN)
        return await handler(request)

    api.fault = rotate
    running = await exporter(poll={"interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) is not None)
    assert up(samples) == 1
    assert samples[sample_key("inkit_poll_requests", account="default")] == 2


async def test_a_removed_token_fails_polls_as_auth_without_any_request(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    (tmp_path / "token").unlink()
    failed = await running.wait_for(lambda s: failures(s, "auth") >= 1)
    asked = len(api.requests)
    await running.wait_for(lambda s: failures(s, "auth") >= failures(failed, "auth") + 2)
    assert len(api.requests) == asked
    assert any("token can't be read" in line for line in running.log)


async def test_the_budget_limits_the_requests_a_minute_and_the_wait_is_exported(
    api: Api, exporter: StartExporter
) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(100)]
    running = await exporter(poll={"page_size": 10}, limits={"requests_per_minute": 4})
    await running.wait_for(lambda _: len(api.requests) == 4)
    await asyncio.sleep(1)
    assert len(api.requests) == 4
    assert up(await running.samples()) is None
    assert (await running.get("/-/ready"))[0] == 200
    assert (await running.get("/-/healthy"))[0] == 200


async def test_no_page_log_or_error_contains_the_token(api: Api, exporter: StartExporter) -> None:
    async def echo(request: web.Request, _handler: Handler) -> web.Response:
        return web.Response(text=str(dict(request.headers)), status=500, reason=f"no {TOKEN}")

    api.fault = echo
    running = await exporter("--log.level=debug")
    await running.wait_for(lambda s: up(s) == 0)
    for path in ("/", "/metrics", "/api/v1/status", "/nothing"):
        assert TOKEN not in (await running.get(path))[1]
    requests = [line for line in running.log if "msg=request" in line]
    assert requests and all("code=500" in line and "seconds=" in line for line in requests)
    # The fixture asserts after every test that the log does not contain the token.


async def test_control_characters_and_line_breaks_are_escaped_in_the_log(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    odd = tmp_path / "red\x1b[31m\u2028\x85\r\n"
    odd.mkdir()
    path = write_config(odd, api.base_url)
    running = await exporter(f"--config.file={path}")
    path.write_text("nonsense")
    running.process.send_signal(signal.SIGHUP)
    assert r"/red\\x1b[31m" in await running.wait_for_line("not reloaded")
    assert all(line.rstrip("\n").isprintable() for line in running.log)


async def test_a_budget_that_is_too_small_is_logged_once_with_the_numbers(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i, status="In Progress") for i in range(30)]
    running = await exporter(poll={"page_size": 10}, limits={"requests_per_minute": 12, "max_attempts": 1})
    # Every poll takes 3 requests, which is 900 a minute at this interval.
    await running.wait_for(lambda s: s[sample_key("inkit_polls_total", account="default")] >= 3)
    told = [line for line in running.log if "polls need more than requests_per_minute" in line]
    assert len(told) == 1
    assert "requests=3" in told[0]
    assert "requests_per_minute_needed=900" in told[0] and "requests_per_minute=12" in told[0]
