"""Other spellings of documented values and other encodings of bodies; and relative times in files."""

import base64
import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any, Final

from inkit_exporter.demo import format_time

_TIME = re.compile(r"@([+-]\d+)([smhd])(?: ([\w-]+))?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def with_times(value: Any, now: float) -> Any:
    """A value in which texts like `@-60s` or `@-2h epoch` are replaced by the time that they name."""
    if isinstance(value, dict):
        return {key: with_times(inner, now) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_times(inner, now) for inner in value]
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    return _time(match, now) if match else value


def filled_in(text: str, now: float) -> str:
    """A text with its relative times written out."""
    return _TIME.sub(lambda match: str(_time(match, now)), text)


def _time(match: re.Match[str], now: float) -> Any:
    return SPELLINGS[match[3] or "documented"](format_time(now + int(match[1]) * _UNITS[match[2]]))


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _zoned(hours: float, form: str) -> Callable[[str], str]:
    return lambda text: _moment(text).astimezone(timezone(timedelta(hours=hours))).strftime(form)


def _number(form: Callable[[int], Any]) -> Callable[[Any], Any]:
    """A number in another spelling. Null stays null."""
    return lambda value: None if value is None else form(value)


SPELLINGS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "documented": lambda value: value,
    # Numbers.
    "text": _number(str),
    "float": _number(lambda n: f"<<{n}.0>>"),
    "float-text": _number(lambda n: f"{n}.0"),
    "exponent": _number(lambda n: f"<<{n}e0>>"),
    "exponent-up": _number(lambda n: f"<<{n / 100:.2f}E+2>>"),
    "boolean": lambda value: value is not None,
    "address": _number(lambda n: f"https://api.inkit.com/v1/invoke/batch?page={n}&page_size=10&sort=-created_at"),
    "address-without-size": _number(lambda n: f"https://api.inkit.com/v1/invoke/batch?page={n}"),
    "relative-address": _number(lambda n: f"/v1/invoke/batch?page_size=10&page={n}"),
    "query": _number(lambda n: f"?page={n}"),
    "opaque": _number(lambda n: base64.b64encode(b"after:%d" % n).decode()),
    "empty-text": lambda value: "" if value is None else value,
    "zero": lambda value: 0 if value is None else value,
    "from-zero": _number(lambda n: n - 1),
    # Ids.
    "document-id": lambda text: text.replace("fb_", "rb_"),
    "digits": lambda text: int(text.removeprefix("fb_")),
    # Words.
    "joined": lambda text: text.replace(" ", ""),
    "constant": lambda text: text.replace(" ", "_").upper(),
    "hyphens": lambda text: text.replace(" ", "-").lower(),
    "lower": str.lower,
    # Times.
    "http": lambda text: format_datetime(_moment(text), usegmt=True),
    "epoch": lambda text: _moment(text).timestamp(),
    "epoch-whole": lambda text: int(_moment(text).timestamp()),
    "epoch-text": lambda text: str(_moment(text).timestamp()),
    "epoch-milliseconds": lambda text: int(_moment(text).timestamp() * 1000),
    "east": _zoned(5.5, "%Y-%m-%dT%H:%M:%S.%f+05:30"),
    "west": _zoned(-8, "%Y-%m-%dT%H:%M:%S.%f-08:00"),
    "offset-without-colon": _zoned(2, "%Y-%m-%dT%H:%M:%S.%f+0200"),
    "utc-offset": lambda text: text.replace("Z", "+00:00"),
    "no-zone": lambda text: text.removesuffix("Z"),
    "blank": lambda text: text.replace("T", " "),
    "blank-no-zone": lambda text: text.replace("T", " ").removesuffix("Z"),
    "nanoseconds": lambda text: text.replace("Z", "123Z"),
    "milliseconds": lambda text: text[:-4] + "Z",
    "zone-name": lambda text: f"{text}[UTC]",
    "gmt": lambda text: text.replace("T", " ").replace("Z", " GMT"),
    "blanks-around": lambda text: f" {text} ",
    "no-fraction": lambda text: text.partition(".")[0] + "Z",
}
"""How else a documented value may be written."""

ENCODINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "bom": lambda body: b"\xef\xbb\xbf" + body,
    "utf-16": lambda body: body.decode().encode("utf-16"),
    "latin-1": lambda body: body.decode().encode("latin-1"),
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw-deflate": lambda body: zlib.compress(body, wbits=-15),
    "half": lambda body: body[: len(body) // 2],
}
