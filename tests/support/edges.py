"""For each alert, worlds at its edge: it fires just above each of its thresholds, and not just below.

The first world of an alert has one series that fires, and begins and ends within the world.
"""

from collections.abc import Callable
from typing import NamedTuple

from support.worlds import HOUR, Exporter, Fires, Outcome, World, fails

TARGET = 'job="inkit", instance="exporter:10465"'


def metric(name: str, account: str = "production", **labels: str) -> str:
    """A series of an account."""
    own = "".join(f', {label}="{value}"' for label, value in labels.items())
    return f'{name}{{{TARGET}, account="{account}"{own}}}'


def of_exporter(name: str, instance: str = "exporter:10465") -> str:
    """A series of an exporter."""
    return f'{name}{{job="inkit", instance="{instance}"}}'


def documents(account: str, failed: str, completed: str, destination: str = "salesforce") -> dict[str, str]:
    """The two totals of documents, and the one of batches, of which each document is one."""
    return {
        metric("inkit_documents_failed_total", account, destination=destination): failed,
        metric("inkit_documents_completed_total", account, destination=destination): completed,
        metric("inkit_polls_total", account): "0+1x6000",
    }


def batches(account: str, failed: str, completed: str) -> dict[str, str]:
    """Batches that finish, by status."""
    return {
        metric("inkit_batches_finished_total", account, batch_status="failed"): failed,
        metric("inkit_batches_finished_total", account, batch_status="completed"): completed,
    }


