"""HTTP as the client of any API needs it: a session, bodies within a bound, the times in headers."""

import ssl
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache

import aiohttp

from inkit_exporter import __version__


class BodyError(Exception):
    """A body that is not taken."""


@cache
def authorities() -> ssl.SSLContext:
    """The system's certificate authorities, read once. `__main__` keeps aiohttp from reading them at its import."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


def open_session() -> aiohttp.ClientSession:
    """A session without cookies, and without compression, as the size of what it unfolds to could not be bounded."""
    return aiohttp.ClientSession(
        # An account has one connection in use, at most; a common limit would let some hold up the others.
        connector=aiohttp.TCPConnector(limit=0),
        headers={
            "User-Agent": f"inkit-exporter/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytearray:
    """The body of an answer. Raises BodyError if it has more than `limit` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if max(len(body), response.content_length or 0) > limit:
            response.close()
            raise BodyError(f"the answer is larger than max_response_size ({limit} bytes)")
    return body


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait, from either form of `Retry-After` (RFC 9110, 10.2.3); None if there is no such time."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
