"""The configuration: what is accepted, what is refused with which error, and the example, which documents all keys."""

import os
import re
import typing
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from inkit_exporter import config
from inkit_exporter.cli import parse_shard
from inkit_exporter.config import AccountSettings, Bytes, Seconds, Settings, Shard
from inkit_exporter.errors import ConfigError
from inkit_exporter.yamlfile import Section, read_settings

EXAMPLE = (ROOT / "config.example.yaml").read_text()
ACCOUNT = "accounts: [{name: a, api_token_file: t}]\n"


def everything_uncommented() -> str:
    """Return the example with its optional keys uncommented, except `api_token_env`."""
    text = re.sub(
        r"^( +)# ( *)(filters|search|destination_\w+|final_statuses):", r"\1\2\3:", EXAMPLE, flags=re.MULTILINE
    )
    return text.replace("filters:  ", "filters: ")


def keys(document: object, place: str = "") -> Iterator[str]:
    match document:
        case dict():
            for key, value in document.items():
                yield from keys(value, f"{place}.{key}")
        case list():
            for item in document:
                yield from keys(item, f"{place}[]")
        case _:
            yield place


def settings_keys(settings: type, place: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(settings):
        name, kind = f"{place}.{field.name}", field.type
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        if typing.get_origin(kind) is tuple:
            name, kind = f"{name}[]", typing.get_args(kind)[0]
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield from settings_keys(kind, name)
        else:
            yield name


def test_the_example_documents_exactly_the_existing_keys() -> None:
    documented = set(keys(yaml.safe_load(everything_uncommented())))
    assert "# api_token_env:" in EXAMPLE
    egress = {f".api.{name}" for name in ("proxy_url", "proxy_from_environment", "ca_file")}
    assert all(f"# {key.rpartition('.')[2]}:" in EXAMPLE for key in egress)
    assert documented | {".accounts[].api_token_env"} | egress == set(settings_keys(Settings))


def test_the_example_loads_as_it_is_and_shows_the_defaults() -> None:
    account = AccountSettings(name="production", api_token_file="/run/secrets/inkit-api-token")
    assert config.parse(EXAMPLE) == Settings(accounts=(account,))
    filters = config.parse(everything_uncommented()).accounts[0].filters
    assert None not in msgspec.structs.astuple(filters)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "accounts: missing; config.example.yaml shows it"),
        ("[]", "expected a mapping, got a list; see config.example.yaml"),
        ("a: b: c", "line 1, column 5: "),
        ("accounts: [", "line 1, column 12: "),
        ("a: &x 1\nb: *x", "line 2, column 4: aliases"),
        ("poll: {}\npoll: {}", "line 2, column 1: key `poll` is given twice"),
        ("\x00", "position 0"),
        ("poll: {}", "accounts: missing; config.example.yaml shows it"),
        ("accounts: []", "accounts: expected a list of length >= 1; see config.example.yaml"),
        ("accounts: [{api_token_file: t}]", "accounts[0].name: missing"),
        ("accounts: [{name: a}]", "accounts[0]: has no token"),
        ("accounts: [{name: a, api_token_file: t, api_token_env: T}]", "accounts[0]: has both api_token_file and"),
        ("accounts: [{name: '', api_token_file: t}]", "accounts[0].name: "),
        ("accounts: [{name: ' a', api_token_file: t}]", "accounts[0].name: must not"),
        ('accounts: [{name: "a\\nb", api_token_file: t}]', "accounts[0].name: must not"),
        (
            "accounts: [{name: a, api_token_file: t}, {name: a, api_token_file: t}]",
            "accounts[1].name: `a` is used twice",
        ),
        (
            "accounts: [{name: a, api_token: s3cret}]",
            "accounts[0].api_token: a token does not belong in this file; "
            "put it in a file of its own and set api_token_file to its path",
        ),
        ("accounts: [{name: a, API-Token: s3cret}]", "accounts[0].API-Token: a token does not belong"),
        (ACCOUNT + "token: s3cret", "token: a token does not belong"),
        (
            "accounts: [{name: a, api_token_file: t, base_url: 'http://api.inkit.com/v1'}]",
            "accounts[0].base_url: http would",
        ),
        (
            "accounts: [{name: a, api_token_file: t, base_url: 'ftp://x'}]",
            "accounts[0].base_url: is not an http(s) URL",
        ),
        (
            "accounts: [{name: a, api_token_file: t, base_url: 'https://api inkit.com/v1'}]",
            "accounts[0].base_url: is not an http(s) URL",
        ),
        ("accounts: [{name: a, api_token_file: t, base_url: 'https://u@x'}]", "accounts[0].base_url: must not have"),
        ("accounts: [{name: a, api_token_file: t, base_url: 'https://:p@x'}]", "accounts[0].base_url: must not have"),
        ("accounts: [{name: a, api_token_file: t, base_url: 'https://x?q=1'}]", "accounts[0].base_url: must not have"),
        ("accounts: [{name: a, api_token_file: t, base_url: 'https://x#f'}]", "accounts[0].base_url: must not have"),
        ("accounts: [{name: a, api_token_file: t, base_url: 'https://x:y'}]", "accounts[0].base_url: is not a URL"),
        ("accounts: [{name: a, api_token_file: t, filters: {page: 1}}]", "accounts[0].filters.page: unknown key"),
        (
            "accounts: [{name: a, api_token_file: t, batches: documents}]",
            "accounts[0].batches: 'documents' is not one of its values; config.example.yaml lists them",
        ),
        ("accounts: [{name: a, api_token_file: t, batches: ''}]", "accounts[0].batches: '' is not one of its values"),
        (
            "accounts: [{name: a, api_token_file: t, batches: [document]}]",
            "accounts[0].batches: expected text, got a list; see config.example.yaml",
        ),
        (ACCOUNT + "poll: {final_statuses: Archived}", "poll.final_statuses: expected a list, got text"),
        (ACCOUNT + "poll: {final_statuses: [ok, '!?']}", "poll.final_statuses[1]: '!?' is not a status; write it as"),
        (ACCOUNT + "poll: {final_statuses: [{a: b}]}", "poll.final_statuses[0]: {'a': 'b'} is not a status"),
        (ACCOUNT + "polls: {}", "polls: unknown key; config.example.yaml lists all keys"),
        (ACCOUNT + '"a\\nb": 1', "a b: unknown key"),
        (ACCOUNT + "poll: {interval: 60}", "poll.interval: '60' is not a duration; write it like"),
        (ACCOUNT + "poll: {interval: 0s}", "poll.interval: '0s' must be longer than 0"),
        (ACCOUNT + "poll: {lookback: 100y1ms}", "poll.lookback: '100y1ms' must be longer than 0 and at most 100y"),
        (ACCOUNT + "poll: {interval: ''}", "poll.interval: '' is not a duration"),
        (ACCOUNT + "poll: {interval: 1m30}", "poll.interval: '1m30' is not a duration"),
        (
            ACCOUNT + "poll: {interval: 5m, stale_after: 1m}",
            "poll.stale_after: 60s is shorter than poll.interval, 300s",
        ),
        (ACCOUNT + "poll: {resync_interval: 1s}", "poll.resync_interval: 1s is shorter"),
        (ACCOUNT + "poll: {page_size: 0}", "poll.page_size: expected a whole number >= 1"),
        (ACCOUNT + "poll: {page_size: many}", "poll.page_size: expected a whole number, got text"),
        (ACCOUNT + "poll: [1]", "poll: expected a mapping, got a list"),
        (ACCOUNT + "api: {max_response_size: 32 parsecs}", "api.max_response_size: '32 parsecs' is not a size"),
        (ACCOUNT + "api: {max_response_size: 0}", "api.max_response_size: '0' is not a size"),
        (ACCOUNT + "api: {max_response_size: true}", "api.max_response_size: 'true' is not a size"),
        (ACCOUNT + "api: {max_response_size: 1.5}", "api.max_response_size: '1.5' is not a size"),
        (ACCOUNT + "api: {max_response_size: ''}", "api.max_response_size: '' is not a size"),
        (ACCOUNT + "api: {proxy_url: 'http://u:s3cret@p:1'}", "api.proxy_url: must not have user or password; put the"),
        (ACCOUNT + "api: {proxy_url: 'http://u@p:1'}", "api.proxy_url: must not have user or password"),
        (
            ACCOUNT + "api: {proxy_url: 'p:1'}",
            "api.proxy_url: is not the address of an HTTP proxy; write it like http:",
        ),
        (ACCOUNT + "api: {proxy_url: ''}", "api.proxy_url: is not the address"),
        (ACCOUNT + "api: {proxy_url: 'socks5://u:s3cret@p:1'}", "api.proxy_url: is not the address"),
        (ACCOUNT + "api: {proxy_url: 'http://p:x'}", "api.proxy_url: is not the address"),
        (ACCOUNT + "api: {proxy_url: 'http://p:1/path'}", "api.proxy_url: is not the address"),
        (ACCOUNT + "api: {proxy_url: 'http://p:1?q'}", "api.proxy_url: is not the address"),
        (
            ACCOUNT + "api: {proxy_url: 'http://p:1', proxy_from_environment: true}",
            "api: has both proxy_url and proxy_from_environment; keep one",
        ),
        (ACCOUNT + 'api: {ca_file: "a\\0b"}', "line 2, column 16: a NUL or half a character (a surrogate); remove it"),
        (
            ACCOUNT + 'api: {ca_file: "a\\ud800b"}',
            "line 2, column 16: a NUL or half a character (a surrogate); remove it",
        ),
        (ACCOUNT + "api: {ca_file: [a]}", "api.ca_file: expected text, got a list; see config.example.yaml"),
        (ACCOUNT + "api: {max_attempts: true}", "api.max_attempts: expected a whole number, got text"),
        (ACCOUNT + "1: 2", "1: unknown key"),
        (ACCOUNT + "null: 2", "null: unknown key"),
        (ACCOUNT + "no such key: ", "no such key: unknown key"),
        (ACCOUNT + "api_token: ", "api_token: a token does not belong"),
        (ACCOUNT + "poll: ''", "poll: expected a mapping, got text"),
        (ACCOUNT + "poll: {interval: 60s, interval: }", "line 2, column 23: key `interval` is given twice"),
        ("null", "accounts: missing"),
        ("accounts:", "accounts: missing"),
        ("accounts: null", "accounts: missing"),
        ("accounts: [~]", "accounts[0]: expected a mapping, got nothing"),
        ("accounts: [{name: , api_token_file: t}]", "accounts[0].name: missing"),
        ("accounts: [{name: ~, api_token_file: t}]", "accounts[0].name: missing"),
        ("accounts: [{name: !!int 5, api_token_file: t}]", "line 1, column 19: aliases (*name) and tags (!name)"),
        (ACCOUNT + "poll: !poll {}", "line 2, column 7: aliases (*name) and tags (!name)"),
        ("accounts: [{name: {null: 1}, api_token_file: t}]", "accounts[0].name: expected text, got a mapping"),
        ("accounts: [{name: a, api_token_file: null}]", "accounts[0]: has no token"),
        ("accounts: [{name: a, api_token_file: ''}]", "accounts[0]: has no token"),
    ],
)
def test_errors_name_their_place(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert str(raised.value).startswith(f"{path}: {error}")
    assert "s3cret" not in str(raised.value)


WORDS = ["no", "Off", "true", "0123", "0x10", "1_000", "1e3", "1:30", ".inf", "2001-02-03", "=", "<<"]
EMPTY = ["", "~", "null", "NULL"]


@pytest.mark.parametrize("word", WORDS)
def test_text_is_kept_as_written(word: str) -> None:
    filters = "".join(f"\n    {name}: {word}" for name in ("search", "destination_name", "destination_status"))
    (account,) = config.parse(f"accounts:\n- name: {word}\n  api_token_file: {word}\n  filters:{filters}").accounts
    assert (account.name, account.api_token_file) == (word, word)
    assert msgspec.structs.astuple(account.filters) == (word, word, word)


@pytest.mark.parametrize("name", ["null", "NULL", "'~'", '"null"'])
def test_an_account_may_be_called_null(name: str) -> None:
    assert config.parse(f"accounts: [{{name: {name}, api_token_file: t}}]").accounts[0].name == name.strip("'\"")


def test_quoted_text_is_never_taken_for_an_empty_value() -> None:
    filters = "filters: {search: '', destination_name: '~', destination_status: 'null'}"
    (account,) = config.parse(f"accounts: [{{name: a, api_token_file: t, {filters}}}]").accounts
    assert msgspec.structs.astuple(account.filters) == ("", "~", "null")


@pytest.mark.parametrize("empty", EMPTY)
def test_an_empty_value_means_the_default_for_every_key(empty: str) -> None:
    token = "/run/secrets/inkit-api-token"
    text = re.sub(
        r"^( +(?!api_token_file|filters)\w+:).*", rf"\1 {empty}", everything_uncommented(), flags=re.MULTILINE
    )
    assert config.parse(text) == Settings(accounts=(AccountSettings(name="production", api_token_file=token),))


@pytest.mark.parametrize("empty", EMPTY)
def test_an_empty_section_has_its_defaults(empty: str) -> None:
    account = f"accounts:\n- name: a\n  api_token_file: t\n  filters: {empty}"
    assert config.parse(f"{account}\npoll: {empty}\napi: {empty}") == config.parse(ACCOUNT)


@pytest.mark.parametrize("text", ["1000", "'1000'", "1e3", "1000.0"])
def test_a_number_may_be_quoted_or_have_an_exponent(text: str) -> None:
    assert config.parse(ACCOUNT + f"poll: {{page_size: {text}}}").poll.page_size == 1000


@pytest.mark.parametrize(
    "text",
    ["100.5", "true", "0x10", "010", "1_000", "+5", "-1", "1:30", "''", "' 5'", "'null'", "1001"],
)
def test_errors_of_invalid_numbers_name_the_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^poll\.page_size: expected a whole number"):
        config.parse(ACCOUNT + f"poll: {{page_size: {text}}}")


class Switches(Section, frozen=True):
    """Booleans, as a future setting may have them."""

    wanted: bool
    others: tuple[bool, ...] = ()


def read_switches(text: str) -> Switches:
    return read_settings(text, Switches, reference="nothing")[0]


def test_booleans_are_written_as_in_yaml() -> None:
    for value, words in (
        (True, "true True TRUE yes Yes YES on On ON 1"),
        (False, "false False no No NO off Off OFF 0"),
    ):
        for word in words.split():
            assert read_switches(f"{{wanted: {word}, others: [{word}, '{word}']}}") == Switches(
                wanted=value, others=(value, value)
            )


@pytest.mark.parametrize("text", ["y", "2", "enabled", "''", "[true]"])
def test_errors_of_invalid_booleans_name_the_place(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^wanted: expected true or false"):
        read_switches(f"wanted: {text}")


@pytest.mark.parametrize("empty", EMPTY)
def test_an_empty_boolean_without_a_default_is_missing(empty: str) -> None:
    with pytest.raises(ConfigError, match=r"^wanted: missing; nothing shows it"):
        read_switches(f"wanted: {empty}")


def test_errors_of_unreadable_files_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe4")
    (tmp_path / "large").write_bytes(b" " * (2**24 + 1))
    for path, error in (
        (tmp_path / "none", "can't be read: No such file or directory"),
        (tmp_path, "can't be read: Is a directory"),
        (tmp_path / "latin", "is not UTF-8 text; save it as UTF-8"),
        (tmp_path / "large", "can't be read: larger than 16777216 bytes"),
    ):
        with pytest.raises(ConfigError) as raised:
            config.load(path)
        assert str(raised.value) == f"{path}: {error}"


def test_without_a_config_file_the_token_comes_from_the_environment() -> None:
    account = AccountSettings(name="default", api_token_env="INKIT_API_TOKEN")
    assert Settings(accounts=(account,)) == config.DEFAULT_SETTINGS


@given(st.text() | st.text("{}[]:,&*!|>'\"%@ \n-ab1").map(lambda text: ACCOUNT + text))
def test_any_text_gives_settings_or_an_error(text: str) -> None:
    try:
        config.parse(text)
    except ConfigError as error:
        assert str(error)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["name", "accounts", "poll", "interval"]) | st.text(), inner)
        ),
    )
)
def test_any_document_gives_settings_or_an_error(document: Any) -> None:
    try:
        config.parse(yaml.safe_dump({"accounts": document, "poll": document}))
    except ConfigError as error:
        assert str(error)


