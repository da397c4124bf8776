"""Batches and pages of them, as values, in the shapes of Inkit's public documentation ("List workflow batches")."""

from collections import Counter
from typing import Final, NamedTuple

from msgspec import Struct, field

from inkit_exporter.jsonbody import Natural
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
"""2015-01-01, in seconds since the epoch: what is older than Inkit is no time of a batch or an answer."""


OPTIONAL_PARAMETERS: Final = frozenset({"page_size", "sort"})
"""What a request asks for beyond the page and the filters, and can do without."""

DEFAULT_PAGE_SIZE: Final = 25
"""The API's documented page size, for a request without `page_size`."""


class PageRequest(NamedTuple):
    """Which page to ask for, from 1, and which of the `OPTIONAL_PARAMETERS` to leave out."""

    number: int
    left_out: frozenset[str] = frozenset()


class Counts(Struct, frozen=True, gc=False):
    """Documents of one batch at one destination, as the API counts them."""

    count: Natural
    completed: Natural
    failed: Natural
    in_progress: Natural

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.count + other.count,
            self.completed + other.completed,
            self.failed + other.failed,
            self.in_progress + other.in_progress,
        )


class Batch(Struct, frozen=True, gc=False):
    """One batch. `created_at` is in seconds since the epoch; `status` and destinations are label values.

    `final` is whether the status says that the batch does not change any more; None if that is unknown. The label does
    not tell, as it may be `other`.
    """

    id: str
    name: str
    created_at: float
    status: str
    destinations: dict[str, Counts]
    final: bool | None

    @property
    def finished(self) -> bool:
        """Whether the status says so and no document is in progress at any destination."""
        return self.final is True and not any(c.in_progress for c in self.destinations.values())

    @property
    def done(self) -> bool:
        """Whether it has documents at every destination, and all of them have completed or failed."""
        counts = self.destinations.values()
        return len(counts) > 0 and all(c.completed + c.failed >= c.count > 0 for c in counts)


class Page(Struct):
    """A page of the list, or a part of one: the records that could be read, in the API's order.

    `invalid` counts the records that could not be read, `incomplete` those without their `unreadable` destinations, and
    `repaired` those with a count that was inferred. `problems` say what could not be read, `differences` what is not as
    documented, and in which record first, or 0. `more` is True where further parts of the same page follow.
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
