"""One account's loop: ask for the window, publish a snapshot of it, and again at the next tick."""

import asyncio
import math
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec
import structlog
from msgspec import Struct

from inkit_exporter.api.client import Client, RequestMeter
from inkit_exporter.api.errors import (
    ApiError,
    AuthError,
    BadResponse,
    Forbidden,
    RateLimited,
    RequestTimeout,
    TransientError,
)
from inkit_exporter.api.rate_limit import Budget
from inkit_exporter.config import AccountSettings, Filters, PollSettings
from inkit_exporter.window.plan import Answer, Conversation, Plan, PlanSettings, Refusal, Request, Unreliable
from inkit_exporter.window.totals import Changes, Totals
from inkit_exporter.window.window import Snapshot, Window

log = structlog.get_logger()


class PollMeter(RequestMeter, Protocol):
    """What an account's loop tells of its polls and requests."""

    def poll(self, failure: str | None) -> None:
        """A poll ended, with the kind of its failure if it failed."""

    def invalid(self, batches: int) -> None:
        """So many records of a page could not be read and were skipped."""

    def destinations(self, names: Iterable[str]) -> None:
        """A complete poll has seen these destinations."""

    def happened(self, changes: Changes) -> None:
        """What a complete poll saw happen since the one before."""

    def show(self, state: "AccountState") -> None:
        """What the last poll left."""


class AccountState(Struct, frozen=True):
    """What is known of one account after its last poll; replaced as a whole by the next.

    `up` is None before the first poll has ended. `polled_at` and `last_success` are wall time in seconds since the
    epoch, `snapshot_at` and `down_since` monotonic seconds; `duration` is in seconds.
    """

    account: str
    interval: float
    stale_after: float
    up: bool | None = None
    error: str | None = None
    reason: str | None = None
    polled_at: float | None = None
    duration: float = 0.0
    requests: int = 0
    last_success: float = 0.0
    down_since: float | None = None
    snapshot: Snapshot | None = None
    snapshot_at: float = 0.0

    def fresh_snapshot(self, now: float) -> Snapshot | None:
        """The last snapshot, unless at `now`, in monotonic seconds, it is older than `stale_after`."""
        return self.snapshot if now - self.snapshot_at <= self.stale_after else None


