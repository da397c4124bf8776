"""Fixtures for all tests, and hypothesis profiles."""

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

# No deadline, because machines may be busy. In CI the examples are always the same. Elsewhere they vary.
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")
# For `make mutate`, which only counts failures: the same examples each time, and no shrinking.
settings.register_profile("mutate", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))

pytest_plugins = ["support.api", "support.exporter", "support.page", "support.processes", "support.web"]


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Set a time zone far from UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()
