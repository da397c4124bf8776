"""One account's loop: each poll brings the window up to date and publishes a snapshot of it."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import structlog
from msgspec.structs import asdict, replace

from inkit_exporter.api.batches import Page
from inkit_exporter.api.client import Client
from inkit_exporter.api.errors import ApiError, BadResponse, PageRefused
from inkit_exporter.clock import boot_time
from inkit_exporter.state import AccountState, Progress, States
from inkit_exporter.storage.storage import AccountStorage
from inkit_exporter.window.plan import Plan

_NOTED_SKEW_SECONDS = 60.0
# How often the log tells the progress of a whole listing.
_TELL_EVERY_SECONDS = 60.0

log = structlog.get_logger()


class Poller:
    """Polls one account and publishes the results. `states` must hold the account's state before the first poll.

    `rounds` counts the polls.
    """

    def __init__(self, account: str, client: Client, states: States, storage: AccountStorage | None = None) -> None:
        self.rounds = 0
        self._account = account
        self._client = client
        self._states = states
        self._storage = storage
        self._asleep_until = -math.inf
        self._listing_began = 0.0  # when the last poll began that did not continue the listing of a failed one
        self._warned: set[str] = set()
        self._log = log.bind(account=account)
        self._plan = Plan(self._state.settings, self._state.totals)

    @property
    def _state(self) -> AccountState:
        return self._states[self._account]

    @property
    def due(self) -> float:
        """By when, by `time.monotonic`, the loop must show again that it is alive."""
        may_send_at = time.monotonic() + self._state.usage.rate_limiter.delay()
        return max(self._asleep_until, self._client.alive_at, may_send_at) + self._client.patience

    def send_all_parameters(self) -> None:
        """Send the parameters that the API has refused again, from the next poll on."""
        self._plan.parameters.expire()

    async def run(self, first_after: float) -> None:
        """Poll until cancelled, first after that many seconds. A slow poll skips the ticks that it missed."""
        if self._storage and (stored := await self._storage.take_plan()):
            self._plan = stored
        tick = boot_time() + first_after
        while True:
            seconds = math.inf
            while seconds > 0:
                # While this waits, the API may ask another account with the same token to pause.
                starts_at = max(tick, self._state.usage.rate_limiter.resume_at)
                now = boot_time()
                seconds = starts_at - now
                self._asleep_until = time.monotonic() + seconds
                self._states.amend(replace(self._state, next_poll_at=starts_at))
                await asyncio.sleep(min(seconds, 5.0))  # a sleep does not notice that the machine was suspended
                if starts_at > tick:
                    self._state.usage.throttled_seconds += max(0.0, boot_time() - max(tick, now))
            await self.poll()
            interval = self._state.settings.interval
            tick += interval * (1 + (boot_time() - tick) // interval)

    async def poll(self) -> bool:
        """Poll once, publish the result, and return whether it succeeded. No answer of the API makes it raise."""
        before, began, started = self._state, boot_time(), time.monotonic()
        requests_before = before.usage.requests
        failure: ApiError | None = None
        try:
            await self._list(started, requests_before)
        except ApiError as error:
            failure = error
        except Exception as error:  # the loop continues after a bug, and starts from nothing
            self._log.exception("unexpected error in a poll")
            failure = BadResponse(f"unexpected {type(error).__name__}")
            self._plan = Plan(self._state.settings, self._state.totals)
        if not self._plan.resumed:
            self._listing_began = began
        state = replace(
            self._state,
            poll_ended_at=time.time(),
            duration=time.monotonic() - started,
            poll_requests=before.usage.requests - requests_before,
            polls=before.polls + 1,
            ready=True,
            progress=None,
        )
        state = self._break_off(state, failure) if failure else self._complete(state)
        self._tell(before, state)
        if self._storage and state.up:  # before others see it, or totals could go down at a restart
            await self._storage.save(self._plan, state)
        self._states.publish(state)
        self.rounds += 1
        return failure is None

    async def _list(self, started: float, requests_before: int) -> None:
        """Request the pages that the plan asks for, and give them to it, until it has all that it needs."""
        conversation, told = self._plan.poll(time.time()), started
        with suppress(StopIteration):
            request = next(conversation)
            while True:
                try:
                    parts = await self._client.page(request)
                except PageRefused as error:
                    request = conversation.throw(error)
                    continue
                for part in parts:
                    self._note(part, request.number)
                    request = conversation.send(part)
                    await asyncio.sleep(0)
                progress = self._progress(started, requests_before)
                self._states.amend(replace(self._state, ready=True, progress=progress))
                if progress and time.monotonic() - told > _TELL_EVERY_SECONDS:
                    told = time.monotonic()
                    self._log.info("listing all batches", **asdict(progress))

    def _progress(self, started: float, requests_before: int) -> Progress | None:
        if self._plan.progress is None:
            return None
        page, of_pages = self._plan.progress
        usage = self._state.usage
        so_far = (time.monotonic() - started) / (usage.requests - requests_before)
        a_page = max(so_far, 60 / usage.rate_limiter.requests_per_minute)
        return Progress(page, of_pages, None if of_pages is None else round((of_pages - page) * a_page))

    def _note(self, part: Page, number: int) -> None:
        """Count and log what is not as documented. Only the first case of each kind is logged above level debug."""
        self._state.usage.invalid_batches += part.invalid + part.incomplete
        self._state.usage.repaired_batches += part.repaired
        for what, record in (part.problems | part.differences).items():
            missing = what in part.problems
            tell = self._log.debug if what in self._warned else self._log.warning if missing else self._log.info
            tell("not as documented", what=what, documents_missing=missing, page=number, record=record)
            self._warned.add(what)

    def _complete(self, state: AccountState) -> AccountState:
        window, ended = self._plan.window, boot_time()
        window.totals.counting = True
        return replace(
            state,
            up=True,
            error=None,
            reason=None,
            last_success=state.poll_ended_at,
            down_since=None,
            snapshot=window.snapshot(state.snapshot),
            snapshot_at=ended,
            snapshot_duration=ended - self._listing_began,
            newest_first=self._plan.mark.newest_first,
            totals=window.totals.totals.copy(),
        )

    def _break_off(self, state: AccountState, failure: ApiError) -> AccountState:
        error = str(failure)
        if self._plan.progress:
            page, of_pages = self._plan.progress
            error += f"; the next poll continues after page {page}" + (f" of about {of_pages}" if of_pages else "")
        self._plan.break_off(time.time())
        return replace(
            state,
            up=False,
            error=error,
            reason=failure.reason,
            down_since=boot_time() if state.down_since is None else state.down_since,
            failures={**state.failures, failure.reason: state.failures.get(failure.reason, 0) + 1},
        )

    def _tell(self, before: AccountState, state: AccountState) -> None:
        """Log what a poll has changed, and what is odd, each once."""
        for message, details in _oddities(self._plan, before, state):
            if message not in self._warned:
                self._warned.add(message)
                self._log.warning(message, **details)
        if state.up and before.down_since is not None:
            self._log.info("account is up again", down_seconds=round(state.snapshot_at - before.down_since, 1))
        elif not state.up and before.down_since is not None:
            self._log.debug("account is still down", reason=state.reason, error=state.error)
        elif not state.up:
            self._log.error("account is down", reason=state.reason, error=state.error)


def _oddities(plan: Plan, before: AccountState, state: AccountState) -> Iterator[tuple[str, dict[str, object]]]:
    """What somebody should look at after a poll, as messages and their details."""
    if abs(skew := state.usage.clock_skew or 0.0) > _NOTED_SKEW_SECONDS:
        yield "the clock differs from the API's", {"clock_skew_seconds": round(skew)}
    if refused := ", ".join(sorted(plan.parameters.left_out)):
        yield f"the API refuses {refused}, so requests leave it out", {"it_says": plan.parameters.reason}
    if not state.up:
        return
    settings, window = state.settings, plan.window
    if not plan.mark.newest_first:
        yield "the API does not list newest first as asked; every poll reads the whole list", {}
    if window.truncated:
        yield "more batches than max_batches, so the oldest are left out", {"max_batches": settings.max_batches}
    if (promised := plan.mark.promised) is not None and promised > len(window.batches):  # or it is outdated
        yield "the list is shorter than the API says", {"promised": promised}
    not_finished = (window.by_id[batch_id] for batch_id in window.changed_at)
    unknown = Counter(batch.status for batch in not_finished if batch.final is None)
    for status, batches in unknown.items():
        remedy = "if batches with it do not change, add it to poll.final_statuses"
        yield f"status `{status}` is unknown and counts as unfinished; {remedy}", {"batches": batches}
    needed = math.ceil(state.poll_requests * 60 / settings.interval)
    # The first poll lists everything, so it says nothing about later ones.
    if before.snapshot is not None and needed > (limit := state.usage.rate_limiter.requests_per_minute):
        yield (
            "polls need more than requests_per_minute, so they take longer than the interval",
            {"requests": state.poll_requests, "requests_per_minute_needed": needed, "requests_per_minute": limit},
        )
