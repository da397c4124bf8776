"""All accounts: their loops started, watched, and replaced when the configuration changes."""

import asyncio
import math
from collections.abc import Mapping
from copy import deepcopy
from functools import partial

import aiohttp
from msgspec import Struct
from msgspec.structs import replace

from inkit_exporter import config
from inkit_exporter.api.client import Client
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, Settings
from inkit_exporter.polling.poller import Poller
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState, States
from inkit_exporter.storage.storage import Storage
from inkit_exporter.watchdog import WatchedLoop

# Seconds between the first polls of several accounts, or fewer so that all fit in one interval.
_SPREAD_SECONDS = 1.0


class _Account(Struct):
    settings: AccountSettings
    watched: WatchedLoop[Poller]
    task: asyncio.Task[None] | None = None


class Accounts:
    """Every account that this exporter polls.

    `storage` keeps what polls find. A loop counts as hanging if it has not shown that it is alive `grace` seconds after
    it was due. The grace is for work without a time limit, waits between attempts, and a busy machine.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        environ: Mapping[str, str],
        states: States,
        storage: Storage | None = None,
        grace: float = 60.0,
    ) -> None:
        self._session = session
        self._environ = environ
        self._states = states
        self._storage = storage
        self._grace = grace
        self._settings = Settings(accounts=())
        self._accounts: dict[str, _Account] = {}
        self._limiters: dict[tuple[str | None, str | None], RateLimiter] = {}  # by token source, past ones included
        self._applied = asyncio.Event()

    def healthy(self) -> bool:
        """Whether no account's loop has failed again after its restart."""
        return all(account.watched.healthy for account in self._accounts.values())

    def apply(self, settings: Settings) -> None:
        """Poll the accounts of the settings, and no others.

        An account that has not changed continues, and sends again what the API has refused. An account with new limits
        or intervals keeps its snapshot and totals, and lists its window again. An account with a new address, token
        source, kind of batch or filters starts from nothing, or with storage from what is stored of the same list.
        Each token source keeps its rate limiter.
        """
        for limiter in self._limiters.values():
            limiter.requests_per_minute = settings.api.requests_per_minute
        before, same = self._accounts, (settings.poll, settings.api) == (self._settings.poll, self._settings.api)
        self._settings, self._accounts = settings, {}
        for account in settings.accounts:
            running = before.get(account.name)
            if same and running and running.settings == account:
                running.watched.loop.send_all_parameters()
                self._accounts[account.name] = running
            else:
                self._accounts[account.name] = self._start(account, running)
        for name, running in before.items():
            if running.task and self._accounts.get(name) is not running:
                running.task.cancel()
                running.watched.stop()  # or its poller might still publish
        self._states.keep(self._accounts)
        if self._storage:
            self._storage.keep(self._accounts, settings.poll.lookback)
        self._applied.set()

    async def poll_once(self) -> bool:
        """Poll each account once, and return whether all polls succeeded."""
        return all(await asyncio.gather(*(account.watched.loop.poll() for account in self._accounts.values())))

    async def run(self) -> None:
        """Poll all accounts until cancelled, and restart loops that have ended or hang."""
        async with asyncio.TaskGroup() as loops:
            while True:
                interval = self._settings.poll.interval
                waiting = [account for account in self._accounts.values() if account.task is None]
                for i, account in enumerate(waiting):
                    first_after = i * min(_SPREAD_SECONDS, interval / len(waiting))
                    watching = account.watched.run(first_after, pause=interval, grace=self._grace)
                    account.task = loops.create_task(watching)
                self._applied.clear()
                await self._applied.wait()

    def _start(self, account: AccountSettings, running: _Account | None) -> _Account:
        """Publish the state that an account begins with. It is new, or `running` with other settings."""
        poll, api = self._settings.poll, self._settings.api
        if running and running.settings == account:
            state = replace(self._states[account.name], settings=poll, next_poll_at=math.inf, progress=None)
        else:
            source = account.api_token_file, account.api_token_env
            # A new source may be a new place of the same token, so requests that were sent with it count. A copy,
            # because other accounts may keep the old source. If the new source has a limiter, that one is used.
            limiter = self._states[account.name].usage.rate_limiter if running else RateLimiter(api.requests_per_minute)
            usage = Usage(self._limiters.setdefault(source, deepcopy(limiter)))
            state = AccountState(account=account.name, settings=poll, usage=usage)
        self._states.publish(state)
        if self._storage:
            self._storage.follow(account, self._states)
        return _Account(account, WatchedLoop(account.name, partial(self._new_poller, account)))

    def _new_poller(self, account: AccountSettings) -> Poller:
        state, token = self._states[account.name], partial(config.read_token, account, self._environ)
        client = Client(
            account,
            self._settings.poll,
            self._settings.api,
            token=token,
            session=self._session,
            usage=state.usage,
            labels=state.labels,
        )
        return Poller(account.name, client, self._states, self._storage[account.name] if self._storage else None)
