"""Reads JSON as servers really send it: with mistakes, or with numbers, times and names in other spellings.

Errors never quote a body, because it may contain a token.
"""

import re
from codecs import BOM_UTF8, getincrementaldecoder
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Raw

T = TypeVar("T")
Body = bytes | bytearray

DECODE_ERRORS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding may raise. ValueError: a number has too many digits. RecursionError: it is nested too deeply."""

Natural = Annotated[int, Meta(ge=0, le=2**53)]
"""At most 2**53: beyond it, a sample (float64) can't tell neighbouring integers apart."""

_ZONE_NAME = re.compile(r"\[.*\]$| (UTC|GMT)$")  # Java writes `Z[UTC]`
# What JSON may not have. Each pattern begins with plain text, because Python then searches 20 times faster where that
# text is missing.
_NO_NUMBERS = [rf"{word}(?<=[\s:,\[]{word})(?=\s*[,\]}}])" for word in ("-Infinity", "Infinity", "-NaN", "NaN")]
# Of a surrogate pair, as where a name was cut.
_HALF_A_PAIR = r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F]..)"
_REPAIRS = [*((pattern, "null") for pattern in _NO_NUMBERS), (_HALF_A_PAIR, r"\\ufffd")]

# More would take over 20 ms, in which no scrape is answered. A body with more is not worth it.
_MOST_REPAIRS = 50_000
_PART_BYTES = 2**18
_HEAD_BYTES = 1000
_REPLACED = "\ufffd".encode()


def decode(body: Body, decoder: msgspec.json.Decoder[T]) -> tuple[T, Sequence[str]]:
    """The decoded body, and what is odd about it.

    Bytes that are not UTF-8 become U+FFFD, NaN and Infinity become null. Where that is needed, it also changes texts:
    `"a, NaN, b"` becomes `"a, null, b"`. Raises one of DECODE_ERRORS, which says what the body is if it is not JSON.
    """
    _check_head(body[:_HEAD_BYTES].lstrip())
    odd = ["a byte order mark"] if body.startswith(BOM_UTF8) else []
    text = _as_utf8(body.removeprefix(BOM_UTF8))
    odd += ["bytes that are not UTF-8"] if _REPLACED in text else []
    try:
        return decoder.decode(text), odd
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            raise msgspec.DecodeError("it is JSON that is cut short") from None
        if any(_is_often(word, text) for word in (b"NaN", b"Infinity", rb"\\u")):
            raise
    repaired = text.decode()
    for pattern, replacement in _REPAIRS:
        repaired = re.sub(pattern, replacement, repaired)
    return decoder.decode(repaired), [*odd, "NaN, Infinity or half a character"]


def _check_head(head: Body) -> None:
    """Raise DecodeError, which says what a body is, if it does not begin like JSON."""
    if not head:
        raise msgspec.DecodeError("it is empty")
    if b"\0" in head[:4]:
        raise msgspec.DecodeError("it is text in UTF-16 or UTF-32")
    if head.startswith(b"<"):
        raise msgspec.DecodeError("it is HTML or XML")
    if not head.startswith((b"{", b"[", BOM_UTF8)):
        raise msgspec.DecodeError("it is text, not a JSON object")


def _is_often(pattern: bytes, text: Body) -> bool:
    return next(islice(re.finditer(pattern, text), _MOST_REPAIRS, None), None) is not None


def _as_utf8(body: Body) -> Body:
    """The body itself if it is UTF-8, else with U+FFFD for what is not."""
    with suppress(UnicodeDecodeError):
        if body.isascii() or body.decode():
            return body
    decoder, parts, bad = getincrementaldecoder("utf-8")("replace"), [], 0
    for start in range(0, len(body), _PART_BYTES):
        end = start + _PART_BYTES
        parts.append(decoder.decode(body[start:end], end >= len(body)).encode())
        bad += parts[-1].count(_REPLACED)
        if bad > _MOST_REPAIRS:
            raise msgspec.DecodeError("it is not UTF-8 text")
    return b"".join(parts)


def whole_number(value: object) -> int | None:
    """A number from 0 to 2**53 in any spelling: `2`, `2.0`, `"2"`, `1e2`. None for everything else, also booleans."""
    try:
        number: int = msgspec.convert(value.strip() if isinstance(value, str) else value, Natural, strict=False)
        return number
    except msgspec.ValidationError:
        return None


@lru_cache(maxsize=1024)
def snake_case(text: str) -> str:
    """The text in lower case, with underscores between its words: `In Progress` → `in_progress`."""
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_") or "unknown"


def snake_case_of_camel(text: str) -> str:
    """The same, but a capital letter also begins a new word: `InProgress` → `in_progress`."""
    return snake_case(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text))


def read_text(raw: Raw, kind: type[str]) -> str:
    """A text of that kind. Empty for everything else, even for a number that is too large to decode."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except DECODE_ERRORS:
        return ""


def read_time(value: str | float, place: str) -> datetime:
    """A time with any offset or none (UTC), or in seconds since the epoch.

    Raises ValidationError, which names the place.
    """
    text = _ZONE_NAME.sub("", str(value).strip().upper())
    try:
        time = datetime.fromisoformat(text) if ":" in text else datetime.fromtimestamp(float(text), UTC)
    except (ValueError, OverflowError, OSError):
        raise msgspec.ValidationError(f"it is not a time - at `{place}`") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
