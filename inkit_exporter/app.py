"""Command line and composition root: what is built of what, started and stopped."""

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import stamina
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from inkit_exporter import __version__, config, demo, logs, web
from inkit_exporter.client import Client, open_session
from inkit_exporter.config import AccountSettings, ApiSettings, ConfigError, PollSettings, Seconds, Settings, Shard
from inkit_exporter.metrics import REVISION_ENV, AccountMeter, Instruments, SnapshotCollector, make_registry
from inkit_exporter.poller import AccountState, Poller

DEFAULT_ADDRESS: Final = ":10465"
PROGRAM: Final = "inkit-exporter"

# The first polls of several accounts follow one another at this distance, or closer so that all fit in one interval.
_SPREAD_SECONDS = 1.0
_OWN_PATHS = frozenset({"/", "/api/v1/status", "/-/healthy", "/-/ready", "/-/reload"})

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; once the exporter has run, this ends the process itself.

    The exit status is 0 if fine, 1 for a failed check or poll, 2 for bad usage or configuration.
    """
    options = make_parser().parse_args(arguments)
    try:
        _refuse_what_is_not_there(options)
        if options.config_check:
            return _check(options.config_file)
        settings = _settings(options)
    except ConfigError as error:
        return _complain(error)
    logs.configure(options.log_level, options.log_format)
    stamina.instrumentation.set_on_retry_hooks([])  # the client's own logs and metrics tell of each attempt
    runner = asyncio.Runner()
    try:
        status = runner.run(_once(settings, options) if options.once else _serve(settings, options))
        sys.stdout.flush()
    except ConfigError as error:
        status = _complain(error)
    except BrokenPipeError:  # whoever reads the output has had enough
        status = 1
    except KeyboardInterrupt:
        status = 1 if options.once else 0
    # Not a plain return: a name look-up that hangs in its thread can't be cancelled, and would hold up the exit.
    os._exit(status)


async def _serve(settings: Settings, options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    async with AsyncExitStack() as stack:
        environ: Mapping[str, str] = os.environ
        if options.demo:
            settings, environ = await stack.enter_async_context(_demo(options.demo_seed))
        registry = make_registry(options.shard)
        pollers = await stack.enter_async_context(_pollers(settings, options.shard, environ, registry))
        loops = _start_loops(pollers)
        app = web.make_app(
            registry,
            telemetry_path=options.web_telemetry_path,
            healthy=lambda: not any(loop.done() for loop in loops),
            ready=lambda: all(poller.state.up is not None for poller in pollers),
            status=lambda: _status(pollers),
        )
        try:
            runner, addresses = await web.start(app, options.web_listen_address or [parse_address(DEFAULT_ADDRESS)])
        except OSError as error:
            raise ConfigError(f"--web.listen-address: {error.strerror or error}; choose another or free it") from None
        finally:
            stack.push_async_callback(_stop_loops, loops)
        stack.push_async_callback(runner.cleanup)
        log.info(
            "started",
            version=__version__,
            revision=os.environ.get(REVISION_ENV, "unknown"),
            accounts=",".join(poller.state.account for poller in pollers),
            addresses=",".join(addresses),
            telemetry_path=options.web_telemetry_path,
        )
        if options.demo:
            _tell_of_demo(addresses, options.web_telemetry_path)
        await stop.wait()
        log.info("stopping")
    return 0


async def _once(settings: Settings, options: argparse.Namespace) -> int:
    registry = make_registry(options.shard)
    async with _pollers(settings, options.shard, os.environ, registry) as pollers:
        succeeded = await asyncio.gather(*(poller.poll() for poller in pollers))
        sys.stdout.write(generate_latest(registry).decode())
    return 0 if all(succeeded) else 1


@asynccontextmanager
async def _pollers(
    settings: Settings, shard: Shard, environ: Mapping[str, str], registry: CollectorRegistry
) -> AsyncIterator[list[Poller]]:
    """A poller for every account of the shard, and their metrics in the registry."""
    accounts = [account for account in settings.accounts if shard.owns(account.name)]
    for i, account in enumerate(settings.accounts):
        if account.api_token_env and account in accounts:
            try:
                config.read_token(account, environ)
            except ConfigError as error:
                raise ConfigError(f"accounts[{i}].api_token_env: {error}") from None
    instruments = Instruments(registry)
    async with open_session() as session:
        pollers = []
        for account in accounts:
            meter = AccountMeter(instruments, account.name)
            client = Client(
                account,
                settings.api,
                page_size=settings.poll.page_size,
                patience=settings.poll.interval,
                token=partial(config.read_token, account, environ),
                session=session,
                meter=meter,
            )
            pollers.append(Poller(account, settings.poll, client, meter))
        registry.register(SnapshotCollector(lambda: [poller.state for poller in pollers]))
        yield pollers


def _start_loops(pollers: Sequence[Poller]) -> list[asyncio.Task[None]]:
    loops = []
    for i, poller in enumerate(pollers):
        first_after = i * min(_SPREAD_SECONDS, poller.state.interval / len(pollers))
        loops.append(asyncio.create_task(poller.run(first_after), name=poller.state.account))
    return loops


async def _stop_loops(loops: Sequence[asyncio.Task[None]]) -> None:
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


@asynccontextmanager
async def _demo(seed: int) -> AsyncIterator[tuple[Settings, Mapping[str, str]]]:
    """The simulated API on loopback, with settings and environment that lead to it."""
    token = secrets.token_urlsafe(16)
    day = demo.day(seed, started_at=time.time())
    api = demo.make_api(lambda: day(time.time()), token=token, requests_per_minute=300)
    async with demo.serve_api(api) as base_url:
        account = AccountSettings(name="demo", api_token_env=config.DEFAULT_TOKEN_ENV, base_url=base_url)
        settings = Settings(
            accounts=(account,),
            poll=PollSettings(interval=Seconds(2), lookback=Seconds(3600), stale_after=Seconds(30)),
            api=ApiSettings(requests_per_minute=300),
        )
        yield settings, {config.DEFAULT_TOKEN_ENV: token}


def _tell_of_demo(addresses: Sequence[str], telemetry_path: str) -> None:
    port = addresses[0].rpartition(":")[2]
    print(
        f"""
