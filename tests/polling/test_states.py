"""The state of an account after each poll of the simulated API, without an exporter process."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise

from aiohttp import web
from msgspec.structs import replace
from structlog.testing import capture_logs
from support import PATIENCE_SECONDS
from support.api import TOKEN, Api, Handler, batch

from inkit_exporter.config import AccountSettings, ApiSettings, Bytes, Filters, PollSettings, Seconds, Settings
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import AccountState, States
from inkit_exporter.transport import open_session


class World:
    """One account `a`, which the test polls."""

    def __init__(self, accounts: Accounts, states: States) -> None:
        self.accounts = accounts
        self.states = states

    async def poll(self) -> AccountState:
        """Poll, and return the new state."""
        succeeded = await self.accounts.poll_once()
        assert succeeded is self.states["a"].up
        return self.states["a"]


def settings(base_url: str, *, poll: PollSettings | None = None, api: ApiSettings | None = None) -> Settings:
    return Settings(
        accounts=(AccountSettings(name="a", api_token_env="T", base_url=base_url),),
        poll=poll or PollSettings(interval=Seconds(60), page_size=10),
        api=api or ApiSettings(timeout=Seconds(5), max_attempts=1, requests_per_minute=1000),
    )


@asynccontextmanager
async def world(configured: Settings, environ: Mapping[str, str] | None = None) -> AsyncIterator[World]:
    states = States()
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN} if environ is None else environ, states)
        accounts.apply(configured)
        yield World(accounts, states)


def answers(status: int) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    async def fault(_request: web.Request, _handler: Handler) -> web.StreamResponse:
        return web.Response(status=status)

    return fault


async def test_a_successful_poll_records_its_result_and_its_requests(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i, destinations={"box": (1, 2, 3)}) for i in range(25)]
    async with world(settings(api.base_url)) as one:
        assert one.states["a"].up is None
        first = await one.poll()
        assert (first.up, first.polls, first.poll_requests, first.reason, first.error) == (True, 1, 3, None, None)
        assert first.snapshot is not None and first.snapshot.batches == {"completed": 25}
        assert first.usage.by_code == {"200": 3}
        assert 0 < first.duration < 5
        assert first.last_success == first.poll_ended_at
        assert first.newest_first and first.down_since is None
        second = await one.poll()
        assert (second.polls, second.poll_requests, second.usage.requests) == (2, 3, 6), "all batches are unfinished"
        assert second.last_success is not None and first.last_success is not None
        assert second.last_success > first.last_success


async def test_a_failed_poll_keeps_the_snapshot_and_records_since_when(api: Api) -> None:
    api.batches = [batch("fb_1")]
    with capture_logs() as logs:
        async with world(settings(api.base_url)) as one:
            good = await one.poll()
            api.fault = answers(500)
            down = await one.poll()
            still = await one.poll()
            api.fault = answers(401)
            refused = await one.poll()
            api.fault = None
            again = await one.poll()
    assert (down.up, down.reason, down.polls) == (False, "server_error", 2)
    assert down.snapshot is good.snapshot and down.snapshot_at == good.snapshot_at
    assert down.last_success == good.last_success
    assert still.down_since == down.down_since is not None
    assert refused.failures == {"server_error": 2, "auth": 1}
    assert refused.error is not None and "check the account's token" in refused.error
    assert (again.up, again.down_since, again.reason, again.error) == (True, None, None, None)
    told = [
        (line["event"], line["log_level"], line.get("reason")) for line in logs if line["event"].startswith("account")
    ]
    assert told == [
        ("account is down", "error", "server_error"),
        ("account is still down", "debug", "server_error"),
        ("account is still down", "debug", "auth"),
        ("account is up again", "info", None),
    ]


async def test_totals_count_only_what_happens_after_the_first_poll(api: Api) -> None:
    api.batches = [batch("fb_1", destinations={"box": (5, 0, 0)})]
    async with world(settings(api.base_url)) as one:
        assert (await one.poll()).totals.created.value == 0
        api.batches.insert(0, batch("fb_2", age=1, destinations={"box": (2, 1, 0)}))
        state = await one.poll()
        assert state.totals.created.value == 1
        assert {name: counter.value for name, counter in state.totals.completed.items()} == {"box": 2}
        assert {name: counter.value for name, counter in state.totals.failed.items()} == {"box": 1}
        assert {status: counter.value for status, counter in state.totals.finished.items()} == {"completed": 1}


async def test_a_published_state_does_not_change(api: Api) -> None:
    api.batches = [batch("fb_1", status="In Progress", destinations={"box": (0, 0, 3)})]
    async with world(settings(api.base_url)) as one:
        before = await one.poll()
        totals = before.totals.copy()
        api.batches = [batch("fb_1", destinations={"box": (3, 0, 0)})]
        after = await one.poll()
        assert before.totals == totals != after.totals
        assert before.snapshot != after.snapshot


async def test_new_limits_keep_snapshot_totals_and_sent_requests(api: Api) -> None:
    api.batches = [batch("fb_1")]
    configured = settings(api.base_url)
    async with world(configured) as one:
        await one.poll()
        api.batches.insert(0, batch("fb_2", age=1))
        before = await one.poll()
        changes = one.states.changes
        one.accounts.apply(configured)
        assert one.states["a"] is before, "nothing has changed"
        faster = replace(
            configured, poll=replace(configured.poll, interval=Seconds(30)), api=ApiSettings(requests_per_minute=7)
        )
        one.accounts.apply(faster)
        kept = one.states["a"]
        assert one.states.changes > changes
        assert (kept.snapshot, kept.totals, kept.usage) == (before.snapshot, before.totals, before.usage)
        assert (kept.settings.interval, kept.usage.rate_limiter.requests_per_minute) == (Seconds(30), 7)
        assert kept.usage.rate_limiter.in_last_minute() == 2
        assert (await one.poll()).totals.created.value == 1, "batches that are listed again are not new"


async def test_a_changed_address_or_filter_keeps_only_the_rate_limit(api: Api) -> None:
    api.batches = [batch("fb_1")]
    configured = settings(api.base_url)
    async with world(configured) as one:
        await one.poll()
        (account,) = configured.accounts
        other = replace(configured, accounts=(replace(account, filters=Filters(search="x")),))
        one.accounts.apply(other)
        state = one.states["a"]
        assert (state.up, state.snapshot, state.polls, state.usage.requests) == (None, None, 0, 0)
        assert state.usage.rate_limiter.in_last_minute() == 1
        one.accounts.apply(replace(other, accounts=()))
        assert list(one.states) == []


async def test_warnings_are_logged_once(api: Api) -> None:
    api.batches = [batch(f"fb_{i}", age=i, status="In Progress") for i in (3, 1, 2)]
    poll = PollSettings(interval=Seconds(0.01), max_batches=2, page_size=10)
    limits = ApiSettings(requests_per_minute=50, max_attempts=1, max_response_size=Bytes(2**20))
    with capture_logs() as logs:
        async with world(settings(api.base_url, poll=poll, api=limits)) as one:
            for _ in range(3):
                state = await one.poll()
    assert not state.newest_first
    told = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert sorted(told) == [
        "more batches than max_batches, so the oldest are left out",
        "polls need more than requests_per_minute, so they take longer than the interval",
        "the API does not list newest first as asked; every poll reads the whole list",
    ]
    (slow,) = (line for line in logs if "polls need more" in line["event"])
    assert (slow["requests"], slow["requests_per_minute_needed"], slow["requests_per_minute"]) == (1, 6000, 50)


async def test_a_reload_sends_refused_parameters_again_even_if_it_changes_nothing(api: Api) -> None:
    api.batches = [batch("fb_1")]

    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(status=422, text="no sort") if "sort" in request.query else await handler(request)

    api.fault = refuse
    configured = settings(api.base_url)
    async with world(configured) as one:
        with capture_logs() as logs:
            assert (await one.poll()).up
            assert (await one.poll()).usage.by_code["422"] == 2, (
                "the first request and one without page_size are refused"
            )
            one.accounts.apply(configured)
            assert (await one.poll()).usage.by_code["422"] == 3
            api.fault = None
            assert (await one.poll()).up
            assert "sort" not in api.requests[-1].query
            one.accounts.apply(configured)
            assert (await one.poll()).up
            assert "sort" in api.requests[-1].query
        (told,) = [line for line in logs if line["log_level"] == "warning"]
        assert told["event"] == "the API refuses sort, so requests leave it out" and told["it_says"] == "no sort"


async def test_the_first_polls_of_several_accounts_are_spread_over_the_interval() -> None:
    accounts = tuple(AccountSettings(name=name, api_token_env="T", base_url="http://127.0.0.1:1") for name in "abcde")
    async with world(Settings(accounts=accounts, poll=PollSettings(interval=Seconds(2)))) as one:
        running = asyncio.create_task(one.accounts.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while math.inf in (planned := [state.next_poll_at for state in one.states]):
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
    assert all(later - sooner >= 2 / 5 for sooner, later in pairwise(planned))
