"""Decides whether a destination fails, and since when, from its newest batches and the thresholds of the alerts."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct

SHARE: Final = 0.2
"""A larger share of failed documents is not usual."""

FEWEST: Final = 5
"""A run with this many failed documents counts as failures."""

FEWEST_BATCHES: Final = 3
"""So does a run of this many batches, if no document of them arrived."""

_RECOVERED: Final = 20  # a run of failures begins after this many documents of which not too many failed


class FailingStatus(Struct, frozen=True):
    """A run of failures up to the newest results. Of its documents, some failed and others arrived."""

    since_timestamp_seconds: float
    maybe_earlier: bool
    newest_batch_created_timestamp_seconds: float
    batches: int
    failed: int
    finished: int


class _Run(NamedTuple):
    """A run as far as it is known: since when, and the sums of its batches with failures and of their documents."""

    since: float = 0.0
    batches: int = 0
    failed: int = 0
    finished: int = 0


def find_failures(outcomes: Iterable[tuple[float, int, int]]) -> FailingStatus | None:
    """The run of failures up to now; None if there is no such run.

    An outcome has the time when a batch was created, and how many of its documents failed and finished. Newest first.
    The run begins after the last 20 documents or more of which at most 20% failed. It counts if it has 5 failed
    documents, or 3 batches without a document that arrived. To count batches instead of documents, an outcome says
    whether the batch failed and finished.
    """
    newest, batches, failed, finished = 0.0, 0, 0, 0  # of all batches so far
    run = _Run()
    for created, batch_failed, batch_finished in outcomes:
        if batch_failed:
            newest, batches = newest or created, batches + 1
        failed, finished = failed + batch_failed, finished + batch_finished
        if failed - run.failed > SHARE * (finished - run.finished):
            run = _Run(created, batches, failed, finished)
        elif finished - run.finished >= _RECOVERED:
            break
    if run.failed >= FEWEST or (run.failed == run.finished and run.batches >= FEWEST_BATCHES):
        return FailingStatus(run.since, finished == run.finished, newest, run.batches, run.failed, run.finished)
    return None
