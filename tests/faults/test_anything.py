"""Random input to every reader gives either the documented error or everything that is valid."""

import asyncio
import json
import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support import conversation
from support.api import TOKEN
from support.conversation import make_batch, read_parts
from support.faulty import listening

from inkit_exporter import config
from inkit_exporter.api.batches import AccountLabels, Batch, Counts, Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.config import Settings
from inkit_exporter.errors import ConfigError
from inkit_exporter.paging.pagination import Pagination
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import States
from inkit_exporter.transport import open_session

GOOD_ACCOUNT = {"name": "a", "api_token_env": "T", "base_url": "https://x.example/v1", "filters": {"search": "s"}}
GOOD = {
    "accounts": [GOOD_ACCOUNT],
    "poll": {"interval": "30s", "lookback": "1h", "page_size": 10, "max_batches": 100, "stale_after": "5m"},
    "api": {"timeout": "5s", "requests_per_minute": 30, "max_attempts": 2, "max_response_size": "1MiB"},
}

digits = st.integers(1, 600).map(lambda length: "9" * length)
ODD = r"""~|''|=|<<|*a|&a|!!int ''|!!float ''|!!bool maybe|!!timestamp never|!!null x|!!binary é|!!map ab|!!map [ab]|
!!seq x|!!str [1]|!!set {a}|!!omap [a: 1]|!x y|.nan|-.inf|0x|2001-99-99|1:99:99|1e400|{a: {a: 1}}|[[]]|? [a]|"\ud800"|
"\0"|https://[::1|https://x:99999|http://[fe80::1%25lo]/|https://é.example|//"""
odd_scalars = (
    st.sampled_from(ODD.replace("\n", "").split("|"))
    | digits
    | digits.flatmap(lambda number: st.sampled_from([f"-{number}", f"{number}y", f"{number}GiB", f"{number}ms"]))
    | st.text(max_size=20)
)


def places(document: object) -> list[str]:
    """Return the scalars of a document in flow style, keys included, which a test can replace."""
    return [str(event.value) for event in yaml.parse(flow(document)) if isinstance(event, yaml.ScalarEvent)]


def flow(document: object) -> str:
    return str(yaml.safe_dump(document, default_flow_style=True, width=10**6, sort_keys=False))


async def use(loaded: Settings) -> None:
    """Check that loaded settings work: every account is created and its loop starts."""
    states = States()
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN}, states)
        accounts.apply(loaded)
        running = asyncio.create_task(accounts.run())
        for _ in range(3):
            await asyncio.sleep(0)
        assert all(state.next_poll_at > 0 for state in states)
        running.cancel()
        await asyncio.wait([running])


@given(st.data())
@settings(max_examples=150)
def test_any_value_anywhere_in_a_configuration_works_or_is_refused_in_one_line(data: st.DataObject) -> None:
    text = flow(GOOD)
    for _ in range(data.draw(st.integers(1, 2))):
        text = text.replace(data.draw(st.sampled_from(places(GOOD))), data.draw(odd_scalars), 1)
    try:
        loaded = config.parse(text)
    except ConfigError as error:
        assert str(error).encode()
        return
    try:
        asyncio.run(use(loaded))
    except ConfigError as error:
        assert "environment variable" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accounts: !!int ''", "line 1, column 11: "),
        ("accounts: !!bool maybe", "line 1, column 11: "),
        ("accounts: !!timestamp never", "line 1, column 11: "),
        ("? [a]\n: b", "line 1, column 3: "),
        ("!!map [a]", "line 1, column 1: "),
        ('poll: {"\\ud800": 1}', "line 1, column 8: "),
        ('accounts: [{name: a, api_token_env: "\\ud800"}]', "line 1, column 37: "),
    ],
)
def test_errors_of_invalid_yaml_name_the_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}"):
        config.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poll: {page_size: 1001}", "poll.page_size: expected a whole number <= 1000"),
        (f"poll: {{page_size: {'9' * 5000}}}", "poll.page_size: integer value out of range"),
        (f"poll: {{interval: {'9' * 400}y}}", "poll.interval: .* is not a duration"),
        (f"poll: {{max_batches: {'9' * 400}}}", "poll.max_batches: expected a whole number <= 1000000000"),
        (
            f"api: {{requests_per_minute: 1{'0' * 19}}}",
            "api.requests_per_minute: expected a whole number <= 1000000000",
        ),
    ],
)
def test_absurdly_large_numbers_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}"):
        config.parse(f"accounts: [{{name: a, api_token_env: T}}]\n{text}")


