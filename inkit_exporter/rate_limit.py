"""A client's rate limit: how many requests it sends a minute, and the pauses that a server asks for."""

from collections import deque
from collections.abc import Callable

from inkit_exporter.clock import boot_time

_MINUTE = 60.0


class RateLimiter:
    """At most `requests_per_minute` requests in any 60 seconds, and none before `resume_at`, the end of a pause."""

    def __init__(self, requests_per_minute: int, clock: Callable[[], float] = boot_time) -> None:
        self._sent: deque[float] = deque(maxlen=requests_per_minute)
        self._clock = clock
        self.resume_at = 0.0

    def set_limit(self, requests_per_minute: int) -> None:
        """Change the limit. Requests already sent count towards it."""
        self._sent = deque(self._sent, maxlen=requests_per_minute)

    @property
    def requests_per_minute(self) -> int:
        """The limit."""
        return self._sent.maxlen or 0

    def in_last_minute(self) -> int:
        """How many requests were sent in the last 60 seconds."""
        self._forget()
        return len(self._sent)

    def pause(self, seconds: float) -> None:
        """Let no request pass for that many seconds."""
        self.resume_at = max(self.resume_at, self._clock() + seconds)

    def delay(self) -> float:
        """Seconds until the next request may go."""
        full = len(self._sent) == self._sent.maxlen
        return max(self.resume_at, self._sent[0] + _MINUTE if full else 0.0) - self._clock()

    def count_request(self) -> None:
        """Count a request that is sent now."""
        self._forget()
        self._sent.append(self._clock())

    def _forget(self) -> None:
        """Drop the requests that no longer count."""
        while self._sent and self._sent[0] <= self._clock() - _MINUTE:
            self._sent.popleft()
