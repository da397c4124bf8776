"""Batches and pages as values. They have what Inkit documents ("List workflow batches"), with names as label values."""

from collections import Counter
from operator import add
from typing import Final, NamedTuple

from msgspec import Struct, field
from msgspec.structs import astuple

from inkit_exporter.api.statuses import FAILED
from inkit_exporter.jsonbody import Natural
from inkit_exporter.labels import Labels
from inkit_exporter.paging.pagination import Pagination

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

EARLIEST: Final = 1_420_070_400.0
"""2015-01-01, in seconds since the epoch. An earlier time of a batch or an answer is wrong: Inkit is younger."""

OPTIONAL_PARAMETERS: Final = frozenset({"page_size", "sort"})
"""Parameters that a request can do without. It always has the page number and the filters."""

DEFAULT_PAGE_SIZE: Final = 25
"""The API's documented page size, for a request without `page_size`."""


class AccountLabels:
    """The label values of one account: the names of its destinations and statuses."""

    def __init__(self) -> None:
        self.destinations = Labels(DESTINATIONS)
        self.statuses = Labels(("in_progress", "completed", "failed", "cancelled"))


class PageRequest(NamedTuple):
    """Which page to ask for, from 1, and which of the `OPTIONAL_PARAMETERS` to leave out."""

    number: int
    left_out: frozenset[str] = frozenset()


class Counts(Struct, frozen=True, gc=False):
    """How many documents of one batch there are at one destination, as the API counts them."""

    count: Natural
    completed: Natural
    failed: Natural
    in_progress: Natural

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(add, astuple(self), astuple(other)))


class Batch(Struct, frozen=True, gc=False):
    """One batch. `created_at` is in seconds since the epoch. `status` and the destinations are label values.

    `final` is whether a batch with its status does not change any more, or None if that is unknown. `status` does not
    say that, because it may be `other`.
    """

    id: str
    name: str
    created_at: float
    status: str
    destinations: dict[str, Counts]
    final: bool | None

    @property
    def finished(self) -> bool:
        """Whether the status is final and no document is in progress at any destination."""
        return self.final is True and not any(c.in_progress for c in self.destinations.values())

    @property
    def failed(self) -> bool:
        """Whether the batch failed as a whole, by its final status."""
        return self.final is True and FAILED.fullmatch(self.status) is not None

    @property
    def done(self) -> bool:
        """Whether each destination has documents, and all of them have completed or failed."""
        counts = self.destinations.values()
        return len(counts) > 0 and all(c.completed + c.failed >= c.count > 0 for c in counts)


class Page(Struct):
    """A page of the list, or a part of it: its readable records, in the API's order. `more` parts may follow.

    `invalid` counts the records that can't be read, `incomplete` those that lost their `unreadable` destinations, and
    `repaired` those with an inferred count. `problems` say what can't be read, `differences` what is not as documented.
    Both have the number of the first such record, or 0 for the page itself.
    """

    batches: list[Batch]
    pagination: Pagination = Pagination()
    invalid: int = 0
    incomplete: int = 0
    repaired: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    problems: dict[str, int] = {}
    differences: dict[str, int] = {}
    more: bool = False
