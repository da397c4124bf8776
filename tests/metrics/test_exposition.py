"""`/metrics` renders only what changed. The result must always equal a full rendering."""

import asyncio
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from inkit_exporter.api.batches import Counts
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import PollSettings, Seconds
from inkit_exporter.metrics.account import AccountMetrics
from inkit_exporter.metrics.exposition import OPENMETRICS, TEXT, Exposition, Format, Source, negotiate
from inkit_exporter.metrics.process import ProcessMetrics
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState, States
from inkit_exporter.window.window import Snapshot

STALE_AFTER = 5.0
Sample = tuple[str, frozenset[tuple[str, str]], float]


class World:
    """Some accounts and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.states = States()
        self.process = ProcessMetrics(0, 1, clock=self.clock)
        self.exposition = Exposition(self.sources, lambda: self.states.changes, self.process)

    def clock(self) -> float:
        return self.now

    def sources(self) -> dict[str, AccountMetrics]:
        return {state.account: AccountMetrics(state, self.clock) for state in self.states}

    def names(self) -> list[str]:
        return [state.account for state in self.states]

    def add(self, name: str) -> None:
        settings = PollSettings(interval=Seconds(1), stale_after=Seconds(STALE_AFTER))
        self.states.publish(AccountState(account=name, settings=settings, usage=Usage(RateLimiter(60))))

    def remove(self, name: str) -> None:
        self.states.keep(other for other in self.names() if other != name)

    def poll(self, name: str, documents: int) -> None:
        snapshot = Snapshot(
            {("box", "completed"): Counts(documents, documents, 0, 0)}, {"completed": 1}, 1.0, None, truncated=False
        )
        state = replace(self.states[name], up=True, snapshot=snapshot, snapshot_at=self.now, next_poll_at=self.now + 60)
        self.states.publish(replace(state, polls=state.polls + 1))

    def request(self, name: str) -> None:
        state = self.states[name]
        self.states.amend(replace(state, next_poll_at=min(state.next_poll_at, self.now)))
        state.usage.add("200", 0.1)

    async def seen(self, form: Format) -> list[Metric]:
        text = await self.exposition.text(form)
        assert zlib.decompress(await self.exposition.gzipped(form), wbits=31) == text
        parse = parse_text if form is TEXT else parse_openmetrics
        families: list[Metric] = list(parse(text.decode()))
        return [family for family in families if family.name.startswith("inkit_")]


def samples(families: Iterable[Metric]) -> set[Sample]:
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for family in families
        if not family.name.startswith("inkit_exporter_")
        for sample in family.samples
    }


names = st.sampled_from(["a", "b", "c"])
events = st.one_of(
    st.tuples(st.just("add"), names),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("poll"), names, st.integers(0, 9)),
    st.tuples(st.just("request"), names),
    # Changes caused by time alone may be shown a second late.
    st.tuples(st.just("pass"), st.integers(1, 2 * int(STALE_AFTER))),
)


@settings(max_examples=60)
@given(st.lists(events, max_size=12), st.sampled_from([TEXT, OPENMETRICS]))
def test_the_exposition_equals_a_full_rendering(history: list[tuple[Any, ...]], form: Format) -> None:
    async def run() -> None:
        world = World()
        for kind, *arguments in history:
            name = arguments[0]
            match kind:
                case "add":
                    world.add(name)
                case "remove":
                    world.remove(name)
                case "poll" if name in world.names():
                    world.poll(name, arguments[1])
                case "request" if name in world.names():
                    world.request(name)
                    world.now += 1  # a poll under way may be shown a second late
                case "pass":
                    world.now += name
            families = await world.seen(form)
            again = samples(f for metrics in world.sources().values() for f in metrics.collect())
            assert samples(families) == again
            assert len({family.name for family in families}) == len(families), "the samples of a family stand together"

    asyncio.run(run())


async def test_only_changed_accounts_are_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    rendered: list[str] = []
    collect = AccountMetrics.collect

    def noted(metrics: AccountMetrics) -> Iterable[Metric]:
        rendered.append(metrics.state.account)
        return collect(metrics)

    monkeypatch.setattr(AccountMetrics, "collect", noted)
    for name in ("a", "b"):
        world.add(name)
    await world.exposition.text(TEXT)
    await world.exposition.text(TEXT)
    assert rendered == ["a", "b"]
    world.poll("b", 3)
    world.now += 1.5
    await world.exposition.text(TEXT)
    assert rendered == ["a", "b", "b"]


async def test_the_requests_of_a_poll_are_shown_within_a_second_and_at_once_when_it_ends() -> None:
    world = World()
    world.add("a")

    async def requests() -> float:
        return sum(v for n, _, v in samples(await world.seen(TEXT)) if n == "inkit_api_requests_total")

    for count in (1, 2, 3):
        world.request("a")
        world.now += 1
        assert await requests() == count
    world.request("a")
    assert await requests() == 3, "not rendered for every request"
    world.poll("a", 1)
    assert await requests() == 4


async def test_simultaneous_scrapes_share_one_rendering_even_if_one_client_disconnects() -> None:
    world = World()
    world.add("a")
    first = asyncio.create_task(world.exposition.gzipped(TEXT))
    others = [asyncio.create_task(world.exposition.gzipped(TEXT)) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    assert len({id(answer) for answer in await asyncio.gather(*others)}) == 1


async def test_scrapes_that_come_while_a_slow_one_is_rendered_share_the_next_rendering(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each rendering takes over a second, so its text is out of date when it is done."""
    world, rendered = World(), []
    collect = world.process.collect

    def collect_slowly() -> Iterable[Metric]:
        world.now += 1.5
        rendered.append(world.now)
        return collect()

    monkeypatch.setattr(world.process, "collect", collect_slowly)
    texts = await asyncio.gather(*(world.exposition.text(TEXT) for _ in range(10)))
    assert len(rendered) == 2 and len(set(texts[1:])) == 1
    await world.exposition.text(TEXT)
    assert len(rendered) == 3


