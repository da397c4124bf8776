"""The metrics of an account: each family from a given state, and what is absent."""

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from inkit_exporter.api.batches import DESTINATIONS, Counts
from inkit_exporter.api.errors import REASONS
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import PollSettings, Seconds
from inkit_exporter.counters import Counter, Exemplar, Histogram
from inkit_exporter.metrics.account import AccountMetrics
from inkit_exporter.metrics.exposition import OPENMETRICS
from inkit_exporter.metrics.families import Family, collect
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState, States
from inkit_exporter.window.totals import Totals
from inkit_exporter.window.window import Snapshot

NOW = 1000.0
SETTINGS = PollSettings(interval=Seconds(60), stale_after=Seconds(300))
SNAPSHOT = Snapshot(
    documents={("box", "completed"): Counts(9, 4, 3, 2), ("pigeon", "failed"): Counts(1, 0, 1, 0)},
    batches={"completed": 5, "failed": 1},
    newest_created=70.0,
    oldest_unfinished_created=60.0,
    truncated=True,
    oldest_change=65.0,
)
TOTALS = Totals(
    completed={"box": Counter(7, Exemplar("fb_1", 2, 50.0))},
    failed={"pigeon": Counter(3)},
    with_failures={"pigeon": Counter(2, Exemplar("fb_4", 1, 53.0))},
    created=Counter(2, Exemplar("fb_2", 1, 51.0)),
    finished={"completed": Counter(4), "expired": Counter(1)},
    durations=Histogram.empty(10.0, 60.0).observe(5.0, Exemplar("fb_3", 5.0, 52.0)).observe(60.0).observe(1e6),
)


def new_state() -> AccountState:
    return AccountState(account="a", settings=SETTINGS, usage=Usage(RateLimiter(60)))


def polled() -> AccountState:
    return replace(
        new_state(), up=True, polls=3, duration=1.5, poll_requests=2, last_success=999.0,
        failures={"timeout": 1}, snapshot=SNAPSHOT, snapshot_at=NOW - 300, totals=TOTALS,
    )  # fmt: skip


def samples(state: AccountState, now: float = NOW) -> dict[str, float]:
    """Return the samples by name and labels, without the label `account`."""
    return {key: sample.value for key, sample in parsed(state, now).items()}


def parsed(state: AccountState, now: float = NOW) -> Mapping[str, Any]:
    text = OPENMETRICS.encode(AccountMetrics(state, lambda: now)).decode()
    found = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            assert sample.labels["account"] == "a"
            labels = ",".join(value for label, value in sorted(sample.labels.items()) if label != "account")
            found[f"{sample.name}{{{labels}}}"] = sample
    return found


def test_before_the_first_poll_known_series_are_0_and_the_others_absent() -> None:
    found = samples(new_state())
    zeros = {f"inkit_poll_failures_total{{{reason}}}" for reason in REASONS}
    zeros |= {f"inkit_documents_{what}_total{{{name}}}" for what in ("completed", "failed") for name in DESTINATIONS}
    zeros |= {f"inkit_batches_finished_total{{{status}}}" for status in ("completed", "failed", "cancelled")}
    zeros |= {f"inkit_batches_with_failures_total{{{name}}}" for name in DESTINATIONS}
    zeros |= {"inkit_polls_total{}", "inkit_batches_created_total{}", "inkit_invalid_batches_total{}"}
    zeros |= {"inkit_api_requests_total{200}", "inkit_api_requests_total{429}", "inkit_api_throttled_seconds_total{}"}
    assert {found[key] for key in zeros} == {0}
    assert found["inkit_poll_interval_seconds{}"] == 60
    absent = (
        "inkit_up", "inkit_last_successful_poll", "inkit_poll_duration", "inkit_poll_requests", "inkit_batch_documents",
        "inkit_batches{",
    )  # fmt: skip
    assert not [key for key in found if key.startswith(absent)]


def test_after_a_poll_each_family_has_the_right_value() -> None:
    found = samples(polled())
    expected = {
        "inkit_up{}": 1,
        "inkit_last_successful_poll_timestamp_seconds{}": 999,
        "inkit_poll_duration_seconds{}": 1.5,
        "inkit_poll_requests{}": 2,
        "inkit_polls_total{}": 3,
        "inkit_poll_failures_total{timeout}": 1,
        "inkit_poll_failures_total{auth}": 0,
        "inkit_batch_documents{completed,box}": 9,
        "inkit_batch_documents_completed{completed,box}": 4,
        "inkit_batch_documents_failed{completed,box}": 3,
        "inkit_batch_documents_in_progress{completed,box}": 2,
        "inkit_batch_documents_failed{failed,pigeon}": 1,
        "inkit_batches{completed}": 5,
        "inkit_batches{failed}": 1,
        "inkit_newest_batch_created_timestamp_seconds{}": 70,
        "inkit_oldest_unfinished_batch_created_timestamp_seconds{}": 60,
        "inkit_unfinished_batches_oldest_change_timestamp_seconds{}": 65,
        "inkit_window_truncated{}": 1,
        "inkit_documents_completed_total{box}": 7,
        "inkit_documents_completed_total{pigeon}": 0,
        "inkit_documents_failed_total{pigeon}": 3,
        "inkit_documents_failed_total{box}": 0,
        "inkit_batches_with_failures_total{pigeon}": 2,
        "inkit_batches_with_failures_total{box}": 0,
        "inkit_batches_created_total{}": 2,
        "inkit_batches_finished_total{completed}": 4,
        "inkit_batches_finished_total{expired}": 1,
        "inkit_batch_duration_seconds_bucket{10.0}": 1,
        "inkit_batch_duration_seconds_bucket{60.0}": 2,
        "inkit_batch_duration_seconds_bucket{+Inf}": 3,
        "inkit_batch_duration_seconds_count{}": 3,
        "inkit_batch_duration_seconds_sum{}": 1_000_065,
    }
    assert {key: found[key] for key in expected} == expected


