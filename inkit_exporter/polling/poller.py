"""One account's loop: each poll brings the window up to date and publishes a snapshot of it."""

import asyncio
import math
import time
from collections import Counter

import msgspec
import structlog
from msgspec.structs import replace

from inkit_exporter.api.batches import Page
from inkit_exporter.api.client import Client
from inkit_exporter.api.errors import ApiError, BadResponse, PageRefused
from inkit_exporter.clock import boot_time
from inkit_exporter.config import PollSettings
from inkit_exporter.state import AccountState, Progress, States
from inkit_exporter.storage.storage import AccountStorage
from inkit_exporter.window.plan import Conversation, Plan

_NOTED_SKEW_SECONDS = 60.0
# How often the log tells the progress of a whole listing.
_TELL_EVERY_SECONDS = 60.0

log = structlog.get_logger()


class Poller:
    """Polls one account and publishes the results. `states` must hold the account's state before the first poll.

    `rounds` counts the polls.
    """

    def __init__(
        self,
        account: str,
        settings: PollSettings,
        client: Client,
        states: States,
        storage: AccountStorage | None = None,
    ) -> None:
        self.rounds = 0
        self._account = account
        self._settings = settings
        self._client = client
        self._states = states
        self._storage = storage
        self._alive_until = math.inf
        self._warned: set[str] = set()
        self._log = log.bind(account=account)
        self._plan = Plan(settings, self._state.totals)
        # When the poll began, when the listing that it continues began, and how many requests were made before.
        self._began = self._started = 0.0
        self._requests_before = 0

    @property
    def _state(self) -> AccountState:
        return self._states[self._account]

    @property
    def due(self) -> float:
        """By when, by `time.monotonic`, the loop must show again that it is alive."""
        may_send_at = time.monotonic() + self._state.usage.rate_limiter.delay()
        return max(self._alive_until, self._client.alive_at, may_send_at) + self._client.patience

    def send_all_parameters(self) -> None:
        """Send the parameters that the API has refused again, from the next poll on."""
        self._plan.parameters.expire()

    async def run(self, first_after: float) -> None:
        """Poll until cancelled, first after that many seconds. A slow poll skips the ticks that it missed."""
        if self._storage and (stored := await self._storage.plan()):
            self._plan = stored
        tick = boot_time() + first_after
        while True:
            seconds = math.inf
            while seconds > 0:
                # While this waits, the API may ask another account with the same token to pause.
                starts_at = max(tick, self._state.usage.rate_limiter.resume_at)
                seconds = starts_at - boot_time()
                self._alive_until = time.monotonic() + seconds
                self._states.amend(replace(self._state, next_poll_at=starts_at))
                await asyncio.sleep(min(seconds, 5.0))  # a sleep does not notice that the machine was suspended
            await self.poll()
            behind = boot_time() - tick
            tick += self._settings.interval * max(1, math.ceil(behind / self._settings.interval))

    async def poll(self) -> bool:
        """Poll once, publish the result, and return whether it succeeded. No answer of the API makes it raise."""
        self._started, self._requests_before = time.monotonic(), self._state.usage.requests
        began = boot_time()
        failure: ApiError | None = None
        try:
            await self._converse(self._plan.poll(time.time()))
        except ApiError as error:
            failure = error
        except Exception as error:  # the loop continues after a bug, and starts from nothing
            self._log.exception("unexpected error in a poll")
            failure = BadResponse(f"unexpected {type(error).__name__}")
            self._plan = Plan(self._settings, self._state.totals)
        if abs(skew := self._state.usage.clock_skew or 0.0) > _NOTED_SKEW_SECONDS:
            self._warn_once("the clock differs from the API's", clock_skew_seconds=round(skew))
        self._began = self._began if self._plan.resumed else began
        ended = boot_time()
        state = replace(
            self._state,
            polled_at=time.time(),
            duration=time.monotonic() - self._started,
            poll_requests=self._state.usage.requests - self._requests_before,
            polls=self._state.polls + 1,
            answered=True,
            progress=None,
        )
        state = self._failed(state, failure, ended) if failure else self._succeeded(state, ended)
        if self._storage is None:
            self._plan.window.totals.changed.clear()
        elif not failure:  # before others see it, or totals could go down at a restart
            await self._storage.save(self._plan, state)
        self._states.publish(state)
        self.rounds += 1
        return failure is None

    async def _converse(self, conversation: Conversation) -> None:
        told = self._started
        try:
            request = next(conversation)
            while True:
                self._alive_until = time.monotonic()
                try:
                    parts = await self._client.page(request)
                except PageRefused as error:
                    request = conversation.throw(error)
                    continue
                for part in parts:
                    self._note(part, request.number)
                    request = conversation.send(part)
                    await asyncio.sleep(0)
                self._states.amend(state := replace(self._state, answered=True, progress=self._progress()))
                if state.progress and time.monotonic() - told > _TELL_EVERY_SECONDS:
                    told = time.monotonic()
                    self._log.info("listing all batches", **msgspec.structs.asdict(state.progress))
                parameters = self._plan.parameters
                if refused := ", ".join(sorted(parameters.left_out)):
                    self._warn_once(f"the API refuses {refused}, so requests leave it out", it_says=parameters.reason)
        except StopIteration:
            pass

    def _progress(self) -> Progress | None:
        page, of_pages = self._plan.progress or (0, None)
        if of_pages is None:
            return Progress(page, None, None) if page else None
        requests = self._state.usage.requests - self._requests_before
        so_far = (time.monotonic() - self._started) / max(1, requests)
        a_page = max(so_far, 60 / self._state.usage.rate_limiter.requests_per_minute)
        return Progress(page, of_pages, round((of_pages - page) * a_page))

    def _note(self, part: Page, number: int) -> None:
        """Count and log what is not as documented. Only the first case of each kind is logged above level debug."""
        self._state.usage.invalid_batches += part.invalid + part.incomplete
        self._state.usage.repaired_batches += part.repaired
        for what, record in (part.problems | part.differences).items():
            missing = what in part.problems
            tell = self._log.debug if what in self._warned else self._log.warning if missing else self._log.info
            tell("not as documented", what=what, documents_missing=missing, page=number, record=record)
            self._warned.add(what)

    def _succeeded(self, state: AccountState, now: float) -> AccountState:
        window = self._plan.window
        if state.down_since is not None:
            self._log.info("account is up again", down_seconds=round(now - state.down_since, 1))
        if not self._plan.mark.ordered:
            self._warn_once("the API does not list newest first as asked; every poll reads the whole list")
        if window.truncated:
            most = self._settings.max_batches
            self._warn_once("more batches than max_batches, so the oldest are left out", max_batches=most)
        if (promised := self._plan.mark.promised) is not None:
            self._warn_once("the list is shorter than the API says", promised=promised, listed=len(window.batches))
        not_finished = (window.by_id[batch_id] for batch_id in window.changed_at)
        unknown = Counter(batch.status for batch in not_finished if batch.final is None)
        for status, batches in unknown.items():
            remedy = "if batches with it do not change, add it to poll.final_statuses"
            self._warn_once(f"status `{status}` is unknown and counts as unfinished; {remedy}", batches=batches)
        self._compare_with_limit(state)
        window.totals.start_counting()
        return replace(
            state,
            up=True,
            error=None,
            reason=None,
            last_success=state.polled_at,
            down_since=None,
            snapshot=window.snapshot(state.snapshot),
            snapshot_at=now,
            snapshot_duration=now - self._began,
            newest_first=self._plan.mark.ordered,
            totals=window.totals.totals.copy(),
        )

    def _compare_with_limit(self, state: AccountState) -> None:
        needed = math.ceil(state.poll_requests * 60 / self._settings.interval)
        # The first poll lists everything, so it says nothing about later ones.
        if state.snapshot is not None and needed > (limit := state.usage.rate_limiter.requests_per_minute):
            self._warn_once(
                "polls need more than requests_per_minute, so they take longer than the interval",
                requests=state.poll_requests,
                interval_seconds=float(self._settings.interval),
                requests_per_minute_needed=needed,
                requests_per_minute=limit,
            )

    def _failed(self, state: AccountState, failure: ApiError, now: float) -> AccountState:
        error = str(failure)
        if progress := self._plan.progress:
            page, of_pages = progress
            error += f"; the next poll continues after page {page}" + (f" of about {of_pages}" if of_pages else "")
        self._plan.break_off(time.time())
        tell, what = (self._log.debug, "still down") if state.down_since is not None else (self._log.error, "down")
        tell(f"account is {what}", reason=failure.reason, error=error)
        return replace(
            state,
            up=False,
            error=error,
            reason=failure.reason,
            down_since=now if state.down_since is None else state.down_since,
            failures={**state.failures, failure.reason: state.failures.get(failure.reason, 0) + 1},
        )

    def _warn_once(self, message: str, **details: object) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._log.warning(message, **details)