The exporter polls a simulated Inkit API, where a day's work takes ten minutes.
  Metrics      http://localhost:{port}{telemetry_path}
  Status page  http://localhost:{port}/
Your own account:  INKIT_API_TOKEN=<key> python exporter.py        (end this with Ctrl-C)
""",
        flush=True,
    )


def _status(pollers: Sequence[Poller]) -> web.Status:
    return web.Status("Inkit exporter", __version__, [_account_row(poller.state) for poller in pollers])


def _account_row(state: AccountState) -> Mapping[str, object]:
    now = time.time()
    return {
        "account": state.account,
        "up": state.up,
        "reason": state.reason,
        "error": state.error,
        "last_poll_seconds_ago": state.polled_at and now - state.polled_at,
        "last_success_seconds_ago": now - state.last_success if state.last_success else None,
        "poll_duration_seconds": state.duration,
        "poll_requests": state.requests,
    }


def _settings(options: argparse.Namespace) -> Settings:
    if options.demo and (options.config_file or options.once):
        raise ConfigError(
            "--demo brings its own configuration and runs until stopped; leave out --config.file and --once"
        )
    if options.web_telemetry_path in _OWN_PATHS or not options.web_telemetry_path.startswith("/"):
        raise ConfigError(
            f"--web.telemetry-path={options.web_telemetry_path}: must begin with / and be no other endpoint"
        )
    if options.config_file:
        return config.load(options.config_file)
    settings = config.default_settings()
    if not options.demo and not os.environ.get(config.DEFAULT_TOKEN_ENV):
        raise ConfigError(
            f"no account: set {config.DEFAULT_TOKEN_ENV} to an API token, or name a file with --config.file, "
            "or try --demo, which needs neither"
        )
    return settings


def _check(path: Path | None) -> int:
    if path is None:
        raise ConfigError("--config.check: name the file to check with --config.file")
    try:
        settings = config.load(path)
    except ConfigError as error:
        _complain(error)
        return 1
    for i, account in enumerate(settings.accounts):
        try:
            config.read_token(account, os.environ)
        except ConfigError as error:
            print(f"{path}: accounts[{i}]: warning: {error}", file=sys.stderr)
    print(f"{path}: ok, accounts: {', '.join(account.name for account in settings.accounts)}")
    return 0


def _complain(error: ConfigError) -> int:
    print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _refuse_what_is_not_there(options: argparse.Namespace) -> None:
    for flag, value in (
        ("--web.config.file", options.web_config_file),
        ("--web.enable-lifecycle", options.web_enable_lifecycle),
    ):
        if value:
            raise ConfigError(f"{flag}: is not supported by version {__version__}; leave it out")


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


def make_parser() -> argparse.ArgumentParser:
    """The command line, with every flag's help."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Prometheus exporter for Inkit's workflow batches.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--config.file", dest="config_file", type=Path, metavar="PATH", help="YAML; see config.example.yaml")
    add("--config.check", dest="config_check", action="store_true", help="check the configuration file and exit")
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
    add("--web.config.file", dest="web_config_file", type=Path, metavar="PATH", help="not supported yet")
    add("--web.enable-lifecycle", dest="web_enable_lifecycle", action="store_true", help="not supported yet")
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
