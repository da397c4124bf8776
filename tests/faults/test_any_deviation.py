"""Random combinations of deviations, and random values anywhere in a page: right numbers, or a failed poll."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.api import TOKEN
from support.compositions import COUNTS, PAGINATION, deviations
from support.deviant import Account, DeviantApi, sums
from support.deviations import PAGE_SIZE, Answer, Change, Deviation, Documents, Expected
from support.faulty import listening

from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Settings
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import AccountState, States
from inkit_exporter.transport import open_session

SECONDS = 20.0
"""The time limit of a poll, which only an endless poll exceeds."""
FINE = Expected(numbers="documented")


@asynccontextmanager
async def polled(deviant: Iterable[Account]) -> AsyncIterator[tuple[Accounts, States]]:
    """Serve these accounts, and yield `Accounts` for `poll_once` and their states."""
    served = {account.name: account for account in deviant}
    for account in served.values():
        account.token = TOKEN
    async with listening(DeviantApi(served).converse) as port, open_session() as session:
        accounts = tuple(
            AccountSettings(name=name, api_token_env="T", base_url=account.base_url(port))
            for name, account in served.items()
        )
        limits = ApiSettings(max_attempts=1, requests_per_minute=10**6)
        states = States()
        polling = Accounts(session, {"T": TOKEN}, states)
        polling.apply(Settings(accounts=accounts, poll=PollSettings(page_size=PAGE_SIZE), api=limits))
        yield polling, states


def published(state: AccountState) -> tuple[Documents, dict[str, int]]:
    """Return what the gauges say, without zeros."""
    assert state.snapshot
    documents: Documents = {}
    for (destination, status), n in state.snapshot.documents.items():
        if any(row := [n.count, n.completed, n.failed, n.in_progress]):
            documents.setdefault(destination, {})[status] = row
    return documents, {status: number for status, number in state.snapshot.batches.items() if number}


happenings = st.lists(st.sampled_from(("create", "create", "burst", "finish", "progress", "vanish")), max_size=4)


def happen(account: Account, what: str, now: float) -> None:
    """Change the account's batches, which the next poll must notice."""
    running = [batch for batch in account.batches if batch["status"] == "In Progress"]
    if what in ("create", "burst"):
        for i in range(1 if what == "create" else 12):
            account.add(now + i)
    elif running:
        account.change(running[-1]["id"], what)


@given(deviations(), st.lists(happenings, min_size=2, max_size=3))
@settings(max_examples=120)
def test_any_combination_of_readable_deviations_gives_the_right_numbers(
    deviation: Deviation, history: list[list[str]]
) -> None:
    """At the first poll, and after batches were created, progressed, finished and dropped."""

    async def poll() -> None:
        account = Account("a", deviation, time.time() - 3600)
        async with polled([account]) as (accounts, states):
            for i, round_ in enumerate([[], *history]):
                for what in round_:
                    happen(account, what, time.time() - 3000 + 100 * i + account.made)
                async with asyncio.timeout(SECONDS):
                    succeeded = await accounts.poll_once()
                assert succeeded, (states["a"].error, deviation)
                assert published(states["a"]) == sums(account.batches, set()), (round_, deviation)
                assert states["a"].usage.invalid_batches == 0

    asyncio.run(poll())


HINTS = ("next_page", "page_count", "total_count")
numbers = st.integers() | st.floats() | st.sampled_from((10**400, -(10**400), 2**53, 2**53 + 1, 2**64))
texts = st.text(max_size=20) | numbers.map(str) | st.sampled_from((*COUNTS, *HINTS, "?page=2", "true", "Completed"))
keys = st.sampled_from(
    (*COUNTS, *HINTS, "items", "id", "created_at", "status", "destinations", "metadata", "pagination")
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | keys, inner, max_size=3),
    max_leaves=6,
)
ODD = 7
"""The place of the changed record, one of 13 on two pages."""
UNNEEDED = (
    f"items.{ODD}.name",
    f"items.{ODD}.total",
    f"items.{ODD}.more",
    f"items.{ODD}.destinations.inkit_storage.status",
)
OF_THE_LIST = ("metadata", "metadata.pagination", *(PAGINATION + key for key in (*HINTS, "page_size", "current_page")))
OF_A_RECORD = ("", ".id", ".created_at", ".status", ".destinations", ".destinations.inkit_storage")
NEEDED = (
    *(f"items.{ODD}{place}" for place in OF_A_RECORD),
    *(f"items.{ODD}.destinations.inkit_storage.{count}" for count in COUNTS),
)


