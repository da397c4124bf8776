"""After a suspend: the monotonic clock stood still, and the clock since boot went on."""

import asyncio
import time

import pytest
from support import PATIENCE_SECONDS
from support.api import TOKEN, Api, batch

from inkit_exporter.config import AccountSettings, PollSettings, Seconds, Settings
from inkit_exporter.metrics.account import AccountMetrics
from inkit_exporter.metrics.exposition import TEXT, Exposition
from inkit_exporter.metrics.process import ProcessMetrics
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import States
from inkit_exporter.status.batches import Query
from inkit_exporter.status.report import make_status
from inkit_exporter.transport import open_session

WAKE_UP_SECONDS = 30  # five, or more if the machine stands still, but less than the interval


async def test_after_a_suspend_stale_data_are_withdrawn_at_once_and_the_exporter_polls(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.batches = [batch("a")]
    states = States()
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN}, states)
        account = AccountSettings(name="a", api_token_env="T", base_url=api.base_url)
        accounts.apply(Settings(accounts=(account,), poll=PollSettings(interval=Seconds(60))))
        exposition = Exposition(
            lambda: {"a": AccountMetrics(states["a"])}, lambda: states.changes, ProcessMetrics(shard=0, shards=1)
        )

        async def shown() -> bool:
            return b"inkit_batch_documents{" in await exposition.text(TEXT)

        loops = asyncio.create_task(accounts.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while states["a"].polls < 1:
                await asyncio.sleep(0.01)
        assert await shown()

        clock_gettime = time.clock_gettime
        monkeypatch.setattr(
            time, "clock_gettime", lambda clock: clock_gettime(clock) + 3600 * (clock == time.CLOCK_BOOTTIME)
        )
        assert not await shown()
        (window,) = [account.window for account in (await make_status(states, Query(), None)).accounts]
        assert window is not None and window.stale and window.age_seconds > 3590

        async with asyncio.timeout(WAKE_UP_SECONDS):
            while states["a"].polls < 2:
                await asyncio.sleep(0.01)
        assert await shown()
        assert states["a"].duration < 60, "the duration does not include the suspend"
        assert accounts.healthy()
        loops.cancel()
