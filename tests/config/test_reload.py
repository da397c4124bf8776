"""Reloads: a valid configuration takes effect at once; an invalid one changes nothing, and the error says why."""

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support import PATIENCE_SECONDS
from support.api import TOKEN, Api, Handler, Slow, batch, hang
from support.exporter import HUNG_UP, Exporter, StartExporter, hang_up_while_it_starts, write_config
from support.samples import Samples, documents, sample_key, up

SUCCESSFUL = "inkit_exporter_config_last_reload_successful"
SUCCESS_TIME = "inkit_exporter_config_last_reload_success_timestamp_seconds"

Reload = Callable[[Exporter], Awaitable[None]]


def account(name: str, **changes: Any) -> dict[str, Any]:
    """Return an account that sends its name in each request."""
    return {"name": name, "filters": {"search": name}} | changes


def asked(api: Api, name: str) -> int:
    return sum(request.query.get("search") == name for request in api.requests)


def polls(samples: Samples, name: str) -> float | None:
    return samples.get(sample_key("inkit_polls_total", account=name))


async def post(running: Exporter, path: str = "/-/reload") -> tuple[int, str]:
    async with running.http.post(path) as response:
        return response.status, await response.text()


async def by_post(running: Exporter) -> None:
    assert await post(running) == (200, "reloaded\n")


async def by_signal(running: Exporter) -> None:
    lines = len(running.log)
    running.process.send_signal(signal.SIGHUP)
    await running.wait_for_line('msg="configuration reloaded"', lines)


async def test_a_reload_signal_during_startup_does_not_end_the_exporter(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    running = await exporter(env=hang_up_while_it_starts(tmp_path))
    assert HUNG_UP in running.log
    await running.wait_for(lambda samples: up(samples) == 1)


async def test_a_reload_signal_while_the_configuration_is_read_reloads_it_after_the_start(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    running = await exporter(env=hang_up_while_it_starts(tmp_path, moment=("open", "config.yaml")))
    await running.wait_for_line('msg="configuration reloaded"')
    assert HUNG_UP in running.log
    await running.wait_for(lambda samples: up(samples) == 1)


@pytest.mark.parametrize("reload", [by_signal, by_post])
async def test_a_reload_starts_new_accounts_ends_removed_ones_and_keeps_the_rest(
    api: Api, exporter: StartExporter, tmp_path: Path, reload: Reload
) -> None:
    api.batches = [batch("fb_stays"), batch("fb_goes"), batch("fb_comes")]
    hour = {"interval": "1h"}
    running = await exporter("--web.enable-lifecycle", poll=hour, accounts=[account("stays"), account("goes")])
    before = await running.wait_for(lambda s: up(s, "stays") == up(s, "goes") == 1)
    assert before[SUCCESSFUL] == 1

    write_config(tmp_path, api.base_url, poll=hour, accounts=[account("comes"), account("stays")])
    await reload(running)
    after = await running.wait_for(lambda s: up(s, "comes") == 1)
    assert not any('account="goes"' in key for key in after)
    kept = {key: value for key, value in before.items() if 'account="stays"' in key}
    assert kept == {key: value for key, value in after.items() if 'account="stays"' in key}
    assert documents(after, account="comes") == {("inkit_storage", "completed"): 1}
    assert (asked(api, "stays"), asked(api, "goes"), asked(api, "comes")) == (1, 1, 1)
    assert after[SUCCESSFUL] == 1
    assert after[SUCCESS_TIME] > before[SUCCESS_TIME]
    assert (await running.get("/-/ready"))[0] == 200
    page = (await running.get("/"))[1]
    assert '"stays"' in page and '"goes"' not in page


INVALID = [
    ("accounts: [", r"line 1, column 12: "),
    ("accounts: []", r"accounts: expected a list of length >= 1; see config.example.yaml"),
    ("accounts: [{name: a, api_token_env: NOT_SET}]", r"accounts\[0\].api_token_env: .*NOT_SET is not set"),
    ("accounts: [{name: a, api_token: s3cret}]", r"accounts\[0\].api_token: a token does not belong"),
    ("accounts: [{name: a, api_token_file: t}]\npoll: {interval: !!int ''}", r"line 2, column 18: "),
    (None, r"can't be read: No such file"),
]


async def test_an_invalid_configuration_is_reported_and_the_current_one_kept(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch("fb_1")]
    running = await exporter("--web.enable-lifecycle")
    current = await running.wait_for(lambda s: up(s) == 1)
    path = tmp_path / "config.yaml"
    good = path.read_text()
    for text, reason in INVALID:
        before, lines = current, len(running.log)
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        status, answer = await post(running)
        assert status == 500
        assert re.match(rf"not reloaded: .*{reason}", answer) and answer.count("\n") == 1
        assert "s3cret" not in answer
        refused = await more_polls(running)
        assert (refused[SUCCESSFUL], refused[SUCCESS_TIME]) == (0, before[SUCCESS_TIME])
        assert documents(refused) == {("inkit_storage", "completed"): 1}
        assert sum("configuration not reloaded" in line for line in running.log[lines:]) == 1

        lines = len(running.log)
        running.process.send_signal(signal.SIGHUP)
        await running.wait_for_line("configuration not reloaded", lines)
        path.write_text(good)
        await by_signal(running)
        current = await running.samples()
        assert current[SUCCESSFUL] == 1
        assert current[SUCCESS_TIME] > before[SUCCESS_TIME]
        assert (polls(current, "default") or 0) >= (polls(refused, "default") or 0), "it keeps its totals"


async def more_polls(running: Exporter) -> Samples:
    """Wait for two more polls."""
    seen = polls(await running.samples(), "default") or 0
    return await running.wait_for(lambda s: (polls(s, "default") or 0) >= seen + 2)


FROM_PAGES: list[tuple[dict[str, str], int]] = [
    ({}, 200),  # curl
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"}, 200),
    ({"Sec-Fetch-Site": "none"}, 200),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Sec-Fetch-Site": ""}, 403),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://HOST"}, 403),
    ({"Origin": "http://HOST"}, 200),
    ({"Origin": "https://HOST"}, 200),  # behind a proxy that terminates TLS
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "http://HOST.evil.example"}, 403),
    ({"Origin": "null"}, 403),
]


