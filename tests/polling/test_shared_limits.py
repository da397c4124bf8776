"""Accounts with the same token source share one rate limiter, also after reloads."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from support import PATIENCE_SECONDS
from support.api import TOKEN, Api, batch
from support.exporter import StartExporter
from support.samples import up

from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Seconds, Settings
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import States
from inkit_exporter.transport import open_session


class World:
    """Accounts that are never polled. A token source is `NAME`, an environment variable, or `/NAME`, a file."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.states = States()
        self.accounts = Accounts(session, {"T": TOKEN, "U": TOKEN}, self.states)

    def apply(self, requests_per_minute: int = 60, **sources: str) -> None:
        accounts = [
            AccountSettings(name=name, api_token_file=source)
            if source.startswith("/")
            else AccountSettings(name=name, api_token_env=source)
            for name, source in sources.items()
        ]
        settings = Settings(accounts=tuple(accounts), api=ApiSettings(requests_per_minute=requests_per_minute))
        self.accounts.apply(settings)

    def limiter(self, name: str) -> RateLimiter:
        return self.states[name].usage.rate_limiter

    def groups(self) -> list[str]:
        """Return groups of accounts that share a limiter, as joined names."""
        by_limiter: dict[int, str] = {}
        for state in self.states:
            key = id(state.usage.rate_limiter)
            by_limiter[key] = by_limiter.get(key, "") + state.account
        return sorted(by_limiter.values())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_session() as session:
        yield World(session)


def test_accounts_with_the_same_token_file_or_variable_share_a_limiter(world: World) -> None:
    world.apply(a="T", b="/T", c="T", d="U", e="/T")
    assert world.groups() == ["ac", "be", "d"]
    assert len({id(state.usage) for state in world.states}) == 5


def test_an_account_that_returns_to_a_token_gets_the_limiter_of_the_others(world: World) -> None:
    world.apply(a="T", b="T", c="U")
    shared, other = world.limiter("a"), world.limiter("c")
    world.apply(a="U", b="T", c="U")
    assert (world.limiter("a"), world.limiter("b")) == (other, shared)
    shared.pause(1000)
    world.apply(a="T", b="T", c="U")
    assert world.limiter("a") is world.limiter("b") is shared
    assert world.limiter("a").delay() == pytest.approx(1000, abs=5)
    assert world.limiter("c").delay() <= 0


def test_an_account_that_is_removed_and_added_again_keeps_its_limit(world: World) -> None:
    world.apply(a="T")
    world.limiter("a").count_request()
    world.limiter("a").pause(1000)
    world.apply(b="U")
    world.apply(a="T", b="U")
    assert world.limiter("a").in_last_minute() == 1
    assert world.limiter("a").delay() > 900


def test_a_new_token_source_counts_only_the_accounts_earlier_requests(world: World) -> None:
    world.apply(a="T", b="T")
    world.limiter("a").count_request()
    world.limiter("a").pause(1000)
    world.apply(a="/moved", b="T", c="/new")
    moved = world.limiter("a")
    assert (moved.in_last_minute(), world.limiter("c").in_last_minute()) == (1, 0)
    assert moved.delay() > 900
    moved.count_request()
    assert (moved.in_last_minute(), world.limiter("b").in_last_minute()) == (2, 1)


def test_a_changed_limit_applies_to_all_tokens_at_once(world: World) -> None:
    world.apply(a="T", b="T", c="U")
    before = [world.limiter(name) for name in "abc"]
    before[0].count_request()
    world.apply(requests_per_minute=7, a="T", c="U")
    world.apply(requests_per_minute=5, a="T", b="T", c="U")
    assert [world.limiter(name) for name in "abc"] == before
    assert [limiter.requests_per_minute for limiter in before] == [5, 5, 5]
    assert before[0].in_last_minute() == 1


async def test_a_pause_for_one_account_delays_the_polls_of_both_and_fails_none(api: Api) -> None:
    api.batches = [batch("fb_1")]
    states = States()
    settings = Settings(
        accounts=tuple(AccountSettings(name=name, api_token_env="T", base_url=api.base_url) for name in "ab"),
        poll=PollSettings(interval=Seconds(0.4)),
        api=ApiSettings(requests_per_minute=1000),
    )
    async with open_session() as session, asyncio.timeout(PATIENCE_SECONDS):
        accounts = Accounts(session, {"T": TOKEN}, states)
        accounts.apply(settings)
        running = asyncio.create_task(accounts.run())
        while not all(state.up for state in states):
            await asyncio.sleep(0.01)
        paused, limiter = time.monotonic(), states["a"].usage.rate_limiter
        limiter.pause(1.5)
        sent, polls = limiter.in_last_minute(), [state.polls for state in states]
        while limiter.in_last_minute() == sent:
            await asyncio.sleep(0.01)
        assert time.monotonic() - paused >= 1.5
        # The last poll that a pause does not delay may have been under way.
        while not all(state.polls >= before + 2 for state, before in zip(states, polls, strict=True)):
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    assert all(state.up and not state.failures for state in states)


async def test_accounts_with_the_same_token_share_one_limit_and_show_the_same_count(
    api: Api, exporter: StartExporter
) -> None:
    api.batches = [batch("fb_1")]
    names = ["one", "two", "three"]
    running = await exporter(limits={"requests_per_minute": 7}, accounts=[{"name": name} for name in names])
    await running.wait_for(lambda s: all(up(s, name) == 1 for name in names) and len(api.requests) == 7)
    await asyncio.sleep(1)  # five intervals
    assert len(api.requests) == 7
    async with running.http.get("/api/v1/status") as response:
        report = await response.json()
    assert {(one["requests_last_minute"], one["requests_per_minute"]) for one in report["accounts"]} == {(7, 7)}
