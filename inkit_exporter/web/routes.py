"""Routes: which handler answers which request. Also the kinds of answers that every exporter has."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Final

from aiohttp import hdrs, web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

READ: Final[Sequence[str]] = (hdrs.METH_GET, hdrs.METH_HEAD)
POST: Final[Sequence[str]] = (hdrs.METH_POST,)

_GZIP = re.compile(r"\s*gzip\s*(;\s*q\s*=\s*(?!0(\.0*)?\s*$)[^;]*)?")


def route(routes: Mapping[str, tuple[Sequence[str], Handler]]) -> Handler:
    """Make a handler of several, by path (without percent-encoding) and method. It answers 404 or 405 if none matches.

    Pages of other sites may only read, because browsers send the user's password with their requests.
    aiohttp's `Application` routes too, but takes longer for a scrape.
    """

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if (found := routes.get(request.path)) is None:
            return web.Response(status=404, text="not found\n")
        methods, handler = found
        if request.method not in methods:
            return web.Response(status=405, text="method not allowed\n", headers={hdrs.ALLOW: ", ".join(methods)})
        if request.method not in READ and _is_cross_site(request.headers):
            return web.Response(status=403, text="requests from other sites' pages are refused\n")
        return await handler(request)

    return answer


def _is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sent a request for a page of another site. Clients other than browsers send neither header."""
    if (site := headers.get("Sec-Fetch-Site")) is not None:
        return site not in ("same-origin", "none")
    origin = headers.get(hdrs.ORIGIN)
    return origin is not None and origin.partition("://")[2].lower() != headers.get(hdrs.HOST, "").lower()


def accepts_gzip(request: web.BaseRequest) -> bool:
    """Whether `Accept-Encoding` names gzip without the weight `q=0` (RFC 9110, 12.5.3)."""
    codings = ",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])).lower()
    return any(_GZIP.fullmatch(coding) for coding in codings.split(","))


def probe(good: Callable[[], bool], condition: str, problem: str) -> Handler:
    """Make a handler for a probe: it answers 200 with the condition, or 503 with the problem."""

    async def answer(_: web.BaseRequest) -> web.Response:
        if good():
            return web.Response(text=f"{condition}\n")
        return web.Response(status=503, text=f"not {condition}: {problem}\n")

    return answer


def document(
    request: web.BaseRequest,
    body: bytes,
    content_type: str,
    executor: Executor,
    policy: str = "default-src 'none'; frame-ancestors 'none'",
) -> web.Response:
    """Make an answer for browsers: with security headers, not cached, and compressed if the client accepts gzip.

    The executor compresses all but small bodies. The policy is the header `Content-Security-Policy`: by default, the
    document may load and run nothing.
    """
    headers = {
        hdrs.CONTENT_TYPE: content_type,
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        hdrs.CACHE_CONTROL: "no-store",
    }
    response = web.Response(body=body, headers=headers, zlib_executor=executor)
    if accepts_gzip(request):
        response.enable_compression(web.ContentCoding.gzip)
    return response
