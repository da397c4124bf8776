"""What a poll reads from the API, and what `/metrics` then shows."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.api import TOKEN, Api, Handler, Slow, batch, serving
from support.exporter import StartExporter, run_to_end, write_config
from support.samples import documents, failures, sample_key, up

EXAMPLE = json.loads((Path(__file__).parent.parent / "samples" / "documented_example.json").read_text())


def pages(api: Api) -> list[int]:
    return [int(request.query["page"]) for request in api.requests]


async def test_the_documented_example_gives_its_two_batches(api: Api, exporter: StartExporter) -> None:
    async def example(_request: web.Request, _handler: Handler) -> web.Response:
        return web.json_response(EXAMPLE)

    api.fault = example
    running = await exporter(poll={"lookback": "20y"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    expected = {("inkit_storage", "in_progress"): 1, ("inkit_storage", "completed"): 1}
    assert documents(samples) == expected
    assert documents(samples, "completed") == expected
    assert documents(samples, "failed") == dict.fromkeys(expected, 0)
    assert documents(samples, "in_progress") == dict.fromkeys(expected, 0)
    assert samples[sample_key("inkit_batches", account="default", batch_status="in_progress")] == 1
    assert samples[sample_key("inkit_window_truncated", account="default")] == 0
    assert samples[sample_key("inkit_newest_batch_created_timestamp_seconds", account="default")] == 1699326352.298042
    oldest = "inkit_oldest_unfinished_batch_created_timestamp_seconds"
    assert samples[sample_key(oldest, account="default")] == 1699326352.298042


async def test_a_metric_says_since_when_an_unfinished_batch_has_not_changed(api: Api, exporter: StartExporter) -> None:
    def moving(completed: int) -> dict[str, Any]:
        return batch("fb_moves", age=5, status="In Progress", destinations={"box": (completed, 0, 9 - completed)})

    key = sample_key("inkit_unfinished_batches_oldest_change_timestamp_seconds", account="default")
    waits = batch("fb_waits", age=7000, status="In Progress", destinations={"box": (0, 0, 1)})
    api.batches = [moving(0), waits]
    started = time.time()
    running = await exporter()
    first = (await running.wait_for(lambda s: up(s) == 1))[key]
    assert started <= first <= time.time()

    api.batches = [moving(1), waits]
    samples = await running.wait_for(lambda s: documents(s, "completed") == {("box", "in_progress"): 1})
    assert samples[key] == first, "the other batch has not changed"

    finished = batch("fb_waits", age=7000)
    api.batches = [moving(2), finished]
    samples = await running.wait_for(lambda s: s[key] > first)
    assert samples[key] <= time.time()

    api.batches = [batch("fb_moves", age=5), finished]
    samples = await running.wait_for(lambda s: key not in s)
    assert up(samples) == 1


async def test_the_default_lookback_leaves_out_the_example_of_2023(api: Api, exporter: StartExporter) -> None:
    api.batches = EXAMPLE["items"]
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {}
    assert not any("created_timestamp" in name for name in samples)


async def test_pages_are_read_newest_first_until_the_lookback_ends(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=60 * i) for i in range(100)]
    running = await exporter(poll={"lookback": "31m", "page_size": 10, "interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 31}
    assert pages(api) == [1, 2, 3, 4]
    assert {request.query["sort"] for request in api.requests} == {"-created_at"}
    assert {request.headers["X-Inkit-API-Token"] for request in api.requests} == {TOKEN}
    assert samples[sample_key("inkit_poll_requests", account="default")] == 4
    assert samples[sample_key("inkit_api_requests_total", account="default", code="200")] == 4
    assert samples[sample_key("inkit_api_request_duration_seconds_count", account="default")] == 4


async def test_polls_adapt_to_the_servers_real_page_size(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(60)]

    async def smaller(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(rel_url=request.rel_url.update_query(page_size="7")))

    api.fault = smaller
    running = await exporter(poll={"interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 60}
    assert pages(api) == list(range(1, 10))


async def test_a_refused_parameter_is_left_out_with_one_warning_that_quotes_the_api(
    exporter: StartExporter, api: Api
) -> None:
    """Each account searches for what it is refused."""
    cases = [(parameter, status) for parameter in ("page_size", "sort") for status in (400, 422)]
    api.batches = [batch(f"fb_{i}", age=i) for i in range(60)]

    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        parameter, status = request.query["search"].split()
        if parameter in request.query:
            said = f"{parameter} is not for {request.headers['X-Inkit-API-Token']}"
            return web.json_response({"detail": said}, status=int(status))
        return await handler(request.clone(rel_url=request.rel_url.without_query_params("search")))

    api.fault = refuse
    names = [f"{parameter} {status}" for parameter, status in cases]
    running = await exporter(accounts=[{"name": name, "filters": {"search": name}} for name in names])
    samples = await running.wait_for(
        lambda s: all(s[sample_key("inkit_polls_total", account=name)] >= 3 for name in names)
    )
    assert TOKEN not in "".join(running.log)
    for name, (parameter, status) in zip(names, cases, strict=True):
        refused = {"page_size": 1, "sort": 2}[parameter]
        assert documents(samples, account=name) == {("inkit_storage", "completed"): 60}
        assert samples[sample_key("inkit_api_requests_total", account=name, code=str(status))] == refused
        (told,) = [line for line in running.log if "the API refuses" in line and f'account="{name}"' in line]
        assert f"{parameter}, so requests leave it out" in told and "level=warning" in told
        assert f"{parameter} is not for ***" in told
        assert samples[sample_key("inkit_poll_failures_total", account=name, reason="bad_response")] == 0


async def test_batches_that_move_to_the_next_page_during_a_poll_count_once(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=100 + i) for i in range(50)]

    async def push(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        api.batches = [batch(f"fb_new_{len(api.requests)}", age=0), *api.batches]
        return answer

    api.fault = push
    running = await exporter(poll={"page_size": 10, "interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 50}


async def test_batches_that_move_to_a_page_already_read_are_not_missed(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=100 + i) for i in range(50)]

    async def vanish(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if len(api.requests) in (1, 3):
            api.batches = api.batches[2:]
        return answer

    api.fault = vanish
    running = await exporter(poll={"page_size": 10, "interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    # The poll read the removed batches before they vanished, so it counts them too. No other batch is missing.
    assert documents(samples) == {("inkit_storage", "completed"): 50}
    assert pages(api) == [1, 2, 1, 2, 1, 2, 3, 4, 5]


async def test_a_list_in_the_wrong_order_is_read_whole_and_logged_once(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=60 * ((i * 37) % 100)) for i in range(100)]
    running = await exporter(poll={"lookback": "30m30s", "page_size": 10})
    samples = await running.wait_for(lambda s: s[sample_key("inkit_polls_total", account="default")] >= 3)
    assert documents(samples) == {("inkit_storage", "completed"): 31}
    assert sum("does not list newest first" in line for line in running.log) == 1


@pytest.mark.parametrize("scattered", [False, True])
async def test_max_batches_keeps_the_newest_and_a_metric_says_that_it_cut(
    api: Api, exporter: StartExporter, scattered: bool
) -> None:
    ages = [(i * 37) % 100 if scattered else i for i in range(100)]
    api.batches = [
        batch(f"fb_{age}", age=60 * age, destinations={"box" if age < 15 else "dropbox": (1, 0, 0)}) for age in ages
    ]
    running = await exporter(poll={"max_batches": 15, "page_size": 10, "interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    present = {labels: count for labels, count in documents(samples).items() if count}
    assert present == {("box", "completed"): 15}
    assert samples[sample_key("inkit_window_truncated", account="default")] == 1


async def test_a_window_of_exactly_max_batches_is_not_truncated(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(20)]
    running = await exporter(poll={"max_batches": 20, "page_size": 10, "interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert samples[sample_key("inkit_window_truncated", account="default")] == 0


async def test_a_poll_of_an_empty_list_succeeds(api: Api, exporter: StartExporter) -> None:
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {}
    assert samples[sample_key("inkit_window_truncated", account="default")] == 0


async def test_a_combination_of_labels_once_seen_stays_at_zero(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch("fb_1", status="In Progress", destinations={"box": (1, 1, 3)})]
    running = await exporter()
    samples = await running.wait_for(lambda s: documents(s) == {("box", "in_progress"): 5})
    assert documents(samples, "failed") == {("box", "in_progress"): 1}
    api.batches = [batch("fb_1", status="Completed", destinations={"box": (4, 1, 0)})]
    samples = await running.wait_for(lambda s: documents(s).get(("box", "completed")) == 5)
    assert documents(samples)["box", "in_progress"] == 0
    assert samples[sample_key("inkit_batches", account="default", batch_status="in_progress")] == 0


@pytest.mark.process
async def test_several_accounts_are_polled_independently(api: Api, tmp_path: Path) -> None:
    api.batches = [batch("fb_1")]
    async with serving(Api(batches=[batch("fb_2", destinations={"box": (0, 2, 0)})])) as other:
        path = write_config(
            tmp_path,
            api.base_url,
            accounts=[
                {"name": "one"},
                {"name": 'quoted "two"\\', "base_url": other.base_url},
                {"name": "bad", "base_url": "http://127.0.0.1:1/v1"},
            ],
        )
        status, out, _ = await run_to_end("--once", f"--config.file={path}")
    assert status == 1
    assert 'inkit_batch_documents{account="one",batch_status="completed",destination="inkit_storage"} 1.0' in out
    assert (
        'inkit_batch_documents_failed{account="quoted \\"two\\"\\\\",batch_status="completed",destination="box"} 2.0'
        in out
    )
    assert 'inkit_up{account="one"} 1.0' in out
    assert 'inkit_up{account="bad"} 0.0' in out
    assert 'inkit_poll_failures_total{account="bad",reason="connection"} 1.0' in out


async def test_two_accounts_can_poll_the_two_kinds_of_batch(api: Api, exporter: StartExporter) -> None:
    api.batches, api.document_batches = [batch("fb_1")], [batch("rb_1", destinations={"docusign": (1, 2, 0)})]
    running = await exporter(accounts=[{"name": "one"}, {"name": "two", "batches": "document"}])
    samples = await running.wait_for(lambda s: up(s, "one") == up(s, "two") == 1)
    assert documents(samples, account="one") == {("inkit_storage", "completed"): 1}
    assert documents(samples, account="two") == {("docusign", "completed"): 3}


async def test_filters_go_to_the_api_as_query_parameters(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch("fb_1"), batch("fb_2", destinations={"box": (1, 0, 0)})]
    running = await exporter(
        filters={"destination_name": "box", "search": "batch fb&_", "destination_status": "completed"}
    )
    await running.wait_for(lambda s: up(s) == 1)
    query = api.requests[0].query
    assert (query["destination_name"], query["search"], query["destination_status"]) == (
        "box",
        "batch fb&_",
        "completed",
    )


async def test_a_slow_poll_skips_ticks_and_never_overlaps_another(api: Api, exporter: StartExporter) -> None:
    api.fault = slow = Slow(0.35)
    running = await exporter(poll={"interval": "100ms"})
    await running.wait_for(lambda s: s[sample_key("inkit_polls_total", account="default")] >= 2)
    api.fault = None
    before = len(api.requests)
    await running.wait_for(lambda s: s[sample_key("inkit_polls_total", account="default")] >= before + 2)
    assert slow.most == 1


async def test_names_with_any_characters_become_escaped_labels(api: Api, exporter: StartExporter) -> None:
    api.batches = [
        batch(
            "fb_1",
            status='Wait"ing\nfor \\ Approval',
            destinations={"Übertragung 東京": (1, 0, 0), "Box": (2, 0, 0), "box": (3, 0, 0)},
        ),
        batch("fb_2", status="🙂", destinations={"": (1, 0, 0)}),
    ]
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {
        ("übertragung_東京", "wait_ing_for_approval"): 1,
        ("box", "wait_ing_for_approval"): 5,
        ("unknown", "unknown"): 1,
    }


async def test_a_thousand_statuses_and_destinations_are_bounded_and_no_document_is_lost(
    api: Api, exporter: StartExporter
) -> None:
    api.batches = [
        batch(f"fb_{i}", age=i, status=f"Status {i}", destinations={f"target {i}": (1, 0, 0)}) for i in range(1000)
    ] + [batch("fb_documented", age=2000, destinations={"salesforce": (7, 0, 0)})]
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 1)
    found = documents(samples)
    assert sum(found.values()) == 1007
    assert found["salesforce", "completed"] == 7
    assert found["other", "other"] > 900
    assert len({destination for destination, _ in found} - {"other"}) <= 32
    assert len({status for _, status in found} - {"other"}) <= 32


MALFORMED: list[dict[str, Any]] = [
    {"destinations": {"inkit_storage": {"count": -1, "completed": 1, "failed": 0, "in_progress": 0}}},
    {"destinations": {"inkit_storage": {"count": 10**400, "completed": 1, "failed": 0, "in_progress": 0}}},
    {"destinations": {"inkit_storage": {"count": 1.5, "completed": 1, "failed": 0, "in_progress": 0}}},
    {"destinations": {"inkit_storage": {"count": 2, "completed": 1}}},
    {"destinations": 3},
    {"id": ""},
    {"id": None},
    {"created_at": "yesterday"},
    {"created_at": None},
    {"created_at": "2014-12-31T23:59:59Z"},
    {"created_at": "9999-12-31T23:59:59.999999Z"},
]


@pytest.mark.process
async def test_a_malformed_batch_is_skipped_and_counted(api: Api, tmp_path: Path) -> None:
    """Each account searches for the number of the batch that its list has."""
    api.batches = [batch("fb_1"), batch("fb_2", age=61)]

    async def break_one(request: web.Request, handler: Handler) -> web.StreamResponse:
        broken = MALFORMED[int(request.query["search"])]
        answer = await handler(request.clone(rel_url=request.rel_url.without_query_params("search")))
        assert isinstance(answer, web.Response)
        page = json.loads(answer.text or "")
        page["items"].insert(1, batch("fb_bad") | broken)
        return web.json_response(page)

    api.fault = break_one
    accounts = [{"name": str(number), "filters": {"search": str(number)}} for number in range(len(MALFORMED))]
    status, out, _ = await run_to_end(
        "--once", f"--config.file={write_config(tmp_path, api.base_url, accounts=accounts)}"
    )
    assert status == 0
    for number, broken in enumerate(MALFORMED):
        labels = f'account="{number}",batch_status="completed",destination="inkit_storage"'
        assert f"inkit_batch_documents{{{labels}}} 2.0" in out, broken
        assert f'inkit_invalid_batches_total{{account="{number}"}} 1.0' in out, broken


async def test_a_record_that_is_too_large_is_skipped_like_a_malformed_one(api: Api, exporter: StartExporter) -> None:
    crowd = {f"place {i}": (1, 0, 0) for i in range(2000)}
    api.batches = [batch("fb_1"), batch("fb_2", destinations=crowd), batch("fb_3", remark="x" * 2**21), batch("fb_4")]
    running = await exporter(poll={"interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 2}
    assert samples[sample_key("inkit_invalid_batches_total", account="default")] == 2


async def test_a_page_of_many_megabytes_is_read(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i / 10, remark="x" * 4000) for i in range(4000)]
    api.batches[3210]["id"] = None
    api.max_page_size = 1000
    async with serving(api):
        running = await exporter(poll={"interval": "1h", "page_size": 1000})
        samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 3999}
    assert samples[sample_key("inkit_invalid_batches_total", account="default")] == 1


@pytest.mark.parametrize("value", ["0", "{}"])
async def test_millions_of_tiny_values_fail_the_poll_without_filling_memory(
    api: Api, exporter: StartExporter, value: str
) -> None:
    flood = ",".join([value] * (7 * 2**20 // (len(value) + 1)))
    pagination = json.dumps(EXAMPLE["metadata"])

    async def crowded(_request: web.Request, _handler: Handler) -> web.Response:
        return web.Response(text=f'{{"items": [{flood}], "metadata": {pagination}}}', content_type="application/json")

    api.fault = crowded
    running = await exporter(poll={"interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 0)
    assert failures(samples, "bad_response") == 1
    highest = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{running.process.pid}/status").read_text())
    assert highest and int(highest[1]) < 200 * 1024


@pytest.mark.process
async def test_even_a_short_page_fails_the_poll_if_most_of_its_records_are_unreadable(api: Api, tmp_path: Path) -> None:
    async def few(request: web.Request, handler: Handler) -> web.StreamResponse:
        api.batches = [batch(f"fb_{i}", age=i) | {"created_at": None} for i in range(int(request.query["search"]))]
        return await handler(request.clone(rel_url=request.rel_url.without_query_params("search")))

    api.fault = few
    accounts = [{"name": number, "filters": {"search": number}} for number in ("1", "6", "25")]
    status, out, log = await run_to_end(
        "--once", f"--config.file={write_config(tmp_path, api.base_url, accounts=accounts)}"
    )
    assert status == 1
    for number in ("1", "6", "25"):
        assert f'inkit_up{{account="{number}"}} 0.0' in out
        assert f"{number} of {number} records can't be read as a batch; record 1: Expected `float | str`" in log


async def test_records_with_unusual_values_are_read_and_inferred_counts_are_counted(
    api: Api, exporter: StartExporter
) -> None:
    counts = {"count": "3", "completed": 1.0, "failed": None, "in_progress": "1"}
    api.batches = [
        batch("fb_1", total=None, name=17, status="InProgress") | {"destinations": {"box": counts, "sepire": None}},
        batch("fb_2") | {"id": 2, "created_at": time.time() - 30, "destinations": []},
    ][::-1]
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("box", "in_progress"): 3}
    assert documents(samples, "failed") == {("box", "in_progress"): 1}
    assert samples[sample_key("inkit_batches", account="default", batch_status="completed")] == 1
    assert samples[sample_key("inkit_repaired_batches_total", account="default")] >= 1
    assert samples[sample_key("inkit_invalid_batches_total", account="default")] == 0
    told = await running.wait_for_line("; a missing count was inferred")
    assert "level=info" in told and "documents_missing=false" in told and "page=1 record=2" in told
    _, text = await running.get("/api/v1/status")
    (account,) = json.loads(text)["accounts"]
    assert account["repaired_batches"] >= 1 and account["invalid_batches"] == 0


async def test_deviations_are_logged_once_with_field_and_place(api: Api, exporter: StartExporter) -> None:
    good = batch("fb_1", destinations={"box": (1, 0, 0), "salesforce": (1, 0, 0)})
    bad = {"destinations": {"box": good["destinations"]["box"], "salesforce": {"count": 2, "failed": "some"}}}
    api.batches = [good | {"id": f"fb_{i}"} for i in range(3)]
    api.batches += [good | bad | {"id": "fb_bad"}, good | {"id": None}, good | {"id": 7}, good | {"id": 8}]
    running = await exporter()
    samples = await running.wait_for(lambda s: s[sample_key("inkit_polls_total", account="default")] >= 3)
    assert documents(samples) == {("box", "completed"): 6, ("salesforce", "completed"): 5}
    invalid, polls = (
        samples[sample_key(f"inkit_{name}_total", account="default")] for name in ("invalid_batches", "polls")
    )
    # One record lacks a destination, and one is skipped. Another poll may have read the page.
    assert invalid in (2 * polls, 2 * (polls + 1))
    told = [line.partition(" msg=")[2] for line in running.log if "not as documented" in line]
    assert len(told) == 3
    for words in (
        ["$.failed", "destination salesforce", "documents_missing=true", "page=1 record=4"],
        ["$.id", "got `null`", "documents_missing=true", "page=1 record=5"],
        ["$.id", "got `int`", "documents_missing=false", "page=1 record=6"],
    ):
        assert len([line for line in told if all(word in line for word in words)]) == 1, told
    _, text = await running.get("/api/v1/status")
    (account,) = json.loads(text)["accounts"]
    assert account["invalid_batches"] >= invalid and account["repaired_batches"] == 0


async def test_a_poll_fails_if_most_records_of_one_destination_are_unreadable(
    api: Api, exporter: StartExporter
) -> None:
    good = batch("fb_1", destinations={"box": (1, 0, 0), "sepire": (1, 0, 0)})
    bad = {"destinations": {"box": good["destinations"]["box"], "sepire": {"count": "some"}}}
    api.batches = [good, good | bad | {"id": "fb_2"}, good | bad | {"id": "fb_3"}]
    running = await exporter()
    samples = await running.wait_for(lambda s: failures(s, "bad_response") >= 2)
    assert (up(samples), documents(samples)) == (0, {})
    assert "most records of the destination sepire can't be read" in "".join(running.log)
    api.batches = api.batches[:2]
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("box", "completed"): 2, ("sepire", "completed"): 1}


async def test_a_batch_created_in_the_future_is_counted(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch("fb_2", age=-23 * 3600), batch("fb_1", age=-60)]
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 2}


async def test_a_next_page_that_never_ends_stops_at_the_end_of_the_list(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(5)]

    async def endless(request: web.Request, handler: Handler) -> web.StreamResponse:
        number = int(request.query["page"])
        answer = await handler(request.clone(rel_url=request.rel_url.update_query(page="1")))
        assert isinstance(answer, web.Response)
        page = json.loads(answer.text or "")
        page["metadata"]["pagination"] |= {"next_page": number + 1, "current_page": number}
        return web.json_response(page)

    api.fault = endless
    running = await exporter(poll={"interval": "1h"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 5}
    assert len(api.requests) < 10


async def test_an_endless_list_of_new_batches_ends_at_max_batches(api: Api, exporter: StartExporter) -> None:
    async def endless(request: web.Request, _handler: Handler) -> web.StreamResponse:
        number = int(request.query["page"])
        items = [batch(f"fb_{number}_{i}", age=number * 10 + i) for i in range(10)]
        pagination = {
            "current_page": number,
            "next_page": number + 1,
            "page_count": 10**9,
            "page_size": 10,
            "prev_page": None,
            "total_count": 10**10,
        }
        return web.json_response({"items": items, "metadata": {"pagination": pagination, "sort": {}}})

    api.fault = endless
    running = await exporter(poll={"interval": "1h", "max_batches": 200})
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert documents(samples) == {("inkit_storage", "completed"): 200}
    assert samples[sample_key("inkit_window_truncated", account="default")] == 1


async def test_a_server_that_always_returns_the_first_page_fails_the_poll(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=i) for i in range(50)]

    async def first_always(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(rel_url=request.rel_url.update_query(page="1")))

    api.fault = first_always
    running = await exporter(poll={"page_size": 10})
    samples = await running.wait_for(lambda s: up(s) == 0)
    assert documents(samples) == {}
    assert "repeats earlier" in "".join(running.log)
