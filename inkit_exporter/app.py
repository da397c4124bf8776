"""The composition root: builds the exporter from its parts, starts, reloads and stops it."""

import argparse
import asyncio
import os
import resource
import secrets
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import aiohttp
import stamina
import structlog
from msgspec.structs import replace

from inkit_exporter import __version__, cli, config, logs
from inkit_exporter.config import ApiSettings, PollSettings, Seconds, Settings
from inkit_exporter.endpoints import Endpoints
from inkit_exporter.errors import ConfigError, reason_of
from inkit_exporter.metrics.account import AccountMetrics
from inkit_exporter.metrics.exposition import TEXT, Exposition
from inkit_exporter.metrics.process import REVISION, ProcessMetrics
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import States
from inkit_exporter.storage.storage import Storage, open_storage
from inkit_exporter.transport import open_session
from inkit_exporter.web import server as web
from inkit_exporter.web.limits import limit_requests
from inkit_exporter.web.systemd import systemd_sockets

if TYPE_CHECKING:
    from inkit_exporter.web.toolkit.guard import ReloadingWebConfig

# So long, scrapes wait for what is stored. Accounts whose disk takes longer are missing until then.
_RESTORE_SECONDS = 2.0

log = structlog.get_logger()


def main() -> NoReturn:
    """Run the command line, and end the process.

    The exit status is 0 if fine, 1 for a failed check or poll, 2 for bad usage or configuration. It is also 1 if the
    output is full or closed, or Ctrl-C ends `--once`. SIGTERM and Ctrl-C end the serving exporter with 0.
    """
    cli.prepare_output()
    runner = asyncio.Runner()
    try:
        options = cli.make_parser().parse_args()
        if options.config_check:
            status = cli.check(options.config_file, options.web_config_file)
        else:
            # A request to reload waits until the exporter can do it: it may come right after the configuration is read.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            settings = cli.load_settings(options)
            logs.configure(options.log_level, options.log_format)
            stamina.instrumentation.set_on_retry_hooks([])  # the client's own logs and metrics tell of each attempt
            run = _once if options.once else _demo if options.demo else _serve
            status = runner.run(run(settings, options))
        sys.stdout.flush()
    except ConfigError as error:
        cli.complain(error)
        status = 2
    except (BrokenPipeError, KeyboardInterrupt):  # the reader of the output has closed it, or the user has enough
        status = 1
    except OSError as error:
        cli.complain(f"standard output can't be written: {reason_of(error)}; make room, or write elsewhere")
        status = 1
    # Not sys.exit: a name lookup that hangs in its thread can't be cancelled, and would delay the exit.
    os._exit(status)


async def _once(settings: Settings, options: argparse.Namespace) -> int:
    """Poll every account once, and print the metrics."""
    async with open_session() as session:
        exporter = Exporter(settings, options, session)
        succeeded = await exporter.accounts.poll_once()
        sys.stdout.write((await exporter.exposition.text(TEXT)).decode())
    return 0 if succeeded else 1


