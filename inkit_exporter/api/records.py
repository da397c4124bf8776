"""Reads one record of the list: strictly if it is as documented, else as far as possible without guessing."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from inkit_exporter.api.batches import Counts
from inkit_exporter.jsonbody import DECODE_ERRORS, Natural, read_text, read_time

AT_ONCE_BYTES: Final = 2**21
"""The most bytes to decode in one go, which takes at most 10 ms on a slow machine. Larger records are skipped."""

_MOST_DESTINATIONS = Meta(max_length=1000)  # Inkit documents nine
_Id = Annotated[str, Meta(min_length=1, max_length=256)]
_Status = Annotated[str, Meta(max_length=256)]
_Empty = Annotated[list[Any], Meta(max_length=0)] | None  # PHP writes an empty object as a list


class Record(Struct, gc=False):
    """What the exporter needs of a record, as the API documents it."""

    id: _Id
    created_at: Annotated[datetime, Meta(tz=True)]
    status: _Status
    destinations: Annotated[dict[str, Counts], _MOST_DESTINATIONS]
    name: str | None = None


class OddRecord(Record, gc=False, kw_only=True):
    """A record that is not as documented. `differs` says how, with the first difference.

    `repaired`: a count was missing, and is inferred. `unreadable` has the destinations left out, and why.
    """

    differs: str
    repaired: bool
    unreadable: Mapping[str, str]


class _LooseCounts(Struct, gc=False):
    count: Natural | None = None
    completed: Natural | None = None
    failed: Natural | None = None
    in_progress: Natural | None = None


class _LooseRecord(Struct, gc=False):
    id: _Id | int
    created_at: str | float
    status: Raw = Raw()
    name: Raw = Raw()
    destinations: Annotated[dict[str, Raw], _MOST_DESTINATIONS] | _Empty = None


_strict = msgspec.json.Decoder(Record)
_loose = msgspec.json.Decoder(_LooseRecord, strict=False)  # "1", 1.0 and 1e2 are integers, true is not
_loose_counts = msgspec.json.Decoder(_LooseCounts | _Empty, strict=False)


def read_record(raw: Raw) -> Record:
    """Read a record as far as possible.

    Raises:
        one of DECODE_ERRORS: it is too large, or the id or the time is missing or can't be read.
    """
    if len(raw) > AT_ONCE_BYTES:
        raise msgspec.DecodeError(f"it has more than {AT_ONCE_BYTES} bytes")
    try:
        return _strict.decode(raw)
    except DECODE_ERRORS as error:
        differs = str(error)
    loose = _loose.decode(raw)
    destinations: dict[str, Counts] = {}
    unreadable: dict[str, str] = {}
    repaired = False
    for name, entry in dict(loose.destinations or ()).items():
        try:
            if told := _read_counts(entry):
                destinations[name], inferred = told
                repaired |= inferred
        except DECODE_ERRORS as error:
            unreadable[name] = str(error)
    return OddRecord(
        str(loose.id),
        read_time(loose.created_at, "$.created_at"),
        read_text(loose.status, _Status),
        destinations,
        read_text(loose.name, str),
        differs=f"{differs}; a missing count was inferred" if repaired else differs,
        repaired=repaired,
        unreadable=unreadable,
    )


def _read_counts(entry: Raw) -> tuple[Counts, bool] | None:
    """The counts, and whether one was missing and inferred from the others; None for an empty entry."""
    counts = _loose_counts.decode(entry)
    if not isinstance(counts, _LooseCounts):
        return None
    total, completed, failed, in_progress = counts.count, counts.completed, counts.failed, counts.in_progress
    missing = (completed is None) + (failed is None) + (in_progress is None)
    known = (completed or 0) + (failed or 0) + (in_progress or 0)
    rest = 0 if total is None or total < known else total - known
    if missing and (total is None or (rest and missing > 1)):
        if all(value is None for value in msgspec.json.decode(entry).values()):
            return None
        raise msgspec.ValidationError("too many counts are missing to infer them")
    complete = Counts(
        known if total is None else total,
        rest if completed is None else completed,
        rest if failed is None else failed,
        rest if in_progress is None else in_progress,
    )
    return complete, total is None or missing > 0
