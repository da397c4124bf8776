"""How many requests were sent, and how many more may be: the limit of a token, and the pauses that the API asks for."""

from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from inkit_exporter.clock import boot_time
from inkit_exporter.counters import Histogram

MAX_PAUSE_SECONDS: Final = 3600.0
"""The longest `Retry-After` that is obeyed."""

_MINUTE = 60.0
# From a cached answer on the same continent to the default of `api.timeout`, in seconds.
_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


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
        """Let no request pass for that many seconds, at most `MAX_PAUSE_SECONDS`."""
        self.resume_at = max(self.resume_at, self._clock() + min(seconds, MAX_PAUSE_SECONDS))

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


class Usage(Struct):
    """The requests of one account since the start, and the rate limiter that they pass.

    Each poll adds the records that it could not read as a whole to `invalid_batches`, and those of which it inferred a
    count to `repaired_batches`. `by_code` has HTTP status codes, or why there was none: a `reason` of ours, or
    `cancelled`. `clock_skew` is the API's clock minus ours in seconds, by the last `Date` that it sent.
    """

    rate_limiter: RateLimiter
    by_code: dict[str, int] = field(default_factory=dict)
    durations: Histogram = Histogram.empty(*_BUCKETS)
    throttled_seconds: float = 0.0
    invalid_batches: int = 0
    repaired_batches: int = 0
    clock_skew: float | None = None

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(self.by_code.values())

    def add(self, code: str, seconds: float) -> None:
        """Count a request that has ended."""
        self.by_code[code] = self.by_code.get(code, 0) + 1
        self.durations = self.durations.observe(seconds)
