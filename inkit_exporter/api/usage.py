"""Counts one account's requests, and what was wrong with their answers."""

from msgspec import Struct, field

from inkit_exporter.counters import Histogram
from inkit_exporter.rate_limit import RateLimiter

# From a cached answer on the same continent to the default of `api.timeout`, in seconds.
_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Usage(Struct):
    """The requests of one account since the start, and their rate limiter.

    Each poll adds records that it could not read, or read only in part, to `invalid_batches`, and records with an
    inferred count to `repaired_batches`. `by_code` counts requests by HTTP status code, or without one by `reason` or
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
