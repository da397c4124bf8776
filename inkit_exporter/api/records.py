"""Reads one record of the list: strictly if it is as documented, else as far as possible without guessing."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct

from inkit_exporter.api.batches import Counts
from inkit_exporter.jsonbody import DECODE_ERRORS, Natural, read_text, read_time

_Id = Annotated[str, Meta(min_length=1, max_length=256)]
_NULL = Raw(b"null")
_Empty = Annotated[list[Any], Meta(max_length=0)] | None  # PHP writes an empty object as a list

MAX_DESTINATIONS: Final = 1000
"""Of one batch. Inkit documents nine."""


class Record(Struct, gc=False):
    """What the exporter needs of a record, as the API documents it."""

    id: _Id
    created_at: datetime
    status: str
    destinations: dict[str, Counts]
    name: str | None = None


class _LooseCounts(Struct, gc=False):
    count: Natural | None = None
    completed: Natural | None = None
    failed: Natural | None = None
    in_progress: Natural | None = None


class _LooseRecord(Struct, gc=False):
    id: _Id | int
    created_at: str | float
    status: Raw = _NULL
    name: Raw = _NULL
    destinations: dict[str, Raw] | _Empty = None


_NOTHING = _LooseCounts()
_strict = msgspec.json.Decoder(Record)
_loose = msgspec.json.Decoder(_LooseRecord, strict=False)  # "1", 1.0 and 1e2 are integers, true is not
_loose_counts = msgspec.json.Decoder(_LooseCounts | _Empty, strict=False)


class Reading(NamedTuple):
    """A record, its first difference from the documentation, whether a count was inferred, and what is unreadable."""

    record: Record
    differs: str = ""
    repaired: bool = False
    unreadable: Mapping[str, str] = {}


def read_record(raw: Raw) -> Reading:
    """Read a record as far as possible.

    Raises:
        one of DECODE_ERRORS: the id or the time is missing or can't be read.
    """
    try:
        return Reading(_strict.decode(raw))
    except DECODE_ERRORS as error:
        differs = str(error)
    loose = _loose.decode(raw)
    if len(loose.destinations or ()) > MAX_DESTINATIONS:
        raise msgspec.DecodeError(f"it has more than {MAX_DESTINATIONS} destinations")
    destinations: dict[str, Counts] = {}
    unreadable: dict[str, str] = {}
    repaired = False
    for name, entry in loose.destinations.items() if isinstance(loose.destinations, dict) else ():
        try:
            if told := _read_counts(entry):
                destinations[name], inferred = told
                repaired |= inferred
        except DECODE_ERRORS as error:
            unreadable[name] = str(error)
    status, name = read_text(loose.status), read_text(loose.name)
    record = Record(str(loose.id), read_time(loose.created_at, "$.created_at"), status, destinations, name)
    return Reading(record, differs + "; a missing count was inferred" * repaired, repaired, unreadable)


def _read_counts(entry: Raw) -> tuple[Counts, bool] | None:
    """The counts, and whether one was missing and inferred from the others; None for an empty entry."""
    counts = _loose_counts.decode(entry)
    if not isinstance(counts, _LooseCounts):
        return None
    count, completed, failed, in_progress = counts.count, counts.completed, counts.failed, counts.in_progress
    missing = (completed is None) + (failed is None) + (in_progress is None)
    known = (completed or 0) + (failed or 0) + (in_progress or 0)
    left = 0 if count is None or count < known else count - known
    if missing and (count is None or (left and missing > 1)):
        if counts == _NOTHING and all(value is None for value in msgspec.json.decode(entry).values()):
            return None
        raise msgspec.ValidationError("too many counts are missing to infer them")
    complete = Counts(
        known if count is None else count,
        left if completed is None else completed,
        left if failed is None else failed,
        left if in_progress is None else in_progress,
    )
    return complete, count is None or missing > 0
