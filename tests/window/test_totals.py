"""The running totals against their oracle: each batch's highest numbers in any poll, minus the baseline."""

import asyncio
import math
from collections import Counter
from itertools import pairwise

from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from support.api import Api, Handler, batch
from support.conversation import make_batch
from support.exporter import StartExporter
from support.samples import sample_key, up

from inkit_exporter.api.batches import Counts
from inkit_exporter.counters import Counter as Total
from inkit_exporter.counters import Exemplar
from inkit_exporter.storage.records import take_changed
from inkit_exporter.window.totals import Totals, TotalsTracker
from inkit_exporter.window.window import Window

NOW = 10_000.0

states = st.builds(
    lambda status, destinations: (status, destinations),
    st.sampled_from(["completed", "failed", "in_progress", "odd"]),
    st.dictionaries(
        st.sampled_from(["box", "sepire"]),
        st.tuples(*[st.integers(0, 5)] * 3).map(lambda n: Counts(sum(n), *n)),
    ),
)
polls = st.lists(st.dictionaries(st.sampled_from([f"fb_{i}" for i in range(5)]), states), min_size=1, max_size=8)
Poll = dict[str, tuple[str, dict[str, Counts]]]


def observe(history: list[Poll]) -> list[Totals]:
    """Return the totals after each poll of a history. Every poll lists all batches."""
    window = new_window(100)
    seen = []
    for poll in history:
        for i, state in poll.items():
            window.upsert(make_batch(i, "", NOW, *state), NOW + 60)
        window.remove_missing(poll.keys(), math.inf, -math.inf)
        seen.append(window.totals.totals.copy())
        window.totals.counting = True
    return seen


def new_window(max_batches: int) -> Window:
    return Window(max_batches, TotalsTracker(Totals()))


def counting_window(max_batches: int) -> Window:
    window = new_window(max_batches)
    window.totals.counting = True
    return window


def finished(state: tuple[str, dict[str, Counts]]) -> bool:
    return make_batch("", "", 0, *state).finished


def highest(history: list[Poll], field: str) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for poll in history:
        for batch_id, (_, destinations) in poll.items():
            for name, counts in destinations.items():
                found[batch_id, name] = max(found[batch_id, name], getattr(counts, field))
    return found


@given(polls)
def test_each_document_is_counted_once_whatever_the_api_does(history: list[Poll]) -> None:
    totals = observe(history)
    for field in ("completed", "failed"):
        expected: Counter[str] = Counter()
        baseline = highest(history[:1], field)
        for (batch_id, name), number in highest(history, field).items():
            expected[name] += number - baseline[batch_id, name]
        counted = {name: counter.value for name, counter in getattr(totals[-1], field).items()}
        assert counted == +expected


@given(polls)
def test_each_batch_is_counted_once_at_each_destination_where_its_documents_fail(history: list[Poll]) -> None:
    expected: Counter[str] = Counter()
    baseline = highest(history[:1], "failed")
    for (batch_id, name), failed in highest(history, "failed").items():
        expected[name] += failed > 0 == baseline[batch_id, name]
    counted = {name: counter.value for name, counter in observe(history)[-1].with_failures.items()}
    assert counted == +expected


@given(polls)
def test_no_total_ever_decreases(history: list[Poll]) -> None:
    totals = observe(history)
    for field in ("completed", "failed", "with_failures", "finished"):
        for before, after in pairwise(getattr(total, field) for total in totals):
            assert all(after[label].value >= counter.value for label, counter in before.items())


class MoreTotals(Totals, kw_only=True):
    """Totals with fields that are added one day."""

    retried: int
    cancelled: dict[str, Total]


def test_a_copy_has_every_total_whatever_is_added_to_them() -> None:
    totals = MoreTotals(created=Total(2), retried=3, cancelled={"box": Total(4)})
    copy = totals.copy()
    assert copy == totals
    totals.cancelled["box"] = Total(5)
    assert copy != totals


@given(polls, polls)
def test_a_new_window_continues_the_totals_of_the_previous_one(history: list[Poll], later: list[Poll]) -> None:
    before = observe(history)[-1]
    window = Window(100, TotalsTracker(before))
    for poll in later:
        for i, state in poll.items():
            window.upsert(make_batch(i, "", NOW, *state), NOW + 60)
        window.remove_missing(poll.keys(), math.inf, -math.inf)
        window.totals.counting = True
    after, alone = window.totals.totals, observe(later)[-1]
    for field in ("completed", "failed", "with_failures", "finished"):
        sums, earlier, own = (
            {label: counter.value for label, counter in getattr(total, field).items()}
            for total in (after, before, alone)
        )
        assert Counter(sums) == Counter(earlier) + Counter(own)
    assert after.created.value == before.created.value + alone.created.value
    assert sum(after.durations.counts) == sum(before.durations.counts) + sum(alone.durations.counts)


