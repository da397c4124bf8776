"""Watches loops that must not end, and restarts one that ended or hangs. It does not know what they do."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger()


class Loop(Protocol):
    """Runs until it is cancelled.

    While it is alive, it moves `due` forward, by `time.monotonic`. `rounds` counts what it has completed.
    """

    rounds: int

    @property
    def due(self) -> float:
        """By when the loop must move `due` again. If it does not, it hangs."""

    async def run(self, first_after: float) -> None:
        """Run for ever, the first round after that many seconds."""


L = TypeVar("L", bound=Loop)


class WatchedLoop(Generic[L]):
    """A loop that restarts. Each time, `make` makes a new one, because a loop that hangs might yet wake up."""

    def __init__(self, account: str, make: Callable[[], L]) -> None:
        self.loop = make()
        self._account = account
        self._make = make
        self._restarts = 0  # since the last completed round
        self._running: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether the loop has not failed again after its restart."""
        return self._restarts <= 1 or self.loop.rounds > 0

    async def run(self, first_after: float, *, pause: float, grace: float) -> None:
        """Run the loop until cancelled, the first round after that many seconds.

        A loop that has ended restarts after `pause` seconds. A loop hangs, and restarts at once, if it has not moved
        `due` for `grace` seconds after it.
        """
        while True:
            running = self._running = asyncio.create_task(self.loop.run(first_after), name=self._account)
            try:
                while not running.done() and (overdue := time.monotonic() - self.loop.due) < grace:
                    await asyncio.wait([running], timeout=min(grace - overdue, grace))
            finally:
                running.cancel()
            self._restarts = 1 if self.loop.rounds else self._restarts + 1
            if running.done():
                error = None if running.cancelled() else repr(running.exception())
                log.error("the poll loop has ended, restarting it", account=self._account, error=error)
                await asyncio.sleep(pause)
            else:
                log.error("the poll loop hangs, restarting it", account=self._account, overdue_seconds=round(overdue))
            self.loop, first_after = self._make(), 0.0

    def stop(self) -> None:
        """End the loop before its next step. To cancel `run` ends it too, but one step later."""
        if self._running is not None:
            self._running.cancel()