def of_thirty(count: int, one: str, other: str) -> Callable[[float], Outcome]:
    """Fail from the first hour on; of thirty failures, `count` have the first reason, spread evenly."""

    def polls(at: float) -> Outcome:
        number = int(at // 60)
        if number < 60:
            return "ok", 2
        return (one if (number + 1) * count // 30 > number * count // 30 else other), 2

    return polls


def some_fail(count: int) -> Callable[[float], Outcome]:
    """So many of sixty polls fail, spread evenly, from the first hour on until minute 200."""

    def polls(at: float) -> Outcome:
        number = int(at // 60)
        return ("timeout" if 60 <= number < 200 and (number + 1) * count // 60 > number * count // 60 else "ok"), 2

    return polls


def slow(at: float) -> Outcome:
    """One poll takes a quarter of an hour."""
    return "ok", 900 if HOUR <= at < HOUR + 60 else 2


def stuck(account: str, unchanged: int, usual: float | None = None, until: int = 60) -> dict[str, str]:
    """Return the series of a batch that has not changed for these seconds, and of the usual time to finish."""
    found = {
        metric("inkit_last_successful_poll_timestamp_seconds", account): "100000+60x60",
        metric("inkit_unfinished_batches_oldest_change_timestamp_seconds", account): (
            f"{100_000 - unchanged}+60x{until} 200000x{60 - until}"
        ),
    }
    if usual is not None:
        for bound in (str(usual / 0.95), "+Inf"):
            found[metric("inkit_batch_duration_seconds_bucket", account, le=bound)] = "0+1x60"
    return found


PRODUCTION = "production"

EDGES: dict[str, list[World]] = {
    "InkitExporterDown": [
        World("10 minutes", 25, more={of_exporter("up"): "1x4 0x9 1x10"}, fires=[Fires("InkitExporterDown", 8, 15)]),
        World("away for a third of the time", 60, more={of_exporter("up"): "1 1 0 " * 16 + "1x12"}),
        World(
            "away for half of the time",
            60,
            more={of_exporter("up"): "1 1 0 0 " * 8 + "1x28"},
            fires=[Fires("InkitExporterDown", 13, 35)],
        ),
        World(
            "gone, and replaced",
            60,
            more={
                'up{job="inkit", service="gone", instance="a"}': "1x9 stale",
                'up{job="inkit", service="replaced", instance="a"}': "1x9 stale",
                'up{job="inkit", service="replaced", instance="b"}': "_x11 1x50",
            },
            fires=[Fires("InkitExporterDown", 13, 61)],
        ),
    ],
    "InkitExporterMissing": [
        World(
            "another job",
            60,
            more={'up{job="other", instance="a"}': "1x60", of_exporter("up"): "_x30 1x30"},
            fires=[Fires("InkitExporterMissing", 15, 30)],
        )
    ],
    "InkitShardMissing": [
        World(
            "the third of three is away for 20 minutes",
            60,
            more={
                f'inkit_exporter_shard_info{{job="inkit", instance="{shard}", shard="{shard}", shards="3"}}': values
                for shard, values in enumerate(("1x60", "1x60", "1x9 stale _x19 1x30"))
            },
            fires=[Fires("InkitShardMissing", 20, 30)],
        ),
        World(
            "all are there",
            60,
            more={
                f'inkit_exporter_shard_info{{job="inkit", instance="{shard}", shard="{shard}", shards="12"}}': "1x60"
                for shard in range(12)
            },
        ),
    ],
    "InkitReloadFailed": [
        World(
            "a wrong file for 20 minutes",
            40,
            more={of_exporter("inkit_exporter_config_last_reload_successful"): "1x4 0x19 1x20"},
            fires=[Fires("InkitReloadFailed", 15, 25)],
        )
    ],
    "InkitStorageUnhealthy": [
        World(
            "a full disk for 20 minutes",
            40,
            more={of_exporter("inkit_exporter_storage_healthy"): "1x4 0x19 1x20"},
            fires=[Fires("InkitStorageUnhealthy", 15, 25)],
        )
    ],
    "InkitClockWrong": [
        World(
            "ten minutes behind for 20 minutes",
            40,
            more={metric("inkit_api_clock_skew_seconds"): "0x4 600x19 0x20"},
            fires=[Fires("InkitClockWrong", 15, 25)],
        ),
        World(
            "just above and just below a minute",
            40,
            more={
                f'inkit_api_clock_skew_seconds{{job="inkit", instance="{skew}", account="a"}}': f"{skew}x40"
                for skew in (55, 65, -55, -65)
            },
            fires=[Fires("InkitClockWrong", 10, 41)] * 2,
        ),
    ],
    "InkitAccountTwice": [
        World(
            "a second exporter for 21 minutes",
            40,
            more={
                'inkit_up{job="inkit", instance="a", account="production"}': "1x40",
                'inkit_up{job="inkit", instance="b", account="production"}': "_x5 1x20 stale",
                'inkit_up{job="inkit", instance="b", account="production documents"}': "1x40",
            },
            fires=[Fires("InkitAccountTwice", 20, 26)],
        )
    ],
    "InkitKeyRejected": [
        World(
            "half an hour", 120, [Exporter(polls=fails(HOUR, 1.5 * HOUR, "auth"))], [Fires("InkitKeyRejected", 67, 98)]
        ),
        World(
            "most failures, or nearly",
            130,
            [
                Exporter("above", polls=of_thirty(19, "auth", "timeout")),
                Exporter("below", polls=of_thirty(16, "auth", "timeout")),
            ],
            [Fires("InkitKeyRejected", 69, 131)],
        ),
    ],
    "InkitApiFailing": [
        World(
            "half an hour",
            120,
            [Exporter(polls=fails(HOUR, 1.5 * HOUR, "timeout"))],
            [Fires("InkitApiFailing", 67, 98)],
        ),
        World(
            "most failures, or nearly",
            130,
            [
                Exporter("above", polls=of_thirty(19, "auth", "timeout")),
                Exporter("below", polls=of_thirty(16, "auth", "timeout")),
            ],
            [Fires("InkitApiFailing", 67, 90), Fires("InkitApiFailing", 67, 131)],
        ),
    ],
    "InkitDataStale": [
        World("a poll of 15 minutes", 120, [Exporter(polls=slow)], [Fires("InkitDataStale", 70, 76)]),
        World(
            "a listing of 3.5 hours that makes progress",
            300,
            [
                Exporter(
                    polls=lambda at: ("ok", 3.5 * HOUR if HOUR <= at < HOUR + 60 else 2),
                    gauges={'inkit_api_requests_total{code="200"}': lambda at: at // 10},
                )
            ],
            [Fires("InkitDataStale", 245, 271)],
        ),
    ],
    "InkitFirstPollUnfinished": [
        World(
            "a first poll of 90 minutes",
            120,
            [Exporter(polls=lambda at: ("ok", 5400 if at < 60 else 2))],
            [Fires("InkitFirstPollUnfinished", 60, 91)],
        ),
    ],
    "InkitPollsFlaky": [
        World("13 of 60", 250, [Exporter(polls=some_fail(13))], [Fires("InkitPollsFlaky", 180, 204)]),
        World("11 of 60", 200, [Exporter(polls=some_fail(11))]),
        World("an outage of 40 minutes", 150, [Exporter(polls=fails(HOUR, HOUR + 2400, "timeout"))]),
    ],
    "InkitApiThrottled": [
        World(
            "more than a quarter of the time",
            150,
            more={
                metric("inkit_api_throttled_seconds_total"): "0+16.8x80 1344x70",
                metric("inkit_api_throttled_seconds_total", "below"): "0+13.2x150",
                metric("inkit_api_requests_total", "below", code="429"): "0x150",
            },
            fires=[Fires("InkitApiThrottled", 57, 84)],
        ),
        World(
            "429",
            60,
            more={
                metric("inkit_api_throttled_seconds_total"): "0+1x60",
                metric("inkit_api_requests_total", code="429"): "0+1x60",
            },
            fires=[Fires("InkitApiThrottled", 31, 61)],
        ),
    ],
    "InkitWindowTruncated": [
        World(
            "for half an hour",
            60,
            more={
                metric("inkit_batches", batch_status="completed"): "9000x60",
                metric("inkit_batches", batch_status="failed"): "1000x60",
                metric("inkit_window_truncated"): "0x4 1x29 0x30",
            },
            fires=[Fires("InkitWindowTruncated", 20, 35)],
        )
    ],
    "InkitInvalidRecords": [
        World(
            "one record, once",
            760,
            more={metric("inkit_invalid_batches_total"): "0x9 1x760"},
            fires=[Fires("InkitInvalidRecords", 15, 730)],
        )
    ],
    "InkitRepairedRecords": [
        World(
            "one record, once",
            760,
            more={metric("inkit_repaired_batches_total"): "0x9 1x760"},
            fires=[Fires("InkitRepairedRecords", 15, 730)],
        )
    ],
    "InkitDocumentsFailing": [
        World(
            "5.5% for an hour",
            180,
            more=documents(PRODUCTION, "0x9 0+11x59 660x120", "0x9 0+189x170")
            | documents("below", "0+9x180", "0+191x180"),
            fires=[Fires("InkitDocumentsFailing", 16, 76)],
        ),
        World(
            "half of 55 documents, and half of 45",
            60,
            more=documents("above", "0x9 28x60", "0x9 27x60") | documents("below", "0x9 23x60", "0x9 22x60"),
            fires=[Fires("InkitDocumentsFailing", 15, 61)],
        ),
    ],
    "InkitDestinationFailing": [
        World(
            "22% for an hour",
            180,
            more=documents(PRODUCTION, "0x9 0+11x59 660x120", "0x9 0+39x170")
            | documents("below", "0+9x180", "0+41x180"),
            fires=[Fires("InkitDestinationFailing", 16, 77)],
        ),
        World(
            "5 of 9, and 4 of 8",
            60,
            more=documents("above", "0x9 5x60", "0x9 4x60") | documents("below", "0x9 4x60", "0x9 4x60"),
            fires=[Fires("InkitDestinationFailing", 15, 61)],
        ),
    ],
    "InkitDestinationFailingSlowly": [
        World(
            "each 10 hours, until the second day",
            3200,
            step=4,
            scrape=240,
            more=documents(PRODUCTION, "0x100 1x149 2x149 3x149 4x2000", "0x3000"),
            fires=[Fires("InkitDestinationFailingSlowly", 1904, 3204)],
        ),
        World(
            "22% and 18%, and two that fail",
            2400,
            step=4,
            scrape=240,
            more=documents("above", "0x100 2x449 4x500", "0x100 0 14x900")
            | documents("below", "0x100 2x449 4x500", "0x100 0 18x900")
            | documents("few", "0x100 1x449 2x500", "0x900"),
            fires=[Fires("InkitDestinationFailingSlowly", 2264, 2404)],
        ),
    ],
    "InkitDestinationDown": [
        World(
            "all fails for an hour",
            150,
            more=documents(PRODUCTION, "0x9 0+1x59 60x90", "0x69 0+1x90")
            | {metric("inkit_batches_with_failures_total", destination="salesforce"): "0x9 0+1x59 60x90"},
            fires=[Fires("InkitDestinationDown", 18, 71)],
        ),
        World(
            "three batches, and two",
            60,
            more=documents("above", "0x9 3x60", "0x60")
            | documents("below", "0x9 60x60", "0x60")
            | {metric("inkit_batches_with_failures_total", "above", destination="salesforce"): "0x9 3x60"}
            | {metric("inkit_batches_with_failures_total", "below", destination="salesforce"): "0x9 2x60"},
            fires=[Fires("InkitDestinationDown", 15, 61)],
        ),
        World(
            "110 documents of a batch, and 90; and 110 where some arrive",
            60,
            more=documents("above", "0x9 110x60", "0x60")
            | documents("below", "0x9 90x60", "0x60")
            | documents("arriving", "0x9 110x60", "0x9 1x60"),
            fires=[Fires("InkitDestinationDown", 15, 61)],
        ),
    ],
    "InkitAllBatchesFailing": [
        World(
            "three in an hour, and two, and three beside a good one",
            100,
            more=batches(PRODUCTION, "0x9 3x100", "0x100")
            | batches("below", "0x9 2x100", "0x100")
            | batches("other", "0x9 3x100", "0x9 1x100"),
            fires=[Fires("InkitAllBatchesFailing", 15, 70)],
        ),
        World(
            "other words for failed, and for some that failed",
            60,
            more={
                metric("inkit_batches_finished_total", status, batch_status=status): "0x9 3x60"
                for status in (
                    "error",
                    "render_failed",
                    "timed_out",
                    "aborted",
                    "cancelled",
                    "completed_with_error",
                    "delivered",
                    "partially_failed",
                )
            },
            fires=[Fires("InkitAllBatchesFailing", 15, 61)] * 3,
        ),
    ],
    "InkitBatchesFailing": [
        World(
            "one of four, and one of six",
            90,
            more=batches(PRODUCTION, "0x9 1x90", "0x9 3x90") | batches("below", "0x9 1x90", "0x9 4.5x90"),
            fires=[Fires("InkitBatchesFailing", 15, 70)],
        ),
        World(
            "22 of a hundred",
            60,
            more=batches(PRODUCTION, "0x9 22x60", "0x9 78x60"),
            fires=[Fires("InkitBatchesFailing", 15, 61)],
        ),
    ],
    "InkitBatchStuck": [
        World(
            "6.5 hours, then it moves",
            60,
            more=stuck(PRODUCTION, 23_400, until=29),
            fires=[Fires("InkitBatchStuck", 10, 30)],
        ),
        World(
            "around each of the limits",
            60,
            more=stuck("5.5 hours", 19_800)
            | stuck("6.5 hours where 3.5 are usual", 23_400, 12_600)
            | stuck("6.5 hours where 3 are usual", 23_400, 10_800)
            | stuck("27 minutes where 2 are usual", 1600, 100)
            | stuck("33 minutes where 2 are usual", 2000, 100)
            | stuck("33 minutes where 3.5 are usual", 2000, 210)
            | stuck("33 minutes where 3 are usual", 2000, 190),
            fires=[Fires("InkitBatchStuck", 10, 61), *[Fires("InkitBatchStuck", 11, 61)] * 2],
        ),
        World(
            "people sign slowly, a disk does not",
            60,
            more=stuck(PRODUCTION, 23_400)
            | stuck("storage", 23_400)
            | {
                metric("inkit_batch_documents_in_progress", destination="docusign", batch_status="x"): "5x60",
                metric("inkit_batch_documents_in_progress", destination="box", batch_status="x"): "0x60",
                metric(
                    "inkit_batch_documents_in_progress", "storage", destination="docusign", batch_status="x"
                ): "5x60",
                metric("inkit_batch_documents_in_progress", "storage", destination="box", batch_status="x"): "1x60",
            },
            fires=[Fires("InkitBatchStuck", 10, 61)],
        ),
    ],
    "InkitNothingFinishes": [
        World(
            "none for two hours and a half",
            240,
            more=documents(PRODUCTION, "0x240", "0+1x60 60x149 0+1x60", "box")
            | {metric("inkit_batch_documents_in_progress", destination="box", batch_status="x"): "5x240"},
            fires=[Fires("InkitNothingFinishes", 150, 212)],
        ),
        World(
            "people sign slowly",
            240,
            more=documents(PRODUCTION, "0x240", "0x240", "docusign")
            | {metric("inkit_batch_documents_in_progress", destination="docusign", batch_status="x"): "5x240"},
        ),
    ],
    "InkitSloBurnFast": [
        World(
            "16% in an hour, and 13%",
            240,
            more=documents(PRODUCTION, "0+16x120 1920x120", "0+84x120 0+100x120")
            | documents("below", "0+13x240", "0+87x240"),
            fires=[Fires("InkitSloBurnFast", 52, 124)],
        ),
        World(
            "few documents: three batches, and two; 110 documents of a batch, and 90",
            120,
            more=documents("three", "0x70 3x120", "0+0.1x120")
            | documents("two", "0x70 2x120", "0+0.1x120")
            | documents("more", "0x70 110x120", "0+5x120")
            | documents("fewer", "0x70 90x120", "0+4x120")
            | {metric("inkit_batches_with_failures_total", "three", destination="salesforce"): "0x70 3x120"}
            | {metric("inkit_batches_with_failures_total", "two", destination="salesforce"): "0x70 2x120"},
            fires=[Fires("InkitSloBurnFast", 73, 101)] * 2,
        ),
        World(
            "6.5% in six hours, and 5.5%",
            480,
            step=2,
            more=documents(PRODUCTION, "0+6.5x480", "0+93.5x480") | documents("below", "0+5.5x480", "0+94.5x480"),
            fires=[Fires("InkitSloBurnFast", 348, 482)],
        ),
        World(
            "three batches in six hours, with 11 documents, and 9; and two batches",
            480,
            step=2,
            more=documents("above", "0x250 6x89 11x140", "0+0.1x480")
            | documents("below", "0x250 5x89 9x140", "0+0.1x480")
            | documents("two", "0x250 6x89 11x140", "0+0.1x480")
            | {
                metric("inkit_batches_with_failures_total", account, destination="salesforce"): values
                for account, values in (
                    ("above", "0x250 2x89 3x140"),
                    ("below", "0x250 2x89 3x140"),
                    ("two", "0x250 1x89 2x140"),
                )
            },
            fires=[Fires("InkitSloBurnFast", 348, 372)],
        ),
    ],
    "InkitSloBurnSlow": [
        World(
            "3.3% for a day, and 2.7%",
            1800,
            step=4,
            scrape=240,
            more=documents(PRODUCTION, "0+33x400 13200x100", "0+967x400 0+1000x100")
            | documents("below", "0+27x500", "0+973x500"),
            fires=[Fires("InkitSloBurnSlow", 1396, 1616)],
        ),
        World(
            "1.1% for three days, and 0.9%; 11 documents, and 9",
            4400,
            step=8,
            scrape=240,
            more=documents(PRODUCTION, "0+11x1100", "0+989x1100")
            | documents("below", "0+9x1100", "0+991x1100")
            | documents("eleven", "0+0.01x1100", "0+0.1x1100")
            | documents("nine", "0+0.0082x1100", "0+0.08x1100"),
            fires=[Fires("InkitSloBurnSlow", 3824, 4408), Fires("InkitSloBurnSlow", 4160, 4408)],
        ),
    ],
}


class Told(NamedTuple):
    """The labels of an alert in its first world, without its severity, and the summary with which it begins there."""

    labels: dict[str, str]
    summary: str


_JOB = {"job": "inkit"}
_EXPORTER = {"job": "inkit", "instance": "exporter:10465"}
_ACCOUNT = {"job": "inkit", "account": "production"}
_SALESFORCE = {"job": "inkit", "account": "production", "destination": "salesforce"}

TOLD: dict[str, Told] = {
    "InkitExporterDown": Told(_EXPORTER, "Inkit exporter exporter:10465 does not answer"),
    "InkitExporterMissing": Told(_JOB, "Prometheus has no target in job inkit"),
    "InkitShardMissing": Told(_JOB | {"shards": "3"}, "Only 2 of 3 shards of the Inkit exporter are there"),
    "InkitReloadFailed": Told(_EXPORTER, "Inkit exporter exporter:10465 refused its new configuration"),
    "InkitStorageUnhealthy": Told(_EXPORTER, "Inkit exporter exporter:10465 can't keep its totals on disk"),
    "InkitClockWrong": Told(_EXPORTER, "The clocks of Inkit and of exporter exporter:10465 differ by 10m 0s"),
    "InkitAccountTwice": Told(_ACCOUNT, "2 exporters poll Inkit account production"),
    "InkitKeyRejected": Told(_ACCOUNT, "Inkit rejects the API key of production: no data for 7m 57s"),
    "InkitApiFailing": Told(_ACCOUNT, "Inkit's API fails production (timeout): no data for 7m 57s"),
    "InkitDataStale": Told(_ACCOUNT, "A poll of production does not end: no new data for 10m 57s"),
    "InkitFirstPollUnfinished": Told(_ACCOUNT, "The first poll of Inkit account production has not ended for an hour"),
    "InkitPollsFlaky": Told(_ACCOUNT, "21.67% of the polls of production fail, again and again"),
    "InkitApiThrottled": Told(_ACCOUNT, "Inkit account production is short of API requests: they wait 28% of the time"),
    "InkitWindowTruncated": Told(_ACCOUNT, "Only the newest 10000 batches of Inkit account production are counted"),
    "InkitInvalidRecords": Told(_ACCOUNT, "Unreadable batch records of Inkit account production: 1 in 12 hours"),
    "InkitRepairedRecords": Told(_ACCOUNT, "Batch records of Inkit account production without a count: 1 in 12 hours"),
    "InkitDocumentsFailing": Told(_ACCOUNT, "5.5% of the documents of Inkit account production failed within an hour"),
    "InkitDestinationFailing": Told(
        _SALESFORCE, "salesforce: 22% of the documents of production failed within an hour"
    ),
    "InkitDestinationFailingSlowly": Told(
        _SALESFORCE, "salesforce: 100% of the documents of production failed over days"
    ),
    "InkitDestinationDown": Told(_SALESFORCE, "salesforce takes no documents of production: 8 failed, none arrived"),
    "InkitAllBatchesFailing": Told(_ACCOUNT, "All batches of Inkit account production fail: 3 within an hour"),
    "InkitBatchesFailing": Told(_ACCOUNT, "Batches of Inkit account production failed as a whole: 1 within an hour"),
    "InkitBatchStuck": Told(_ACCOUNT, "A batch of Inkit account production has not changed for 6h 30m 0s"),
    "InkitNothingFinishes": Told(
        _ACCOUNT, "5 documents of Inkit account production are in progress, and none finishes"
    ),
    "InkitSloBurnFast": Told(_ACCOUNT, "Documents of production fail 16.0 times as fast as the objective allows"),
    "InkitSloBurnSlow": Told(_ACCOUNT, "Documents of production have failed 3.3 times as fast as the objective allows"),
}
