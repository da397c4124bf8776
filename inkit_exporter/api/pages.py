"""From an answer's bytes to batches, in parts small enough to leave the event loop free for scrapes.

Pure functions of the bytes, but for the labels, which remember the names that they have admitted.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from inkit_exporter.api.batches import Batch, Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.labels import AccountLabels, split_camel_case
from inkit_exporter.api.pagination import Pagination, read_pagination
from inkit_exporter.api.records import DECODE_ERRORS, Record, read_record

Body = bytes | bytearray
T = TypeVar("T")
_NULL = Raw(b"null")

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
# 2015-01-01. A time before it, or after tomorrow, is no time of a batch.
_EARLIEST = 1_420_070_400.0
_DAY = 86_400.0


class _Page(Struct, Generic[T]):
    """The items, and wherever else the pagination may stand."""

    items: list[T] | None
    metadata: Raw = _NULL
    meta: Raw = _NULL
    pagination: Raw = _NULL
    next_page: Raw | UnsetType = UNSET
    page_count: Raw = _NULL
    page_size: Raw = _NULL
    total_count: Raw = _NULL


_page_decoder = msgspec.json.Decoder(_Page[Record])
_raw_page_decoder = msgspec.json.Decoder(_Page[Raw])


def read_page(body: Body, number: int, labels: AccountLabels, now: float) -> Iterator[Page]:
    """Page `number` in parts; each takes a few milliseconds to read. The last one has `more` False.

    A record is invalid if what is needed of it is missing, of another type or out of range, or if it is too large.
    `now` is wall time.

    Raises:
        BadResponse: the body is no page, or most of its records can't be read.
    """
    try:
        try:
            records, pagination = _split(body, number)
        except DECODE_ERRORS:
            if len(body) > AT_ONCE_BYTES:
                raise
            records, pagination = _split(_repair(body), number)
    except DECODE_ERRORS as error:
        raise BadResponse(f"page {number} is not a list of batches: {error}") from None
    batches: list[Batch] = []
    invalid = unreadable = repaired = 0
    problem = ""
    size = len(body) // _SPLIT_BYTES_AS_A_RECORD
    for i, undecoded in enumerate(records, start=1):
        if size >= _PART_SIZE:
            yield Page(batches, pagination, invalid, repaired, problem, more=True)
            batches, invalid, repaired, size, problem = [], 0, 0, 0, ""
        size += 1
        try:
            record, inferred = _decode_record(undecoded)
            batches.append(_make_batch(record, labels, latest=now + _DAY))
            size += len(record.destinations)
            repaired += inferred
        except DECODE_ERRORS as error:
            problem = problem or f"record {i}: {error}"
            invalid += 1
            unreadable += 1
    if 2 * unreadable > len(records):
        raise BadResponse(f"page {number}: {unreadable} of {len(records)} records can't be read as a batch; {problem}")
    yield Page(batches, pagination, invalid, repaired, problem)


def _split(body: Body, number: int) -> tuple[Sequence[Record | Raw], Pagination]:
    """The records and the pagination. Records stay undecoded if one is malformed, or the body is large."""
    if len(body) <= AT_ONCE_BYTES:
        with suppress(*DECODE_ERRORS):
            page = _page_decoder.decode(body)
            return page.items or (), _pagination(page, number)
    if body.count(b",") > max(_ALWAYS_ALLOWED_BYTES, len(body)) / _LEAST_BYTES_A_VALUE:
        raise BadResponse(
            f"page {number} is not a list of batches: its values are too many and too small to be batches"
        )
    page_of_raw = _raw_page_decoder.decode(body)
    return page_of_raw.items or (), _pagination(page_of_raw, number)


def _pagination(page: _Page[Any], number: int) -> Pagination:
    fields = msgspec.structs.asdict(page)
    raw = {key: value for key, value in fields.items() if isinstance(value, Raw)}
    return read_pagination({key: json.loads(bytes(value)) for key, value in raw.items()}, number)


def _repair(body: Body) -> Body:
    """The body without byte order mark, other bytes than UTF-8, and NaN, which is no number in JSON."""
    text = body.decode("utf-8-sig", errors="replace")
    return re.sub(r"(?<=[\s:,\[])-?(?:NaN|Infinity)(?=[\s,\]}])", "null", text).encode()


def _decode_record(record: Record | Raw) -> tuple[Record, bool]:
    inferred = False
    if isinstance(record, Raw):
        if len(record) > AT_ONCE_BYTES:
            raise msgspec.DecodeError(f"it has more than {AT_ONCE_BYTES} bytes")
        record, inferred = read_record(record)
    if len(record.destinations) > _MAX_DESTINATIONS:
        raise msgspec.DecodeError(f"it has more than {_MAX_DESTINATIONS} destinations")
    return record, inferred


def _make_batch(record: Record, labels: AccountLabels, latest: float) -> Batch:
    """A record with label values. A time without a zone is taken as UTC, as the API documents all of them."""
    created = (record.created_at if record.created_at.tzinfo else record.created_at.replace(tzinfo=UTC)).timestamp()
    if not _EARLIEST <= created <= latest:
        raise msgspec.ValidationError("it is not between 2015 and tomorrow - at `$.created_at`")
    return Batch(
        record.id,
        (record.name or "")[:_MAX_NAME_LENGTH],
        created,
        labels.statuses.of(split_camel_case(record.status)),
        labels.destinations.of_keys(record.destinations),
    )
