"""If the API sends the token back, nothing that the exporter shows or exports contains it."""

import json
import re
from typing import Any

import pytest
from support.api import TOKEN, Api, batch
from support.conversation import joined, read_parts
from support.exporter import StartExporter
from support.samples import up

from inkit_exporter.api.batches import AccountLabels
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.transport import quote

NOW = 1_700_000_000.0
GOOD: dict[str, Any] = {"id": "fb_1", "created_at": "2023-11-07T03:05:52Z", "status": "Completed", "destinations": {}}
COUNTS = {"count": 1, "completed": 1, "failed": 0, "in_progress": 0}
WITH_TOKEN: dict[str, dict[str, Any]] = {
    "id": {"id": f"fb_{TOKEN}"},
    "status": {"status": TOKEN},
    "destination": {"destinations": {f"a{TOKEN}": COUNTS}},
    "unreadable destination": {"destinations": {TOKEN: {"count": -1}, "box": COUNTS}},
}


def escaped(text: str) -> str:
    """Return the same JSON with every character of the token escaped."""
    return text.replace(TOKEN, "".join(f"\\u{ord(character):04X}" for character in TOKEN))


@pytest.mark.parametrize("case", WITH_TOKEN)
@pytest.mark.parametrize("spell", [str, escaped])
def test_a_record_that_contains_the_token_is_unreadable(case: str, spell: type[str]) -> None:
    body = spell(json.dumps({"items": [GOOD, GOOD | {"id": "fb_2"}, GOOD | {"id": "fb_3"} | WITH_TOKEN[case]]}))
    labels = AccountLabels()
    page = joined(read_parts(body.encode(), labels, NOW, secret=TOKEN))
    assert ([one.id for one in page.batches], page.invalid) == (["fb_1", "fb_2"], 1)
    assert list(page.problems) == ["it holds the API token"]
    assert TOKEN not in repr(page)
    with pytest.raises(BadResponse) as refused:
        body = spell(json.dumps({"items": [GOOD | WITH_TOKEN[case]]}))
        joined(read_parts(body.encode(), labels, NOW, secret=TOKEN))
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("spell", [str, escaped])
def test_a_token_in_a_name_is_replaced_by_asterisks(spell: type[str]) -> None:
    names = [f"of {TOKEN}, twice {TOKEN}", "x" * 195 + TOKEN]
    body = spell(json.dumps({"items": [GOOD | {"id": f"fb_{i}", "name": name} for i, name in enumerate(names)]}))
    page = joined(read_parts(body.encode(), AccountLabels(), NOW, secret=TOKEN))
    assert [one.name for one in page.batches] == ["of ***, twice ***", "x" * 195 + "***"]


BACKSLASHES = r"a\nb\\c/d"


@pytest.mark.parametrize("secret", [TOKEN, BACKSLASHES])
@pytest.mark.parametrize("before", ["", "no JSON ", " " * (2**15 - 30)])
@pytest.mark.parametrize("after", ["", " " * 2**15])
def test_a_quoted_error_does_not_contain_the_token_in_any_spelling(secret: str, before: str, after: str) -> None:
    """Also not where the body is cut."""
    hidden = "".join(f"\\u{ord(character):04x}" for character in secret)
    for spelling in (secret, json.dumps(secret)[1:-1], secret.replace("/", r"\/"), hidden):
        for cut in range(min(len(before) + 1, len(spelling))):
            quoted = quote(f'{{"detail": "{before[: len(before) - cut]} {spelling} !"}}{after}'.encode(), secret)
            assert not any(secret[:length] in quoted for length in range(6, len(secret) + 1))
            assert "\\u" not in quoted


def test_a_very_short_token_is_not_searched_for() -> None:
    body = json.dumps({"items": [GOOD | {"destinations": {"box": COUNTS}}]}).encode()
    assert len(joined(read_parts(body, AccountLabels(), NOW, secret="box")).batches) == 1


async def test_no_endpoint_shows_a_token_that_the_api_sends_back(api: Api, exporter: StartExporter) -> None:
    failing = batch("fb_1", destinations={"box": (1, 1, 0)})
    api.batches = [failing | {"name": f"name {TOKEN}"}, failing | {"id": "fb_2"}, failing | {"id": f"fb_{TOKEN}"}]
    running = await exporter()
    await running.wait_for(lambda samples: up(samples) == 1)
    for path in ("/metrics", "/", "/api/v1/status"):
        status, text = await running.get(path, Accept="application/openmetrics-text")
        assert status == 200
        assert TOKEN not in text
    assert "name ***" in text


async def test_characters_that_change_the_direction_of_text_are_not_shown(api: Api, exporter: StartExporter) -> None:
    turned = "".join(map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
    api.batches = [batch(f"fb_{turned}1", destinations={"box": (1, 1, 0)}) | {"name": f"invoice{turned}fdp.exe"}]
    running = await exporter()
    await running.wait_for(lambda samples: up(samples) == 1)
    for path in ("/", "/api/v1/status"):
        _, text = await running.get(path)
        assert not re.search(f"[{turned}]", text)
        assert not re.search(r"(?i)\\\\u(061c|200[ef]|202[a-e]|206[6-9])", text)
        assert "invoice" in text
