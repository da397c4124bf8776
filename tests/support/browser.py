"""Headless Chromium, driven by a few commands of the WebDriver protocol (W3C), which is JSON over HTTP."""

import asyncio
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import aiohttp

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
    """One browser with one tab."""

    http: aiohttp.ClientSession
    session: str

    async def open(self, url: str) -> None:
        """Load a page."""
        await self._post("/url", url=url)

    async def run(self, script: str, *arguments: Any) -> Any:
        """Run a function with this body in the page; returns its result."""
        return await self._post("/execute/sync", script=script, args=arguments)

    async def wait_for(self, expression: str, *arguments: Any, seconds: float = 20) -> Any:
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

    async def screenshot(self) -> bytes:
        """The visible page as PNG."""
        async with self.http.get(f"/session/{self.session}/screenshot") as response:
            return b64decode((await response.json())["value"])

    async def _post(self, path: str, **parameters: Any) -> Any:
        return await _ask(self.http, f"/session/{self.session}{path}", parameters)


async def _ask(http: aiohttp.ClientSession, path: str, parameters: dict[str, Any]) -> Any:
    async with http.post(path, json=parameters) as response:
        value = (await response.json())["value"]
        assert response.status == 200, value
        return value


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser with a new profile; it ends with the block."""
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium")
    assert driver and binary, "the tests need chromium and chromedriver; see DEBIAN_PACKAGES in the Makefile"
    process, port = await _start(driver)
    try:
        with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                options = {"binary": binary, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
                wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
                session = await _ask(http, "/session", {"capabilities": {"alwaysMatch": wanted}})
                try:
                    yield Browser(http, session["sessionId"])
                finally:
                    async with http.delete(f"/session/{session['sessionId']}"):
                        pass
    finally:
        process.terminate()
        await process.communicate()


async def _start(driver: str) -> tuple[asyncio.subprocess.Process, int]:
    """A running driver and its port.

    The driver takes a port that is free for IPv6, and ends if that port is in use for IPv4. Then another starts.
    """
    for _ in range(5):
        process = await asyncio.create_subprocess_exec(driver, "--port=0", stdout=PIPE, stderr=DEVNULL)
        assert process.stdout is not None
        async with asyncio.timeout(30):
            async for line in process.stdout:
                if b"started successfully on port" in line:
                    return process, int(line.rpartition(b"port ")[2].strip().rstrip(b"."))
            await process.wait()
    raise AssertionError("chromedriver did not start")
