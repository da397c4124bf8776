"""What is known of each account: one value, written by its poller, read by metrics and status.

May import: config, api, window.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from inkit_exporter.api.batches import AccountLabels
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import PollSettings
from inkit_exporter.window.totals import Totals
from inkit_exporter.window.window import Snapshot


class Progress(Struct, frozen=True):
    """The progress of a whole listing: the last page read, and about how many pages there are and seconds are left."""

    page: int
    of_pages: int | None
    seconds_left: int | None


class AccountState(Struct, frozen=True, kw_only=True):
    """What is known about one account. A change makes a new value. Only `usage` and `labels` change in place.

    `up` is None until the first poll ends. `ready` is True once the API has answered a page or a poll has failed.
    `poll_ended_at` and `last_success` are wall time in seconds since the epoch. `snapshot_at`, `down_since` and
    `next_poll_at` are seconds by `boot_time`. During a poll, `next_poll_at` is when that poll began. `duration` is the
    last poll's, in seconds, and `poll_requests` is its number of requests. `snapshot_duration` is how long it took to
    list the snapshot, failed polls included. `newest_first`: the list has that order. `failures` counts failed polls by
    `reason`. `published` is a number that only this published state has.
    """

    account: str
    settings: PollSettings
    usage: Usage
    labels: AccountLabels = field(default_factory=AccountLabels)
    up: bool | None = None
    error: str | None = None
    reason: str | None = None
    poll_ended_at: float | None = None
    duration: float = 0.0
    poll_requests: int = 0
    last_success: float | None = None
    down_since: float | None = None
    next_poll_at: float = math.inf
    polls: int = 0
    failures: Mapping[str, int] = {}
    snapshot: Snapshot | None = None
    snapshot_at: float = 0.0
    snapshot_duration: float = 0.0
    ready: bool = False
    progress: Progress | None = None
    newest_first: bool = True
    totals: Totals = field(default_factory=Totals)
    published: int = 0

    @property
    def stale_after(self) -> float:
        """For how many seconds metrics show the snapshot. Listing the next one may take as long as this one."""
        return max(self.settings.stale_after, 2 * self.snapshot_duration)

    def fresh_snapshot(self, now: float) -> Snapshot | None:
        """The last snapshot, or None if it is older than `stale_after`. `now` is by `boot_time`."""
        return self.snapshot if now - self.snapshot_at <= self.stale_after else None

    def polling(self, now: float) -> bool:
        """Whether a poll is under way at `now`, by `boot_time`."""
        return self.next_poll_at <= now


class States:
    """The latest state of each account, in the order of the configuration.

    `changes` increments with each published state. Amended states are not counted: metrics show them within a second.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._latest: dict[str, AccountState] = {}

    def __getitem__(self, account: str) -> AccountState:
        return self._latest[account]

    def __iter__(self) -> Iterator[AccountState]:
        return iter(self._latest.values())

    def publish(self, state: AccountState) -> None:
        """Replace an account's state; the next scrape shows it."""
        self.changes += 1
        self.amend(replace(state, published=self.changes))

    def amend(self, state: AccountState) -> None:
        """Replace an account's state; scrapes show it within a second while the account is polled."""
        self._latest[state.account] = state

    def keep(self, accounts: Iterable[str]) -> None:
        """Put the states in this order, and drop those of other accounts."""
        self.changes += 1
        self._latest = {account: self._latest[account] for account in accounts}
