"""Reads batches from an answer's bytes, in parts small enough to leave the event loop free for scrapes.

All functions are pure, except that labels remember the names that they have admitted.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from inkit_exporter.api.batches import EARLIEST, AccountLabels, Batch, Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.records import MAX_DESTINATIONS, Record, read_record
from inkit_exporter.api.statuses import MAX_LENGTH, read_status
from inkit_exporter.jsonbody import DECODE_ERRORS, Body, decode, explain
from inkit_exporter.paging.pagination import Pagination, read_pagination

T = TypeVar("T")
_NULL = Raw(b"null")
_NO_ERROR = {b"null", b"[]", b"{}", b'""', b"false"}

AT_ONCE_BYTES: Final = 2**21
"""The most bytes to decode in one go, which takes at most 10 ms on a slow machine. Larger records are skipped."""

_MAX_NAME_LENGTH = 200

# Records and destinations in one part. A page of 100 batches at nine destinations is one part. Reading and merging it
# takes 1 to 3 ms. 1,000 destinations with new names take 7 ms.
_PART_SIZE = 1200
# Splitting the largest page into records takes up to 12 ms, so it counts as a part.
_SPLIT_BYTES_AS_A_RECORD = 2**23 // _PART_SIZE
# The API writes at least 14 bytes for each value. Millions of tiny values would take 30 times their bytes in memory.
_LEAST_BYTES_A_VALUE = 10
_ALWAYS_ALLOWED_BYTES = 2**20
_MOST_VALUES = 450_000  # 1,000 batches at nine destinations have 51,000, so 8 MiB of them have 420,000
_MOST_PAGINATION_BYTES = 2**16
_LEAST_SECRET_LENGTH = 8  # a shorter token would be found in innocent words
_DAY = 86_400.0


class _Page(Struct, Generic[T]):
    """The items, what may say why they are missing, and each place where the pagination may be."""

    items: list[T] | None
    error: Raw = _NULL
    errors: Raw = _NULL
    metadata: Raw = _NULL
    meta: Raw = _NULL
    pagination: Raw = _NULL
    next_page: Raw | UnsetType = UNSET
    page_count: Raw = _NULL
    page_size: Raw = _NULL
    total_count: Raw = _NULL


_page_decoder = msgspec.json.Decoder(_Page[Record])
_raw_page_decoder = msgspec.json.Decoder(_Page[Raw])


def read_page(
    body: Body,
    number: int,
    labels: AccountLabels,
    now: float,
    *,
    final: frozenset[str] = frozenset(),
    secret: str = "",
    head: str = "",
) -> Iterator[Page]:
    """Read page `number` in parts of a few milliseconds each. The last part has `more` False.

    `now` is wall time. `final` has the names of further final statuses. `head` describes the rest of the answer.
    `secret` is the token: a record that holds it elsewhere than in its name can't be read.

    Raises:
        BadResponse: the body is not a page, or more than half of its records can't be read.
    """
    try:
        records, pagination, differences = _split(body, number)
    except DECODE_ERRORS as error:
        raise BadResponse(f"page {number} is not a list of batches: {explain(body, error)} ({head})") from None
    part = Page([], pagination, differences=dict.fromkeys(differences, 0))
    bad, first_bad = 0, ""
    size = len(body) // _SPLIT_BYTES_AS_A_RECORD
    for i, record in enumerate(records, start=1):
        if size >= _PART_SIZE:
            part.more = True
            yield part
            part, size = Page([], pagination), 0
        size += 1
        try:
            size += _read(record, i, part, labels=labels, final=final, latest=now + _DAY, secret=secret)
        except DECODE_ERRORS as error:
            part.problems.setdefault(str(error), i)
            part.invalid += 1
            bad, first_bad = bad + 1, first_bad or f"record {i}: {error}"
    if 2 * bad > len(records):
        raise BadResponse(f"page {number}: {bad} of {len(records)} records can't be read as a batch; {first_bad}")
    yield part


def _split(body: Body, number: int) -> tuple[Sequence[Record | Raw], Pagination, Sequence[str]]:
    """The records, the pagination, and what is odd about the body. Records stay raw if one is odd or the body large."""
    if len(body) <= AT_ONCE_BYTES:
        with suppress(*DECODE_ERRORS):
            page = _page_decoder.decode(body)
            return _items(page), _pagination(page, number), ()
    if body.count(b",") > min(max(_ALWAYS_ALLOWED_BYTES, len(body)) / _LEAST_BYTES_A_VALUE, _MOST_VALUES):
        raise msgspec.DecodeError("it has too many small values")
    page_of_raw, differences = decode(body, _raw_page_decoder)
    return _items(page_of_raw), _pagination(page_of_raw, number), differences


def _items(page: _Page[T]) -> Sequence[T]:
    if not page.items and not {bytes(page.error), bytes(page.errors)} <= _NO_ERROR:
        raise msgspec.DecodeError("it has no items but an error")
    return page.items or ()


def _pagination(page: _Page[Any], number: int) -> Pagination:
    raw = {key: value for key, value in msgspec.structs.asdict(page).items() if isinstance(value, Raw)}
    if any(len(value) > _MOST_PAGINATION_BYTES for value in raw.values()):
        raise msgspec.DecodeError("its pagination is too large")
    return read_pagination({key: json.loads(bytes(value), parse_int=float) for key, value in raw.items()}, number)


def _read(
    record: Record | Raw,
    place: int,
    part: Page,
    *,
    labels: AccountLabels,
    final: frozenset[str],
    latest: float,
    secret: str,
) -> int:
    """Add a record to the part, and note what is not as documented. Returns the number of its destinations."""
    reading = None
    if isinstance(record, Raw):
        if len(record) > AT_ONCE_BYTES:
            raise msgspec.DecodeError(f"it has more than {AT_ONCE_BYTES} bytes")
        reading = read_record(record)
        record = reading.record
    if len(record.destinations) > MAX_DESTINATIONS:
        raise msgspec.DecodeError(f"it has more than {MAX_DESTINATIONS} destinations")
    if len(secret) >= _LEAST_SECRET_LENGTH:
        _keep_secret(record, reading.unreadable if reading else (), secret)
    if "\ufffd" in record.id:
        raise msgspec.ValidationError("it is not UTF-8, so other batches may have the same - at `$.id`")
    # A time without a zone is UTC, like all documented ones.
    created = (record.created_at if record.created_at.tzinfo else record.created_at.replace(tzinfo=UTC)).timestamp()
    if not EARLIEST <= created <= latest:
        raise msgspec.ValidationError("by this machine's clock it is not between 2015 and tomorrow - at `$.created_at`")
    if reading and reading.differs:
        part.repaired += reading.repaired
        part.incomplete += bool(reading.unreadable)
        for name, problem in reading.unreadable.items():
            part.unreadable[label := labels.destinations.of(name)] += 1
            part.problems.setdefault(f"{problem}, of destination {label}", place)
        if not reading.unreadable:
            part.differences.setdefault(reading.differs, place)
    status, is_final = read_status(record.status[: MAX_LENGTH + 1], final)
    name, status = (record.name or "")[:_MAX_NAME_LENGTH], labels.statuses.of(status)
    destinations = labels.destinations.of_keys(record.destinations)
    part.batches.append(Batch(record.id, name, created, status, destinations, is_final))
    return len(record.destinations)


def _keep_secret(record: Record, unreadable: Iterable[str], secret: str) -> None:
    """Blank the secret in a record's name, which is only shown. Raises ValidationError if it is elsewhere."""
    if any(secret in text for text in (record.id, record.status, *record.destinations, *unreadable)):
        raise msgspec.ValidationError("it holds the API token")
    record.name = (record.name or "").replace(secret, "***")