class Poller:
    """Polls one account; `state` is its latest result.

    While all is well, `due` lies ahead: the time, in monotonic seconds, until which the loop will have shown life.
    `starts_at`, in the same, is that of the next poll, or of the one that is under way.

    Args:
        account: whose batches these are.
        settings: when and how far back to poll.
        client: the account's requests.
        meter: is told of every poll.
        state: what is known already.
    """

    def __init__(
        self, account: AccountSettings, settings: PollSettings, client: Client, meter: PollMeter, state: AccountState
    ) -> None:
        self.state = state
        self.due = self.starts_at = math.inf
        self._account = account
        self.settings = settings
        self._client = client
        self._meter = meter
        self._said: set[str] = set()
        self._log = log.bind(account=account.name)
        self._plan = self._new_plan()

    @property
    def budget(self) -> Budget:
        """Of the account's requests."""
        return self._client.budget

    @property
    def newest_first(self) -> bool:
        """Whether the API lists newest first, as asked; if not, every poll reads the whole list."""
        return self._plan.ordered

    async def run(self, first_after: float) -> None:
        """Poll for ever, first after so many seconds. A slow poll skips the ticks it missed."""
        tick = time.monotonic() + first_after
        while True:
            self.starts_at = max(tick, self.budget.resume_at)
            self.due = self.starts_at + self._time_limit()
            await asyncio.sleep(self.starts_at - time.monotonic())
            await self.poll()
            behind = time.monotonic() - tick
            tick += self.settings.interval * max(1, math.ceil(behind / self.settings.interval))

    async def poll(self) -> bool:
        """Poll once, publish the result, and tell whether it succeeded. Nothing that the API does makes it raise."""
        started, wall, requests = time.monotonic(), time.time(), self._client.requests
        failure: ApiError | None = None
        try:
            self._client.refresh_token()
            await self._converse(self._plan.poll(wall), deadline=started + self._time_limit())
        except TimeoutError:
            failure = RequestTimeout(f"the poll was not done within {self._time_limit():g}s")
        except Unreliable as error:
            failure = BadResponse(str(error))
        except ApiError as error:
            failure = error
        except Exception as error:  # the loop outlives what nobody thought of, and begins anew
            self._log.exception("unexpected error in a poll")
            failure = BadResponse(f"unexpected {type(error).__name__}")
            self._plan = self._new_plan()
        self._meter.poll(failure.reason if failure else None)
        ended = time.monotonic()
        after = msgspec.structs.replace(
            self.state, polled_at=time.time(), duration=ended - started, requests=self._client.requests - requests
        )
        if failure is None:
            self._publish_window(after, ended)
        else:
            self._publish_failure(after, failure, ended)
        self._meter.show(self.state)
        return failure is None

    async def _converse(self, conversation: Conversation, deadline: float) -> None:
        answer: Answer = None
        late = deadline - time.monotonic() + asyncio.get_running_loop().time()
        while True:
            try:
                request = conversation.send(answer)
            except StopIteration:
                return
            # Only requests can be timed out: a merge that is begun goes to its end.
            async with asyncio.timeout_at(late if request is not None else None):
                answer = await self._answer(request)

    async def _answer(self, request: Request) -> Answer:
        match request:
            case int():
                page = await self._client.page(request)
                self._meter.invalid(page.invalid)
                return page
            case str():
                try:
                    return await self._client.batch(request)
                except ApiError as error:
                    if not _pages_may_do(error):
                        raise
                    self._say_once("the API does not give single batches, reading pages instead", error=str(error))
                    return Refusal.REFUSED
        await asyncio.sleep(0)
        return None

    def _new_plan(self) -> Plan:
        settings = PlanSettings(
            interval=self.settings.interval,
            lookback=self.settings.lookback,
            resync_interval=self.settings.resync_interval,
            max_batches=self.settings.max_batches,
            # Alone, a batch is given even if it no longer passes the filters of the list.
            by_id=self._account.filters == Filters(),
        )
        return Plan(settings, Window(self.settings.max_batches, Totals()))

    def _publish_window(self, state: AccountState, now: float) -> None:
        window = self._plan.window
        if self.state.down_since is not None:
            self._log.info("account is up again", away_seconds=round(now - self.state.down_since, 1))
        if not self._plan.ordered:
            self._say_once("the API does not list newest first as asked; every poll reads the whole list")
        if window.truncated:
            self._say_once("more batches than max_batches, the oldest are cut", max_batches=self.settings.max_batches)
        self._compare_with_budget(state.requests)
        snapshot = window.snapshot(self.state.snapshot)
        self._meter.destinations({destination for destination, _ in snapshot.documents})
        self._meter.happened(window.totals.take())
        window.totals.begin()
        self.state = msgspec.structs.replace(
            state,
            up=True,
            error=None,
            reason=None,
            last_success=state.polled_at or 0.0,
            down_since=None,
            snapshot=snapshot,
            snapshot_at=now,
        )

    def _compare_with_budget(self, requests: int) -> None:
        a_minute = requests * 60 / self.settings.interval
        # The first poll lists everything, which later ones need not.
        if self.state.snapshot is not None and a_minute > self.budget.requests_per_minute:
            self._say_once(
                "the budget can't keep up with the interval, polls take longer than it",
                requests=requests,
                interval_seconds=float(self.settings.interval),
                requests_per_minute_needed=math.ceil(a_minute),
                requests_per_minute=self.budget.requests_per_minute,
            )

    def _publish_failure(self, state: AccountState, failure: ApiError, now: float) -> None:
        if self.state.down_since is None:
            self._log.error("account is down", reason=failure.reason, error=str(failure))
        else:
            self._log.debug("account is still down", reason=failure.reason, error=str(failure))
        self.state = msgspec.structs.replace(
            state,
            up=False,
            error=str(failure),
            reason=failure.reason,
            down_since=now if self.state.down_since is None else self.state.down_since,
        )

    def _time_limit(self) -> float:
        """Seconds for one poll: no longer than its result would be shown, or twice what the budget takes if longer."""
        return max(
            self.settings.stale_after,
            2 * 60 * self.settings.max_batches / self._client.page_size / self.budget.requests_per_minute,
        )

    def _say_once(self, message: str, **details: object) -> None:
        if message not in self._said:
            self._said.add(message)
            self._log.warning(message, **details)


def _pages_may_do(error: ApiError) -> bool:
    """Whether the list may be had although one batch can't: not without a token, nor while the API asks to wait."""
    if isinstance(error, TransientError):
        return not (isinstance(error, RateLimited) or error.retry_after)
    return isinstance(error, Forbidden) or not isinstance(error, AuthError)
