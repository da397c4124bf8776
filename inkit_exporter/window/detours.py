"""Rarer requests of a poll: find out which parameter the API refuses, and where to continue a listing. Pure."""

import math
from collections.abc import Generator

from inkit_exporter.api.batches import DEFAULT_PAGE_SIZE, Page, PageRequest
from inkit_exporter.api.errors import PageRefused, QueryRefused
from inkit_exporter.paging.parameters import OptionalParameters
from inkit_exporter.paging.sequence import PageSequence


def find_suspects(
    parameters: OptionalParameters, number: int, page_size: int
) -> Generator[PageRequest, Page, frozenset[str] | None]:
    """Find the parameters to leave out so that the API accepts page `number`; None if that does not help."""
    for left_out in parameters.alternatives():
        # If pages become smaller, ask for the first one that has nothing from the pages before.
        smaller = "page_size" in left_out - parameters.left_out
        place = math.ceil((number - 1) * page_size / DEFAULT_PAGE_SIZE) + 1 if smaller else number
        try:
            page = yield from _first_part(PageRequest(place, left_out))
        except QueryRefused:
            continue
        if number == 1 or page.batches:  # else it may just be beyond the end of the list
            return left_out
    return None


def find_junction(sequence: PageSequence, broken_off_at: PageRequest) -> Generator[PageRequest, Page, int]:
    """Find the page from which to continue a listing that a failed request ended some time ago.

    The page begins with a batch that was already read, so that no batch was missed.
    """
    number, step = max(sequence.first, broken_off_at.number - 1), 1
    while number > sequence.first:
        try:
            page = yield from _first_part(broken_off_at._replace(number=number))
            if page.batches and page.batches[0].id in sequence.ids:
                break
        except PageRefused:
            pass  # the list has become shorter
        number, step = max(sequence.first, number - step), step * 2
    return number


def _first_part(request: PageRequest) -> Generator[PageRequest, Page, Page]:
    first = page = yield request
    while page.more:
        page = yield request
    return first
