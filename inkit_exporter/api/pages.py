"""From an answer's bytes to batches, in parts small enough to leave the event loop free for scrapes.

Pure functions of the bytes, but for the labels, which remember the names that they have admitted.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from inkit_exporter.api.batches import Batch, Counts, Natural, Page, Pagination
from inkit_exporter.api.labels import AccountLabels

Body = bytes | bytearray

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


class MalformedPage(Exception):
    """The body is not a page of batches. The message says why, and quotes nothing of it."""


class MalformedBatch(Exception):
    """One record of a page departs from the documented types. The message says where."""


class _Record(Struct, gc=False):
    """One record of a page as the API writes it, each field of its documented type."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    created_at: datetime
    status: str
    total: Natural
    destinations: dict[str, Counts]
    name: str | None = None


class _Metadata(Struct):
    pagination: Pagination


class _Page(Struct):
    items: list[_Record]
    metadata: _Metadata


class _Envelope(Struct):
    items: list[Raw]
    metadata: _Metadata


_decode_page = msgspec.json.Decoder(_Page).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_record = msgspec.json.Decoder(_Record).decode

_DecodeErrors = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_page(body: Body, labels: AccountLabels) -> Iterator[Page]:
    """A page in parts; each takes a few milliseconds to read. The last one has `more` False.

    Raises:
        MalformedPage: it is not JSON of the documented shape, or none of its many records can be read.
    """
    records, pagination = _split(body)
    batches: list[Batch] = []
    invalid = read = 0
    problem = ""
    size = len(body) // _SPLIT_BYTES_AS_A_RECORD
    for number, record in enumerate(records, start=1):
        if size >= _PART_SIZE:
            yield Page(batches, pagination, invalid, problem, more=True)
            batches, invalid, size, problem = [], 0, 0, ""
        try:
            batch, destinations = _make_batch(record, labels)
        except MalformedBatch as error:
            problem = problem or f"record {number}: {error}"
            invalid += 1
            size += 1
        else:
            batches.append(batch)
            read += 1
            size += 1 + destinations
    if len(records) >= _ANOTHER_API and not read:
        raise MalformedPage(f"it has {len(records)} records and none can be read as a batch; {problem}")
    yield Page(batches, pagination, invalid, problem)


def _split(body: Body) -> tuple[Sequence[_Record | Raw], Pagination]:
    """The records and the pagination. Records stay undecoded if one is malformed, or the body is large."""
    if len(body) <= AT_ONCE_BYTES:
        with suppress(*_DecodeErrors):
            page = _decode_page(body)
            return page.items, page.metadata.pagination
    if body.count(b",") > max(_ALWAYS_ALLOWED_BYTES, len(body)) / _LEAST_BYTES_A_VALUE:
        raise MalformedPage("its values are too many and too small to be batches")
    try:
        envelope = _decode_envelope(body)
    except _DecodeErrors as error:
        raise MalformedPage(str(error)) from None
    return envelope.items, envelope.metadata.pagination


def _make_batch(record: _Record | Raw, labels: AccountLabels) -> tuple[Batch, int]:
    """One record as a batch with label values, and how many destinations it had before labels merged some.

    A time without a zone is taken as UTC, as the API documents all of them.

    Raises:
        MalformedBatch: a documented field is missing, of another type, or out of range, or the record is too large.
    """
    if isinstance(record, Raw):
        if len(record) > AT_ONCE_BYTES:
            raise MalformedBatch(f"it has more than {AT_ONCE_BYTES} bytes")
        try:
            record = _decode_record(record)
        except _DecodeErrors as error:
            raise MalformedBatch(str(error)) from None
    if len(record.destinations) > _MAX_DESTINATIONS:
        raise MalformedBatch(f"it has more than {_MAX_DESTINATIONS} destinations")
    created = record.created_at
    batch = Batch(
        record.id,
        (record.name or "")[:_MAX_NAME_LENGTH],
        (created if created.tzinfo else created.replace(tzinfo=UTC)).timestamp(),
        labels.statuses.of(record.status),
        labels.destinations.of_keys(record.destinations),
    )
    return batch, len(record.destinations)