@given(st.tuples(*[st.integers(0, 9)] * 7).filter(any))
def test_durations_add_up_their_units(numbers: tuple[int, ...]) -> None:
    units = {"y": 31536000, "w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
    text = "".join(f"{number}{unit}" for number, unit in zip(numbers, units, strict=True) if number)
    expected = sum(number * unit for number, unit in zip(numbers, units.values(), strict=True))
    assert Seconds.parse(text) == pytest.approx(expected)


def test_sizes_have_binary_and_decimal_units() -> None:
    assert Bytes.parse("32MiB") == 32 * 2**20
    assert Bytes.parse("5 kB") == 5000
    assert Bytes.parse(17) == 17


def test_the_longest_duration_is_a_hundred_years() -> None:
    assert Seconds.parse("100y") == Seconds(100 * 365 * 86400)


def test_defaults_grow_with_a_long_interval() -> None:
    poll = config.parse(ACCOUNT + "poll: {interval: 2h}").poll
    assert (poll.stale_after, poll.resync_interval) == (Seconds(14400), Seconds(14400))
    assert config.parse(ACCOUNT + "poll: {interval: 2h, stale_after: , resync_interval: ~}").poll == poll
    poll = config.parse(ACCOUNT + "poll: {interval: 2h, stale_after: 2h, resync_interval: 2h}").poll
    assert (poll.stale_after, poll.resync_interval) == (Seconds(7200), Seconds(7200))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/v1", "http://localhost/v1", "http://[::1]:9/v1", "https://x.example"]
)
def test_plain_http_is_allowed_only_to_loopback(url: str) -> None:
    assert config.parse(f"accounts: [{{name: a, api_token_file: t, base_url: '{url}'}}]").accounts[0].base_url == url


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", " is empty; put the API token of account `a` there"),
        (b" \n", " is empty; put the API token of account `a` there"),
        (b"two\nlines", " is not an API token"),
        (b"with blank", " is not an API token"),
        ("tökén".encode(), " is not an API token"),
        (b"\xff", " can't be read (UnicodeDecodeError); put the API token of account `a` there"),
        (b"a" * (2**16 + 1), " can't be read (larger than 65536 bytes); put"),
    ],
)
def test_a_token_that_is_no_valid_header_value_is_refused_and_not_shown(
    content: bytes, error: str, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        config.read_token(AccountSettings(name="a", api_token_file=str(path)), {})
    assert str(raised.value).startswith(f"api_token_file {path}{error}")
    assert not content.strip() or content.decode(errors="replace") not in str(raised.value)


def test_a_token_is_read_from_a_file_or_variable_without_surrounding_blanks(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a" * (2**16 - 1) + "\n")
    in_file, in_environment = (
        AccountSettings(name="a", api_token_file=str(tmp_path / "t")),
        AccountSettings(name="a", api_token_env="T"),
    )
    assert config.read_token(in_file, {}) == "a" * (2**16 - 1)
    assert config.read_token(in_environment, {"T": " token\n"}) == "token"
    with pytest.raises(ConfigError, match=r"^environment variable T is not set; export the API token of account `a`"):
        config.read_token(in_environment, {})
    with pytest.raises(ConfigError, match=r"^environment variable T is empty"):
        config.read_token(in_environment, {"T": ""})


def test_a_token_path_that_is_no_regular_file_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, reason in (
        ("pipe", "not a regular file"),
        ("..", "Is a directory"),
        ("none", "No such file or directory"),
    ):
        account = AccountSettings(name="a", api_token_file=str(tmp_path / place))
        with pytest.raises(ConfigError, match=rf"^api_token_file .* can't be read \({reason}\)"):
            config.read_token(account, {})


@pytest.mark.parametrize(
    ("text", "shard"), [("0/1", Shard(0, 1)), ("2/3", Shard(2, 3)), ("0/999999", Shard(0, 999999))]
)
def test_a_shard_is_written_as_index_slash_count(text: str, shard: Shard) -> None:
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["", "1", "0/0", "3/3", "4/3", "-1/3", "1/3 ", "x0/3", "٣/4", "0/1000000"])
def test_any_other_shard_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not I/N with I from 0 to N-1, like 0/3"):
        parse_shard(text)


def test_a_shard_has_only_its_accounts_and_needs_only_their_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, shard = tmp_path / "config.yaml", Shard(0, 2)
    path.write_text(
        "accounts: [" + ", ".join(f"{{name: {name}, api_token_env: TOKEN_{name}}}" for name in "abcd") + "]"
    )
    owned = [name for name in "abcd" if shard.owns(name)]
    assert 0 < len(owned) < 4
    for name in owned:
        monkeypatch.setenv(f"TOKEN_{name}", "t")
    assert [account.name for account in config.load(path, shard).accounts] == owned
    monkeypatch.delenv(f"TOKEN_{owned[-1]}")
    place = rf"accounts\[{'abcd'.index(owned[-1])}\]\.api_token_env"
    with pytest.raises(ConfigError, match=rf": {place}: environment variable TOKEN_{owned[-1]} is not set"):
        config.load(path, shard)
    assert len(config.load(path).accounts) == 4


accounts = st.lists(st.text(min_size=1), unique=True, max_size=50)


@given(accounts, st.integers(1, 12))
def test_each_account_is_on_exactly_one_shard(names: list[str], count: int) -> None:
    for name in names:
        assert sum(Shard(index, count).owns(name) for index in range(count)) == 1


@given(accounts, st.integers(1, 12))
def test_adding_a_shard_moves_accounts_only_to_it(names: list[str], count: int) -> None:
    for name in names:
        before = [Shard(index, count).owns(name) for index in range(count)]
        after = [Shard(index, count + 1).owns(name) for index in range(count + 1)]
        assert after[-1] or after[:-1] == before


def test_accounts_spread_over_the_shards_and_never_move() -> None:
    owned = [sum(Shard(index, 4).owns(f"account-{i}") for i in range(1000)) for index in range(4)]
    assert all(200 < number < 300 for number in owned)
    # Users depend on these places: with another hash, an update would move accounts.
    assert [[i for i in range(12) if Shard(index, 3).owns(f"account-{i}")] for index in range(3)] == [
        [2, 5, 7, 8, 11],
        [0, 9, 10],
        [1, 3, 4, 6],
    ]