async def test_a_web_page_of_another_site_cannot_reload_the_exporter(exporter: StartExporter) -> None:
    running = await exporter("--web.enable-lifecycle")
    host = ":".join(map(str, running.address))
    for headers, status in FROM_PAGES:
        sent = {name: value.replace("HOST", host) for name, value in headers.items()}
        lines = len(running.log)
        async with running.http.post("/-/reload", headers=sent) as response:
            text = await response.text()
        assert response.status == status, headers
        if status == 200:
            await running.wait_for_line("configuration reloaded", lines)
        assert text == ("reloaded\n" if status == 200 else "requests from other sites' pages are refused\n")
        assert (await running.get("/metrics", **sent))[0] == 200


async def test_reloading_over_http_needs_the_lifecycle_flag(exporter: StartExporter) -> None:
    running = await exporter()
    before = await running.wait_for(lambda s: up(s) == 1)
    status, answer = await post(running)
    assert status == 403
    assert "--web.enable-lifecycle" in answer
    assert (await running.get("/-/reload"))[0] == 405
    after = await running.samples()
    assert after[SUCCESS_TIME] == before[SUCCESS_TIME]
    assert not any("reloaded" in line for line in running.log)


async def test_new_limits_apply_at_once_and_keep_snapshot_and_totals(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    failed = sample_key("inkit_documents_failed_total", account="default", destination="box")
    created = sample_key("inkit_batches_created_total", account="default")
    api.batches = [batch("fb_1", status="In Progress", destinations={"box": (0, 0, 3)})]
    running = await exporter()
    await running.wait_for(lambda s: up(s) == 1)
    api.batches = [batch("fb_1", status="In Progress", destinations={"box": (0, 2, 1)})]
    before = await running.wait_for(lambda s: s[failed] == 2)

    write_config(tmp_path, api.base_url, poll={"interval": "300ms", "page_size": 7, "stale_after": "1h"})
    await by_signal(running)
    at_once = await running.samples()
    assert at_once[sample_key("inkit_poll_interval_seconds", account="default")] == 0.3
    assert documents(at_once, "failed") == documents(before, "failed") == {("box", "in_progress"): 2}
    seen = polls(at_once, "default") or 0
    api.batches = [batch("fb_2", age=1), batch("fb_1", destinations={"box": (1, 2, 0)})]
    after = await running.wait_for(
        lambda s: documents(s).get(("box", "completed")) == 3 and (polls(s, "default") or 0) > seen + 1
    )
    assert after[failed] == 2
    assert after[created] <= 1
    assert api.requests[-1].query["page_size"] == "7"
    assert up(after) == 1


async def test_an_account_whose_address_changes_starts_empty(api: Api, exporter: StartExporter, tmp_path: Path) -> None:
    api.batches = [batch("fb_1")]
    running = await exporter(poll={"interval": "1h"})
    await running.wait_for(lambda s: up(s) == 1)
    write_config(tmp_path, "http://127.0.0.1:1/v1", poll={"interval": "1h"})
    await by_signal(running)
    samples = await running.wait_for(lambda s: up(s) == 0)
    assert documents(samples) == {}
    assert polls(samples, "default") == 1


async def test_an_account_whose_kind_of_batch_changes_starts_empty(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    api.batches, api.document_batches = [batch("fb_1")], [batch("rb_1", destinations={"box": (2, 1, 0)})]
    running = await exporter(poll={"interval": "1h"})
    await running.wait_for(lambda s: up(s) == 1)
    write_config(tmp_path, api.base_url, poll={"interval": "1h"}, batches="document")
    await by_signal(running)
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("box", "completed"): 3}
    assert polls(samples, "default") == 1
    assert [request.path for request in api.requests] == ["/v1/invoke/batch", "/v1/batch"]


async def test_a_pause_belongs_to_the_token_and_survives_a_reload(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    async def pause_one(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query["search"] == "asks":
            return web.Response(status=429, headers={"Retry-After": "300"})
        return await handler(request)

    def accounts(place: str) -> list[dict[str, Any]]:
        return [account("shares"), account("apart", api_token_file=str(apart)), account("asks", api_token_file=place)]

    async def paused() -> dict[str, bool]:
        report = json.loads((await running.get("/api/v1/status"))[1])
        return {one["account"]: one["paused_until_timestamp_seconds"] is not None for one in report["accounts"]}

    shared, apart = tmp_path / "token", tmp_path / "another"
    apart.write_text(TOKEN)
    running = await exporter(accounts=accounts(str(shared)))
    await running.wait_for(lambda s: up(s, "shares") == up(s, "apart") == up(s, "asks") == 1)
    api.fault = pause_one
    samples = await running.wait_for(lambda s: up(s, "asks") == 0)
    seen, goes_on = asked(api, "shares"), polls(samples, "apart") or 0
    samples = await running.wait_for(lambda s: (polls(s, "apart") or 0) >= goes_on + 5)
    assert asked(api, "shares") <= seen + 1, "one request may have been under way"
    assert up(samples, "shares") == 1
    assert await paused() == {"asks": True, "shares": True, "apart": False}

    # With another token, the account is not paused; the others do not change.
    api.fault = None
    seen, since = asked(api, "shares"), asked(api, "asks")
    write_config(tmp_path, api.base_url, accounts=accounts(str(apart)))
    await by_signal(running)
    await running.wait_for(lambda s: up(s, "asks") == 1 and asked(api, "asks") >= since + 2)
    assert await paused() == {"asks": False, "shares": True, "apart": False}
    since = asked(api, "asks")
    write_config(tmp_path, api.base_url, poll={"interval": "300ms"}, accounts=accounts(str(shared)))
    await by_signal(running)
    goes_on = polls(await running.samples(), "apart") or 0
    since = asked(api, "asks")
    await running.wait_for(lambda s: (polls(s, "apart") or 0) >= goes_on + 3)
    assert await paused() == {"asks": True, "shares": True, "apart": False}
    assert (asked(api, "asks"), asked(api, "shares")) == (since, seen)


async def test_a_hanging_poll_does_not_delay_a_reload_and_ends_with_its_account(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    def hanging() -> set[str]:
        return {request.query["search"] for request in api.requests if request.transport is not None}

    api.fault = hang
    limits = {"timeout": "1h"}
    both = [account("stays"), account("goes")]
    running = await exporter(poll={"interval": "1h"}, limits=limits, accounts=both)
    await running.wait_for(lambda _: hanging() == {"stays", "goes"})
    write_config(tmp_path, api.base_url, poll={"interval": "1h"}, limits=limits, accounts=both[:1])
    await by_signal(running)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while "goes" in hanging():
            await asyncio.sleep(0.01)
    assert hanging() == {"stays"}
    assert len(api.requests) == 2


async def test_after_many_reloads_each_account_still_has_one_loop(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    """A loop that went on would send its own page size, and a second one would let a request be made meanwhile."""
    running = await exporter("--web.enable-lifecycle", poll={"interval": "1h"})
    await running.wait_for(lambda s: up(s) == 1)
    for size in range(80, 101):
        write_config(tmp_path, api.base_url, poll={"interval": "100ms", "page_size": size})
        await by_post(running)
    await more_polls(running)
    api.requests.clear()
    api.fault = slow = Slow(0.1)
    for _ in range(3):
        await more_polls(running)
    assert {request.query["page_size"] for request in api.requests} == {"100"}
    assert slow.most == 1


async def test_the_next_poll_uses_a_token_that_kubernetes_replaced(
    api: Api, exporter: StartExporter, tmp_path: Path
) -> None:
    """Kubernetes mounts a secret as a symlink into a folder that is a symlink too, and replaces the latter."""
    for version, token in (("v1", "revoked"), ("v2", TOKEN)):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(token)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "mounted").symlink_to("..data/token")
    running = await exporter(api_token_file=str(tmp_path / "mounted"))
    await running.wait_for(lambda s: up(s) == 0)
    (tmp_path / "..data_tmp").symlink_to("v2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    await running.wait_for(lambda s: up(s) == 1)