def odd_account(name: str, place: str, value: Any) -> Account:
    """Return an account whose first page has this value at that place."""
    change = Change(at=[1], set={place: value})
    return Account(name, Deviation(what="", expect=FINE, batches=13, page=[change]), time.time())


def is_right(account: Account, place: str, value: Any, seen: tuple[int, dict[str, list[int]]], invalid: int) -> bool:
    """Tell whether the numbers are right, or miss only what is counted as unreadable."""
    documented = by_destination(sums(account.batches, set()))
    count = place.rpartition(".")[2]
    if count in COUNTS and (number := as_number(value)) is not None:
        documented[1]["inkit_storage"][COUNTS.index(count)] += number - 2 * (count in ("count", "completed"))
    if place in OF_THE_LIST and any(hint in str(value) for hint in HINTS):
        return True  # the hint itself says where the list ends
    if seen == documented or place not in NEEDED:
        return seen == documented
    less = [by_destination(sums(account.batches, {f"{ODD}{what}"})) for what in (".inkit_storage", ".*", "")]
    return seen in less and (invalid > 0 or place.endswith("created_at") or is_nothing(value))


def is_nothing(value: Any) -> bool:
    """Tell whether this value says that a destination, or all of them, have no documents."""
    if isinstance(value, dict):
        return all(key == "status" or is_nothing(inner) for key, inner in value.items())
    return value in (None, []) or (isinstance(value, float) and not math.isfinite(value))


def as_number(value: Any) -> int | None:
    """Return a count in any spelling, or None."""
    try:
        number = float(value)
        return None if isinstance(value, bool) or number != int(number) else int(number)
    except (TypeError, ValueError, OverflowError):
        return None


def by_destination(numbers: tuple[Documents, dict[str, int]]) -> tuple[int, dict[str, list[int]]]:
    documents, batches = numbers
    return sum(batches.values()), {
        destination: [sum(row) for row in zip(*rows.values(), strict=True)] for destination, rows in documents.items()
    }


@given(st.lists(st.tuples(st.sampled_from((*UNNEEDED, *OF_THE_LIST, *NEEDED)), anything), min_size=1, max_size=20))
@settings(max_examples=60)
def test_any_value_at_any_place_of_a_page_fails_the_poll_or_leaves_the_numbers_right(
    odd: list[tuple[str, Any]],
) -> None:
    async def poll() -> None:
        accounts = {f"a{i}": odd_account(f"a{i}", place, value) for i, (place, value) in enumerate(odd)}
        async with polled(accounts.values()) as (polling, states):
            async with asyncio.timeout(SECONDS):
                await polling.poll_once()
            for (place, value), state in zip(odd, states, strict=True):
                said = place, value, state.error
                assert TOKEN not in (state.error or "")
                if state.up:
                    event(f"right with something odd at {place}")
                    seen, invalid = by_destination(published(state)), state.usage.invalid_batches
                    assert is_right(accounts[state.account], place, value, seen, invalid), said
                else:
                    assert state.reason == "bad_response" and "unexpected" not in (state.error or ""), said
                    assert place not in UNNEEDED, said

    asyncio.run(poll())


@given(st.lists(anything | st.dictionaries(keys, anything), min_size=1, max_size=20))
@settings(max_examples=60)
def test_any_value_as_a_page_fails_the_poll_or_is_an_empty_list(bodies: list[Any]) -> None:
    async def poll() -> None:
        accounts = [
            Account(f"a{i}", Deviation(what="", expect=FINE, answers={"all": Answer(json=body)}), time.time())
            for i, body in enumerate(bodies)
        ]
        async with polled(accounts) as (polling, states):
            async with asyncio.timeout(SECONDS):
                await polling.poll_once()
            for body, state in zip(bodies, states, strict=True):
                if state.up:
                    assert not body["items"], body
                    assert published(state) == ({}, {})
                else:
                    assert state.reason == "bad_response" and "unexpected" not in (state.error or ""), body

    asyncio.run(poll())
