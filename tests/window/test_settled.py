"""Batches that never get a final status although all their documents are done: after a while they cost no requests."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support import conversation
from support.api import Api
from support.api import batch as json_batch
from support.conversation import make_batch, page_of, pages
from support.exporter import StartExporter
from support.samples import sample_key, up

from inkit_exporter.api.batches import Batch, Counts, Page
from inkit_exporter.window.plan import Plan
from inkit_exporter.window.totals import Totals, TotalsTracker
from inkit_exporter.window.window import Window

NOW = 10_000_000.0
MINUTE, HOUR = 60.0, 3600.0


def new_plan() -> Plan:
    return conversation.new_plan(interval=MINUTE, lookback=24 * HOUR, resync_interval=HOUR)


def in_progress(number: int, **changes: object) -> Batch:
    """Return a batch as in Inkit's documentation: `In Progress`, with one completed document."""
    batch = make_batch(f"fb_{number}", "", NOW - number, "in_progress", {"inkit_storage": Counts(1, 1, 0, 0)})
    return replace(batch, **changes)


def test_a_thousand_settled_batches_cost_one_request_a_poll_besides_the_resync() -> None:
    listing = [in_progress(i) for i in range(1000)]
    plan = new_plan()
    requests = [conversation.poll(plan, pages(listing, 100), NOW + MINUTE * i) for i in range(300)]
    assert min(requests[:61]) == 10, "for an hour they are not settled"
    assert requests[61:].count(1) >= 190
    assert max(requests[61:]) == 3, "the first page, and two for the resync"
    assert sum(requests[61:]) <= 239 + 2 * 45


def test_a_batch_settles_by_time_alone_and_is_then_in_no_gauge_list_or_total_of_unfinished_ones() -> None:
    listing = [in_progress(0), in_progress(1, destinations={"box": Counts(2, 1, 1, 0)})]
    plan = new_plan()
    for i in range(60):
        conversation.poll(plan, pages(listing, 100), NOW + MINUTE * i)
        plan.window.totals.counting = True
        snapshot = plan.window.snapshot(None)
        assert (snapshot.unfinished.total, snapshot.oldest_unfinished_created) == (2, NOW - 1)
        assert snapshot.oldest_change == NOW
    conversation.poll(plan, pages(listing, 100), NOW + HOUR)
    snapshot = plan.window.snapshot(None)
    assert (snapshot.unfinished.total, snapshot.unfinished.batches) == (0, ())
    assert snapshot.oldest_unfinished_created is snapshot.oldest_change is None
    assert snapshot.batches == {"in_progress": 2}
    assert snapshot.documents["box", "in_progress"] == Counts(2, 1, 1, 0)
    assert snapshot.failing.changed_at == (NOW,), "the time of its last change is kept"
    assert plan.window.totals.totals.finished == {}
    listing[1] = replace(listing[1], status="failed", final=True)
    conversation.poll(plan, pages(listing, 100), NOW + HOUR + MINUTE)
    assert plan.window.snapshot(None).failing.changed_at == (None,), "finished batches have no time of change"
    assert plan.window.totals.totals.finished["failed"].value == 1


def test_a_settled_batch_that_changes_is_unfinished_again_and_settles_an_hour_later() -> None:
    changes = (
        {"status": "pending"},
        {"destinations": {"inkit_storage": Counts(2, 1, 0, 1)}},
        {"destinations": {"inkit_storage": Counts(2, 2, 0, 0)}},
        {"name": "another"},
    )
    for change in changes:
        plan = new_plan()
        for minute in (0, 60):
            conversation.poll(plan, pages([in_progress(0)], 100), NOW + MINUTE * minute)
        assert plan.window.unfinished == []
        for minute in range(61, 121):
            conversation.poll(plan, pages([in_progress(0, **change)], 100), NOW + MINUTE * minute)
            assert [batch.id for batch in plan.window.unfinished] == ["fb_0"]
            assert plan.window.snapshot(None).oldest_change == NOW + MINUTE * 61
        conversation.poll(plan, pages([in_progress(0, **change)], 100), NOW + MINUTE * 121)
        waits = change.get("destinations") == {"inkit_storage": Counts(2, 1, 0, 1)}
        assert plan.window.unfinished == ([in_progress(0, **change)] if waits else [])


