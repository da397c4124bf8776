"""Batches and pages of them: decoded from the API's bytes, checked, normalised.

Everything here is a pure function of the bytes, but for `Labels`, which remembers the names it has admitted.
The shapes are those of Inkit's public documentation, "List workflow batches".
"""

import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

DESTINATIONS: Final = (
    "inkit_storage",
    "salesforce",
    "sepire",
    "docusign",
    "magic_link",
    "amazon_s3",
    "google_drive",
    "dropbox",
    "box",
)
"""The destination names that Inkit documents."""

FINISHED_STATUSES: Final = frozenset(
    {"completed", "complete", "succeeded", "finished", "done", "failed", "cancelled", "canceled", "aborted"}
)
"""Batch statuses, normalised, after which a batch is not expected to change. Inkit documents only `Completed`."""

LABEL_LIMIT: Final = 32
"""Distinct values of one label and account; what comes after them is summed under `OTHER`."""

AT_ONCE_BYTES: Final = 2**21
"""What may be decoded in one go, in 5 ms at most, so as not to hold up scrapes; a record is never larger."""

OTHER: Final = "other"
UNNAMED: Final = "unknown"

_MAX_LABEL_LENGTH = 64
_MAX_NAME_LENGTH = 200

# As many are summed within 2 ms; nine are documented.
_MAX_DESTINATIONS = 1000

# Above 2**53 a sample, a float64, no longer tells neighbouring integers apart.
_Natural = Annotated[int, Meta(ge=0, le=2**53)]


Body = bytes | bytearray


class MalformedPage(Exception):
    """The body is not a page of batches; the message says why, and quotes nothing of it."""


class MalformedBatch(Exception):
    """One record of a page departs from the documented types; the message says where."""


class Counts(Struct, frozen=True, gc=False):
    """Documents of one batch at one destination, as the API counts them."""

    count: _Natural
    completed: _Natural
    failed: _Natural
    in_progress: _Natural

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.count + other.count,
            self.completed + other.completed,
            self.failed + other.failed,
            self.in_progress + other.in_progress,
        )


class Batch(Struct, frozen=True, gc=False):
    """One workflow batch. `created_at` is in seconds since the epoch; `status` and destinations are label values."""

    id: str
    name: str
    created_at: float
    status: str
    destinations: dict[str, Counts]

    @property
    def finished(self) -> bool:
        """Whether `is_finished`."""
        return is_finished(self.status, sum(counts.in_progress for counts in self.destinations.values()))

    @property
    def failing(self) -> bool:
        """Whether `is_failing`."""
        return is_failing(self.status, sum(counts.failed for counts in self.destinations.values()))


def is_finished(status: str, in_progress: int) -> bool:
    """Whether a batch is, as its status says so and none of its documents are in progress at any destination."""
    return status in FINISHED_STATUSES and not in_progress


def is_failing(status: str, failed: int) -> bool:
    """Whether a batch is, as its status says so or documents of it have failed at any destination."""
    return status == "failed" or failed > 0


class Pagination(Struct, frozen=True):
    """`metadata.pagination` of a page; `next_page` is None on the last one."""

    current_page: _Natural
    next_page: _Natural | None
    page_size: Annotated[int, Meta(ge=1, le=2**53)]
    total_count: _Natural | None = None


class Page(Struct, frozen=True):
    """One page of the list, with the records that could be read, in the API's order."""

    batches: list[Batch]
    pagination: Pagination
    invalid: int = 0

    @property
    def empty(self) -> bool:
        """Nothing was listed, not even a record that could not be read."""
        return not self.batches and not self.invalid


class Labels:
    """The values that one label of one account may take: snake_case, few, and the same for good once admitted.

    The documented names have their places whatever comes; others are admitted first come, first served, up to
    `LABEL_LIMIT` in all. Later ones, and texts too long for a label, become `OTHER`.
    """

    def __init__(self, documented: Iterable[str]) -> None:
        self._admitted = {*documented, OTHER}

    @property
    def admitted(self) -> Collection[str]:
        """The values in use or reserved, `OTHER` among them."""
        return self._admitted

    def of(self, text: str) -> str:
        """The label value for a name or status from the API."""
        if len(text) > _MAX_LABEL_LENGTH:
            return OTHER
        label = snake_case(text)
        if label not in self._admitted:
            if len(self._admitted) > LABEL_LIMIT:
                return OTHER
            self._admitted.add(label)
        return label

    def of_keys(self, destinations: dict[str, Counts]) -> dict[str, Counts]:
        """The same counts by label value; names that become one value are added up."""
        if self._admitted.issuperset(destinations):
            return destinations
        labelled: dict[str, Counts] = {}
        for text, counts in destinations.items():
            label = self.of(text)
            labelled[label] = labelled[label] + counts if label in labelled else counts
        return labelled


class AccountLabels:
    """The label values of one account."""

    def __init__(self) -> None:
        self.destinations = Labels(DESTINATIONS)
        self.statuses = Labels(("in_progress", "completed", "failed", "cancelled"))


@lru_cache(maxsize=1024)
def snake_case(text: str) -> str:
    """Lower case, every run of anything but letters and digits an underscore: `In Progress` → `in_progress`."""
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_") or UNNAMED


class Record(Struct, gc=False):
    """One record of a page as the API writes it, each field of its documented type."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    created_at: datetime
    status: str
    total: _Natural
    destinations: dict[str, Counts]
    name: str | None = None


class _Metadata(Struct):
    pagination: Pagination


class _Page(Struct):
    items: list[Record]
    metadata: _Metadata


class _Envelope(Struct):
    items: list[Raw]
    metadata: _Metadata


_decode_page = msgspec.json.Decoder(_Page).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_record = msgspec.json.Decoder(Record).decode

_DecodeErrors = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode_page(body: Body) -> tuple[Sequence[Record], Pagination]:
    """A page's records and its pagination, all in one go.

    Raises:
        MalformedPage: it is not JSON of the documented shape, or one of its records is malformed.
    """
    try:
        page = _decode_page(body)
    except _DecodeErrors as error:
        raise MalformedPage(str(error)) from None
    return page.items, page.metadata.pagination


def split_page(body: Body) -> tuple[Sequence[Raw], Pagination]:
    """A page's records, still undecoded, and its pagination.

    Raises:
        MalformedPage: it is not JSON of the documented shape.
    """
    try:
        envelope = _decode_envelope(body)
    except _DecodeErrors as error:
        raise MalformedPage(str(error)) from None
    return envelope.items, envelope.metadata.pagination


def make_batch(record: Record | Raw | Body, labels: AccountLabels) -> Batch:
    """One record as a batch, its status and destinations as label values.

    A time without a zone is taken as UTC, as the API documents all of them.

    Raises:
        MalformedBatch: a documented field is missing, of another type, or out of range, or there is far too much of it.
    """
    if not isinstance(record, Record):
        if len(record) > AT_ONCE_BYTES:
            raise MalformedBatch(f"it has more than {AT_ONCE_BYTES} bytes")
        try:
            record = _decode_record(record)
        except _DecodeErrors as error:
            raise MalformedBatch(str(error)) from None
    if len(record.destinations) > _MAX_DESTINATIONS:
        raise MalformedBatch(f"it has more than {_MAX_DESTINATIONS} destinations")
    created = record.created_at
    return Batch(
        record.id,
        (record.name or "")[:_MAX_NAME_LENGTH],
        (created if created.tzinfo else created.replace(tzinfo=UTC)).timestamp(),
        labels.statuses.of(record.status),
        labels.destinations.of_keys(record.destinations),
    )
