"""Reads batches from an answer's bytes, in parts small enough to leave the event loop free for scrapes.

All functions are pure, except that labels remember the names that they have admitted.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from inkit_exporter.api.batches import EARLIEST, AccountLabels, Batch, Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.records import AT_ONCE_BYTES, OddRecord, Record, read_record
from inkit_exporter.api.statuses import read_status
from inkit_exporter.jsonbody import DECODE_ERRORS, Body, decode
from inkit_exporter.paging.pagination import read_pagination

T = TypeVar("T")
_MISSING = Raw()
_NO_ERROR = {b"", b"null", b"[]", b"{}", b'""', b"false"}

_MAX_NAME_LENGTH = 200

# Records and destinations in one part. A page of 100 batches at nine destinations is one part. Reading and merging it
# takes 1 to 3 ms. 1,000 destinations with new names take 7 ms.
_PART_SIZE = 1200
# Splitting the largest page into records takes up to 12 ms, so it counts as a part.
_SPLIT_BYTES_AS_A_RECORD = 2**23 // _PART_SIZE
# More would take 30 MB of memory. 1,000 batches at nine destinations have 51,000, so 8 MiB of them have 420,000.
_MOST_VALUES = 450_000
_MOST_PAGINATION_BYTES = 2**16
_LEAST_SECRET_LENGTH = 8  # a shorter token would be found in innocent words
_DAY = 86_400.0


class _Page(Struct, Generic[T]):
    """The items, what may say why they are missing, and each place where the pagination may be."""

    items: list[T] | None
    error: Raw = _MISSING
    errors: Raw = _MISSING
    metadata: Raw = _MISSING
    meta: Raw = _MISSING
    pagination: Raw = _MISSING
    next_page: Raw = _MISSING
    page_count: Raw = _MISSING
    page_size: Raw = _MISSING
    total_count: Raw = _MISSING


_page_decoder = msgspec.json.Decoder(_Page[Record])
_raw_page_decoder = msgspec.json.Decoder(_Page[Raw])


def read_page(
    body: Body, number: int, labels: AccountLabels, now: float, *, also_final: tuple[str, ...], secret: str, head: str
) -> Iterator[Page]:
    """Read page `number` in parts of a few milliseconds each. The last part has `more` False.

    `now` is wall time. `also_final` has further final statuses. `head` describes the rest of the answer. `secret` is
    the token: a record that holds it elsewhere than in its name can't be read.

    Raises:
        BadResponse: the body is not a page, or more than half of its records can't be read.
    """
    try:
        items, part = _split(body, number)
    except DECODE_ERRORS as error:
        raise BadResponse(f"page {number} is not a list of batches: {error} ({head})") from None
    if len(secret) < _LEAST_SECRET_LENGTH or not (b"\\" in body or secret.encode() in body):
        secret = ""  # no record holds it, because only escapes can hide it
    bad, first_bad = 0, ""
    size = len(body) // _SPLIT_BYTES_AS_A_RECORD
    for place, item in enumerate(items, start=1):
        if size >= _PART_SIZE:
            part.more = True
            yield part
            part, size = Page([], part.pagination), 0
        size += 1
        try:
            record = read_record(item) if isinstance(item, Raw) else item
            part.batches.append(_batch(record, labels, also_final, now + _DAY, secret))
        except DECODE_ERRORS as error:
            part.problems.setdefault(str(error), place)
            part.invalid += 1
            bad, first_bad = bad + 1, first_bad or f"record {place}: {error}"
        else:
            size += len(record.destinations)
            if isinstance(record, OddRecord):
                _note(record, place, part, labels)
    if 2 * bad > len(items):
        raise BadResponse(f"page {number}: {bad} of {len(items)} records can't be read as a batch; {first_bad}")
    yield part


def _split(body: Body, number: int) -> tuple[Sequence[Record | Raw], Page]:
    """The records, and the page without them. Records stay raw if one is odd or the body large."""
    if len(body) <= AT_ONCE_BYTES:
        with suppress(*DECODE_ERRORS):
            return _open(_page_decoder.decode(body), (), number)
    if body.count(b",") > _MOST_VALUES:
        raise msgspec.DecodeError("it has too many small values")
    return _open(*decode(body, _raw_page_decoder), number)


def _open(page: _Page[T], odd: Sequence[str], number: int) -> tuple[Sequence[T], Page]:
    if not page.items and not {bytes(page.error), bytes(page.errors)} <= _NO_ERROR:
        raise msgspec.DecodeError("it has no items but an error")
    raw = {key: value for key, value in msgspec.structs.asdict(page).items() if isinstance(value, Raw)}
    places = {key: value for key, value in raw.items() if 0 < len(value) <= _MOST_PAGINATION_BYTES}
    document = {key: json.loads(bytes(value), parse_int=float) for key, value in places.items()}
    return page.items or (), Page([], read_pagination(document, number), differences=dict.fromkeys(odd, 0))


def _batch(record: Record, labels: AccountLabels, also_final: tuple[str, ...], latest: float, secret: str) -> Batch:
    """The batch of a record. Raises ValidationError if its id or time can't be right, or if it holds the secret."""
    name = record.name or ""
    if secret:
        unreadable = record.unreadable if isinstance(record, OddRecord) else ()
        if secret in "\n".join((record.id, record.status, *record.destinations, *unreadable)):
            raise msgspec.ValidationError("it holds the API token")
        name = name.replace(secret, "***")  # it is only shown
    if "\ufffd" in record.id:
        raise msgspec.ValidationError("it is not UTF-8, so other batches may have the same - at `$.id`")
    created = record.created_at.timestamp()
    if not EARLIEST <= created <= latest:
        raise msgspec.ValidationError("by this machine's clock it is not between 2015 and tomorrow - at `$.created_at`")
    status, is_final = read_status(record.status, also_final)
    status, destinations = labels.statuses.of(status), labels.destinations.of_keys(record.destinations)
    return Batch(record.id, name[:_MAX_NAME_LENGTH], created, status, destinations, is_final)


def _note(record: OddRecord, place: int, part: Page, labels: AccountLabels) -> None:
    """Note in the part what is not as documented in a record."""
    part.repaired += record.repaired
    part.incomplete += bool(record.unreadable)
    for name, problem in record.unreadable.items():
        part.unreadable[label := labels.destinations.of(name)] += 1
        part.problems.setdefault(f"{problem}, of destination {label}", place)
    if not record.unreadable:
        part.differences.setdefault(record.differs, place)
