"""The status page: page.html with each account's health in it, as browsers without JavaScript show it."""

import re
import time
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Final

from inkit_exporter.status.report import AccountStatus, Status


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """The text of an element, as the Content-Security-Policy names it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_STYLE: Final = _read("page.css")
_SCRIPT: Final = _read("page.js")
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
"""The page may use its own style and script, and ask the exporter for data; nothing else."""


def render(status: Status, telemetry_path: str) -> str:
    """The page as HTML; every text in it is escaped."""
    health, verdict = _verdict(status.accounts)
    texts = {
        "version": escape(status.version),
        "time": time.strftime("%H:%M:%S UTC", time.gmtime(status.timestamp_seconds)),
        "health": health,
        "verdict": verdict,
        "accounts": "\n".join(_row(account, status.timestamp_seconds) for account in status.accounts),
        "metrics": escape(telemetry_path),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: texts[place[1]], _TEMPLATE)


def _verdict(accounts: Sequence[AccountStatus]) -> tuple[str, str]:
    down = sum(account.up is False for account in accounts)
    if down:
        return "down", f"Accounts down: {down} of {len(accounts)}"
    if not all(account.up for account in accounts) or not accounts:
        return "unknown", "Not every account has been polled yet" if accounts else "No account is polled here"
    if failing := sum(account.window.failing_batches for account in accounts if account.window):
        return "unknown", f"Batches failing: {failing}"
    return "up", "Every account is polled without errors"


def _row(account: AccountStatus, now: float) -> str:
    state = "unknown" if account.up is None else "up" if account.up else "down"
    health = {"unknown": "… not polled yet", "up": "✔ up", "down": f"✖ down: {account.reason}"}[state]
    polled, following = account.last_poll_timestamp_seconds, account.next_poll_timestamp_seconds
    cells = (
        ("Health", health, account.error),
        ("Last poll", "-" if polled is None else f"{_span(now - polled)} ago", _last_success(account, now)),
        ("Cost", "-" if account.poll_requests is None else f"requests: {account.poll_requests}", None),
        ("Next poll", "polling now" if account.polling else f"in {_span(following - now)}" if following else "-", None),
        ("Recent batches", *_window(account)),
    )
    return (
        f'<tr class="{state}"><th scope="row" data-label="Account">{escape(account.account)}</th>'
        + "".join(_cell(*cell) for cell in cells)
        + "</tr>"
    )


def _cell(label: str, text: str, note: str | None) -> str:
    style = ' class="health"' if label == "Health" else ""
    small = f"<small>{escape(note)}</small>" if note else ""
    return f'<td data-label="{label}"><div><span{style}>{escape(text)}</span>{small}</div></td>'


def _last_success(account: AccountStatus, now: float) -> str | None:
    if account.up is not False:
        return None
    success = account.last_successful_poll_timestamp_seconds
    return "none succeeded yet" if success is None else f"last success {_span(now - success)} ago"


def _window(account: AccountStatus) -> tuple[str, str | None]:
    window = account.window
    if window is None:
        return "-", None
    stale = f"; stale, as of {_span(window.age_seconds)} ago" if window.stale else ""
    return str(window.batches), f"{window.failing_batches} failing, {window.unfinished_batches} unfinished{stale}"


def _span(seconds: float) -> str:
    minutes, seconds = divmod(max(0, int(seconds)), 60)  # the clock may have been set back
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes > 1 else f"{minutes * 60 + seconds} s"
