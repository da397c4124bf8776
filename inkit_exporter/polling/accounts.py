"""The accounts that are being polled: begun, watched over, and exchanged for others when the configuration changes."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from inkit_exporter import config
from inkit_exporter.api.batches import AccountLabels
from inkit_exporter.api.client import Client
from inkit_exporter.api.rate_limit import Budget
from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Settings
from inkit_exporter.errors import ConfigError
from inkit_exporter.metrics.families import AccountMetrics
from inkit_exporter.polling.poller import AccountState, Poller

WATCH_SECONDS: Final = 5.0
"""How often the watchdog looks."""

# What a poll may take beyond its limit, for what can't be timed out, and for a machine that is busy.
_GRACE_SECONDS = 60.0
# The first polls of several accounts follow one another at this distance, or closer so that all fit in one interval.
_SPREAD_SECONDS = 1.0

log = structlog.get_logger()


class _Parts(Struct, frozen=True):
    """What pollers of one account are made of; metrics, label values and budget outlive them."""

    settings: AccountSettings
    poll: PollSettings
    api: ApiSettings
    metrics: AccountMetrics
    labels: AccountLabels
    budget: Budget


class _Account(Struct):
    """One account with its poller, whose loop is None until it is begun.

    `restarts` counts those since the last poll that ended, which was at `polled_at`.
    """

    parts: _Parts
    poller: Poller
    loop: asyncio.Task[None] | None = None
    restarts: int = 0
    polled_at: float | None = None


class Accounts:
    """Every account of the configuration with its poller and, once started, the poller's loop.

    Args:
        session: as `open_session` makes it.
        environ: where `api_token_env` looks.
        grace: seconds that a poll may take beyond its limit before the watchdog takes it for hung.
    """

    def __init__(
        self, session: aiohttp.ClientSession, environ: Mapping[str, str], grace: float = _GRACE_SECONDS
    ) -> None:
        self._session = session
        self._environ = environ
        self._grace = grace
        self._accounts: dict[str, _Account] = {}
        self.changes = 0
        """Another number whenever the metrics change, otherwise than by time or with a request."""

    @property
    def pollers(self) -> Sequence[Poller]:
        """In the order of the configuration."""
        return [account.poller for account in self._accounts.values()]

    @property
    def metrics(self) -> Sequence[AccountMetrics]:
        """In the order of the configuration."""
        return [account.parts.metrics for account in self._accounts.values()]

    @property
    def healthy(self) -> bool:
        """No account's loop has failed again after it was restarted."""
        return all(account.restarts <= 1 for account in self._accounts.values())

    def apply(self, settings: Settings, names: Iterable[str]) -> None:
        """Poll these accounts of the settings, and no others; `start` begins with those that are new.

        What has not changed goes on as it was. An account with new limits or intervals keeps its snapshot and totals
        and lists its window anew; one with a new address, token source or filters begins from nothing. The budget
        stays the account's in any case.

        Raises:
            ConfigError: an environment variable has no token; nothing has changed then.
        """
        wanted = set(names)
        for i, account in enumerate(settings.accounts):
            if account.api_token_env and account.name in wanted:
                try:
                    config.read_token(account, self._environ)
                except ConfigError as error:
                    raise ConfigError(f"accounts[{i}].api_token_env: {error}") from None
        before, self._accounts = self._accounts, {}
        self._changed()
        for account in settings.accounts:
            if account.name in wanted:
                known = before.pop(account.name, None)
                self._accounts[account.name] = self._exchange(known, account, settings.poll, settings.api)
        for gone in before.values():
            _stop(gone)

    def start(self) -> None:
        """Begin the loops that are not running."""
        waiting = [account for account in self._accounts.values() if account.loop is None]
        for i, account in enumerate(waiting):
            _begin(account, first_after=i * min(_SPREAD_SECONDS, account.parts.poll.interval / len(waiting)))

    async def watch(self, every: float = WATCH_SECONDS) -> None:
        """Look for ever after loops that have ended or hang, and begin them anew."""
        while True:
            for account in self._accounts.values():
                self._look_after(account)
            await asyncio.sleep(every)

    async def stop(self) -> None:
        """End all loops."""
        loops = [loop for account in self._accounts.values() if (loop := _stop(account))]
        await asyncio.gather(*loops, return_exceptions=True)

    def _changed(self) -> None:
        self.changes += 1

    def _exchange(
        self, known: _Account | None, settings: AccountSettings, poll: PollSettings, api: ApiSettings
    ) -> _Account:
        state = AccountState(settings.name, interval=poll.interval, stale_after=poll.stale_after)
        budget = known.parts.budget if known else Budget(api.requests_per_minute)
        if known is None or known.parts.settings != settings:
            parts = _Parts(settings, poll, api, AccountMetrics(state, self._changed), AccountLabels(), budget)
        elif (known.parts.poll, known.parts.api) == (poll, api):
            return known
        else:
            parts = msgspec.structs.replace(known.parts, poll=poll, api=api)
            state = msgspec.structs.replace(known.poller.state, interval=poll.interval, stale_after=poll.stale_after)
            parts.metrics.show(state)
        if known:
            _stop(known)
            budget.allow(api.requests_per_minute)
        return _Account(parts, self._poller(parts, state))

    def _poller(self, parts: _Parts, state: AccountState) -> Poller:
        client = Client(
            parts.settings,
            parts.api,
            page_size=parts.poll.page_size,
            patience=parts.poll.interval,
            token=partial(config.read_token, parts.settings, self._environ),
            session=self._session,
            meter=parts.metrics,
            budget=parts.budget,
            labels=parts.labels,
        )
        return Poller(parts.settings, parts.poll, client, parts.metrics, state)

    def _look_after(self, account: _Account) -> None:
        state = account.poller.state
        if state.polled_at != account.polled_at:
            account.polled_at, account.restarts = state.polled_at, 0
        overdue = time.monotonic() - account.poller.due
        if account.loop is None or (not account.loop.done() and overdue <= self._grace):
            return
        ended = account.loop.done()
        log.error(
            "the poll loop has ended, beginning it anew" if ended else "the poll loop hangs, beginning it anew",
            account=state.account,
            overdue_seconds=None if ended else round(overdue),
            error=repr(account.loop.exception()) if ended and not account.loop.cancelled() else None,
        )
        _stop(account)
        account.restarts += 1
        # A poller of its own, as the one that hangs might yet wake up.
        account.poller = self._poller(account.parts, state)
        _begin(account, first_after=account.parts.poll.interval if ended else 0.0)


def _begin(account: _Account, first_after: float) -> None:
    account.loop = asyncio.create_task(account.poller.run(first_after), name=account.parts.settings.name)


def _stop(account: _Account) -> asyncio.Task[None] | None:
    if account.loop is not None:
        account.loop.cancel()
    return account.loop