def test_the_resync_sees_a_settled_batch_change_finish_and_vanish() -> None:
    listing = [in_progress(i) for i in range(1000)]
    plan = new_plan()
    for i in range(70):
        conversation.poll(plan, pages(listing, 100), NOW + MINUTE * i)
        plan.window.totals.counting = True
    listing[555] = in_progress(555, destinations={"inkit_storage": Counts(2, 1, 0, 1)})
    listing[777] = in_progress(777, status="completed", final=True)
    gone = listing.pop(888)
    for i in range(70, 131):
        conversation.poll(plan, pages(listing, 100), NOW + MINUTE * i)
    assert plan.window.unfinished == [listing[555]]
    assert plan.window.totals.totals.finished["completed"].value == 1
    assert gone not in plan.window.batches
    assert len(plan.window.batches) == 999
    listing[555] = in_progress(555, destinations={"inkit_storage": Counts(2, 2, 0, 0)})
    conversation.poll(plan, pages(listing, 100), NOW + MINUTE * 131)
    assert plan.window.unfinished == [listing[555]], "it is unfinished again, and the next poll sees its changes"


def test_a_batch_does_not_settle_while_polls_fail() -> None:
    """It may have changed meanwhile, so the next successful poll reads it."""
    listing = [in_progress(i) for i in range(1000)]
    plan = new_plan()
    conversation.poll(plan, pages(listing, 100), NOW)
    listing[999] = in_progress(999, status="completed", final=True)
    asked = []

    def serve(number: int) -> Page:
        asked.append(number)
        return page_of(listing, number, 100)

    conversation.poll(plan, serve, NOW + 5 * HOUR)
    assert set(asked) == set(range(1, 11))
    assert plan.window.batches[999].finished
    assert plan.window.unfinished == []
    asked.clear()
    conversation.poll(plan, serve, NOW + 5 * HOUR + MINUTE)
    assert len(asked) <= 3


documents = st.builds(Counts, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1))
ages = st.integers(0, 5).map(lambda minutes: minutes * MINUTE)
placed = st.dictionaries(st.sampled_from(("box", "sepire", "dropbox")), documents)


@given(st.lists(st.tuples(ages, st.sampled_from(("in_progress", "completed", "odd")), placed), max_size=12), ages)
def test_a_batch_settles_if_it_is_unchanged_and_all_documents_are_done_at_every_destination(
    found: list[tuple[float, str, dict[str, Counts]]], age: float
) -> None:
    window = Window(100, TotalsTracker(Totals()))
    expected = []
    for i, (unchanged, status, destinations) in enumerate(found):
        batch = make_batch(f"fb_{i}", "", NOW - i, status, destinations)
        window.upsert(batch, NOW - unchanged)
        done = [0 < c.count <= c.completed + c.failed for c in destinations.values()]
        if not batch.finished and not (unchanged >= age and done and all(done)):
            expected.append((batch, NOW - unchanged))
    window.settle(NOW - age)
    unfinished = window.snapshot(None).unfinished
    assert list(zip(unfinished.batches, unfinished.changed_at, strict=True)) == expected[::-1]
    for batch in list(window.batches):
        window.remove(batch.id)
    assert (window.unfinished, window.snapshot(None).oldest_change) == ([], None)


async def test_settled_batches_are_not_in_the_gauges_and_lists_of_unfinished_ones(
    api: Api, exporter: StartExporter
) -> None:
    api.batches = [json_batch(f"fb_{i}", age=100 + i, status="In Progress") for i in range(30)]
    running = await exporter(poll={"page_size": 10, "resync_interval": "1s"})
    samples = await running.wait_for(lambda s: up(s) == 1)
    gauges = [
        sample_key(name, account="default")
        for name in (
            "inkit_oldest_unfinished_batch_created_timestamp_seconds",
            "inkit_unfinished_batches_oldest_change_timestamp_seconds",
        )
    ]
    assert all(gauge in samples for gauge in gauges)
    samples = await running.wait_for(lambda s: not any(gauge in s for gauge in gauges))
    assert samples[sample_key("inkit_batches", account="default", batch_status="in_progress")] == 30
    _, text = await running.get("/api/v1/status")
    assert '"unfinished_batches":{"total":0,"listed":[]}' in text
    api.batches[25]["destinations"]["inkit_storage"] |= {"count": 2, "in_progress": 1}
    await running.wait_for(lambda s: all(gauge in s for gauge in gauges))
