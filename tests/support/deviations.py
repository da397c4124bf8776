"""The files of the catalogue as values. `tests/faults/deviations/README.md` explains them."""

import copy
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml
from msgspec import Struct

from support.spellings import ENCODINGS, SPELLINGS

FOLDER: Final = Path(__file__).parent.parent / "faults" / "deviations"

PAGE_SIZE: Final = 10
"""What the exporter asks for."""

DEFAULT_PAGE_SIZE: Final = 5
"""What the API gives if it is not asked. Inkit documents 25; fewer keep the lists short."""

Documents = dict[str, dict[str, list[int]]]
"""By destination and batch status: count, completed, failed, in progress."""


Parameter = Literal["page_size", "sort", "destination_name"]
"""Of a request, that may be refused."""


class Change(Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """A change of each document, or of those at these places."""

    at: list[int] | None = None
    spell: dict[str, str] = {}
    set: dict[str, Any] = {}
    keep: dict[str, list[str]] = {}
    move: dict[str, str] = {}
    drop: list[str] = []

    def apply(self, document: Any, place: int) -> None:
        """Change a document if it is at one of the places."""
        if self.at is not None and place not in self.at:
            return
        for path, form in self.spell.items():
            for holder, key in _find(document, path):
                holder[key] = SPELLINGS[form](holder[key])
        for path, value in self.set.items():
            for holder, key in _find(document, path, make=True):
                holder[key] = copy.deepcopy(value)
        for path, kept in self.keep.items():
            for holder, key in _find(document, path):
                holder[key] = {name: value for name, value in holder[key].items() if name in kept}
        for path, target in self.move.items():
            for holder, key in _find(document, path):
                moved = holder.pop(key)
                if target == ".":
                    document.update(moved)
                else:
                    _set(document, target, moved)
        for path in self.drop:
            for holder, key in _find(document, path):
                del holder[key]


class Server(Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """How the API's behaviour differs from its documentation."""

    page_size: int | None = None
    ignores: list[Literal["page", "page_size", "sort"]] = []
    refuses: dict[Parameter, int] = {}
    order: Literal["newest", "oldest", "shuffled"] = "newest"
    beyond: int | Literal["empty", "first", "last"] = "empty"
    headers: dict[str, str | None] = {}
    before: str = ""
    after: str = ""
    encode: list[str] = []


class Answer(Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """A literal answer."""

    status: int = 200
    headers: dict[str, str | None] = {}
    json: Any = msgspec.UNSET
    text: str = ""
    base64: str = ""


class Without(Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """The documented numbers without records (`7`), one destination of them (`7.box`), or all of them (`7.*`)."""

    without: list[str]


class Expected(Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """What the exporter must do."""

    numbers: Literal["documented"] | Without | None = None
    documents: Documents | None = None
    batches: dict[str, int] | None = None
    invalid: int = 0
    repaired: int = 0
    clock_skew: float | None = None
    fails: str | None = None
    error: list[str] = []
    info: list[list[str]] = []
    warning: list[list[str]] = []
    requests: int | None = None
    later_requests: int = 1


class Deviation(Struct, frozen=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """One file of the catalogue."""

    what: str
    expect: Expected
    batches: int = 24
    records: list[Change] = []
    page: list[Change] = []
    server: Server = Server()
    answers: dict[int | Literal["beyond", "all"], Answer] = {}
    account: dict[str, Any] = {}

    @property
    def path(self) -> str:
        """The path of the list below the base URL."""
        return "/batch" if self.account.get("batches") == "document" else "/invoke/batch"

    @property
    def most_requests(self) -> int:
        """Limit for the first poll. Without one in the file: what a documented list takes, or a failed poll."""
        usual = 1 if self.expect.fails else max(1, math.ceil(self.batches / PAGE_SIZE))
        return usual if self.expect.requests is None else self.expect.requests


def load_all() -> dict[str, Deviation]:
    """Load every file, by name."""
    return {path.stem: load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}


def load(text: str) -> Deviation:
    """Load one file.

    Raises:
        ValueError: the file has no deviation, no expectation, or an unknown key.
    """
    deviation = msgspec.convert(yaml.safe_load(text), Deviation)
    expect = deviation.expect
    if not re.fullmatch(r"\S.*\.", deviation.what):
        raise ValueError("`what` must be a sentence")
    if msgspec.structs.replace(deviation, what="", expect=Expected(), batches=24) == Deviation("", Expected()):
        raise ValueError("it names no deviation")
    ways = [expect.numbers is not None, bool(expect.fails), None not in (expect.documents, expect.batches)]
    if sum(ways) != 1:
        raise ValueError("`expect` needs `numbers`, or `documents` and `batches`, or `fails`")
    if expect.fails and not expect.error:
        raise ValueError("`expect.error` must name words of the error")
    changes = (*deviation.records, *deviation.page)
    used = {*deviation.server.encode, *(form for change in changes for form in change.spell.values())}
    if unknown := used - SPELLINGS.keys() - ENCODINGS.keys():
        raise ValueError(f"unknown: {unknown}")
    return deviation


def _find(document: Any, path: str, *, make: bool = False) -> list[tuple[Any, Any]]:
    """Every object and key that a path like `destinations.*.count` matches. `make` adds a missing last key."""
    *upper, last = path.split(".")
    holders = [document]
    for part in upper:
        holders = [holder[key] for holder in holders for key in _keys(holder, part)]
    return [(holder, key) for holder in holders for key in _keys(holder, last, make=make)]


def _keys(holder: Any, part: str, *, make: bool = False) -> Iterator[Any]:
    if isinstance(holder, list):
        yield from range(len(holder)) if part == "*" else [int(part)]
    elif isinstance(holder, dict):
        yield from list(holder) if part == "*" else [part] if make or part in holder else []


def _set(document: Any, path: str, value: Any) -> None:
    *upper, last = path.split(".")
    for part in upper:
        document = document.setdefault(part, {})
    document[last] = value
