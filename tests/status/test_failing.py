"""When a destination counts as failing, and since when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from inkit_exporter.status.failing import FailingStatus, find_failures

Outcome = tuple[float, int, int]
OUTCOMES = st.lists(st.integers(0, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), max_size=40)


def newest_first(*batches: tuple[int, int]) -> list[Outcome]:
    """Batches as (failed, finished), created at 100, 99 and so on."""
    return [(100.0 - i, failed, finished) for i, (failed, finished) in enumerate(batches)]


def single(results: str) -> list[Outcome]:
    """Batches of one document each: `x` failed, `.` arrived; the newest comes first."""
    return newest_first(*((result == "x", 1) for result in results))


def run(since: float, batches: int, failed: int, finished: int, newest: float = 100.0) -> FailingStatus:
    return FailingStatus(
        since,
        maybe_earlier=False,
        newest_batch_created_timestamp_seconds=newest,
        batches=batches,
        failed=failed,
        finished=finished,
    )


def maybe_earlier(run: FailingStatus) -> FailingStatus:
    return replace(run, maybe_earlier=True)


@pytest.mark.parametrize(
    ("outcomes", "failing"),
    [
        ([], None),
        (single("." * 50), None),
        # Three batches of which all failed are a run, and five documents.
        (single("xx" + "." * 30), None),
        (single("xxx" + "." * 30), run(98.0, 3, 3, 3)),
        (single("xxx"), maybe_earlier(run(98.0, 3, 3, 3))),
        (newest_first((4, 4), (0, 100)), None),
        (newest_first((5, 5), (0, 100)), run(100.0, 1, 5, 5)),
        # With one that arrived amid them, it takes five.
        (single("xx.xx" + "." * 30), None),
        (single("xx.xxx" + "." * 30), run(95.0, 5, 5, 6)),
        # Twenty that arrived end the run, whatever failed before; fewer don't.
        (single("." * 20 + "x" * 500), None),
        (single("." * 5 + "x" * 30), maybe_earlier(run(66.0, 30, 30, 35, newest=95.0))),
        # The usual few failures are no run.
        (single("x" + "." * 99), None),
        (newest_first(*[(1, 60)] * 30), None),
        # What has no result yet says nothing.
        (newest_first((0, 0), (0, 0), (17, 20), (0, 0), (0, 400)), run(98.0, 1, 17, 20, newest=98.0)),
        # A large batch that went well is not taken into a run, however many failed in it.
        (newest_first((340, 400), (0, 100), (1, 1)), run(100.0, 1, 340, 400)),
    ],
)
def test_a_run_of_failures_begins_after_the_last_documents_that_arrived(
    outcomes: list[Outcome], failing: FailingStatus | None
) -> None:
    assert find_failures(outcomes) == failing


@given(OUTCOMES)
def test_a_run_is_a_run_of_the_newest_batches_of_which_more_than_a_fifth_failed(batches: list[tuple[int, int]]) -> None:
    outcomes = newest_first(*batches)
    failing = find_failures(outcomes)
    assert find_failures([(101, 0, 20), *outcomes]) is None
    assert find_failures([(101, 20, 20), *outcomes]) is not None
    if failing is None:
        return
    run = [outcome for outcome in outcomes if outcome[0] >= failing.since_timestamp_seconds and outcome[2]]
    assert failing.batches == sum(failed > 0 for _, failed, _ in run)
    assert failing.newest_batch_created_timestamp_seconds == next(created for created, failed, _ in run if failed)
    assert failing.failed == sum(failed for _, failed, _ in run) > 0.2 * failing.finished
    assert failing.finished == sum(finished for _, _, finished in run)
    assert failing.failed >= 5 or (failing.failed == failing.finished and failing.batches >= 3)
    before = [outcome for outcome in outcomes if outcome[0] < failing.since_timestamp_seconds and outcome[2]]
    assert failing.maybe_earlier == (not before)
    if before:
        assert before[0][1] <= 0.2 * before[0][2], "the batch before the run went well"
