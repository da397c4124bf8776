"""The composition root: builds the exporter from its parts, starts, reloads and stops it."""

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import stamina
import structlog

from inkit_exporter import __version__, cli, config, endpoints, logs
from inkit_exporter.config import AccountSettings, ApiSettings, PollSettings, Seconds, Settings
from inkit_exporter.errors import ConfigError
from inkit_exporter.metrics.account import AccountMetrics
from inkit_exporter.metrics.exposition import TEXT, Exposition
from inkit_exporter.metrics.process import REVISION, ProcessMetrics
from inkit_exporter.polling.accounts import Accounts
from inkit_exporter.state import States
from inkit_exporter.storage.storage import Storage, open_storage
from inkit_exporter.transport import open_session
from inkit_exporter.web import server as web
from inkit_exporter.web.limits import limit_requests
from inkit_exporter.web.server import Place
from inkit_exporter.web.systemd import systemd_sockets
from inkit_exporter.yamlfile import naming

if TYPE_CHECKING:
    from inkit_exporter.web.toolkit.guard import ReloadingWebConfig

# So long, scrapes wait for what is stored. Accounts whose disk takes longer are missing until then.
_RESTORE_SECONDS = 2.0

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. After the exporter has run, this ends the process itself.

    The exit status is 0 if fine, 1 for a failed check or poll, 2 for bad usage or configuration.
    """
    cli.prepare_output()
    options = cli.make_parser().parse_args(arguments)
    try:
        if options.config_check:
            status = cli.check(options.config_file, options.web_config_file)
            sys.stdout.flush()
            return status
        settings = cli.load_settings(options)
    except ConfigError as error:
        return cli.complain(error)
    except OSError as error:
        return cli.complain_of_output(error)
    logs.configure(options.log_level, options.log_format)
    stamina.instrumentation.set_on_retry_hooks([])  # the client's own logs and metrics tell of each attempt
    runner = asyncio.Runner()
    try:
        status = runner.run(_once(settings, options) if options.once else _serve(settings, options))
        sys.stdout.flush()
    except ConfigError as error:
        status = cli.complain(error)
    except BrokenPipeError:  # the reader of the output has closed it
        status = 1
    except OSError as error:
        status = cli.complain_of_output(error)
    except KeyboardInterrupt:
        status = 1 if options.once else 0
    # Not a plain return: a name lookup that hangs in its thread can't be cancelled, and would delay the exit.
    os._exit(status)


class Exporter:
    """The parts of a running exporter, and what signals and endpoints ask of them.

    `environ` has the tokens that `api_token_env` names. Raises ConfigError if one is missing.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        settings: Settings,
        environ: Mapping[str, str],
        session: aiohttp.ClientSession,
        storage: Storage | None = None,
    ) -> None:
        self._options = options
        self._demo_settings = settings if options.demo else None
        self._states = States()
        self._storage = storage
        self._process = ProcessMetrics(options.shard.index, options.shard.count, storage.health if storage else None)
        self.accounts = Accounts(session, environ, self._states, storage)
        self.exposition = Exposition(self._metrics, lambda: self._states.changes, self._process)
        self.handler = endpoints.make_handler(
            telemetry_path=options.web_telemetry_path,
            exposition=self.exposition,
            states=self._states,
            storage=storage.health if storage else lambda: None,
            healthy=lambda: self.accounts.healthy,
            reload=self.reload if options.web_enable_lifecycle else None,
        )
        self._apply(settings)

    @property
    def account_names(self) -> str:
        """The names of its accounts, separated by commas."""
        return ",".join(state.account for state in self._states)

    def reload(self) -> str | None:
        """Load the configuration again. If it is wrong, returns why, and the old one stays in use."""
        try:
            self._apply(self._demo_settings or cli.load_settings(self._options))
        except ConfigError as error:
            self._process.reloaded(successful=False)
            log.error("configuration not reloaded, the old one stays in use", error=cli.one_line(error))
            return cli.one_line(error)
        self._process.reloaded(successful=True)
        log.info("configuration reloaded", accounts=self.account_names)
        return None

    def _apply(self, settings: Settings) -> None:
        owned = [account.name for account in settings.accounts if self._options.shard.owns(account.name)]
        with naming(self._options.config_file) if self._options.config_file else nullcontext():
            self.accounts.apply(settings, owned)

    def _metrics(self) -> list[AccountMetrics]:
        names = [state.account for state in self._states]
        if self._storage:  # until it has loaded, totals are 0; Prometheus would count the loaded totals as new
            names = [name for name in names if self._states[name].snapshot or not self._storage.loading(name)]
        return [AccountMetrics(self._states, name) for name in names]


