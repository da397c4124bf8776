"""Tests that start processes have the marker `process`. Without it they can't start one."""

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

STARTING_FIXTURES = {"exporter": ("process",), "browser": ("process", "debian")}
DEBIAN_PROGRAMS = {
    "amtool",
    "chromedriver",
    "chromium",
    "prometheus",
    "prometheus-alertmanager",
    "promtool",
    "systemd-analyze",
    "tinyproxy",
    "wget",
}
"""Of the Makefile's DEBIAN_PACKAGES."""

_running: list[pytest.Item] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a fixture which starts a process."""
    for item in items:
        for fixture in STARTING_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            for marker in STARTING_FIXTURES[fixture]:
                item.add_marker(marker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Remember the running test."""
    _running.append(item)
    try:
        return (yield)
    finally:
        _running.pop()


def _refuse_unmarked(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or not _running:
        return
    program = Path(arguments[0]).name
    needed = ("process", "debian") if program in DEBIAN_PROGRAMS else ("process",)
    for marker in needed:
        if _running[-1].get_closest_marker(marker) is None:
            raise AssertionError(f"a test that starts {program} needs the marker {marker}")


sys.addaudithook(_refuse_unmarked)
