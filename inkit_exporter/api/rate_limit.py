"""How many requests an account may still send: its allowance, and the pauses that the API asks for. No I/O."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_PAUSE_SECONDS: Final = 3600.0
"""The longest `Retry-After` that is obeyed; a longer one is taken for a mistake."""

_MINUTE = 60.0


class Budget:
    """At most `requests_per_minute` requests in any 60 seconds, and none while the API asked for a pause.

    Args:
        requests_per_minute: of one account, for all that is asked in its name.
        clock: monotonic seconds.
    """

    def __init__(self, requests_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._sent: deque[float] = deque(maxlen=requests_per_minute)
        self._clock = clock
        self.resume_at = 0.0

    def allow(self, requests_per_minute: int) -> None:
        """Another allowance from now on, into which what was sent before counts too."""
        self._sent = deque(self._sent, maxlen=requests_per_minute)

    @property
    def requests_per_minute(self) -> int:
        """The allowance."""
        return self._sent.maxlen or 0

    def spent(self) -> int:
        """Requests sent in the last 60 seconds."""
        self._forget()
        return len(self._sent)

    def pause(self, seconds: float) -> None:
        """Let nothing pass for so long, `MAX_PAUSE_SECONDS` at most."""
        self.resume_at = max(self.resume_at, self._clock() + min(seconds, MAX_PAUSE_SECONDS))

    def delay(self) -> float:
        """Seconds until the next request may go."""
        full = len(self._sent) == self._sent.maxlen
        return max(self.resume_at, self._sent[0] + _MINUTE if full else 0.0) - self._clock()

    def spend(self) -> None:
        """Count a request that goes now."""
        self._forget()
        self._sent.append(self._clock())

    def _forget(self) -> None:
        """Let go the requests that no longer count."""
        while self._sent and self._sent[0] <= self._clock() - _MINUTE:
            self._sent.popleft()
