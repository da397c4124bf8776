"""The exporter with `--storage.path`: what it serves after a restart, and what it does when the disk fails."""

import asyncio
import resource
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from functools import partial
from pathlib import Path
from random import Random

import pytest
from aiohttp import web
from msgspec.structs import replace
from support.api import TOKEN, Api, Handler, batch, hang
from support.exporter import Exporter, StartExporter, run_to_end, start_process, write_config
from support.samples import Samples, sample_key, up

from inkit_exporter.demo import JsonBatch
from inkit_exporter.storage.files import AccountFile

CREATED = sample_key("inkit_batches_created_total", account="default")
COMPLETED = sample_key("inkit_documents_completed_total", account="default", destination="box")
FAILED = sample_key("inkit_documents_failed_total", account="default", destination="box")
LAST_SUCCESS = sample_key("inkit_last_successful_poll_timestamp_seconds", account="default")
DURATIONS = sample_key("inkit_batch_duration_seconds_count", account="default")
TOTALS = {CREATED, COMPLETED, FAILED, DURATIONS}
HEALTHY, FAILURES = "inkit_exporter_storage_healthy", "inkit_exporter_storage_failures_total"


def batches(samples: Samples) -> float:
    return sum(value for name, value in samples.items() if name.startswith("inkit_batches{"))


def all_up(accounts: set[str], samples: Samples) -> bool:
    return all(up(samples, account) == 1 for account in accounts)


def has_created_one(name: str, samples: Samples) -> bool:
    return samples[name] == 1


def batch_documents(samples: Samples) -> list[float]:
    """Return the numbers of completed, failed and in-progress documents."""
    fields = ("completed", "failed", "in_progress")
    return [sum(v for k, v in samples.items() if k.startswith(f"inkit_batch_documents_{f}{{")) for f in fields]


async def fail(_request: web.Request, _handler: Handler) -> web.StreamResponse:
    return web.Response(status=503)


async def kill(running: Exporter) -> None:
    running.process.kill()
    await running.process.wait()


async def store_one_poll(start: StartExporter) -> None:
    """Run an exporter until it has polled, and kill it."""
    running = await start()
    await running.wait_for(lambda s: up(s) == 1)
    await kill(running)


@pytest.fixture
async def start(tmp_path: Path, api: Api) -> AsyncIterator[StartExporter]:
    """Return a function that starts exporters with storage in `tmp_path`, which tests may kill."""
    started: list[Exporter] = []
    async with AsyncExitStack() as processes:

        async def begin(*flags: str, **settings: object) -> Exporter:
            write_config(tmp_path, api.base_url, **settings)  # type: ignore[arg-type]
            started.append(running := await processes.enter_async_context(with_storage(tmp_path, *flags)))
            await running.wait_until_started()
            return running

        yield begin
        log = "".join(line for running in started for line in running.log)
        assert TOKEN not in log and "Traceback" not in log


def with_storage(folder: Path, *flags: str) -> AbstractAsyncContextManager[Exporter]:
    """Run an exporter with configuration and storage in a folder."""
    return start_process(f"--config.file={folder / 'config.yaml'}", f"--storage.path={folder / 'storage'}", *flags)


