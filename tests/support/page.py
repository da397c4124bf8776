"""The status page in a browser."""

from collections.abc import AsyncIterator, Iterator

import pytest

from support.browser import Browser, chromium, tab
from support.exporter import Exporter


@pytest.fixture(scope="session")
def session() -> Iterator[str]:
    """One browser for all tests, because it takes a second to start."""
    with chromium() as started:
        yield started


@pytest.fixture
async def browser(session: str) -> AsyncIterator[Browser]:
    """A new tab."""
    async with tab(session) as opened:
        yield opened


async def open_page(browser: Browser, running: Exporter, query: str = "") -> None:
    await browser.open(f"{running.url}{query}")


async def said(browser: Browser) -> str:
    """The sentence at the top."""
    return str(await browser.run("return document.getElementById('verdict').innerText"))


async def table(browser: Browser, section: str) -> list[list[str]]:
    """The text of every cell that is seen."""
    rows = "Array.from(document.querySelectorAll(`#${arguments[0]} tbody tr`))"
    found: list[list[str]] = await browser.run(
        f"return {rows}.map(r => [...r.cells].filter(c => c.checkVisibility()).map(c => c.innerText.trim()))", section
    )
    return found


async def colours(browser: Browser, scheme: str) -> None:
    await browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
