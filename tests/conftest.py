"""Fixtures of all tests, and how many examples properties are tried with."""

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

# No deadline, as machines are busy at times; in CI the same examples each time, elsewhere new ones to find more.
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")
# For `make mutate`, where thousands of failures are only counted: the same examples too, and none made simpler.
settings.register_profile("mutate", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))

pytest_plugins = ["support.api", "support.exporter", "support.processes"]


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """The machine's time zone is far from UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()
