"""The label values of an account: the names of its destinations and statuses."""

from inkit_exporter.api.batches import DESTINATIONS
from inkit_exporter.labels import Labels


class AccountLabels:
    """The label values of one account."""

    def __init__(self) -> None:
        self.destinations = Labels(DESTINATIONS)
        self.statuses = Labels(("in_progress", "completed", "failed", "cancelled"))
