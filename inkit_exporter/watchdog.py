"""Watches loops that must not end, and restarts one that ended or hangs. It does not know what they do."""

import asyncio
import time
from collections.abc import Callable, Coroutine
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
    """A loop in a task of its own. Each restart is of a new loop from `make`, because one that hangs might yet wake up.

    A loop that has ended restarts after `pause` seconds. `restarts` counts those since the last completed round.
    """

    def __init__(self, account: str, make: Callable[[], L], pause: float) -> None:
        self.loop = make()
        self.restarts = 0
        self._account = account
        self._make = make
        self._pause = pause
        self._task: asyncio.Task[Exception | None] | None = None

    @property
    def started(self) -> bool:
        """Whether the loop was ever started."""
        return self._task is not None

    def start(self, tasks: asyncio.TaskGroup, first_after: float) -> None:
        """Start the loop in a task of this group."""
        self._task = tasks.create_task(_return_error(self.loop.run(first_after)), name=self._account)

    def stop(self) -> None:
        """End the loop, if it was started."""
        if self._task is not None:
            self._task.cancel()

    def restart_if_stuck(self, tasks: asyncio.TaskGroup, grace: float) -> None:
        """Restart the loop if it has ended, or has not shown for `grace` seconds after `due` that it is alive."""
        if self._task is None:
            return
        if self.loop.rounds:
            self.restarts = 0
        ended, overdue = self._task.done(), time.monotonic() - self.loop.due
        if not (ended or overdue > grace):
            return
        log.error(
            "the poll loop has ended, restarting it" if ended else "the poll loop hangs, restarting it",
            account=self._account,
            overdue_seconds=None if ended else round(overdue),
            error=repr(self._task.result()) if ended and not self._task.cancelled() else None,
        )
        self.stop()
        self.restarts += 1
        self.loop = self._make()
        self.start(tasks, first_after=self._pause if ended else 0.0)


async def _return_error(loop: Coroutine[None, None, None]) -> Exception | None:
    """Run a loop to its end. Its error is returned, so that it ends no other loop."""
    try:
        await loop
    except Exception as error:
        return error
    return None
