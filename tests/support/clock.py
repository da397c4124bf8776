"""Clocks that do not notice when the machine stands still, for tests in this process that measure short times."""

import threading
import time
from collections.abc import Iterator

import pytest

_STEP_SECONDS = 0.01
_READ_EVERY_SECONDS = 0.003

_monotonic, _clock_gettime = time.monotonic, time.clock_gettime


class Clock:
    """Goes as the system's clock does, but at most by a step between two readings. A thread reads it all the time."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._read_at = _monotonic()
        self._lock = threading.Lock()

    def skip(self, seconds: float) -> None:
        """Let time pass at once."""
        with self._lock:
            self._ahead += seconds

    def monotonic(self) -> float:
        """The time for `time.monotonic`, which the event loop uses too."""
        with self._lock:
            now = _monotonic()
            self._ahead -= max(0.0, now - self._read_at - _STEP_SECONDS)
            self._read_at = now
            return now + self._ahead

    def clock_gettime(self, clock: int) -> float:
        """The time for `time.clock_gettime`. Only the clock since boot is replaced."""
        if clock != time.CLOCK_BOOTTIME:
            return _clock_gettime(clock)
        self.monotonic()
        return _clock_gettime(clock) + self._ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The clock of this process, of its event loop too."""
    clock, ended = Clock(), threading.Event()

    def keep_going() -> None:
        while not ended.wait(_READ_EVERY_SECONDS):
            clock.monotonic()

    thread = threading.Thread(target=keep_going, name="clock")
    thread.start()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "clock_gettime", clock.clock_gettime)
    yield clock
    ended.set()
    thread.join()


class WallClock:
    """Stands still, unless the test sets it."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The wall clock of this process."""
    clock = WallClock()
    monkeypatch.setattr(time, "time", clock)
    return clock
