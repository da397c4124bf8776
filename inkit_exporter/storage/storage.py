"""The storage of all accounts. Each has its own thread, so that a slow disk delays no other account."""

import asyncio
import math
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TextIO, TypeVar

import structlog

from inkit_exporter.clock import boot_time
from inkit_exporter.config import AccountSettings, PollSettings
from inkit_exporter.errors import ConfigError, reason_of
from inkit_exporter.state import AccountState, States
from inkit_exporter.storage import files, records
from inkit_exporter.storage.files import AccountFile, UnusableFile
from inkit_exporter.storage.health import StorageHealth
from inkit_exporter.window.plan import Plan

DISK_SECONDS: Final = 30.0
"""If a load or save takes longer, the account goes on in memory."""

_LOCK_EVERY = 0.2

T = TypeVar("T")

log = structlog.get_logger()


class Storage:
    """A directory with a file for each account, which this process has locked.

    `failures` counts loads and saves that failed.
    """

    def __init__(self, directory: Path, lock: TextIO) -> None:
        self.failures = 0
        self._directory = directory
        self._lock = lock
        self._accounts: dict[str, AccountStorage] = {}
        self._lookback = math.inf
        self._size = 0
        self.tidy()

    def __getitem__(self, account: str) -> "AccountStorage":
        return self._accounts[account]

    def follow(self, settings: AccountSettings, states: States) -> None:
        """Store what is published of an account from now on. First, load and publish what is stored already.

        What is stored is not loaded while the disk fails, because it is older than what was published.
        """
        if (stored := self._accounts.get(settings.name)) is None:
            file = AccountFile(self._directory / files.file_name(settings.name))
            stored = self._accounts[settings.name] = AccountStorage(settings.name, file, self)
        stored.origin = records.origin_of(settings)
        if stored.error is None:
            stored.restore(states)

    async def loaded(self, patience: float) -> None:
        """Wait until all accounts are loaded and published, at most `patience` seconds."""
        if loads := [stored.restoring for stored in self._accounts.values() if stored.restoring]:
            await asyncio.wait(loads, timeout=patience)

    def keep(self, accounts: Collection[str], lookback: float) -> None:
        """Release the files of all other accounts. `tidy` deletes them when they are older than the lookback."""
        self._lookback = lookback
        for name in self._accounts.keys() - set(accounts):
            self._accounts.pop(name).close()

    def loading(self, account: str) -> bool:
        """Whether an account is still being loaded. Until then its totals are at 0."""
        restoring = self._accounts[account].restoring
        return restoring is not None and not restoring.done()

    def health(self) -> StorageHealth:
        """How the storage is now."""
        errors = [f"{name}: {stored.error}" for name, stored in self._accounts.items() if stored.error]
        return StorageHealth(not errors, "; ".join(errors) or None, self.failures, self._size)

    def tidy(self) -> None:
        """Delete the files of accounts that are gone, and measure the others. May block."""
        with suppress(OSError):
            self._size = files.tidy(self._directory, list(self._accounts), self._lookback)

    def close(self) -> None:
        """Release all files, then the directory."""
        self.keep((), self._lookback)
        self._lock.close()


