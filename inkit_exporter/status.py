"""What the status page tells: the health of each account."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from inkit_exporter import __version__
from inkit_exporter.poller import AccountState


class Status(Struct, frozen=True):
    """What the status page shows: a title, and one row of equal keys for each account."""

    title: str
    version: str
    accounts: Sequence[Mapping[str, Any]]


def make_status(states: Sequence[AccountState]) -> Status:
    """The accounts as they are now."""
    return Status("Inkit exporter", __version__, [_account_row(state) for state in states])


def _account_row(state: AccountState) -> Mapping[str, object]:
    now = time.time()
    return {
        "account": state.account,
        "up": state.up,
        "reason": state.reason,
        "error": state.error,
        "last_poll_seconds_ago": state.polled_at and now - state.polled_at,
        "last_success_seconds_ago": now - state.last_success if state.last_success else None,
        "poll_duration_seconds": state.duration,
        "poll_requests": state.requests,
    }