async def test_the_numbers_of_an_account_belong_together_even_if_a_poll_ends_during_rendering() -> None:
    world = World()
    world.add("a")
    world.poll("a", 1)
    scrape = asyncio.create_task(world.exposition.text(TEXT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.poll("a", 2)
    assert {v for n, _, v in samples(parse_text((await scrape).decode())) if n == "inkit_batch_documents"} == {1}
    assert {v for n, _, v in samples(await world.seen(TEXT)) if n == "inkit_batch_documents"} == {2}


async def test_a_reload_that_removes_an_account_during_a_scrape_does_not_break_it() -> None:
    world = World()
    for name in ("a", "b", "c"):
        world.add(name)
    scrape = asyncio.create_task(world.exposition.text(TEXT))
    for _ in range(2):
        await asyncio.sleep(0)
    world.remove("c")
    assert not scrape.done()
    assert b'inkit_polls_total{account="a"}' in await scrape
    assert b'account="c"' not in await world.exposition.text(TEXT)


@pytest.mark.parametrize("form", [TEXT, OPENMETRICS])
@pytest.mark.parametrize(
    "wanted",
    [
        ["inkit_up"],
        ["inkit_batch_documents", "inkit_polls_total", "inkit_exporter_shard_info"],
        ["inkit_api_request_duration_seconds_bucket"],
        ["inkit_polls", "inkit_.*", "absent", ""],
    ],
)
async def test_names_select_the_same_samples_as_in_the_client_library(wanted: list[str], form: Format) -> None:
    world = World()
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(world.process)
    for name in ("a", "b"):
        world.add(name)
        world.poll(name, 1)
        registry.register(world.sources()[name])
    selected = await world.exposition.selected(form, wanted)
    expected = form.encode(registry.restricted_registry(wanted))
    assert {*selected.splitlines()} == {*expected.splitlines()}
    assert selected.count(b"# TYPE") == len({line for line in expected.splitlines() if line.startswith(b"# TYPE")})


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.5", OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1", OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0, text/plain;version=0.0.4", TEXT),
        ("text/plain;version=0.0.4, application/openmetrics-text", TEXT),
        ("application/openmetrics-text;q=0, text/plain", TEXT),
        ("application/openmetrics-text;version=1.0.0; q=0.000,*/*", TEXT),
        ("application/openmetrics-text; Q=0", TEXT),
        ("application/openmetrics-text;q=0.001", OPENMETRICS),
        ("text/plain;q=0, application/openmetrics-text", OPENMETRICS),
        ("application/vnd.google.protobuf;encoding=delimited, application/openmetrics-text", OPENMETRICS),
    ],
)
def test_the_first_format_that_both_sides_know_is_used(accept: str, form: Format) -> None:
    assert negotiate(accept) is form


def test_the_metrics_of_an_account_are_a_source() -> None:
    world = World()
    world.add("a")
    source: Source = world.sources()["a"]
    assert source.version() == source.version()
