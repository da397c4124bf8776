"""The status page: page.html with its style, its scripts as one, and the report that they draw."""

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Final

from msgspec import json

from inkit_exporter.status.report import Status


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _source(text: str) -> str:
    """The hash by which the Content-Security-Policy allows the text of an element."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_STYLE: Final = _read("page.css")
_SCRIPT: Final = "".join(map(_read, ("elements.js", "rows.js", "page.js")))
_TEMPLATE: Final = _read("page.html").replace("{{style}}", _STYLE).replace("{{script}}", _SCRIPT)

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "connect-src 'self'",
        "img-src data:",
        f"script-src {_source(_SCRIPT)}",
        f"style-src {_source(_STYLE)}",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""The page may use its own style and script, and ask the exporter for data. It may do nothing else."""


def render(report: Status, telemetry_path: str) -> str:
    """The page as HTML. It contains the report as JSON, with the characters of markup escaped."""
    text = json.encode(report).decode()
    for character in "<>&\u2028\u2029":  # they have a meaning in HTML or JavaScript
        text = text.replace(character, f"\\u{ord(character):04x}")
    texts = {"version": escape(report.version), "metrics": escape(telemetry_path), "report": text}
    return re.sub(r"\{\{(\w+)\}\}", lambda place: texts[place[1]], _TEMPLATE)
