"""Structured logs on stderr, as logfmt or JSON. Log records of libraries go there too."""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Final, TextIO

import structlog
from aiohttp.http import HttpProcessingError

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
FORMATS: Final[Mapping[str, structlog.typing.Processor]] = {
    "logfmt": structlog.processors.LogfmtRenderer(key_order=["ts", "level", "msg"], bool_as_flag=False),
    "json": structlog.processors.JSONRenderer(),
}


def configure(level: str, log_format: str) -> None:
    """Set up the logs. Call it once, before the first line."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("msg"),
            _one_line,
            FORMATS[log_format],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_Stderr,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)


class _Stderr:
    """A logger that writes to standard error. If nobody reads it or the disk is full, the line is lost.

    If the journal reads it, each line begins with its syslog priority (sd-daemon(3)). The journal removes it.
    """

    def __init__(self) -> None:
        journal = _is_journal(sys.stderr)
        self.debug, self.info, self.warning, self.error, self.critical = (
            partial(self._write, f"<{priority}>" if journal else "") for priority in (7, 6, 4, 3, 2)
        )

    def _write(self, prefix: str, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{prefix}{line}\n")
            sys.stderr.flush()


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd connected this stream to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    with contextlib.suppress(OSError, ValueError):
        stat = os.fstat(stream.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
    return False


class _ToStructlog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log(record)
        except Exception:  # asyncio logs in its loop, so an error here would end the exporter
            self.handleError(record)

    def _log(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):  # a client's mistake is not our error, and there may be many
            structlog.get_logger().debug("refused a request that is not HTTP", error=type(error).__name__)
            return
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or False
        )


def _one_line(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what would break lines or move a terminal's cursor. It may come from outside, with a batch's id."""
    return {
        key: value
        if isinstance(value, bool | int | float)
        else "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
        for key, value in event.items()
    }
