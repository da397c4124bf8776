"""Anything at all, to whatever reads it: the documented error, or all of what is good, and nothing else."""

import asyncio
from typing import Any

import msgspec
import pytest
import yaml
from conftest import TOKEN
from hypothesis import given, settings
from hypothesis import strategies as st

from inkit_exporter import config
from inkit_exporter.accounts import Accounts
from inkit_exporter.client import open_session
from inkit_exporter.config import ConfigError, Settings

GOOD = {
    "accounts": [{"name": "a", "api_token_env": "T", "base_url": "https://x.example/v1", "filters": {"search": "s"}}],
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
    """The scalars of a document in its flow style, keys included: where something else can be put."""
    return [str(event.value) for event in yaml.parse(flow(document)) if isinstance(event, yaml.ScalarEvent)]


def flow(document: object) -> str:
    return str(yaml.safe_dump(document, default_flow_style=True, width=10**6, sort_keys=False))


async def use(loaded: Settings) -> None:
    """What loads must work: every account is made, and its poll could begin."""
    async with open_session() as session:
        accounts = Accounts(session, {"T": TOKEN})
        accounts.apply(loaded, [account.name for account in loaded.accounts])
        accounts.start()
        await asyncio.sleep(0)
        assert all(poller.due > 0 for poller in accounts.pollers)
        await accounts.stop()


@given(st.data())
@settings(max_examples=400)
def test_anything_anywhere_in_a_configuration_is_refused_in_one_line_or_works(data: st.DataObject) -> None:
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
        ("? [a]\n: b", "not valid YAML"),
        ('poll: {"\\ud800": 1}', "line 1, column 8: "),
        ('accounts: [{name: a, api_token_env: "\\ud800"}]', "line 1, column 37: "),
    ],
)
def test_yaml_that_is_none_to_anybody_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}"):
        config.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"poll: {{interval: {'9' * 400}y}}", "poll.interval: .* is not a duration"),
        (f"poll: {{max_batches: {'9' * 400}}}", "poll.max_batches: expected `int` <= 1000000000"),
        ("api: {requests_per_minute: 10000000000000000000}", "api.requests_per_minute: expected `int` <= 1000000000"),
    ],
)
def test_numbers_beyond_all_use_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}"):
        config.parse(f"accounts: [{{name: a, api_token_env: T}}]\n{text}")


@given(content=st.binary(max_size=300))
@settings(max_examples=50)
def test_a_file_of_any_bytes_is_refused_by_its_name(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(raised.value).startswith(f"{path}: ")


def durations(least: int) -> st.SearchStrategy[str]:
    return st.integers(least, 10**6).map(lambda seconds: f"{seconds}s")


@given(
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=64), min_size=1, unique=True),
    st.fixed_dictionaries(
        {},
        optional={
            "interval": st.integers(1, 60).map(lambda seconds: f"{seconds}s"),
            "lookback": durations(1),
            "page_size": st.integers(1, 10**9),
            "max_batches": st.integers(1, 10**9),
            "resync_interval": durations(60),
            "stale_after": durations(60),
        },
    ),
)
def test_what_is_good_is_kept_as_it_was_written(names: list[str], poll: dict[str, Any]) -> None:
    document = {"accounts": [{"name": name, "api_token_file": f"/{name}"} for name in names], "poll": poll}
    loaded = config.parse(yaml.safe_dump(document, allow_unicode=True))
    assert [account.name for account in loaded.accounts] == names
    written = {key: int(value[:-1]) if isinstance(value, str) else value for key, value in poll.items()}
    kept = msgspec.structs.asdict(loaded.poll)
    assert {key: kept[key] for key in poll} == written
