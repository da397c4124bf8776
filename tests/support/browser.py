"""Headless Chromium, driven by a few commands of the WebDriver protocol (W3C), which is JSON over HTTP."""

import asyncio
import json
import shutil
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib import resources
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import aiohttp

from support import PATIENCE_SECONDS

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # Chromium does not start as root without it, which is usual in containers
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1280,1000",
)


@dataclass
class Browser:
    """One tab of a browser. `session` is the address of the browser's session."""

    http: aiohttp.ClientSession
    session: str

    async def open(self, url: str) -> None:
        """Load a page."""
        await self._post("/url", url=url)

    async def run(self, script: str, *arguments: Any) -> Any:
        """Run a function with this body in the page; returns its result."""
        return await self._post("/execute/sync", script=script, args=arguments)

    async def wait_for(self, expression: str, *arguments: Any, seconds: float = PATIENCE_SECONDS) -> Any:
        """Wait until a JavaScript expression is truthy; returns its value."""
        value = None
        try:
            async with asyncio.timeout(seconds):
                while not (value := await self.run(f"return {expression}", *arguments)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = await self.run("return document.body.innerText")
            raise AssertionError(f"never held: {expression}\nthe page: {text}\n{await self.console()}") from None
        return value

    async def devtools(self, method: str, **parameters: Any) -> Any:
        """A command of the Chrome DevTools protocol."""
        return await self._post("/goog/cdp/execute", cmd=method, params=parameters)

    async def console(self) -> list[str]:
        """The console's lines since the last call: errors, and what the Content-Security-Policy refused."""
        return [entry["message"] for entry in await self._post("/se/log", type="browser")]

    async def accessibility(self) -> list[str]:
        """What axe finds wrong with the page as it is: rule, help, and the elements."""
        axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text()
        found = await self.run(f"{axe}; return axe.run().then(results => results.violations)")
        return [f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']]}" for one in found]

    async def new_tab(self) -> None:
        """Open another tab, and use it from now on."""
        made = await self._post("/window/new", type="tab")
        await self._post("/window", handle=made["handle"])
        await self.console()

    async def close_tab(self) -> None:
        """Close this tab. The first one stays, because without tabs the browser ends."""
        async with self.http.delete(f"{self.session}/window") as response:
            (first,) = (await response.json())["value"]
        await self._post("/window", handle=first)

    async def screenshot(self) -> bytes:
        """The visible page as PNG."""
        async with self.http.get(f"{self.session}/screenshot") as response:
            return b64decode((await response.json())["value"])

    async def _post(self, path: str, **parameters: Any) -> Any:
        async with self.http.post(self.session + path, json=parameters) as response:
            value = (await response.json())["value"]
            assert response.status == 200, value
            return value


@contextmanager
def chromium() -> Iterator[str]:
    """A browser with a new profile; yields the address of its session. It ends with the block."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver and binary, "the tests need chromium and chromedriver; see DEBIAN_PACKAGES in the Makefile"
    with (
        _running(driver) as port,
        tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile,
    ):
        options = {"binary": binary, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as http:
            http.request("POST", "/session", json.dumps({"capabilities": {"alwaysMatch": wanted}}))
            path = f"/session/{json.load(http.getresponse())['value']['sessionId']}"
            try:
                yield f"http://127.0.0.1:{port}{path}"
            finally:
                http.request("DELETE", path)
                http.getresponse().read()


@asynccontextmanager
async def tab(session: str) -> AsyncIterator[Browser]:
    """A new tab, which knows nothing of what others emulate or block. It is closed with the block."""
    async with aiohttp.ClientSession() as http:
        browser = Browser(http, session)
        await browser.new_tab()
        yield browser
        await browser.close_tab()


@contextmanager
def _running(driver: str) -> Iterator[int]:
    """Run the driver; yields its port.

    The driver takes a port that is free for IPv6, and ends if that port is in use for IPv4. Then another starts.
    """
    for _ in range(5):
        with Popen([driver, "--port=0"], stdout=PIPE, stderr=DEVNULL) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if b"started successfully on port" in line:
                    try:
                        yield int(line.rpartition(b"port ")[2].strip().rstrip(b"."))
                    finally:
                        process.terminate()
                        process.communicate()
                    return
    raise AssertionError("chromedriver did not start")
