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
    since, newest, batches, failed, finished = 0.0, 0.0, 0, 0, 0
    # The batches before the run, as far as they are known: they join it as soon as enough of their documents failed.
    older_batches, older_failed, older_finished = 0, 0, 0
    for created, batch_failed, batch_finished in outcomes:
        if not batch_finished:
            continue
        if batch_failed:
            newest, older_batches = newest or created, older_batches + 1
        older_failed, older_finished = older_failed + batch_failed, older_finished + batch_finished
        if older_failed > SHARE * older_finished:
            since, batches = created, batches + older_batches
            failed, finished = failed + older_failed, finished + older_finished
            older_batches = older_failed = older_finished = 0
        elif older_finished >= _RECOVERED:
            break
    if failed >= FEWEST or (failed == finished and batches >= FEWEST_BATCHES):
        return FailingStatus(since, older_finished == 0, newest, batches, failed, finished)
    return None
