"""The account's rate limiter on a fake clock, and how `Retry-After` is read."""

import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.transport import parse_retry_after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 20), st.lists(st.floats(0, 30), max_size=100))
def test_no_minute_has_more_requests_than_allowed_and_no_request_waits_longer_than_needed(
    allowed: int, pauses: list[float]
) -> None:
    clock = Clock()
    limiter = RateLimiter(allowed, clock)
    sent: list[float] = []
    for pause in pauses:
        clock.now += pause
        assert limiter.in_last_minute() == sum(when > clock.now - 60 for when in sent)
        if (delay := limiter.delay()) > 0:
            # It waits until the oldest of the last `allowed` requests is a minute old.
            assert delay == pytest.approx(sent[-allowed] + 60 - clock.now)
            clock.now += delay
        limiter.count_request()
        sent.append(clock.now)
        assert limiter.in_last_minute() == sum(when > clock.now - 60 for when in sent)
    for i, first in enumerate(sent):
        assert sum(first <= later < first + 59.999 for later in sent[i:]) <= allowed


def test_a_pause_delays_all_requests_until_it_ends() -> None:
    clock = Clock()
    limiter = RateLimiter(10, clock)
    limiter.pause(30)
    limiter.pause(10)
    assert limiter.delay() == 30
    clock.now += 30
    assert limiter.delay() == 0


def test_a_high_limit_that_is_not_reached_takes_no_memory() -> None:
    clock = Clock()
    limiter = RateLimiter(10**6, clock)
    tracemalloc.start()
    for _ in range(10_000):
        clock.now += 1
        limiter.count_request()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert limiter.in_last_minute() == 60
    assert held < 10_000


def test_a_request_counts_for_a_minute() -> None:
    clock = Clock()
    limiter = RateLimiter(10, clock)
    limiter.count_request()
    clock.now += 59
    assert limiter.in_last_minute() == 1
    clock.now += 1
    assert limiter.in_last_minute() == 0


def test_the_first_request_goes_at_once_even_right_after_the_machine_booted() -> None:
    clock = Clock()
    clock.now = 0.0
    assert RateLimiter(10, clock).delay() == 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("1.5", 1.5),
        ("300", 300),
        ("301", None),
        ("30000", None),  # milliseconds
        ("1772366400", None),  # seconds since 1970
        (" 7 ", 7),
        ("9" * 400, None),
        ("1" * 5000, None),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW + timedelta(seconds=300), usegmt=True), 300),
        (format_datetime(NOW + timedelta(seconds=301), usegmt=True), None),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        ((NOW + timedelta(seconds=90)).isoformat(), None),
        (f"{NOW + timedelta(seconds=90):%Y-%m-%dT%H:%M:%SZ}", None),
        ("60s", None),
        ("Sun, 01 Mar 2026 12:00:05 -0000", 5),
        ("Sun, 01 Mar 2026 14:00:05 +0200", 5),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Sun, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_retry_after_is_read_as_seconds_or_a_date_up_to_five_minutes_ahead(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW.timestamp()) == seconds


@given(st.text())
def test_any_retry_after_is_read_without_an_error(value: str) -> None:
    seconds = parse_retry_after(value, NOW.timestamp())
    assert seconds is None or 0 <= seconds <= 300


def test_a_changed_limit_counts_earlier_requests() -> None:
    clock = Clock()
    limiter = RateLimiter(2, clock)
    limiter.count_request()
    clock.now += 10
    limiter.count_request()
    assert limiter.delay() == 50
    limiter.requests_per_minute = 3
    assert limiter.in_last_minute() == 2
    assert limiter.delay() <= 0
    limiter.count_request()
    assert limiter.delay() == 50
    limiter.requests_per_minute = 1
    assert limiter.in_last_minute() == 3
    assert limiter.delay() == 60
