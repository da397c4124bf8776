"""Requests beside a poll's way through the list: what helps against a refusal, and where a list goes on. Pure."""

import math
from collections.abc import Generator

from inkit_exporter.api.batches import DEFAULT_PAGE_SIZE, Page, PageRequest
from inkit_exporter.api.errors import PageRefused, QueryRefused
from inkit_exporter.paging.parameters import OptionalParameters
from inkit_exporter.paging.sequence import PageSequence


def find_suspects(
    parameters: OptionalParameters, number: int, page_size: int
) -> Generator[PageRequest, Page, frozenset[str] | None]:
    """The parameters without which page `number` is not refused; None if that does not help."""
    for left_out in parameters.alternatives():
        # Where pages become smaller, the first one that has nothing of the pages before.
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
    """The page from which a list goes on that was read some time ago up to a page, which was not answered.

    The page begins with a batch that was read. After any other page, batches may have slipped past unseen.
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