async def _once(settings: Settings, options: argparse.Namespace) -> int:
    async with open_session() as session:
        exporter = Exporter(options, settings, os.environ, session)
        succeeded = await exporter.accounts.poll_once()
        sys.stdout.write((await exporter.exposition.text(TEXT)).decode())
    return 0 if succeeded else 1


async def _serve(settings: Settings, options: argparse.Namespace) -> int:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    web_config = _read_web_config(options.web_config_file) if options.web_config_file else None
    async with AsyncExitStack() as stack:
        environ: Mapping[str, str] = os.environ
        if options.demo:
            settings, environ = await stack.enter_async_context(_demo(options.demo_seed))
        storage = await open_storage(options.storage_path, stop) if options.storage_path else None
        if stop.is_set():
            return 0
        exporter = Exporter(options, settings, environ, await stack.enter_async_context(open_session()), storage)
        if storage:
            await storage.loaded(_RESTORE_SECONDS)
        loop.add_signal_handler(signal.SIGHUP, exporter.reload)
        try:
            addresses = await stack.enter_async_context(_serving(exporter, options, web_config))
        except (OSError, UnicodeError) as error:  # the latter for what can't be a host's name
            problem = getattr(error, "strerror", None) or error
            raise ConfigError(f"--web.listen-address: {problem}; choose another address or port") from None
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        polling = tasks.create_task(exporter.accounts.run())
        log.info(
            "started",
            version=__version__,
            revision=REVISION,
            accounts=exporter.account_names,
            addresses=",".join(addresses),
            telemetry_path=options.web_telemetry_path,
            **({"protected_by": ",".join(sorted(web_config.latest.protections)) or "nothing"} if web_config else {}),
        )
        if options.demo:
            scheme = "https" if web_config and web_config.ssl_context else "http"
            _tell_of_demo(f"{scheme}://localhost:{addresses[0].rpartition(':')[2]}", options.web_telemetry_path)
        await stop.wait()
        log.info("stopping")
        polling.cancel()
    return 0


def _read_web_config(path: Path) -> "ReloadingWebConfig":
    # Imported only here, because bcrypt, the tables of TLS and the demo take 5% of the time to start.
    from inkit_exporter.web.toolkit.guard import ReloadingWebConfig  # noqa: PLC0415

    return ReloadingWebConfig(path)


def _serving(
    exporter: Exporter, options: argparse.Namespace, web_config: "ReloadingWebConfig | None"
) -> AbstractAsyncContextManager[Sequence[str]]:
    """Serve the endpoints; yields the addresses in use."""
    handler = limit_requests(exporter.handler, options.web_max_requests)
    return web.serve(
        web_config.protect(handler) if web_config else handler,
        _places(options),
        server_name=cli.PROGRAM,
        max_connections=options.web_max_connections,
        ssl_context=web_config.ssl_context if web_config else None,
        headers=lambda: web_config.latest.headers if web_config else {},
    )


def _places(options: argparse.Namespace) -> Sequence[Place]:
    if options.web_systemd_socket:
        return systemd_sockets(os.environ)
    return options.web_listen_address or [cli.parse_address(cli.DEFAULT_ADDRESS)]


@asynccontextmanager
async def _demo(seed: int) -> AsyncIterator[tuple[Settings, Mapping[str, str]]]:
    """Serve the simulated API on loopback; yields settings and environment for it."""
    from inkit_exporter import demo  # noqa: PLC0415 - only now, as in `_read_web_config`

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
The exporter polls a simulated Inkit API. There, a whole day passes in ten minutes.
  Status page  {url}/
  Metrics      {url}{telemetry_path}
Ctrl-C ends the exporter. To export your own account instead:
  INKIT_API_TOKEN=<key> {" ".join(sys.orig_argv[: 1 - len(sys.argv)])}
""",
        flush=True,
    )
