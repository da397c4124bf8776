"""Bodies that are almost JSON are read. The error for other bodies says what they are, without quoting them."""

import codecs
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversation import read_parts

from inkit_exporter.api.batches import AccountLabels, Page
from inkit_exporter.api.errors import BadResponse
from inkit_exporter.api.records import AT_ONCE_BYTES

NOW = 1_700_000_000.0
SECRET = "secret-7f3a"
RECORD: dict[str, Any] = {
    "id": "fb_1",
    "name": "NAME",
    "created_at": "2023-11-07T03:05:52.298042Z",
    "status": "Completed",
    "total": 1,
    "destinations": {"box": {"count": 3, "completed": 1, "failed": 1, "in_progress": 1}},
}


def body_of(**changes: Any) -> bytes:
    return json.dumps({"items": [RECORD | changes, RECORD | {"id": "fb_2", "name": "OTHER"}]}).encode()


def read(body: bytes, described: str = "200, application/json") -> Page:
    (page,) = read_parts(body, AccountLabels(), NOW, head=described)
    return page


@pytest.mark.parametrize(
    ("body", "name", "difference"),
    [
        (codecs.BOM_UTF8 + body_of(), "NAME", "a byte order mark"),
        (body_of().replace(b"NAME", b"Caf\xe9"), "Caf\ufffd", "bytes that are not UTF-8"),
        (body_of(total=math.nan), "NAME", "NaN, Infinity or half a character"),
        (body_of(total=-math.inf), "NAME", "NaN, Infinity or half a character"),
        (body_of(remark=[math.nan, math.inf]), "NAME", "NaN, Infinity or half a character"),
        (body_of(name="cut \ud83d"), "cut \ufffd", "NaN, Infinity or half a character"),
        (body_of(name="\ude00 cut"), "\ufffd cut", "NaN, Infinity or half a character"),
        (body_of(name="NaN, Infinity", total=math.inf), "NaN, Infinity", "NaN, Infinity or half a character"),
        (body_of(name="\ud83d\ude00", total=math.inf), "😀", "NaN, Infinity or half a character"),
    ],
    ids=repr,
)
def test_almost_json_is_read_and_the_difference_reported(body: bytes, name: str, difference: str) -> None:
    page = read(body)
    assert [(batch.id, batch.name) for batch in page.batches] == [("fb_1", name), ("fb_2", "OTHER")]
    assert (page.invalid, page.incomplete, page.differences[difference]) == (0, 0, 0)


def test_each_difference_in_a_body_is_reported() -> None:
    body = codecs.BOM_UTF8 + body_of(total=math.nan).replace(b"NAME", b"Caf\xe9")
    assert list(read(body).differences) == [
        "a byte order mark",
        "bytes that are not UTF-8",
        "NaN, Infinity or half a character",
    ]


def test_almost_json_is_read_in_a_large_body_too() -> None:
    body = codecs.BOM_UTF8 + body_of(total=math.nan, remark="x" * AT_ONCE_BYTES).replace(b"NAME", b"Caf\xe9")
    page = read(body)
    assert [batch.id for batch in page.batches] == ["fb_2"]
    assert list(page.problems) == [f"it has more than {AT_ONCE_BYTES} bytes"]


def test_a_batch_id_that_is_not_utf_8_is_refused() -> None:
    page = read(body_of().replace(b"fb_1", b"fb_\xff"))
    assert [batch.id for batch in page.batches] == ["fb_2"]
    assert list(page.problems) == ["it is not UTF-8, so other batches may have the same - at `$.id`"]


def test_nan_counts_as_a_missing_number() -> None:
    """It is inferred if the other counts determine it."""
    counts = RECORD["destinations"]["box"]
    page = read(body_of(destinations={"box": counts | {"failed": math.nan}}))
    assert (page.batches[0].destinations, page.repaired) == (page.batches[1].destinations, 1)
    page = read(body_of(destinations={"box": counts | {"failed": math.nan, "completed": math.inf}}))
    assert (page.batches[0].destinations, page.unreadable) == ({}, {"box": 1})
    assert read(body_of(created_at=math.nan)).invalid == 1


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "it is empty"),
        (b" \r\n ", "it is empty"),
        (b"<!doctype html><title>Sign in</title>", "it is HTML or XML"),
        (b"  \n<html>", "it is HTML or XML"),
        (b'<?xml version="1.0"?>', "it is HTML or XML"),
        (body_of().decode().encode("utf-16"), "it is text in UTF-16 or UTF-32"),
        (body_of().decode().encode("utf-16-be"), "it is text in UTF-16 or UTF-32"),
        (body_of().decode().encode("utf-16-le"), "it is text in UTF-16 or UTF-32"),
        (body_of().decode().encode("utf-32"), "it is text in UTF-16 or UTF-32"),
        (b"404 page not found", "it is text, not a JSON object"),
        (b")]}',\n" + body_of(), "it is text, not a JSON object"),
        (b"null", "it is text, not a JSON object"),
        (json.dumps(SECRET).encode(), "it is text, not a JSON object"),
        (body_of()[:-20], "it is JSON that is cut short"),
        (codecs.BOM_UTF8 + body_of()[:-20], "it is JSON that is cut short"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `items`"),
        (b'{"items": {}}', "Expected `array | null`, got `object` - at `$.items`"),
        (b'{"items": [}', "JSON is malformed: invalid character (byte 11)"),
        (b'{"items": ' + b"[" * 100_000, "maximum recursion depth exceeded while deserializing an object"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_error_for_a_body_that_is_no_page_says_what_it_is(body: bytes, what: str) -> None:
    with pytest.raises(BadResponse) as raised:
        read(body, "200, text/odd")
    assert str(raised.value).startswith(f"page 1 is not a list of batches: {what}")
    assert str(raised.value).endswith(" (200, text/odd)")


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_errors_never_quote_the_body(before: bytes, after: bytes) -> None:
    for body in (before + SECRET.encode() + after, before + json.dumps({SECRET: SECRET}).encode() + after):
        with pytest.raises(BadResponse) as raised:
            read(body)
        assert SECRET not in str(raised.value)