class AccountStorage:
    """The storage of one account.

    `error` says what is wrong while the account is in memory only. `restoring` ends when what was stored is published.
    """

    origin: AccountSettings

    def __init__(self, account: str, file: AccountFile, storage: Storage) -> None:
        self.error: str | None = None
        self.restoring: asyncio.Task[Plan | None] | None = None
        self._file = file
        self._storage = storage
        self._thread = ThreadPoolExecutor(1, f"storage of {account}")
        self._idle: Callable[[], bool] = lambda: True  # whether the thread has done its work
        self._log = log.bind(account=account)

    def restore(self, states: States) -> None:
        """Start to load what is stored, and to publish it."""
        if self.restoring:
            self.restoring.cancel()
        self.restoring = asyncio.create_task(self._restore(states))

    async def take_plan(self) -> Plan | None:
        """The stored plan, once it is loaded. None if there is none, and at later calls."""
        if self.restoring is None:
            return None
        await asyncio.wait({self.restoring})
        restoring, self.restoring = self.restoring, None
        return restoring.result()

    async def save(self, plan: Plan, state: AccountState) -> None:
        """Store the state after a complete poll, before it is published. If that fails, the next save writes it too.

        It never raises, and takes at most `DISK_SECONDS`.
        """
        if not self._idle():  # a save that waited for the thread would find the plan of a later poll
            self._failed(f"the disk has not answered for more than {DISK_SECONDS:g}s")
            return
        kept, changed = records.take(plan, state, self.origin), records.take_changed(plan.window.totals)
        if await self._do(partial(self._write, plan, kept, changed)) and self.error is not None:
            self._log.info("the account is stored again")
            self.error = None

    def close(self) -> None:
        """Release the file after the current load or save."""
        if self.restoring:
            self.restoring.cancel()
        self._thread.submit(self._file.close)
        self._thread.shutdown(wait=False)

    async def _restore(self, states: States) -> Plan | None:
        found = await self._do(partial(self._read, states[self.origin.name].settings))
        if isinstance(found, UnusableFile):
            self._log.warning("can't use a stored file, starting a new one", why=str(found))
            self._storage.failures += 1
            return None
        if found is None:
            return None
        kept, plan = found
        if (state := states[self.origin.name]).snapshot is None:
            at = boot_time() - abs(time.time() - kept.last_success)  # the clock may be set back
            states.publish(records.restore_state(kept, plan, state, snapshot_at=at))
        return plan

    async def _do(self, work: Callable[[], T]) -> T | None:
        """Work in the account's thread. Returns None if that fails, or takes too long; then the thread goes on."""
        working = asyncio.get_running_loop().run_in_executor(self._thread, work)
        working.add_done_callback(asyncio.Future.exception)  # nobody else reads it if it comes too late
        self._idle = working.done
        await asyncio.wait({working}, timeout=DISK_SECONDS)
        if not working.done():
            self._failed(f"the disk has not answered for {DISK_SECONDS:g}s")
        elif error := working.exception():
            self._failed(reason_of(error))
        else:
            return working.result()
        return None

    def _read(self, settings: PollSettings) -> tuple[records.Kept, Plan] | UnusableFile | None:
        try:
            found = self._file.load()
        except UnusableFile as error:
            return error
        if found is None or found[0].origin != self.origin:
            return None
        kept, stored = found
        return kept, records.restore_plan(kept, stored, settings)

    def _write(self, plan: Plan, kept: records.Kept, changed: set[str] | None) -> bool:
        """Write these batches, or all. If that fails, however late, put them back: `save` does nothing until then."""
        try:
            # First of all: while the disk hangs, the next poll changes the plan.
            taken = records.take_records(plan, changed)
            self._file.save(kept, taken, whole=changed is None)
        except Exception as error:
            # The loop may poll meanwhile, so this replaces no value that polls change.
            if changed is None or isinstance(error, UnusableFile):
                plan.window.totals.stored = False
            else:
                plan.window.totals.changed.update(changed)
            raise
        self._storage.tidy()
        return True

    def _failed(self, error: str) -> None:
        if self.error is None:
            self._log.warning("can't store the account, continuing in memory", file=str(self._file.path), error=error)
        self.error = error
        self._storage.failures += 1


async def open_storage(directory: Path, patience: float = 30.0) -> Storage:
    """Lock the directory. If another process has it, as in a rolling update, wait up to `patience` seconds.

    Raises:
        ConfigError: it can't be written to, or the other process does not exit.
    """
    flag, deadline = f"--storage.path={directory}", time.monotonic() + patience
    try:
        if (lock := files.lock(directory)) is None:
            log.info("another process uses the storage, waiting for it to exit", path=str(directory))
        while lock is None:
            if time.monotonic() >= deadline:
                raise ConfigError(f"{flag}: another process uses it; stop that one, or name another directory")
            await asyncio.sleep(_LOCK_EVERY)
            lock = files.lock(directory)
    except OSError as error:
        problem = f"can't be written to ({reason_of(error)})"
        raise ConfigError(f"{flag}: {problem}; let the exporter's user write there") from None
    return Storage(directory, lock)