@pytest.mark.process
async def test_a_restart_serves_the_stored_state_at_once_and_counts_what_happened_meanwhile(
    api: Api, start: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch(f"fb_{i}", age=100 + i) for i in range(250)]
    running = await start()
    await running.wait_for(lambda s: up(s) == 1)
    api.batches = [batch("fb_new", age=50, status="In Progress", destinations={"box": (1, 2, 3)}), *api.batches]
    before = await running.wait_for(lambda s: s[FAILED] == 2)
    await kill(running)
    go_on = asyncio.Event()

    async def wait_and_fail(request: web.Request, handler: Handler) -> web.StreamResponse:
        await go_on.wait()
        return await fail(request, handler)

    api.fault = wait_and_fail
    running = await start()
    restored = await running.samples()
    assert up(restored) is None
    assert [restored[name] for name in (CREATED, FAILED, DURATIONS)] == [1, 2, 0]
    assert restored[LAST_SUCCESS] >= before[LAST_SUCCESS]
    assert batches(restored) == 251
    assert restored[HEALTHY] == 1 and restored["inkit_exporter_storage_size_bytes"] > 10_000
    api.fault = fail
    go_on.set()
    still = await running.wait_for(lambda s: up(s) == 0)
    assert still[FAILED] == 2 and batches(still) == 251
    api.batches[0] = batch("fb_new", age=50, destinations={"box": (1, 5, 0)})
    api.requests.clear()
    api.fault = None
    after = await running.wait_for(lambda s: up(s) == 1)
    assert (after[CREATED], after[FAILED], after[DURATIONS]) == (1, 5, 1)
    assert {request.query["page"] for request in api.requests} == {"1"}
    for path in (tmp_path / "storage").iterdir():
        assert TOKEN.encode() not in path.read_bytes()


@pytest.mark.process
async def test_after_five_kills_at_random_moments_every_change_is_counted_once(api: Api, start: StartExporter) -> None:
    """Batches are created and progress all the time. No scraped total ever decreases."""
    chance, batches_made, done = Random(1), 0, asyncio.Event()
    documents: dict[str, list[int]] = {}

    def as_listed(name: str) -> JsonBatch:
        completed, failed, waiting = documents[name]
        status, age = "In Progress" if waiting else "Completed", 100 - int(name.removeprefix("fb_")) / 100
        return batch(name, age=age, status=status, destinations={"box": (completed, failed, waiting)})

    async def change() -> None:
        nonlocal batches_made
        while not done.is_set():
            if chance.random() < 0.3:
                batches_made += 1
                documents[f"fb_{batches_made:06}"] = [0, 0, chance.randint(1, 5)]
            for name in chance.sample(sorted(documents), min(3, len(documents))):
                if documents[name][2]:
                    documents[name][2] -= 1
                    documents[name][chance.random() < 0.3] += 1
            api.batches = [as_listed(name) for name in sorted(documents, reverse=True)]
            await asyncio.sleep(0.01)

    changing = asyncio.create_task(change())
    running = await start(poll={"interval": "20ms", "page_size": 10})
    first = await running.wait_for(lambda s: up(s) == 1)
    seen = first
    for _ in range(5):
        deadline = asyncio.get_running_loop().time() + chance.uniform(0.0, 0.4)
        while asyncio.get_running_loop().time() < deadline:
            samples = await running.samples()
            assert all(samples[name] >= seen[name] for name in seen if name in TOTALS)
            seen = samples
        await kill(running)
        running = await start(poll={"interval": "20ms", "page_size": 10})
    done.set()
    await changing
    sums = [sum(numbers[i] for numbers in documents.values()) for i in range(3)]
    final = await running.wait_for(lambda s: batches(s) == batches_made and batch_documents(s) == sums)
    assert final[CREATED] - first[CREATED] == batches_made - batches(first)
    assert [final[name] - first[name] for name in (COMPLETED, FAILED)] == [
        sums[i] - batch_documents(first)[i] for i in range(2)
    ]


