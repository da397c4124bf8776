"""Label values: the names of destinations and statuses, bounded in number and length."""

from collections.abc import Iterable
from typing import Final

from inkit_exporter.api.batches import DESTINATIONS, Counts
from inkit_exporter.jsonbody import snake_case

LABEL_LIMIT: Final = 32
"""Distinct values of one label and account; later ones are summed under `OTHER`."""

OTHER: Final = "other"

_MAX_LABEL_LENGTH = 64


class Labels:
    """The values that one label of one account may take: snake_case, few, and unchanged once admitted.

    The documented names always have their places. Others are admitted first come, first served, up to `LABEL_LIMIT`
    in all. Later ones, and texts too long for a label, become `OTHER`.
    """

    def __init__(self, documented: Iterable[str]) -> None:
        self._admitted = {*documented, OTHER}

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
        """The same counts by label value. Names with the same label value are added up."""
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
