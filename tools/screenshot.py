"""Write docs/status-page.png: the status page of a simulated account, 45 minutes into an incident."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.api import Api, serving  # noqa: E402
from support.browser import chromium, tab  # noqa: E402
from support.exporter import start_process, write_config  # noqa: E402
from support.samples import sample_key  # noqa: E402

from inkit_exporter import demo  # noqa: E402

ACCOUNT = "production"
DAY_SECONDS = 86_400.0
# With this seed, Salesforce begins to fail at 0.37 of the day. The picture shows the moment at 0.4.
SEED = 26
MOMENT = 0.4
WIDTH, HEIGHT = 1240, 1200


async def main() -> None:
    """Serve the day's batches at that moment, and take the picture in Chromium."""
    now = time.time()
    batches = demo.day(SEED, started_at=now - MOMENT * DAY_SECONDS, seconds=DAY_SECONDS)(now)
    with tempfile.TemporaryDirectory() as folder, chromium() as session:
        async with serving(Api(batches=batches)) as api, tab(session) as browser:
            config = write_config(
                Path(folder),
                api.base_url,
                name=ACCOUNT,
                poll={"interval": "1m"},
                limits={"requests_per_minute": 60},
            )
            async with start_process(f"--config.file={config}") as running:
                await running.wait_until_started()
                await running.wait_for(lambda samples: samples.get(sample_key("inkit_up", account=ACCOUNT)) == 1)
                light = [{"name": "prefers-color-scheme", "value": "light"}]
                await browser.devtools("Emulation.setEmulatedMedia", features=light)
                await browser.devtools("Emulation.setTimezoneOverride", timezoneId="UTC")
                await browser.devtools("Emulation.setScrollbarsHidden", hidden=True)
                await browser.devtools(
                    "Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False
                )
                await browser.open(str(running.url))
                (ROOT / "docs" / "status-page.png").write_bytes(await browser.screenshot())


if __name__ == "__main__":
    asyncio.run(main())
