"""Label values of metrics that come from outside: bounded in number and length."""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from inkit_exporter.jsonbody import snake_case

LABEL_LIMIT: Final = 32
"""Distinct values of one label; later ones are summed under `OTHER`."""

OTHER: Final = "other"

_MAX_LABEL_LENGTH = 64


class _Sum(Protocol):
    def __add__(self: "S", other: "S", /) -> "S": ...


S = TypeVar("S", bound=_Sum)


class Labels:
    """The values that one label may have: in snake_case, and limited in number.

    The documented names are always admitted. Others are admitted in the order that they come, until there are
    `LABEL_LIMIT`. All later ones, and texts too long for a label, become `OTHER`. `admitted` has the values so far.
    """

    def __init__(self, documented: Iterable[str]) -> None:
        self.admitted = {*documented, OTHER}

    def of(self, text: str) -> str:
        """The label value for a text from outside."""
        if len(text) > _MAX_LABEL_LENGTH:
            return OTHER
        label = snake_case(text)
        if label not in self.admitted:
            if len(self.admitted) > LABEL_LIMIT:
                return OTHER
            self.admitted.add(label)
        return label

    def of_keys(self, numbers: dict[str, S]) -> dict[str, S]:
        """The same numbers by label value. If several texts have the same label value, their numbers are added up."""
        if self.admitted.issuperset(numbers):
            return numbers
        labelled: dict[str, S] = {}
        for text, number in numbers.items():
            label = self.of(text)
            labelled[label] = labelled[label] + number if label in labelled else number
        return labelled