@given(polls)
def test_each_batch_is_counted_once_as_created_and_once_as_finished(history: list[Poll]) -> None:
    totals = observe(history)[-1]
    new = {batch_id for poll in history for batch_id in poll} - history[0].keys()
    assert totals.created.value == len(new)
    ended_before = {batch_id for batch_id, state in history[0].items() if finished(state)}
    ended = {batch_id for poll in history for batch_id, state in poll.items() if finished(state)} - ended_before
    assert sum(counter.value for counter in totals.finished.values()) == len(ended)
    assert sum(totals.durations.counts) == totals.durations.counts[2] == len(ended), "each took 60 s"
    assert totals.durations.sum == 60 * len(ended)


def test_older_batches_that_fit_into_the_window_again_are_not_counted() -> None:
    window = counting_window(2)
    batches = [make_batch(f"fb_{i}", "", NOW + i, "completed", {"box": Counts(1, 1, 0, 0)}) for i in range(4)]
    for one in batches:
        window.upsert(one, NOW)
        window.trim(0)
    before = window.totals.totals.copy()
    assert before.created.value == 4
    window.remove("fb_3")
    window.upsert(batches[0], NOW)
    window.upsert(batches[1], NOW)
    assert window.totals.totals == before


def test_the_clock_may_jump_without_counting_anything_twice() -> None:
    window = counting_window(100)
    one = make_batch("fb_1", "", NOW, "completed", {"box": Counts(3, 3, 0, 0)})
    window.upsert(one, NOW - 5)
    before = window.totals.totals.copy()
    assert (before.durations.counts[0], before.durations.sum) == (1, 0.0)
    window.trim(NOW + 1)
    window.upsert(one, NOW)
    assert window.totals.totals == before


def test_the_list_of_changes_is_bounded_though_nobody_reads_it() -> None:
    window = counting_window(100)
    assert take_changed(window.totals) is None, "nothing is stored at first"
    for i in range(100):
        for j in range(5):
            window.upsert(make_batch(f"fb_{i}_{j}", "", NOW + i, "completed", {}), NOW + i)
        window.trim(NOW + i)
        assert len(window.totals.changed) <= 5
    assert take_changed(window.totals) is None
    window.upsert(make_batch("fb_one", "", NOW + 100, "completed", {}), NOW + 100)
    window.trim(NOW + 99)
    assert take_changed(window.totals) == {"fb_one"}


def test_each_total_names_the_last_batch_that_increased_it() -> None:
    window = counting_window(100)
    window.upsert(make_batch("fb_1", "", NOW, "in_progress", {"box": Counts(9, 1, 2, 6)}), NOW + 10)
    window.upsert(make_batch("fb_1", "", NOW, "pending", {"box": Counts(9, 1, 2, 6)}), NOW + 15)
    window.upsert(make_batch("fb_1", "", NOW, "completed", {"box": Counts(9, 4, 5, 0)}), NOW + 20)
    assert remembered(window.totals) == 0, "no count fell"
    totals = window.totals.totals
    assert totals.completed == {"box": Total(4, Exemplar("fb_1", 3, NOW + 20))}
    assert totals.failed == {"box": Total(5, Exemplar("fb_1", 3, NOW + 20))}
    assert totals.with_failures == {"box": Total(1, Exemplar("fb_1", 1, NOW + 10))}
    assert totals.created == Total(1, Exemplar("fb_1", 1, NOW + 10))
    assert totals.finished == {"completed": Total(1, Exemplar("fb_1", 1, NOW + 20))}
    assert totals.durations.exemplars[1] == Exemplar("fb_1", 20.0, NOW + 20)


def remembered(tracker: TotalsTracker) -> int:
    """Return how many entries the tracker keeps, except the list of changes."""
    return sum(len(kept) for name, kept in vars(tracker).items() if isinstance(kept, dict | set) and name != "changed")


