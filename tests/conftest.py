"""Fixtures for all tests, hypothesis profiles, and which tests coverage does not measure."""

import os
import time
from collections.abc import Generator, Iterator

import pytest
from coverage import Coverage
from hypothesis import HealthCheck, Phase, settings

# No time limits, because machines may be busy. In CI the examples are always the same. Elsewhere they vary.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("tests")
# For `make mutate`, which only counts failures: the same examples each time, and no shrinking.
settings.register_profile(
    "mutate", settings.get_profile("tests"), derandomize=True, phases=(Phase.explicit, Phase.generate)
)

pytest_plugins = [
    *("support.api", "support.clock", "support.connections", "support.exporter"),
    *("support.page", "support.processes", "support.web"),
]


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Set a time zone far from UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Do not measure tests with random input. They would take three times as long; a line needs a plain test too."""
    measuring = Coverage.current() if item.get_closest_marker("hypothesis") else None
    if measuring is None:
        return (yield)
    measuring.stop()
    try:
        return (yield)
    finally:
        measuring.start()
