"""From an answer's bytes to batches, in parts small enough to leave the event loop free for scrapes.

Pure functions of the bytes, but for the labels, which remember the names that they have admitted.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

from inkit_exporter.api.batches import Batch, Counts, Natural, Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.labels import AccountLabels
from inkit_exporter.api.pagination import Pagination, read_pagination

Body = bytes | bytearray
T = TypeVar("T")

AT_ONCE_BYTES: Final = 2**21
"""Bytes decoded in one go, which takes 10 ms at most on a slow machine. A larger record is refused."""

_MAX_NAME_LENGTH = 200
_MAX_DESTINATIONS = 1000

# Records and destinations of one part. A page of 100 batches at nine destinations is one part and takes 1 to 3 ms,
# merging included; 1,000 destinations with names never seen before take 7.
_PART_SIZE = 1200
# Taking the largest page apart, which takes up to 12 ms, is a part of its own.
_SPLIT_BYTES_AS_A_RECORD = 2**23 // _PART_SIZE
# The API writes 14 bytes or more for each value. Millions of tiny ones would take thirty times their bytes in memory.
_LEAST_BYTES_A_VALUE = 10
_ALWAYS_ALLOWED_BYTES = 2**20
# This many records, none of which can be read, are more likely those of another API than slips.
_ANOTHER_API = 10


class _Record(Struct, gc=False):
    """One record of a page as the API writes it, each field of its documented type."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    created_at: datetime
    status: str
    total: Natural
    destinations: dict[str, Counts]
    name: str | None = None


class _Page(Struct, Generic[T]):
    """The items, and wherever else the pagination may stand."""

    items: list[T]
    metadata: Any = None
    meta: Any = None
    pagination: Any = None
    next_page: Any = UNSET
    page_count: Any = None
    page_size: Any = None
    total_count: Any = None


_page_decoder = msgspec.json.Decoder(_Page[_Record])
_raw_page_decoder = msgspec.json.Decoder(_Page[Raw])
_record_decoder = msgspec.json.Decoder(_Record)
_DecodeErrors = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_page(body: Body, number: int, labels: AccountLabels) -> Iterator[Page]:
    """Page `number` in parts; each takes a few milliseconds to read. The last one has `more` False.

    A record is invalid if a documented field is missing, of another type or out of range, or if it is too large.

    Raises:
        BadResponse: the body is not JSON of the documented shape, or none of its many records can be read.
    """
    try:
        records, pagination = _split(body, number)
    except _DecodeErrors as error:
        raise BadResponse(f"page {number} is not a list of batches: {error}") from None
    batches: list[Batch] = []
    invalid = read = 0
    problem = ""
    size = len(body) // _SPLIT_BYTES_AS_A_RECORD
    for i, undecoded in enumerate(records, start=1):
        if size >= _PART_SIZE:
            yield Page(batches, pagination, invalid, problem, more=True)
            batches, invalid, size, problem = [], 0, 0, ""
        size += 1
        try:
            record = _decode_record(undecoded)
        except _DecodeErrors as error:
            problem = problem or f"record {i}: {error}"
            invalid += 1
        else:
            batches.append(_make_batch(record, labels))
            size += len(record.destinations)
            read += 1
    if len(records) >= _ANOTHER_API and not read:
        raise BadResponse(f"page {number} has {len(records)} records and none can be read as a batch; {problem}")
    yield Page(batches, pagination, invalid, problem)


def _split(body: Body, number: int) -> tuple[Sequence[_Record | Raw], Pagination]:
    """The records and the pagination. Records stay undecoded if one is malformed, or the body is large."""
    if len(body) <= AT_ONCE_BYTES:
        with suppress(*_DecodeErrors):
            page = _page_decoder.decode(body)
            return page.items, _pagination(page, number)
    if body.count(b",") > max(_ALWAYS_ALLOWED_BYTES, len(body)) / _LEAST_BYTES_A_VALUE:
        raise msgspec.DecodeError("its values are too many and too small to be batches")
    page_of_raw = _raw_page_decoder.decode(body)
    return page_of_raw.items, _pagination(page_of_raw, number)


def _pagination(page: _Page[Any], number: int) -> Pagination:
    fields = msgspec.structs.asdict(page)
    return read_pagination({key: fields[key] for key in fields if key != "items" and fields[key] is not UNSET}, number)


def _decode_record(record: _Record | Raw) -> _Record:
    if isinstance(record, Raw):
        if len(record) > AT_ONCE_BYTES:
            raise msgspec.DecodeError(f"it has more than {AT_ONCE_BYTES} bytes")
        record = _record_decoder.decode(record)
    if len(record.destinations) > _MAX_DESTINATIONS:
        raise msgspec.DecodeError(f"it has more than {_MAX_DESTINATIONS} destinations")
    return record


def _make_batch(record: _Record, labels: AccountLabels) -> Batch:
    """A record with label values. A time without a zone is taken as UTC, as the API documents all of them."""
    created = record.created_at
    return Batch(
        record.id,
        (record.name or "")[:_MAX_NAME_LENGTH],
        (created if created.tzinfo else created.replace(tzinfo=UTC)).timestamp(),
        labels.statuses.of(record.status),
        labels.destinations.of_keys(record.destinations),
    )
