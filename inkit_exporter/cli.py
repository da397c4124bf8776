"""The command line: flags, checks of the configuration, and errors in one line."""

import argparse
import os
import re
import sys
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NoReturn

from inkit_exporter import __version__, config, logs
from inkit_exporter.config import Settings, Shard
from inkit_exporter.errors import ConfigError
from inkit_exporter.web import limits

PROGRAM: Final = "inkit-exporter"
DEFAULT_ADDRESS: Final = ":10465"


def parse_address(text: str) -> tuple[str | None, int]:
    """`[HOST]:PORT` as host and port; no host means all interfaces. Raises ArgumentTypeError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not [HOST]:PORT, like :10465 or 127.0.0.1:10465")
    return host.removeprefix("[").removesuffix("]") or None, int(port)


def parse_shard(text: str) -> Shard:
    """`I/N` as a shard. Raises ArgumentTypeError unless 0 <= I < N."""
    match = re.fullmatch(r"(?a)(\d{1,6})/(\d{1,6})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N-1, like 0/3")
    return Shard(int(match[1]), int(match[2]))


def _directory(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a directory, or leave the flag out")
    return Path(text)


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the list of all flags."""

    def error(self, message: str) -> NoReturn:
        remedy = "--help lists all flags"
        if message.startswith("unrecognized") and not re.search(r": -| -", message):
            remedy = "files are named with --config.file=PATH and --web.config.file=PATH"
        self.exit(2, f"{self.prog}: {message}; {remedy}\n")


def make_parser() -> argparse.ArgumentParser:
    """The command line, with every flag's help."""
    parser = _Parser(
        prog=PROGRAM,
        usage="%(prog)s [FLAG ...]",
        description="Prometheus exporter for Inkit's batches.",
        epilog="https://github.com/inkit-exporter/inkit-exporter has the documentation.",
        allow_abbrev=False,
    )

    def flag(name: str, text: str, **how: Any) -> None:
        """`--a.b-c` becomes the attribute `a_b_c`."""
        default = " (default %(default)s)" if "default" in how else ""
        parser.add_argument(name, help=text + default, dest=re.sub("[.-]", "_", name[2:]), **how)

    path, number = {"type": Path, "metavar": "PATH"}, {"type": _natural, "metavar": "N"}
    flag(
        "--config.file",
        f"the configuration, in YAML, see config.example.yaml; without it, one account, with the token from "
        f"{config.DEFAULT_TOKEN_ENV}",
        **path,
    )
    flag("--config.check", "check the files of --config.file and --web.config.file, and exit", action="store_true")
    flag("--once", "poll every account once, print the metrics, and exit", action="store_true")
    flag("--demo", "export a simulated Inkit API: no key, no configuration", action="store_true")
    flag("--demo.seed", "seed of the simulated days: the same number gives the same days", default=1, **number)
    flag(
        "--storage.path",
        "directory to keep totals and recent batches in, so that a restart loses nothing",
        type=_directory,
        metavar="DIR",
    )
    flag(
        "--web.listen-address",
        f"address to serve on; repeatable (default {DEFAULT_ADDRESS})",
        action="append",
        type=parse_address,
        metavar="[HOST]:PORT",
    )
    flag("--web.systemd-socket", "serve only on the sockets that systemd passes", action="store_true")
    flag("--web.telemetry-path", "path of the metrics", default="/metrics", metavar="PATH")
    flag("--web.config.file", "TLS and passwords, see docs/web-configuration.md", **path)
    flag("--web.enable-lifecycle", "let POST /-/reload reload the configuration", action="store_true")
    requests, connections = limits.DEFAULT_REQUESTS, limits.DEFAULT_CONNECTIONS
    flag("--web.max-requests", "requests to answer at the same time; 0 for no limit", default=requests, **number)
    flag("--web.max-connections", "connections to hold open; 0 for no limit", default=connections, **number)
    flag(
        "--shard",
        "poll only one of N shares of the accounts; I is from 0 to N-1",
        type=parse_shard,
        default="0/1",
        metavar="I/N",
    )
    flag("--log.level", "lowest level to log", choices=logs.LEVELS, default="info")
    flag("--log.format", "format of log lines", choices=logs.FORMATS, default="logfmt")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def load_settings(options: argparse.Namespace) -> Settings:
    """The configuration that the command line names. Raises ConfigError, also for flags that exclude one another."""
    if options.demo:
        if options.config_file or options.once:
            flags = "--config.file and --once"
            raise ConfigError(f"--demo brings its own configuration and runs until stopped; leave out {flags}")
        return config.DEFAULT_SETTINGS
    if options.config_file:
        return config.load(options.config_file, options.shard)
    if not os.environ.get(config.DEFAULT_TOKEN_ENV):
        raise ConfigError(
            f"no account: set {config.DEFAULT_TOKEN_ENV} to an API token, or name a file with --config.file, "
            "or try --demo, which needs neither"
        )
    return config.share(config.DEFAULT_SETTINGS, options.shard)


def check(path: Path | None, web_path: Path | None) -> int:
    """Check the configuration files, and print what is wrong. Returns the exit status: 0 if all are right, else 1."""
    if path is None and web_path is None:
        raise ConfigError("--config.check: name the file to check with --config.file, or --web.config.file")
    failed = 0
    for named, check in ((path, _check_settings), (web_path, _check_web_config)):
        try:
            if named:
                check(named)
        except ConfigError as error:
            complain(error)
            failed = 1
    return failed


def _check_settings(path: Path) -> None:
    settings = config.load(path)
    for i, account in enumerate(settings.accounts):
        try:
            config.read_token(account, os.environ)
        except ConfigError as error:
            print(f"{path}: accounts[{i}]: warning: {error}", file=sys.stderr)
    print(f"{path}: ok, accounts: {', '.join(account.name for account in settings.accounts)}")


def _check_web_config(path: Path) -> None:
    from inkit_exporter.web.toolkit.config import load  # noqa: PLC0415 - only now, as app.py does

    web_config = load(path)
    for user in web_config.slow_users:
        print(f"{path}: basic_auth_users.{user}: warning: takes long to check; use cost 10", file=sys.stderr)
    print(f"{path}: ok, protected by: {', '.join(sorted(web_config.protections)) or 'nothing'}")


def prepare_output() -> None:
    """Write UTF-8 whatever the locale says. What goes to a closed stream is dropped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def complain(problem: ConfigError | str) -> None:
    """Print what is wrong in one line."""
    with suppress(OSError):  # as on a full disk
        print(f"{PROGRAM}: {problem}", file=sys.stderr, flush=True)


def print_demo(url: str, telemetry_path: str) -> None:
    """Print what the demo shows, and where."""
    print(
        f"""
The exporter polls a simulated Inkit API. There, a whole day passes in ten minutes.
  Status page  {url}/
  Metrics      {url}{telemetry_path}
Ctrl-C ends the exporter. To export your own account instead, with the token in a file:
  INKIT_API_TOKEN=$(cat PATH_OF_THE_TOKEN) {" ".join(sys.orig_argv[: 1 - len(sys.argv)])}
""",
        flush=True,
    )