@given(content=st.binary(max_size=300))
@settings(max_examples=50)
def test_the_error_for_a_file_of_random_bytes_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(raised.value).startswith(f"{path}: ")


names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=64) | st.sampled_from(
    ["no", "Off", "true", "null", "NULL", "0123", "0x1F", "1_000", "1e3", "1:30", ".inf", "2001-02-03", "=", "<<"]
)


def durations(least: int) -> st.SearchStrategy[str]:
    return st.integers(least, 10**6).map(lambda seconds: f"{seconds}s")


@given(
    st.lists(names, min_size=1, unique=True),
    st.fixed_dictionaries(
        {},
        optional={
            "interval": st.integers(1, 60).map(lambda seconds: f"{seconds}s"),
            "lookback": durations(1),
            "page_size": st.integers(1, 1000),
            "max_batches": st.integers(1, 10**9),
            "resync_interval": durations(60),
            "stale_after": durations(60),
        },
    ),
)
def test_valid_settings_are_kept_as_written(names: list[str], poll: dict[str, Any]) -> None:
    written_accounts = "".join(f"- name: {name}\n  api_token_file: /{name}\n" for name in names)
    loaded = config.parse(f"accounts:\n{written_accounts}{yaml.safe_dump({'poll': poll})}")
    assert [account.name for account in loaded.accounts] == names
    written = {key: int(value[:-1]) if isinstance(value, str) else value for key, value in poll.items()}
    kept = msgspec.structs.asdict(loaded.poll)
    assert {key: kept[key] for key in poll} == written


RECORD = {
    "id": "fb_record",
    "name": "n",
    "created_at": "2023-11-07T03:05:52.298042Z",
    "status": "Completed",
    "total": 1,
    "destinations": {"box": {"count": 3, "completed": 1, "failed": 1, "in_progress": 1, "status": "completed"}},
}
PAGINATION = {"current_page": 1, "next_page": None, "page_count": 1, "page_size": 25, "prev_page": None}

times = st.sampled_from(
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-12:00", "2023-11-07", "2016-12-31T23:59:60Z", "now", ""]
) | st.datetimes(timezones=st.none() | st.timezones()).map(lambda time: time.isoformat())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | st.text() | times,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from([*RECORD]), inner, max_size=3)
    ),
    max_leaves=6,
)
odd_records = json_values | st.builds(
    lambda key, value: RECORD | {key: value}, st.sampled_from([*RECORD]), json_values | times
)


def read(body: bytes) -> tuple[list[Batch], int]:
    """Return the batches of a page and the number of its unreadable records."""
    parts = list(read_parts(body, AccountLabels(), 1_700_000_000.0))
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert all(part.problems for part in parts if part.invalid)
    return [batch for part in parts for batch in part.batches], sum(part.invalid for part in parts)


@given(st.lists(st.just(None) | odd_records, max_size=12))
@settings(max_examples=200)
def test_on_a_page_with_random_records_the_valid_ones_are_kept_and_the_others_counted(records: list[Any]) -> None:
    listed = [RECORD | {"id": f"fb_{i}"} if record is None else record for i, record in enumerate(records)]
    body = json.dumps({"items": listed, "metadata": {"pagination": PAGINATION}}).encode()
    try:
        batches, invalid = read(body)
    except BadResponse as error:
        assert "records can't be read" in str(error) or "NaN" in body.decode() or "Infinity" in body.decode()
        return
    assert len(batches) + invalid == len(records)
    assert all(math.isfinite(batch.created_at) for batch in batches)
    good = [i for i, record in enumerate(records) if record is None]
    expected = [make_batch(f"fb_{i}", "n", 1699326352.298042, "completed", {"box": Counts(3, 1, 1, 1)}) for i in good]
    assert [batch for batch in batches if batch in expected] == expected


