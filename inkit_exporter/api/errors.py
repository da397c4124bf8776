"""The kinds of failed requests, and which HTTP status means which kind. No I/O, no clock."""

from typing import ClassVar, Final


class ApiError(Exception):
    """A failed request. `reason` is the kind of failure, as in `inkit_poll_failures_total`."""

    reason: ClassVar[str]


class AuthError(ApiError):
    """401 or 403, or no token to send."""

    reason = "auth"


class TransientError(ApiError):
    """A failure that may pass. `retry_after` is how many seconds the API asks to wait, if it says so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(TransientError):
    """429."""

    reason = "rate_limited"


class ServerError(TransientError):
    """5xx."""

    reason = "server_error"


class RequestTimeout(TransientError):
    """No complete answer in time."""

    reason = "timeout"


class ConnectionFailed(TransientError):
    """Refused, reset, cut short, no such host, TLS failure."""

    reason = "connection"


class BadResponse(ApiError):
    """An answer that does not fit the API's documentation."""

    reason = "bad_response"


class PageRefused(BadResponse):
    """404, or 400 or 422 (`QueryRefused`): perhaps the page does not exist."""


class QueryRefused(PageRefused):
    """400 or 422. `words` are the server's own."""

    def __init__(self, message: str, words: str = "") -> None:
        super().__init__(message)
        self.words = words


REASONS: Final = tuple(
    kind.reason for kind in (AuthError, RateLimited, RequestTimeout, ConnectionFailed, ServerError, BadResponse)
)


def check_status(status: int, retry_after: float | None, *, worked_before: bool) -> None:
    """Raise the error for an HTTP status; none for 200 and 204. `retry_after` is in seconds."""
    if status in (200, 204):
        return
    answered = f"the API answered {status}"
    match status:
        case 401:
            raise AuthError(f"{answered}: the API key is not accepted; check the account's token")
        case 403 if worked_before:
            suspects = "a firewall or rate limiter may refuse the exporter, or the key's role was changed"
            raise AuthError(f"{answered}, although it accepted earlier requests: {suspects}")
        case 403:
            raise AuthError(f"{answered}: the key's role lacks the permission to list batches")
        case 404:
            raise PageRefused(f"{answered}: it has nothing at this address; check base_url")
        case 400 | 422:
            raise QueryRefused(f"{answered}: it refuses the query")
        case 429:
            raise RateLimited(f"{answered}: the account is over its rate limit", retry_after)
        case _ if 300 <= status < 400:  # noqa: PLR2004
            raise BadResponse(f"{answered}: a redirect; the exporter follows none, check base_url")
        case _ if status >= 500:  # noqa: PLR2004
            raise ServerError(f"{answered}: an error on the API's side", retry_after)
    raise BadResponse(f"{answered} instead of 200; check base_url")
