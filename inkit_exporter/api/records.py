"""One record of the list: read strictly if it is as documented, else as far as it can be read without guessing."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from inkit_exporter.api.batches import Counts, Natural

DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_Id = Annotated[str, Meta(min_length=1, max_length=256)]


class Record(Struct, gc=False):
    """One record as the API documents it, as far as the exporter needs it."""

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
    status: Any = None
    name: Any = None
    destinations: dict[str, _LooseCounts | list[Any] | None] | list[Any] | None = None


_strict = msgspec.json.Decoder(Record)
_loose = msgspec.json.Decoder(_LooseRecord, strict=False)  # "1", 1.0 and 1e2 are integers, true is not


def read_record(raw: Raw) -> tuple[Record, bool]:
    """A record, and whether a count had to be inferred.

    Raises:
        one of DECODE_ERRORS: what is needed is missing, or can't be read.
    """
    try:
        return _strict.decode(raw), False
    except DECODE_ERRORS:
        loose = _loose.decode(raw)
    destinations: dict[str, Counts] = {}
    inferred = False
    for name, counts in loose.destinations.items() if isinstance(loose.destinations, dict) else ():
        if counts and not isinstance(counts, list) and counts != _LooseCounts():  # else the batch does not use it
            destinations[name] = _infer(counts)
            inferred |= None in (counts.count, counts.completed, counts.failed, counts.in_progress)
    status, name = (text if isinstance(text, str) else "" for text in (loose.status, loose.name))
    return Record(str(loose.id), _read_time(loose.created_at), status, destinations, name), inferred


def _infer(counts: _LooseCounts) -> Counts:
    """The counts; a missing one is what the others leave, if that can only be one number. None of them is doubted."""
    known = [n for n in (counts.completed, counts.failed, counts.in_progress) if n is not None]
    if counts.count is None and len(known) == 3:  # noqa: PLR2004 - all of them
        return Counts(sum(known), *known)
    left = max(0, (counts.count or 0) - sum(known))
    if counts.count is None or (left and len(known) < 2):  # noqa: PLR2004 - of two missing ones, which has it?
        raise msgspec.ValidationError("so many counts are missing that the others don't tell - at `$.destinations`")
    completed, failed, in_progress = (
        left if n is None else n for n in (counts.completed, counts.failed, counts.in_progress)
    )
    return Counts(counts.count, completed, failed, in_progress)


def _read_time(value: str | float) -> datetime:
    """A time in any offset, UTC without one; seconds since the epoch, too."""
    try:
        return msgspec.convert(value, datetime, strict=False)
    except msgspec.ValidationError:
        try:
            created = datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise msgspec.ValidationError("it is no time - at `$.created_at`") from None
    return created if created.tzinfo else created.replace(tzinfo=UTC)
