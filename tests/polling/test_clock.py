"""The difference between the API's clock and the exporter's: exported, and logged once if it is large."""

import json
import time
from email.utils import formatdate

import pytest
from aiohttp import web
from structlog.testing import capture_logs
from support.api import TOKEN, Api, Handler, batch
from support.exporter import StartExporter
from support.samples import sample_key, up

from inkit_exporter.config import AccountSettings, Settings
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import States
from inkit_exporter.transport import open_session


def set_ahead(api: Api, seconds: float) -> None:
    """Let the API's clock be ahead of ours by this time."""

    async def date(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        answer.headers["Date"] = formatdate(time.time() + seconds, usegmt=True)
        return answer

    api.fault = date


@pytest.mark.usefixtures("wall_clock")
@pytest.mark.parametrize("sign", [1, -1])
async def test_a_clock_that_is_more_than_a_minute_off_is_logged_once(api: Api, sign: int) -> None:
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN}, States())
        account = AccountSettings(name="a", api_token_env="T", base_url=api.base_url)
        accounts.apply(Settings(accounts=(account,)))
        with capture_logs() as logs:
            for seconds in (0, 50, 70, 80, 0, 70):
                set_ahead(api, sign * seconds)
                assert await accounts.poll_once()
    (told,) = [told for told in logs if told["log_level"] == "warning"]
    assert told.pop("clock_skew_seconds") == pytest.approx(sign * 70, abs=1)
    assert told == {"log_level": "warning", "event": "the clock differs from the API's", "account": "a"}


@pytest.mark.usefixtures("wall_clock")
async def test_a_clock_too_far_ahead_is_logged_and_fails_the_poll(api: Api) -> None:
    api.batches = [batch("fb_1")]
    states = States()
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN}, states)
        account = AccountSettings(name="a", api_token_env="T", base_url=api.base_url)
        accounts.apply(Settings(accounts=(account,)))
        assert await accounts.poll_once()
        snapshot = states["a"].snapshot
        set_ahead(api, -86_500)
        with capture_logs() as logs:
            assert not await accounts.poll_once()
        assert (states["a"].reason, states["a"].snapshot) == ("bad_response", snapshot)
        assert "clock is 86" in (states["a"].error or "")
        assert [told["log_level"] for told in logs if told["log_level"] != "debug"] == ["warning", "error"]
        api.fault = None
        assert await accounts.poll_once()
        assert states["a"].usage.clock_skew == pytest.approx(0, abs=1.5)


async def test_the_clock_skew_is_in_the_metrics_and_the_json(api: Api, exporter: StartExporter) -> None:
    key = sample_key("inkit_api_clock_skew_seconds", account="default")
    for ahead in (None, 500):
        set_ahead(api, ahead or 0)
        running = await exporter(**({} if ahead else {"api_token_file": "/nowhere"}))
        samples = await running.wait_for(lambda s: up(s) is not None)
        report = json.loads((await running.get("/api/v1/status"))[1])
        for shown in (samples.get(key), report["accounts"][0]["clock_skew_seconds"]):
            assert shown == (pytest.approx(ahead, abs=10) if ahead else None)