@given(st.lists(st.just(None) | odd_records, max_size=4))
@settings(max_examples=200)
def test_a_record_reads_the_same_whether_its_page_is_decoded_at_once_or_record_by_record(records: list[Any]) -> None:
    listed = [RECORD | {"id": f"fb_{i}"} if record is None else record for i, record in enumerate(records)]
    try:
        together = read(json.dumps({"items": listed, "metadata": {"pagination": PAGINATION}}).encode())
    except BadResponse:
        return
    # An unreadable record makes the reader decode record by record.
    odd = [*listed, RECORD | {"id": "fb_last"}, RECORD | {"id": "fb_very_last"}, None]
    batches, invalid = read(json.dumps({"items": odd, "metadata": {"pagination": PAGINATION}}).encode())
    assert (batches[:-2], invalid) == (together[0], together[1] + 1)


@given(st.data())
@settings(max_examples=200)
def test_an_answer_with_changed_bytes_is_refused_or_read_as_a_page(data: st.DataObject) -> None:
    good = json.dumps({"items": [RECORD], "metadata": {"pagination": PAGINATION}}).encode()
    start = data.draw(st.integers(0, len(good) - 1))
    body = good[:start] + data.draw(st.binary(max_size=4)) + good[data.draw(st.integers(start, len(good))) :]
    try:
        read(body)
    except BadResponse as error:
        assert str(error)


ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n"
    b"Content-Encoding: identity\r\nLocation: /\r\nConnection: keep-alive\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
)
ODD_BYTES = (
    b"\r\n|\n|\0|-1|999999999999999999999999|gzip|br|deflate|100|101|204|304|401|429|503|Content-Length: 5\r\n|"
    b"Upgrade: websocket\r\n|HTTP/0.9|HTTP/9.9|http://[|: |\xff"
)
odd_bytes = st.binary(max_size=8) | st.sampled_from(ODD_BYTES.split(b"|"))


@given(st.lists(st.tuples(st.integers(0, len(ANSWER)), st.integers(0, 30), odd_bytes), min_size=20, max_size=40))
@settings(max_examples=40)
def test_random_bytes_as_an_answer_fail_the_poll_with_a_known_error(changes: list[tuple[int, int, bytes]]) -> None:
    async def poll_all() -> None:
        answers = [ANSWER[:start] + put + ANSWER[start + cut :] for start, cut, put in changes]
        left = iter(answers)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(next(left, b""))
            await writer.drain()

        async with listening(answer) as port, open_session() as session:
            account = GOOD_ACCOUNT | {"base_url": f"http://127.0.0.1:{port}/v1"}
            limits = {"timeout": "500ms", "max_attempts": 1, "requests_per_minute": 1000}
            states = States()
            accounts = Accounts(session, {"T": TOKEN}, states)
            accounts.apply(config.parse(flow({"accounts": [account], "api": limits})))
            for sent in answers:
                assert not await accounts.poll_once(), sent
                assert "unexpected" not in (states["a"].error or ""), sent
                assert TOKEN not in (states["a"].error or ""), sent

    asyncio.run(poll_all())


NOW = 10_000.0
some_batches = st.builds(
    lambda number, age, status, n: make_batch(f"fb_{number}", "", NOW - age, status, {"box": Counts(n, n, 0, 0)}),
    st.integers(0, 20),
    st.integers(-200, 1200),
    st.sampled_from(["completed", "in_progress"]),
    st.integers(0, 3),
)
few = st.integers(0, 4)
any_pages = st.builds(
    Page,
    st.lists(some_batches, max_size=5),
    st.builds(Pagination, st.none() | st.booleans(), st.none() | few, st.none() | few, st.none() | st.integers(0, 40)),
    st.integers(0, 1),
    more=st.booleans(),
)


@given(st.lists(any_pages, min_size=1, max_size=30))
@settings(max_examples=200)
def test_whatever_pages_say_the_sums_of_the_window_match_its_batches(answers: list[Page]) -> None:
    plan = conversation.new_plan(interval=10.0, lookback=1000.0, resync_interval=600.0, max_batches=8)
    left = iter(answers)
    for i in range(6):
        with suppress(BadResponse, StopIteration):
            conversation.poll(plan, lambda _: next(left), NOW + 10.0 * i)
        window = plan.window
        snapshot = window.snapshot(None)
        batches = list(window.batches)
        assert len({batch.id for batch in batches}) == len(batches)
        assert sum(snapshot.batches.values()) == len(batches)
        assert sum(counts.count for counts in snapshot.documents.values()) == sum(
            counts.count for batch in batches for counts in batch.destinations.values()
        )