async def _serve(settings: Settings, options: argparse.Namespace) -> int:
    """Poll all accounts and serve the endpoints, until SIGTERM or SIGINT."""
    _raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, _stop, asyncio.current_task())
    web_config = _read_web_config(options.web_config_file) if options.web_config_file else None
    with suppress(asyncio.CancelledError):
        storage = await open_storage(options.storage_path) if options.storage_path else None
        async with open_session() as session:
            exporter = Exporter(settings, options, session, storage)
            if storage:
                await storage.loaded(_RESTORE_SECONDS)
            loop.add_signal_handler(signal.SIGHUP, exporter.reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            await exporter.run(web_config)
    return 0


def _raise_descriptor_limit() -> None:
    """Open as many files and connections as the system permits, as all programs in Go do.

    The usual limit of 1024 is there for `select`, which asyncio does not use. It is too low for hundreds of accounts.
    """
    # The unit of systemd permits it, as the C library calls `prlimit64`. macOS permits fewer than it says.
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stop(serving: "asyncio.Task[None] | None") -> None:
    if serving and not serving.cancelling():  # a second signal must not cancel what ends the first time
        log.info("stopping")
        serving.cancel()


class Exporter:
    """The parts of a running exporter, and what signals and endpoints ask of them.

    Raises ConfigError if the path of the metrics is invalid.
    """

    def __init__(
        self,
        settings: Settings,
        options: argparse.Namespace,
        session: aiohttp.ClientSession,
        storage: Storage | None = None,
    ) -> None:
        self._settings = settings
        self._options = options
        self._storage = storage
        self._states = States()
        storage_health = storage.health if storage else None
        self._process = ProcessMetrics(options.shard.index, options.shard.count, storage_health)
        self.accounts = Accounts(session, os.environ, self._states, storage)
        self.exposition = Exposition(self._metrics, lambda: self._states.changes, self._process)
        self._handler = Endpoints(
            options.web_telemetry_path,
            self._states,
            self.exposition,
            healthy=self.accounts.healthy,
            storage_health=storage_health,
            reload=self.reload if options.web_enable_lifecycle else None,
        ).handler()
        self.accounts.apply(settings)

    async def run(self, web_config: "ReloadingWebConfig | None") -> None:
        """Poll all accounts and serve the endpoints, until cancelled."""
        options = self._options
        handler = limit_requests(self._handler, options.web_max_requests)
        places = options.web_listen_address or [cli.parse_address(cli.DEFAULT_ADDRESS)]
        async with web.serve(
            web_config.protect(handler) if web_config else handler,
            systemd_sockets(os.environ) if options.web_systemd_socket else places,
            server_name=cli.PROGRAM,
            max_connections=options.web_max_connections,
            ssl_context=web_config.ssl_context if web_config else None,
            headers=web_config.headers if web_config else dict,
        ) as addresses:
            log.info(
                "started",
                version=__version__,
                revision=REVISION,
                accounts=self._account_names(),
                addresses=",".join(addresses),
                telemetry_path=options.web_telemetry_path,
                **(
                    {"protected_by": ",".join(sorted(web_config.latest.protections)) or "nothing"} if web_config else {}
                ),
            )
            if options.demo:
                scheme = "https" if web_config and web_config.ssl_context else "http"
                cli.print_demo(f"{scheme}://localhost:{addresses[0].rpartition(':')[2]}", options.web_telemetry_path)
            await self.accounts.run()

    def reload(self) -> str | None:
        """Load the configuration again. If it is wrong, returns why, and the old one stays in use."""
        try:
            self.accounts.apply(self._settings if self._options.demo else cli.load_settings(self._options))
        except ConfigError as error:
            self._process.reloaded(successful=False)
            log.error("configuration not reloaded, the old one stays in use", error=str(error))
            return str(error)
        self._process.reloaded(successful=True)
        log.info("configuration reloaded", accounts=self._account_names())
        return None

    def _account_names(self) -> str:
        return ",".join(state.account for state in self._states)

    def _metrics(self) -> dict[str, AccountMetrics]:
        states, storage = list(self._states), self._storage
        if storage:  # until it has loaded, totals are 0; Prometheus would count the loaded totals as new
            states = [state for state in states if state.snapshot or not storage.loading(state.account)]
        return {state.account: AccountMetrics(state) for state in states}


def _read_web_config(path: Path) -> "ReloadingWebConfig":
    # Imported only here, because bcrypt, the tables of TLS and the demo take 5% of the time to start.
    from inkit_exporter.web.toolkit.guard import ReloadingWebConfig  # noqa: PLC0415

    return ReloadingWebConfig(path)


async def _demo(settings: Settings, options: argparse.Namespace) -> int:
    """Serve the simulated API on loopback, and export it."""
    from inkit_exporter import demo  # noqa: PLC0415 - only now, as in `_read_web_config`

    token = os.environ[config.DEFAULT_TOKEN_ENV] = secrets.token_urlsafe(16)
    day = demo.day(options.demo_seed, started_at=time.time())
    api = demo.make_api(lambda: day(time.time()), token=token, requests_per_minute=300)
    async with demo.serve_api(api) as base_url:
        settings = Settings(
            accounts=(replace(settings.accounts[0], name="demo", base_url=base_url),),
            poll=PollSettings(interval=Seconds(2), lookback=Seconds(3600), stale_after=Seconds(30)),
            api=ApiSettings(requests_per_minute=300),
        )
        return await _serve(settings, options)