def test_batches_older_than_the_window_are_forgotten() -> None:
    window = counting_window(100)
    for name in ("fb_1", "fb_2"):
        window.upsert(make_batch(name, "", NOW, "completed", {"box": Counts(3, 3, 0, 0)}), NOW)
        window.upsert(make_batch(name, "", NOW, "in_progress", {"box": Counts(3, 1, 0, 2)}), NOW)
    window.remove("fb_2")
    assert remembered(window.totals) == 2
    window.upsert(make_batch("fb_2", "", NOW, "in_progress", {"box": Counts(3, 1, 0, 2)}), NOW)
    assert remembered(window.totals) == 2
    window.remove("fb_2")
    window.trim(NOW)
    assert remembered(window.totals) == 2
    window.trim(NOW + 1)
    assert remembered(window.totals) == 0


def test_ten_thousand_vanished_batches_are_remembered_and_not_counted_again() -> None:
    window = counting_window(20_000)
    batches = [make_batch(f"fb_{i}", "", NOW + i, "completed", {"box": Counts(1, 1, 0, 0)}) for i in range(10_002)]
    for one in batches:
        window.upsert(one, NOW)
    before = window.totals.totals.copy()
    for one in batches:
        window.remove(one.id)
    assert remembered(window.totals) == 10_000
    for one in batches:
        window.upsert(one, NOW)
    assert window.totals.totals == before


async def test_totals_start_at_zero_and_have_exemplars_that_name_a_batch(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch("fb_old", age=50, destinations={"box": (70, 7, 0), "Carrier Pigeon": (3, 0, 0)})]
    running = await exporter()
    samples = await running.wait_for(lambda s: up(s) == 1)
    failed = sample_key("inkit_documents_failed_total", account="default", destination="box")
    assert samples[failed] == 0
    assert samples[sample_key("inkit_documents_completed_total", account="default", destination="salesforce")] == 0
    for field in ("completed", "failed"):
        name = f"inkit_documents_{field}_total"
        assert samples[sample_key(name, account="default", destination="carrier_pigeon")] == 0
    assert samples[sample_key("inkit_batches_created_total", account="default")] == 0
    api.batches = [batch("fb_new", age=40, status="In Progress", destinations={"box": (1, 2, 3)}), *api.batches]
    await running.wait_for(lambda s: s[failed] == 2)
    api.batches = [batch("fb_new", age=40, destinations={"box": (1, 5, 0)}), api.batches[1]]
    samples = await running.wait_for(lambda s: s[failed] == 5)
    with_failures = sample_key("inkit_batches_with_failures_total", account="default", destination="box")
    assert samples[with_failures] == 1, "fb_new counts once, and fb_old had failed before"
    assert samples[sample_key("inkit_batches_created_total", account="default")] == 1
    finished = sample_key("inkit_batches_finished_total", account="default", batch_status="completed")
    assert samples[finished] == 1
    assert samples[sample_key("inkit_batch_duration_seconds_count", account="default")] == 1
    _, text = await running.get("/metrics", Accept="application/openmetrics-text;version=1.0.0")
    exemplars = {
        sample.name: sample.exemplar.labels
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    }
    assert exemplars["inkit_documents_failed_total"] == {"batch_id": "fb_new"}
    assert exemplars["inkit_batches_with_failures_total"] == {"batch_id": "fb_new"}
    assert exemplars["inkit_batch_duration_seconds_bucket"] == {"batch_id": "fb_new"}


async def test_a_poll_without_changes_costs_one_request_and_a_metric_says_so(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=100 + i) for i in range(950)]
    running = await exporter(poll={"interval": "1s", "resync_interval": "1h"})
    requests = sample_key("inkit_poll_requests", account="default")
    await running.wait_for(lambda s: s.get(requests) == 10)
    await running.wait_for(lambda s: s.get(requests) == 1)
    api.batches = [batch("fb_new", age=0), *api.batches]
    samples = await running.wait_for(lambda s: sum(v for k, v in s.items() if k.startswith("inkit_batches{")) == 951)
    assert samples[requests] == 1


async def test_after_an_interrupted_poll_the_totals_are_right(api: Api, exporter: StartExporter) -> None:
    api.batches = [batch(f"fb_{i}", age=100 + i) for i in range(30)]
    running = await exporter(poll={"page_size": 10})
    await running.wait_for(lambda s: up(s) == 1)

    async def second_page_hangs(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.query.get("page") == "2":
            await asyncio.Event().wait()
        return await handler(request)

    api.fault = second_page_hangs
    api.batches = [batch(f"fb_new_{i}", age=10 + i / 100) for i in range(25)] + api.batches
    await running.wait_for(lambda s: up(s) == 0)
    api.fault = None
    created = sample_key("inkit_batches_created_total", account="default")
    samples = await running.wait_for(lambda s: up(s) == 1)
    assert samples[created] == 25
    assert samples[sample_key("inkit_batches", account="default", batch_status="completed")] == 55
