"""What a page says of the list. Each key is a hint that may be missing, null, elsewhere, or in another spelling."""

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qs

from msgspec import Struct

from inkit_exporter.jsonbody import whole_number


class Pagination(Struct, frozen=True):
    """The hints of one page; None where it says nothing. `more` is what `next_page` says: whether there is another."""

    more: bool | None = None
    page_count: int | None = None
    page_size: int | None = None
    total_count: int | None = None

    def promises(self, number: int, position: int) -> bool | None:
        """Whether another page follows page `number`, which ends at that position of the list; None without a hint.

        A count that is smaller than what was read is wrong, so it is ignored.
        """
        hints = [self.more] if self.more is not None else []
        for count, read in ((self.page_count, number), (self.total_count, position)):
            if count is not None and count >= read:
                hints.append(count > read)
        return any(hints) if hints else None


def read_pagination(document: object, number: int) -> Pagination:
    """The hints of page `number`, wherever they stand in a document without its items."""
    found: dict[str, object] = {}
    for key, value in _keys(document):
        found.setdefault(key, value)
    return Pagination(
        more=_says_more(found["next_page"], number) if "next_page" in found else None,
        page_count=whole_number(found.get("page_count")),
        page_size=whole_number(found.get("page_size")) or None,
        total_count=whole_number(found.get("total_count")),
    )


def _keys(document: object, depth: int = 0) -> Iterator[tuple[str, object]]:
    """The keys of a document and of what it holds, the innermost first, as Inkit documents them."""
    if isinstance(document, Mapping) and depth < 4:  # noqa: PLR2004 - two levels are documented
        for value in document.values():
            yield from _keys(value, depth + 1)
        yield from document.items()


def _says_more(next_page: object, number: int) -> bool | None:
    """Whether there is a next page. Inkit documents its number or null. The number of another page says nothing."""
    if isinstance(next_page, str) and (page := parse_qs(next_page.partition("#")[0].partition("?")[2]).get("page")):
        next_page = page[-1]
    following = whole_number(next_page)
    if following is None:
        return bool(next_page)  # an address or a mark that we can't read; we ask by number anyway
    if 0 < following <= number:
        return None
    return following > number
