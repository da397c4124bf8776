"""Decides whether a destination fails, and since when, from its newest batches and the thresholds of the alerts."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

SHARE: Final = 0.2
"""A larger share of failed documents is not usual."""

FEWEST: Final = 5
"""A run of failures has at least this many failed documents, or"""

FEWEST_BATCHES: Final = 3
"""at least this many batches, and no document of them arrived."""

_RECOVERED: Final = 20  # a run of failures begins after this many documents of which not too many failed


class FailingStatus(Struct, frozen=True):
    """A run of failures up to the newest results. Of its documents, some failed and others arrived."""

    since_timestamp_seconds: float
    maybe_earlier: bool
    newest_batch_created_timestamp_seconds: float
    batches: int
    failed: int
    finished: int


def find_failures(outcomes: Iterable[tuple[float, int, int]]) -> FailingStatus | None:
    """The run of failures up to now; None if there is no such run.

    An outcome has the time when a batch was created, and how many of its documents failed and finished. Newest first.
    The run begins after the last 20 documents or more of which at most 20% failed. It counts if it has 5 failed
    documents, or 3 batches without a document that arrived.
    """
    newest, batches, failed, finished = 0.0, 0, 0, 0  # of all batches so far
    since, run_batches, run_failed, run_finished = 0.0, 0, 0, 0  # of the run, as far as it is known
    for created, batch_failed, batch_finished in outcomes:
        if batch_failed:
            newest, batches = newest or created, batches + 1
        failed, finished = failed + batch_failed, finished + batch_finished
        if failed - run_failed > SHARE * (finished - run_finished):
            since, run_batches, run_failed, run_finished = created, batches, failed, finished
        elif finished - run_finished >= _RECOVERED:
            break
    if run_failed >= FEWEST or (run_failed == run_finished and run_batches >= FEWEST_BATCHES):
        return FailingStatus(since, finished == run_finished, newest, run_batches, run_failed, run_finished)
    return None
