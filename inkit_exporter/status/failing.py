"""Whether a destination fails now, and since when: told from its newest batches, by the thresholds of the alerts."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

# As the alerts InkitDestinationFailing and InkitDestinationDown have them.
_SHARE: Final = 0.2
_ENOUGH: Final = 20
_ENOUGH_IF_ALL_FAIL: Final = 10


class FailingStatus(Struct, frozen=True):
    """A run of failures that goes on: its batches, and how many of their finished documents failed."""

    since_timestamp_seconds: float
    maybe_earlier: bool
    batches: int
    failed: int
    finished: int


def find_failures(outcomes: Iterable[tuple[float, int, int]]) -> FailingStatus | None:
    """The run of failures up to now; None if there is no such run.

    An outcome is when a batch was created, and how many of its documents failed and are finished. The newest is first.
    The run begins after the last 20 documents or more of which at most 20% failed. It counts if it has 20 documents, or
    10 that failed without exception.
    """
    since, batches, failed, finished = 0.0, 0, 0, 0
    # The batches before the run, as far as they are known: they join it as soon as enough of their documents failed.
    older_batches, older_failed, older_finished = 0, 0, 0
    for created, batch_failed, batch_finished in outcomes:
        if not batch_finished:
            continue
        older_batches, older_failed = older_batches + 1, older_failed + batch_failed
        older_finished += batch_finished
        if older_failed > _SHARE * older_finished:
            since, batches = created, batches + older_batches
            failed, finished = failed + older_failed, finished + older_finished
            older_batches = older_failed = older_finished = 0
        elif older_finished >= _ENOUGH:
            break
    enough = finished >= (_ENOUGH_IF_ALL_FAIL if failed == finished else _ENOUGH)
    return FailingStatus(since, older_finished == 0, batches, failed, finished) if enough else None
