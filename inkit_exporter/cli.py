"""The command line."""

import argparse
from pathlib import Path
from typing import Final

from inkit_exporter import __version__, logs
from inkit_exporter.config import Shard
from inkit_exporter.web import limits

PROGRAM: Final = "inkit-exporter"
DEFAULT_ADDRESS: Final = ":10465"


def parse_address(text: str) -> tuple[str | None, int]:
    """`[HOST]:PORT` as host and port; no host stands for all interfaces. Raises ArgumentTypeError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not [HOST]:PORT, like :10465 or 127.0.0.1:10465")
    return host.removeprefix("[").removesuffix("]") or None, int(port)


def _shard(text: str) -> Shard:
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The command line, with every flag's help."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Prometheus exporter for Inkit's workflow batches.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--config.file", dest="config_file", type=Path, metavar="PATH", help="YAML; see config.example.yaml")
    add("--config.check", dest="config_check", action="store_true", help="check the configuration files and exit")
    add("--once", action="store_true", help="poll every account once, print the metrics, and exit")
    add("--demo", action="store_true", help="export a simulated Inkit API: no key, no configuration")
    add("--demo.seed", dest="demo_seed", type=int, default=1, metavar="N", help="which simulated days (default 1)")
    add(
        "--web.listen-address",
        dest="web_listen_address",
        type=parse_address,
        action="append",
        metavar="[HOST]:PORT",
        help=f"where to serve; repeatable (default {DEFAULT_ADDRESS})",
    )
    add(
        "--web.telemetry-path", dest="web_telemetry_path", default="/metrics", metavar="PATH", help="(default /metrics)"
    )
    add(
        "--web.config.file",
        dest="web_config_file",
        type=Path,
        metavar="PATH",
        help="TLS and basic auth; see docs/web-configuration.md",
    )
    add("--web.enable-lifecycle", dest="web_enable_lifecycle", action="store_true", help="allow POST /-/reload")
    add(
        "--web.max-requests",
        dest="web_max_requests",
        type=_natural,
        default=limits.DEFAULT_REQUESTS,
        metavar="N",
        help=f"answered at a time; 0 for no limit (default {limits.DEFAULT_REQUESTS})",
    )
    add(
        "--web.max-connections",
        dest="web_max_connections",
        type=_natural,
        default=limits.DEFAULT_CONNECTIONS,
        metavar="N",
        help=f"beyond, the oldest is closed; 0 for no limit (default {limits.DEFAULT_CONNECTIONS})",
    )
    add(
        "--shard",
        type=_shard,
        default=Shard(),
        metavar="I/N",
        help="own only the accounts on shard I, from 0, of N (default 0/1, all)",
    )
    add("--log.level", dest="log_level", choices=logs.LEVELS, default="info", help="(default info)")
    add("--log.format", dest="log_format", choices=logs.FORMATS, default="logfmt", help="(default logfmt)")
    add("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser
