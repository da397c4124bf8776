"""A client's rate limit: how many requests it sends a minute, and the pauses that a server asks for."""

from collections import deque
from collections.abc import Callable

from inkit_exporter.clock import boot_time

_MINUTE = 60.0


class RateLimiter:
    """At most `requests_per_minute` requests in any 60 seconds, and none before `resume_at`, the end of a pause."""

    def __init__(self, requests_per_minute: int, clock: Callable[[], float] = boot_time) -> None:
        self.requests_per_minute = requests_per_minute
        self.resume_at = 0.0
        self._clock = clock
        self._sent: deque[float] = deque()

    def in_last_minute(self) -> int:
        """How many requests were sent in the last 60 seconds."""
        self._forget()
        return len(self._sent)

    def pause(self, seconds: float) -> None:
        """Let no request pass for that many seconds."""
        self.resume_at = max(self.resume_at, self._clock() + seconds)

    def delay(self) -> float:
        """Seconds until the next request may go."""
        full = len(self._sent) >= self.requests_per_minute
        return max(self.resume_at, self._sent[-self.requests_per_minute] + _MINUTE if full else 0.0) - self._clock()

    def count_request(self) -> None:
        """Count a request that is sent now."""
        self._forget()
        self._sent.append(self._clock())

    def _forget(self) -> None:
        """Drop the requests that no longer count."""
        while self._sent and self._sent[0] <= self._clock() - _MINUTE:
            self._sent.popleft()
