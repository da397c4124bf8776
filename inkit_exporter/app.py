"""The composition root: what is built of what, started, reloaded and stopped."""

import argparse
import asyncio
import gc
import os
import re
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import stamina
import structlog
from yarl import URL

from inkit_exporter import __version__, config, demo, logs
from inkit_exporter.api.client import open_session
from inkit_exporter.cli import DEFAULT_ADDRESS, PROGRAM, make_parser, parse_address
from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Seconds, Settings, Shard
from inkit_exporter.errors import ConfigError
from inkit_exporter.metrics.exposition import TEXT, Exposition
from inkit_exporter.metrics.families import REVISION, ProcessMetrics
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.status.report import make_status
from inkit_exporter.web import server as web
from inkit_exporter.web.limits import limit_requests
from inkit_exporter.web.toolkit import config as webconfig
from inkit_exporter.web.toolkit.guard import LiveWebSettings, protect

_OWN_PATHS = frozenset({"/", "/api/v1/status", "/-/healthy", "/-/ready", "/-/reload"})

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; once the exporter has run, this ends the process itself.

    The exit status is 0 if fine, 1 for a failed check or poll, 2 for bad usage or configuration.
    """
    options = make_parser().parse_args(arguments)
    try:
        if options.config_check:
            return _check(options.config_file, options.web_config_file)
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
    live = LiveWebSettings(options.web_config_file) if options.web_config_file else None
    async with AsyncExitStack() as stack:
        environ: Mapping[str, str] = os.environ
        if options.demo:
            settings, environ = await stack.enter_async_context(_demo(options.demo_seed))
        process = ProcessMetrics(options.shard)
        accounts = Accounts(await stack.enter_async_context(open_session()), environ)
        accounts.apply(settings, _owned(settings, options.shard))

        def reload() -> str | None:
            try:
                new = settings if options.demo else _settings(options)
                accounts.apply(new, _owned(new, options.shard))
            except ConfigError as error:
                process.reloaded(successful=False)
                log.error("configuration not reloaded, the one before stays in use", error=_one_line(error))
                return _one_line(error)
            accounts.start()
            process.reloaded(successful=True)
            log.info("configuration reloaded", accounts=_names(accounts))
            return None

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        watchdog = asyncio.create_task(accounts.watch())
        handler = web.make_handler(
            Exposition(lambda: accounts.metrics, lambda: accounts.changes, process),
            telemetry_path=options.web_telemetry_path,
            healthy=lambda: accounts.healthy and not watchdog.done(),
            ready=lambda: all(poller.state.up is not None for poller in accounts.pollers),
            status=lambda names: make_status(accounts.pollers, names),
            reload=reload if options.web_enable_lifecycle else None,
        )
        if live:
            handler = protect(handler, live)
        handler = limit_requests(handler, options.web_max_requests)
        listen = options.web_listen_address or [parse_address(DEFAULT_ADDRESS)]
        tls = live.ssl_context if live else None
        try:
            end_serving, addresses = await web.start(
                handler, listen, options.web_max_connections, tls, lambda: live.headers if live else {}
            )
        except (OSError, UnicodeError) as error:  # the latter for what can't be a host's name
            problem = getattr(error, "strerror", None) or error
            raise ConfigError(f"--web.listen-address: {problem}; choose another or free it") from None
        stack.push_async_callback(accounts.stop)
        stack.callback(watchdog.cancel)
        stack.push_async_callback(end_serving)
        accounts.start()
        # Later collections leave out all that importing made: 8 ms each time, in which no scrape would be answered.
        gc.collect()
        gc.freeze()
        log.info(
            "started",
            version=__version__,
            revision=REVISION,
            accounts=_names(accounts),
            addresses=",".join(addresses),
            telemetry_path=options.web_telemetry_path,
            **({"protected_by": ",".join(sorted(live.protections)) or "nothing"} if live else {}),
        )
        if options.demo:
            scheme = "https" if tls else "http"
            _tell_of_demo(f"{scheme}://localhost:{addresses[0].rpartition(':')[2]}", options.web_telemetry_path)
        await stop.wait()
        log.info("stopping")
    return 0


async def _once(settings: Settings, options: argparse.Namespace) -> int:
    async with open_session() as session:
        accounts = Accounts(session, os.environ)
        accounts.apply(settings, _owned(settings, options.shard))
        succeeded = await asyncio.gather(*(poller.poll() for poller in accounts.pollers))
        exposition = Exposition(lambda: accounts.metrics, lambda: accounts.changes, ProcessMetrics(options.shard))
        sys.stdout.write((await exposition.text(TEXT)).decode())
    return 0 if all(succeeded) else 1


def _owned(settings: Settings, shard: Shard) -> list[str]:
    return [account.name for account in settings.accounts if shard.owns(account.name)]


def _names(accounts: Accounts) -> str:
    return ",".join(poller.state.account for poller in accounts.pollers)


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


def _tell_of_demo(url: str, telemetry_path: str) -> None:
    print(
        f"""
The exporter polls a simulated Inkit API, where a day's work takes ten minutes.
  Metrics      {url}{telemetry_path}
  Status page  {url}/
Ctrl-C ends it. Your own account:
  INKIT_API_TOKEN=<key> {sys.orig_argv[0]} {sys.argv[0]}
""",
        flush=True,
    )


def _settings(options: argparse.Namespace) -> Settings:
    if options.demo and (options.config_file or options.once):
        raise ConfigError(
            "--demo brings its own configuration and runs until stopped; leave out --config.file and --once"
        )
    path = options.web_telemetry_path
    if not re.fullmatch("/[^{}?#]*", path) or URL.build(path=path, encoded=True).path in _OWN_PATHS:
        raise ConfigError(f"--web.telemetry-path={path}: must begin with /, be no other endpoint, and hold no {{}}?#")
    if options.config_file:
        return config.load(options.config_file)
    settings = config.default_settings()
    if not options.demo and not os.environ.get(config.DEFAULT_TOKEN_ENV):
        raise ConfigError(
            f"no account: set {config.DEFAULT_TOKEN_ENV} to an API token, or name a file with --config.file, "
            "or try --demo, which needs neither"
        )
    return settings


def _check(path: Path | None, web_path: Path | None) -> int:
    if path is None and web_path is None:
        raise ConfigError("--config.check: name the file to check with --config.file, or --web.config.file")
    failed = 0
    for named, check in ((path, _check_settings), (web_path, _check_web_settings)):
        try:
            if named:
                check(named)
        except ConfigError as error:
            _complain(error)
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


def _check_web_settings(path: Path) -> None:
    print(f"{path}: ok, protected by: {', '.join(sorted(webconfig.load(path).protections)) or 'nothing'}")


def _complain(error: ConfigError) -> int:
    print(f"{PROGRAM}: {_one_line(error)}", file=sys.stderr)
    return 2


def _one_line(error: ConfigError) -> str:
    return " ".join(str(error).split())