def test_a_family_whose_values_are_not_of_its_kind_is_an_error() -> None:
    misnamed: Family[None] = Family("inkit_documents", "Documents.", lambda _: Counter(1))
    with pytest.raises(TypeError, match=r"^inkit_documents is a gauge, but has a Counter$"):
        list(collect([misnamed], None))


def test_requests_are_shown_as_soon_as_they_are_counted() -> None:
    state = new_state()
    for code, seconds in (("200", 0.01), ("200", 3.0), ("connection", 31.0)):
        state.usage.add(code, seconds)
    state.usage.throttled_seconds += 2.5
    state.usage.invalid_batches += 4
    found = samples(state)
    expected = {
        "inkit_api_requests_total{200}": 2,
        "inkit_api_requests_total{connection}": 1,
        "inkit_api_request_duration_seconds_bucket{0.025}": 1,
        "inkit_api_request_duration_seconds_bucket{2.5}": 1,
        "inkit_api_request_duration_seconds_bucket{5.0}": 2,
        "inkit_api_request_duration_seconds_bucket{30.0}": 2,
        "inkit_api_request_duration_seconds_bucket{+Inf}": 3,
        "inkit_api_request_duration_seconds_sum{}": 34.01,
        "inkit_api_throttled_seconds_total{}": 2.5,
        "inkit_invalid_batches_total{}": 4,
    }
    assert {key: found[key] for key in expected} == expected


def test_a_stale_snapshot_withdraws_only_its_gauges() -> None:
    fresh, stale = samples(polled()), samples(polled(), NOW + 0.001)
    gone = fresh.keys() - stale.keys()
    assert {key.split("{")[0] for key in gone} == {
        "inkit_batch_documents", "inkit_batch_documents_completed", "inkit_batch_documents_failed",
        "inkit_batch_documents_in_progress", "inkit_batches", "inkit_newest_batch_created_timestamp_seconds",
        "inkit_oldest_unfinished_batch_created_timestamp_seconds",
        "inkit_unfinished_batches_oldest_change_timestamp_seconds", "inkit_window_truncated",
    }  # fmt: skip
    assert {key: fresh[key] for key in stale} == stale


def test_gauges_that_an_empty_window_cannot_have_are_absent() -> None:
    empty = Snapshot({}, {}, None, None, truncated=False)
    found = samples(replace(polled(), snapshot=empty))
    assert found["inkit_window_truncated{}"] == 0
    assert not [key for key in found if key.endswith("created_timestamp_seconds{}") or "oldest" in key]


def test_the_up_gauge_of_an_account_that_is_down_is_0() -> None:
    assert samples(replace(polled(), up=False))["inkit_up{}"] == 0


def test_exemplars_name_the_batch_of_the_latest_increase() -> None:
    found = parsed(polled())
    completed = found["inkit_documents_completed_total{box}"].exemplar
    assert (completed.labels, completed.value, float(completed.timestamp)) == ({"batch_id": "fb_1"}, 2, 50)
    assert found["inkit_batches_with_failures_total{pigeon}"].exemplar.labels == {"batch_id": "fb_4"}
    assert found["inkit_batch_duration_seconds_bucket{10.0}"].exemplar.labels == {"batch_id": "fb_3"}
    assert found["inkit_batch_duration_seconds_bucket{60.0}"].exemplar is None
    assert found["inkit_documents_failed_total{pigeon}"].exemplar is None


@pytest.mark.parametrize(
    ("batch_id", "shown"), [("x" * 120, True), ("x" * 121, False), ("nul\0", False), ("a\nb", False)]
)
def test_exemplars_that_prometheus_would_refuse_are_left_out(batch_id: str, shown: bool) -> None:
    totals = Totals(created=Counter(1, Exemplar(batch_id, 1, 1.0)))
    found = parsed(replace(new_state(), totals=totals))["inkit_batches_created_total{}"]
    assert (found.exemplar is not None) is shown


def test_the_version_changes_with_the_samples_and_every_second_during_a_poll() -> None:
    def version(state: AccountState, now: float) -> object:
        return AccountMetrics(state, lambda: now).version()

    states = States()
    states.publish(polled())
    fresh, waiting = states["a"], replace(states["a"], next_poll_at=NOW + 60)
    assert version(fresh, NOW) == version(waiting, NOW)
    assert version(fresh, NOW) != version(fresh, NOW + 0.5), "the snapshot has become stale"
    states.publish(fresh)
    assert version(fresh, NOW) != version(states["a"], NOW), "a state was published"
    during = replace(fresh, next_poll_at=NOW)
    assert version(during, NOW + 1) == version(during, NOW + 1.4)
    assert version(during, NOW + 1) != version(during, NOW + 2)
