"""One SQLite file for each account, in a directory that one process locks. Every call may block on the disk."""

import fcntl
import re
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, TextIO
from zlib import crc32

import msgspec

from inkit_exporter.storage.records import Kept, Record

LOCK: Final = "lock"

_APPLICATION = int.from_bytes(b"INKT")
_SCHEMA = 1
_CREATE = f"""
    BEGIN;
    CREATE TABLE account (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE batches (id TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    PRAGMA application_id = {_APPLICATION};
    PRAGMA user_version = {_SCHEMA};
    COMMIT;
"""
# An exclusive lock needs no shared memory, so network volumes work. A commit is synced before it returns. A save reads
# only what it changes, so a cache of 256 KiB is enough; the default is 2 MB for each account.
_PRAGMAS = ("locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "synchronous = FULL", "cache_size = -256")
# These are about what is in a file. The other errors are about the disk, or somebody holds the file open.
_OF_THE_FILE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB}
_OURS = re.compile(r"(.+-[0-9a-f]{8}\.db)(-journal|\.set-aside)?")

_encode = msgspec.msgpack.Encoder().encode
_decode_record = msgspec.msgpack.Decoder(Record).decode


class UnusableFile(Exception):
    """The file has other contents than this version of the exporter writes."""


def prepare(directory: Path) -> None:
    """Make the directory, for its owner only. A directory that holds other things keeps its mode.

    Raises:
        OSError: it can't be made or written to.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryFile(dir=directory):  # or only the first save would show that the directory is not writable
        pass
    if (directory / LOCK).exists() or not any(directory.iterdir()):
        with suppress(PermissionError):  # another user may own it, as with volumes of Kubernetes
            directory.chmod(0o700)


def lock(directory: Path) -> TextIO | None:
    """Lock the directory until the returned file is closed. Returns None if another process has it.

    Raises:
        OSError: the directory can't be written to, or its volume has no locks.
    """
    _make_private(directory / LOCK)
    file = (directory / LOCK).open("a")  # NFS locks only what is open for writing
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def file_name(account: str) -> str:
    """A file name for any account name, readable and unique."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", account)[:64]
    return f"{readable}-{sha256(account.encode()).hexdigest()[:8]}.db"


def tidy(directory: Path, accounts: Collection[str], keep_seconds: float) -> int:
    """Delete other accounts' files that are older than `keep_seconds`. Returns the size of all files."""
    owned, size = {file_name(account) for account in accounts}, 0
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # a journal comes and goes
            status, ours = path.stat(), _OURS.fullmatch(path.name)
            if ours and ours[1] not in owned and time.time() - status.st_mtime > keep_seconds:
                path.unlink()
            else:
                size += status.st_size
    return size


class AccountFile:
    """The file of one account. It holds the whole state after one complete poll, or nothing.

    Each row carries a checksum, as SQLite has none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._saved: dict[str, bytes] = {}

    def load(self) -> tuple[Kept, dict[str, Record]] | None:
        """Read what the file holds; None if it is empty.

        Raises:
            UnusableFile: it is broken, or not ours, or of another version.
            OSError, sqlite3.Error: the disk fails.
        """
        with _telling_file_from_disk():
            connection = self._open()
            rows = dict(connection.execute("SELECT name, value FROM account"))
            if not rows:
                return None
            fields = {name: msgspec.msgpack.decode(_checked(name, value)) for name, value in rows.items()}
            kept = msgspec.convert(fields, Kept)
            batches = connection.execute("SELECT id, value FROM batches")
            records = {key: _decode_record(_checked(key, value)) for key, value in batches}
        if len(records) != kept.records:
            raise UnusableFile(f"holds {len(records)} batches instead of {kept.records}")
        self._saved = rows
        return kept, records

    def save(self, kept: Kept, records: Iterable[tuple[str, Record | None]], *, whole: bool) -> None:
        """Write the state and these records, either all or those that changed. None deletes a record.

        Raises as `load` does, also if changes are to be written and the file does not hold what was last loaded or
        saved. Then the file is as it was.
        """
        rows = {name: _sealed(name, _encode(getattr(kept, name))) for name in Kept.__struct_fields__}
        if not self.path.exists():
            self.close()
        with _telling_file_from_disk(), self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if whole:
                connection.execute("DELETE FROM account")
                connection.execute("DELETE FROM batches")
            elif dict(connection.execute("SELECT name, value FROM account")) != self._saved:
                raise UnusableFile("does not hold what was last stored")
            changed = [(name, value) for name, value in rows.items() if whole or self._saved.get(name) != value]
            connection.executemany("REPLACE INTO account VALUES (?, ?)", changed)
            for key, record in records:
                if record is None:
                    connection.execute("DELETE FROM batches WHERE id = ?", (key,))
                else:
                    connection.execute("REPLACE INTO batches VALUES (?, ?)", (key, _sealed(key, _encode(record))))
        self._saved = rows

    def set_aside(self) -> Path:
        """Rename the file to make room for a new one. Returns its new path. An older file there is replaced."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.set-aside")
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        return self.path.replace(aside)

    def close(self) -> None:
        """Release the file, which the next call opens again."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        _make_private(self.path)
        self._connection = sqlite3.connect(self.path, timeout=20.0, isolation_level=None, check_same_thread=False)
        try:
            for pragma in _PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            (application,), (schema,) = (
                self._connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
            )
            if not self._connection.execute("SELECT 1 FROM sqlite_schema").fetchone() and not application:
                self._connection.executescript(_CREATE)
            elif application != _APPLICATION:
                raise UnusableFile("is not a file of this exporter")
            elif schema != _SCHEMA:
                raise UnusableFile(f"has format version {schema}, not {_SCHEMA}")
        except BaseException:
            self.close()
            raise
        return self._connection


def _make_private(path: Path) -> None:
    """Make an empty file if there is none, for its owner only. SQLite gives its journal the same mode."""
    path.touch(mode=0o600)
    with suppress(PermissionError):
        path.chmod(0o600)


def _sealed(key: str, payload: bytes) -> bytes:
    return crc32(payload, crc32(key.encode())).to_bytes(4) + payload


def _checked(key: str, value: bytes) -> bytes:
    payload = value[4:]
    if _sealed(key, payload) != value:
        raise UnusableFile(f"the checksum of `{key}` is wrong")
    return payload


@contextmanager
def _telling_file_from_disk() -> Iterator[None]:
    """Turn errors about the file's contents into UnusableFile. Errors of the disk pass."""
    try:
        yield
    except (msgspec.MsgspecError, TypeError, UnicodeError) as error:
        raise UnusableFile(str(error)) from None
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _OF_THE_FILE:
            raise UnusableFile(str(error)) from None
        raise
