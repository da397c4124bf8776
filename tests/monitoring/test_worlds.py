"""All rules in many scenarios: which alerts fire, from when to when, and that no other fires."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.rules import TEXT
from support.worlds import (
    DAY,
    HOUR,
    Exporter,
    Failing,
    Fires,
    Flow,
    Outcome,
    Start,
    World,
    failed_expressions,
    fails,
    promtool,
)

INTERVALS = (15, 60, 300, 600)
VOLUMES = (3, 300, 300_000)


def traffic(a_day: int, *failing: Failing, destination: str = "salesforce", **hours: tuple[int, ...]) -> Flow:
    """Return a flow of documents in batches of a usual size."""
    return Flow(destination, a_day, max(1, min(a_day // 30, 100)), failing, **hours)  # type: ignore[arg-type]


def each_interval(polls: Callable[[float], Outcome]) -> list[Exporter]:
    """Return one account for each poll interval."""
    return [Exporter(f"every {interval} s", interval=interval, polls=polls) for interval in INTERVALS]


def account(name: str, *flows: Flow, interval: float = 60, starts: tuple[Start, ...] = (Start(),)) -> Exporter:
    """Return an account with these flows."""
    return Exporter(name, interval=interval, flows=flows, starts=starts)


def waits_for_a_signature(at: float) -> float:
    """Return the number of documents in progress, which is always 1."""
    return 1


def one_refusal(at: float) -> Outcome:
    """Let polls time out for 34 minutes, with one 403 between them."""
    return ("auth", 2) if HOUR + 600 <= at < HOUR + 660 else fails(HOUR, HOUR + 34 * 60, "timeout", seconds=30)(at)


def key_after_timeouts(at: float) -> Outcome:
    """Let polls time out for half an hour, and then fail with a rejected key."""
    return (fails(HOUR, 1.5 * HOUR, "timeout") if at < 1.5 * HOUR else fails(1.5 * HOUR, 2.5 * HOUR, "auth"))(at)


def every_second(at: float) -> Outcome:
    """Let every second poll fail."""
    return "timeout" if at // 60 % 2 else "ok", 2


def one_of(count: int, interval: float) -> Callable[[float], Outcome]:
    """Let one of `count` polls succeed, from the first hour on until minute 250."""
    return lambda at: ("timeout" if HOUR <= at < 15_000 and at // interval % count else "ok", 2)


def long_listing(at: float) -> Outcome:
    """Let a poll each hour take 14 minutes. The next poll ends before a scrape could see how long it took."""
    return "ok", 839.5 if at >= HOUR and at % HOUR < 60 else 0.5


def pages_answered(at: float) -> float:
    """Return the number of requests that the API has answered, which grows during a long listing."""
    return at // 10


def slow_after_a_start(at: float) -> Outcome:
    """Let the first poll after each full hour take twelve minutes."""
    return "ok", 720 if at % HOUR < 60 else 2


def broken(account: str, page: int, ends: int, tickets_end: int) -> list[Fires]:
    """Return the alerts for a destination that takes no documents. The page ends with the first that completes."""
    return [
        Fires("InkitSloBurnFast", page - 3, ends, account),
        Fires("InkitDestinationDown", page, ends, account),
        Fires("InkitDestinationFailing", page, tickets_end, account),
        Fires("InkitDocumentsFailing", page, tickets_end, account),
    ]


def worlds() -> Iterator[World]:
    """Yield all scenarios."""
    for scrape in (15, 60):
        yield World(
            f"an outage of an hour with mixed causes, scraped every {scrape} s",
            150,
            each_interval(fails(HOUR, 2 * HOUR, "timeout", "server_error", "auth")),
            [
                Fires("InkitApiFailing", begin, end, f"every {interval} s")
                for interval, begin, end in zip(INTERVALS, (67, 67, 73, 83), (128, 128, 131, 141), strict=True)
            ],
            scrape=scrape,
        )
        yield World(
            f"one poll fails, scraped every {scrape} s",
            90,
            [
                Exporter(f"every {interval} s", interval=interval, polls=fails(HOUR, HOUR + interval, "timeout"))
                for interval in INTERVALS
            ],
            scrape=scrape,
        )
    yield World("timeouts with one 403", 110, [Exporter(polls=one_refusal)], [Fires("InkitApiFailing", 67, 102)])
    yield World(
        "403 and timeouts by turns",
        130,
        [Exporter(polls=fails(HOUR, 2 * HOUR, "timeout", "auth"))],
        [Fires("InkitApiFailing", 67, 128)],
    )
    yield World(
        "timeouts, then a key that is rejected: one alert begins before the other ends",
        160,
        [Exporter(polls=key_after_timeouts)],
        [Fires("InkitApiFailing", 67, 113), Fires("InkitKeyRejected", 110, 158)],
    )
    yield World("every second poll fails", 120, [Exporter(polls=every_second)], [Fires("InkitPollsFlaky", 62, 121)])
    yield World(
        "most polls fail, and one succeeds now and then: the page stays",
        330,
        [
            Exporter(f"every {interval} s", interval=interval, polls=one_of(count, interval))
            for interval, count in ((15, 40), (60, 10), (300, 4), (600, 4))
        ],
        [
            Fires("InkitApiFailing", 68, 258, "every 15 s"),
            Fires("InkitApiFailing", 68, 258, "every 60 s"),
            Fires("InkitApiFailing", 78, 261, "every 300 s"),
            Fires("InkitApiFailing", 113, 261, "every 600 s"),
            Fires("InkitPollsFlaky", 133, 280, "every 15 s"),
            Fires("InkitPollsFlaky", 135, 280, "every 60 s"),
            Fires("InkitPollsFlaky", 136, 276, "every 300 s"),
        ],
    )
    yield World(
        "a listing of 14 minutes each hour, and quick polls between",
        400,
        [Exporter(polls=long_listing, gauges={'inkit_api_requests_total{code="200"}': pages_answered})],
    )
    yield World(
        "slow first polls after each of three starts",
        180,
        [Exporter(polls=slow_after_a_start, starts=(Start(), Start(HOUR), Start(2 * HOUR, "another")))],
    )
    yield World(
        "pods are replaced during an outage",
        110,
        [
            Exporter(
                polls=fails(1800, 1.5 * HOUR, "timeout", seconds=100),
                starts=(Start(), Start(3000, "b"), Start(4000, "c")),
            )
        ],
        [Fires("InkitApiFailing", 37, 98)],
    )
    yield World(
        "a clock ten minutes behind",
        60,
        [Exporter(gauges={"inkit_api_clock_skew_seconds": lambda at: 600}, clock=-600)],
        [Fires("InkitClockWrong", 10, 61)],
    )
    yield World(
        "many, some and few documents at each interval, and no failure",
        120,
        [
            account(f"{a_day} a day every {interval} s", traffic(a_day), interval=interval)
            for a_day in VOLUMES
            for interval in INTERVALS
        ],
    )
    yield World(
        "restarts and replaced pods, with stored totals and with totals from 0",
        150,
        [
            account("from 0", traffic(3000), starts=(Start(), Start(HOUR), Start(1.5 * HOUR, "b"))),
            account("kept", traffic(3000), starts=(Start(), Start(HOUR, kept=True), Start(1.5 * HOUR, "b", kept=True))),
        ],
    )
    yield World(
        "a destination fails for two hours, while pods are replaced",
        260,
        [
            account("from 0", traffic(3000, Failing(HOUR, 3 * HOUR)), starts=(Start(), Start(1.5 * HOUR, "b"))),
            account(
                "kept", traffic(3000, Failing(HOUR, 3 * HOUR)), starts=(Start(), Start(1.5 * HOUR, "b", kept=True))
            ),
        ],
        [one for name in ("from 0", "kept") for one in broken(name, page=78, ends=217, tickets_end=229)],
    )
    yield World(
        "a destination fails for two hours, at each interval",
        260,
        [
            account(f"every {interval} s", traffic(3000, Failing(HOUR, 3 * HOUR)), interval=interval)
            for interval in INTERVALS
        ],
        [
            *broken("every 15 s", page=78, ends=217, tickets_end=229),
            *broken("every 60 s", page=78, ends=217, tickets_end=229),
            *broken("every 300 s", page=81, ends=221, tickets_end=231),
            *broken("every 600 s", page=86, ends=221, tickets_end=231),
        ],
    )
    yield World(
        "one batch of 12 documents with a broken template, at night",
        240,
        [account("production", Flow("salesforce", 12, 12, [Failing(0, DAY)], hours=(1, 2)))],
        [Fires("InkitDestinationFailing", 96, 151)],
    )
    yield World(
        "one of two clusters fails",
        130,
        [
            Exporter("production", 'cluster="eu"', flows=[traffic(30_000, Failing(HOUR, DAY))]),
            Exporter("production", 'cluster="us"', flows=[traffic(30_000)]),
        ],
        [
            Fires("InkitDocumentsFailing", 66, 131),
            Fires("InkitSloBurnFast", 68, 131),
            Fires("InkitDestinationFailing", 76, 131),
            Fires("InkitDestinationDown", 92, 131),
        ],
    )
    yield World(
        "one of three shards is away for half an hour",
        90,
        [
            Exporter(
                f"of {shard}",
                starts=(Start(0, shard, stopped=1800), Start(HOUR, shard)) if shard == "2" else (Start(0, shard),),
                of_process={f'inkit_exporter_shard_info{{shard="{shard}", shards="3"}}': lambda at: 1},
            )
            for shard in "012"
        ],
        [Fires("InkitShardMissing", 45, 60)],
    )
    yield World(
        "a first day on which 4% fail",
        1440,
        [account("production", traffic(3000, Failing(0, DAY, 0.04)), interval=600)],
        [Fires("InkitSloBurnSlow", 1396, 1444)],
        scrape=240,
        step=4,
    )
    yield World(
        "three documents a day, and all fail",
        2200,
        [account("production", traffic(3, Failing(0, 9 * DAY)), interval=600)],
        [Fires("InkitDestinationFailingSlowly", 1744, 2204)],
        scrape=240,
        step=4,
    )
    yield World(
        "three batches of one document a day, in working hours, and all fail",
        2200,
        [account("production", Flow("salesforce", 3, 1, [Failing(0, 9 * DAY)], hours=(9, 17)), interval=600)],
        [Fires("InkitDestinationFailingSlowly", 2124, 2204)],
        scrape=240,
        step=4,
    )
    yield World(
        "one unreadable record, which each complete listing reads, each 6 hours",
        1200,
        [
            Exporter(
                gauges={
                    name: lambda at: (at + 5 * HOUR) // (6 * HOUR)
                    for name in ("inkit_invalid_batches_total", "inkit_repaired_batches_total")
                }
            )
        ],
        [Fires("InkitInvalidRecords", 68, 1204), Fires("InkitRepairedRecords", 68, 1204)],
        scrape=240,
        step=4,
    )
    yield World(
        "a weekend without traffic, with a document that waits for a signature",
        4000,
        [
            Exporter(
                f"{a_day} a day",
                interval=600,
                flows=[traffic(a_day, hours=(8, 18), days=(0, 3)), traffic(3, destination="docusign", days=(0,))],
                gauges={
                    'inkit_batch_documents_in_progress{destination="docusign", batch_status="x"}': waits_for_a_signature
                },
            )
            for a_day in (3, 300_000)
        ],
        scrape=240,
        step=4,
    )


@pytest.mark.parametrize("world", list(worlds()), ids=str)
@pytest.mark.process
@pytest.mark.debian
def test_only_the_expected_alerts_fire(world: World, tmp_path: Path) -> None:
    checks = world.expectations("alertname, account" if any(one.account for one in world.fires) else "alertname")
    found = promtool(tmp_path, TEXT, [{**world.test(), "promql_expr_test": checks}], world.step)
    assert not failed_expressions(found), found
    assert not found, found
