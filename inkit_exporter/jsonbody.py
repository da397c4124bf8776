"""Reads JSON as servers really send it: not quite JSON, or numbers, times and names in other spellings.

Errors quote nothing of a body, as it may hold a token.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Raw

T = TypeVar("T")
Body = bytes | bytearray

DECODE_ERRORS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding may raise. ValueError: a number has too many digits. RecursionError: it is nested too deeply."""

Natural = Annotated[int, Meta(ge=0, le=2**53)]
"""At most 2**53: beyond it, a sample (float64) can't tell neighbouring integers apart."""

_text_decoder = msgspec.json.Decoder(str)
_ZONE_NAME = re.compile(r"\[.*\]$| (UTC|GMT)$")  # Java writes `Z[UTC]`
_NOT_A_NUMBER = re.compile(r"(?<=[\s:,\[])-?(?:NaN|Infinity)(?=\s*[,\]}])")
# Half of a surrogate pair, as at the end of a name that was cut.
_HALF_A_CHARACTER = re.compile(r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F]..)")


def decode(body: Body, decoder: msgspec.json.Decoder[T]) -> tuple[T, Sequence[str]]:
    """The decoded body, and what is odd about it.

    Bytes that are not UTF-8 become U+FFFD, NaN and Infinity become null. Raises one of DECODE_ERRORS.
    """
    text = body.decode("utf-8-sig", errors="replace")
    odd = ["a byte order mark"] if body.startswith(BOM_UTF8) else []
    odd += ["bytes that are not UTF-8"] if "\ufffd" in text else []
    try:
        return decoder.decode(text), odd
    except msgspec.DecodeError:
        cleaned = _HALF_A_CHARACTER.sub(r"\\ufffd", _NOT_A_NUMBER.sub("null", text))
        return decoder.decode(cleaned), [*odd, "NaN, Infinity or half a character"]


def explain(body: Body, error: Exception) -> str:
    """Say what a body is, given the error of decoding it."""
    head = body[:1000].lstrip()
    if not head:
        return "it is empty"
    if b"\0" in head[:4]:
        return "it is text in UTF-16 or UTF-32"
    if head.startswith(b"<"):
        return "it is HTML or XML"
    if not head.startswith((b"{", b"[", BOM_UTF8)):
        return "it is text, not a JSON object"
    return "it is JSON that is cut short" if "truncated" in str(error) else str(error)


def whole_number(value: object) -> int | None:
    """A number from 0 to 2**53 in any spelling: `2`, `2.0`, `"2"`, `1e2`. None for everything else, also booleans."""
    try:
        number: int = msgspec.convert(value.strip() if isinstance(value, str) else value, Natural, strict=False)
        return number
    except msgspec.ValidationError:
        return None


@lru_cache(maxsize=1024)
def snake_case(text: str) -> str:
    """Lower case, with an underscore for all between letters and digits: `In Progress` → `in_progress`."""
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_") or "unknown"


def snake_case_of_camel(text: str) -> str:
    """The same, where a capital letter begins a new word: `InProgress` → `in_progress`."""
    return snake_case(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text))


def read_text(raw: Raw) -> str:
    """A text. Empty for everything else, even for a number that is too large to decode."""
    try:
        return _text_decoder.decode(raw)
    except DECODE_ERRORS:
        return ""


def read_time(value: str | float, place: str) -> datetime:
    """A time with any offset or none, or in seconds since the epoch. Raises ValidationError, which names the place."""
    try:
        return msgspec.convert(value, datetime, strict=False)
    except msgspec.ValidationError:
        text = _ZONE_NAME.sub("", str(value).strip())
    try:
        return datetime.fromisoformat(text if ":" in text else "")
    except ValueError:
        raise msgspec.ValidationError(f"it is not a time - at `{place}`") from None
