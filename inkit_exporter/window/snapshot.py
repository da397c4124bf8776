"""What a complete poll leaves to be shown, as values."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from inkit_exporter.api.batches import Batch, Counts

LISTED: Final = 50
"""Batches of a ranking that are kept for the status page: more than a person reads, and little to keep."""


class TopBatches(Struct, frozen=True):
    """The first batches of a ranking, at most `LISTED`, and how many there are in `total`.

    `changed_at` says when each was last seen to change, in seconds since the epoch; None for finished batches.
    """

    batches: tuple[Batch, ...] = ()
    total: int = 0
    changed_at: tuple[float | None, ...] = ()


class Snapshot(Struct, frozen=True):
    """One account's window after a complete poll. A combination of labels, once seen, stays, at 0.

    `documents` is by (destination, batch status), `batches` by batch status. Times are seconds since the epoch.
    `failing` begins with the newest, `unfinished` with the oldest, which is the likeliest to be stuck.
    `oldest_change` is when the unfinished batch that has not changed for longest was last seen to change.
    """

    documents: Mapping[tuple[str, str], Counts]
    batches: Mapping[str, int]
    newest_created: float | None
    oldest_unfinished_created: float | None
    truncated: bool
    failing: TopBatches = TopBatches()
    unfinished: TopBatches = TopBatches()
    oldest_change: float | None = None