@pytest.mark.process
async def test_gauges_older_than_stale_after_are_not_served_after_a_restart(api: Api, start: StartExporter) -> None:
    async def answer_once(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await (handler(request) if len(api.requests) == 1 else hang(request, handler))

    api.batches, api.fault = [batch("fb_1")], answer_once
    running = await start(poll={"stale_after": "1s"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    await kill(running)
    duration = samples[sample_key("inkit_poll_duration_seconds", account="default")]
    await asyncio.sleep(max(1, 2 * duration) + 0.5)  # what took long stays longer
    running = await start(poll={"stale_after": "1s"})
    restored = await running.samples()
    assert batches(restored) == 0
    assert restored[CREATED] == 0 and restored[LAST_SUCCESS] > 0


@pytest.mark.process
async def test_gauges_from_the_future_are_not_served_after_a_restart(
    api: Api, start: StartExporter, tmp_path: Path
) -> None:
    """The clock was set back while the exporter was down, so nobody knows how old they are."""
    api.batches = [batch("fb_1")]
    await store_one_poll(start)
    (path,) = (tmp_path / "storage").glob("*.db")
    with closing(AccountFile(path)) as file:
        found = file.load()
        assert found is not None
        file.save(replace(found[0], last_success=found[0].last_success + 7200), [], whole=False)
    api.fault = fail
    running = await start()
    restored = await running.samples()
    assert batches(restored) == 0
    assert restored[CREATED] == 0


@pytest.mark.process
async def test_a_full_disk_stops_only_the_storage_until_there_is_room(api: Api, start: StartExporter) -> None:
    api.batches = [batch("fb_0")]
    running = await start()
    await running.wait_for(lambda s: up(s) == 1)
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    api.batches = [batch("fb_1"), *api.batches]
    ill = await running.wait_for(lambda s: s[CREATED] == 1 and s[FAILURES] > 1)
    assert (ill[HEALTHY], up(ill), batches(ill)) == (0, 1, 2)
    _, status = await running.get("/api/v1/status")
    assert '"storage":{"healthy":false,"error":"default: ' in status
    assert len([line for line in running.log if "continuing in memory" in line]) == 1
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await running.wait_for(lambda s: s[HEALTHY] == 1)
    await running.wait_for_line("the account is stored again")
    await kill(running)
    api.fault = fail
    running = await start()
    assert (await running.samples())[CREATED] == 1


@pytest.mark.process
async def test_a_directory_that_was_removed_is_written_whole_when_it_is_back(
    api: Api, start: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch(f"fb_{i}") for i in range(10)]
    running = await start()
    await running.wait_for(lambda s: up(s) == 1)
    shutil.rmtree((tmp_path / "storage").rename(tmp_path / "removed"))  # at once, as the exporter writes to it
    await running.wait_for(lambda s: s[HEALTHY] == 0)
    (tmp_path / "storage").mkdir()
    await running.wait_for(lambda s: s[HEALTHY] == 1)
    await kill(running)
    api.fault = fail
    running = await start()
    assert batches(await running.samples()) == 10


@pytest.mark.process
async def test_a_broken_or_foreign_file_is_set_aside_with_one_log_line_and_counted(
    api: Api, start: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch("fb_1")]
    await store_one_poll(start)
    (path,) = (tmp_path / "storage").glob("*.db")
    for file in (tmp_path / "storage").iterdir():
        file.write_bytes(b"not what it was\n" * 1000)
    running = await start()
    await running.wait_for(lambda s: up(s) == 1)
    (line,) = [line for line in running.log if "level=info" not in line]
    assert f"{path}.set-aside" in line and "account=default" in line
    assert path.with_name(f"{path.name}.set-aside").read_bytes().startswith(b"not what it was")
    samples = await running.samples()
    assert samples[HEALTHY] == 1
    assert samples[FAILURES] == 1


@pytest.mark.process
async def test_a_wrong_total_of_before_a_restart_is_not_logged_if_the_list_has_more_batches_now(
    api: Api, start: StartExporter
) -> None:
    async def promise_six(request: web.Request, _handler: Handler) -> web.Response:
        items = api.batches if request.query["page"] == "1" else []
        return web.json_response({"items": items, "metadata": {"pagination": {"total_count": 6}}})

    api.batches, api.fault = [batch("fb_1")], promise_six
    running = await start()
    await running.wait_for_line('msg="the list is shorter than the API says" account=default promised=6')
    await running.wait_for(lambda s: up(s) == 1)
    await kill(running)
    api.batches, api.fault = [batch(f"fb_{i}") for i in range(9)], None
    running = await start()
    await running.wait_for(lambda s: batches(s) == 9)
    running.process.terminate()
    await running.wait_for_line("msg=stopping")
    assert not [line for line in running.log if "the list is shorter" in line]


@pytest.mark.process
async def test_a_second_process_waits_for_the_first_to_end(api: Api, start: StartExporter, tmp_path: Path) -> None:
    api.batches = [batch("fb_1")]
    first = await start()
    await first.wait_for(lambda s: up(s) == 1)
    async with with_storage(tmp_path) as second:
        await second.wait_for_line("another process uses the storage, waiting")
        assert not [line for line in second.log if "msg=started" in line]
        assert await first.stop() == 0
        await second.wait_for_line("msg=started")
        assert await second.stop() == 0


@pytest.mark.process
async def test_a_waiting_process_can_be_stopped(api: Api, start: StartExporter, tmp_path: Path) -> None:
    await start()
    async with with_storage(tmp_path) as second:
        await second.wait_for_line("another process uses the storage, waiting")
        assert await second.stop() == 0


@pytest.mark.process
async def test_a_path_that_is_not_writable_is_bad_usage(tmp_path: Path) -> None:
    config = write_config(tmp_path, "http://127.0.0.1:1")
    status, out, err = await run_to_end(f"--config.file={config}", f"--storage.path={config}/below")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert f"--storage.path={config}/below: can't be written to (Not a directory)" in err


@pytest.mark.process
async def test_checks_and_single_polls_do_not_use_the_storage(api: Api, start: StartExporter, tmp_path: Path) -> None:
    api.batches = [batch("fb_1")]
    flags = f"--config.file={write_config(tmp_path, api.base_url)}", f"--storage.path={tmp_path / 'storage'}"
    assert (await run_to_end("--once", *flags))[0] == 0
    assert (await run_to_end("--config.check", *flags))[0] == 0
    assert not (tmp_path / "storage").exists()
    running = await start()
    await running.wait_for(lambda s: up(s) == 1)
    status, out, _ = await run_to_end("--once", *flags)
    assert status == 0 and HEALTHY not in out


async def test_without_the_flag_the_exporter_shows_nothing_about_storage(exporter: StartExporter) -> None:
    running = await exporter()
    assert HEALTHY not in await running.samples()
    _, status = await running.get("/api/v1/status")
    assert '"storage":null' in status


@pytest.mark.process
async def test_a_reload_adds_and_removes_stored_accounts(api: Api, start: StartExporter, tmp_path: Path) -> None:
    api.batches = [batch("fb_1")]
    one, other = {"name": "one"}, {"name": "other"}
    running = await start("--web.enable-lifecycle", accounts=[one])
    await running.wait_for(lambda s: up(s, "one") == 1)
    for accounts in ([one, other], [other], [one, other]):
        write_config(tmp_path, api.base_url, accounts=accounts)
        async with running.http.post("/-/reload") as answer:
            assert answer.status == 200
        names = {account["name"] for account in accounts}
        samples = await running.wait_for(partial(all_up, names))
        assert samples[HEALTHY] == 1
    assert len(list((tmp_path / "storage").glob("*.db"))) == 2
    api.batches = [batch("fb_2"), *api.batches]
    for account in ("one", "other"):
        await running.wait_for(partial(has_created_one, sample_key("inkit_batches_created_total", account=account)))


@pytest.mark.process
async def test_a_reload_with_other_limits_keeps_the_stored_state(
    api: Api, start: StartExporter, tmp_path: Path
) -> None:
    api.batches = [batch(f"fb_{i}", age=100 + i) for i in range(250)]
    running = await start("--web.enable-lifecycle")
    await running.wait_for(lambda s: up(s) == 1)
    api.requests.clear()
    write_config(tmp_path, api.base_url, poll={"interval": "100ms"})
    async with running.http.post("/-/reload") as answer:
        assert answer.status == 200
    interval = sample_key("inkit_poll_interval_seconds", account="default")
    api.batches = [batch("fb_new"), *api.batches]
    samples = await running.wait_for(lambda s: s[interval] == 0.1 and s[CREATED] == 1)
    assert batches(samples) == 251
    assert {request.query["page"] for request in api.requests} == {"1"}
