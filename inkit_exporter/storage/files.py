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

from inkit_exporter.storage.records import Kept, KeptBatch

LOCK: Final = "lock"

# The letters INK, and the version of the format.
_FORMAT = int.from_bytes(b"INK\x02")
# The row with the empty key has what is kept of the account. Each other key is a batch's id, and those are not empty.
# SQLite has no checksums.
_CREATE = "CREATE TABLE rows (key TEXT PRIMARY KEY, value BLOB NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID"
_ACCOUNT = ""
# An exclusive lock needs no shared memory, so network volumes work. A commit is synced before it returns. A save reads
# only what it changes, so a cache of 256 KiB is enough; the default is 2 MB for each account.
_PRAGMAS = ("locking_mode = EXCLUSIVE", "journal_mode = TRUNCATE", "synchronous = FULL", "cache_size = -256")
# These are about what is in a file. The other errors are about the disk, or somebody holds the file open.
_OF_THE_FILE = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB}
_OURS = re.compile(r"(.+-[0-9a-f]{8}\.db)(-journal|\.set-aside)?")

_encode = msgspec.msgpack.Encoder().encode
_decode_kept = msgspec.msgpack.Decoder(Kept).decode
_decode_record = msgspec.msgpack.Decoder(KeptBatch).decode


class UnusableFile(Exception):
    """The file has other contents than this version of the exporter writes. So it was renamed, as the message says."""


def lock(directory: Path) -> TextIO | None:
    """Make a directory, and lock it until the returned file is closed. Returns None if another process has it.

    Only its owner may use the directory, unless other things are in it.

    Raises:
        OSError: it can't be made or written to, or its volume has no locks.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / LOCK
    if path.exists() or not any(directory.iterdir()):
        with suppress(PermissionError):  # another user may own it, as with volumes of Kubernetes
            directory.chmod(0o700)
    with TemporaryFile(dir=directory):  # or only the first save would show that the directory is not writable
        _make_private(path)
    file = path.open("a")  # NFS locks only what is open for writing
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
    """The file of one account. It holds the whole state after one complete poll, or nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._saved = b""

    def load(self) -> tuple[Kept, dict[str, KeptBatch]] | None:
        """Read what the file holds; None if it is empty.

        Raises:
            UnusableFile: it is broken, or not ours, or of another version.
            OSError, sqlite3.Error: the disk fails.
        """
        with self._transaction() as connection:
            rows = (_checked(*row) for row in connection.execute("SELECT * FROM rows ORDER BY key"))
            if (first := next(rows, None)) is None:
                return None
            kept = _decode_kept(first[1])
            records = {key: _decode_record(value) for key, value in rows}
            if len(records) != kept.records:
                raise UnusableFile(f"holds {len(records)} batches instead of {kept.records}")
        self._saved = first[1]
        return kept, records

    def save(self, kept: Kept, records: Iterable[tuple[str, KeptBatch | None]], *, whole: bool) -> None:
        """Write the state and these records, either all or those that changed. None deletes a record.

        Raises as `load` does, also if changes are to be written and the file does not hold what was last loaded or
        saved.
        """
        saved = _encode(kept)
        with self._transaction() as connection:
            if whole:
                connection.execute("DELETE FROM rows")
            elif connection.execute("SELECT value FROM rows WHERE key = ?", (_ACCOUNT,)).fetchone() != (self._saved,):
                raise UnusableFile("does not hold what was last stored")
            for key, record in records:
                if record is None:
                    connection.execute("DELETE FROM rows WHERE key = ?", (key,))
                else:
                    _put(connection, key, _encode(record))
            _put(connection, _ACCOUNT, saved)
        self._saved = saved

    def close(self) -> None:
        """Release the file, which the next call opens again."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Open the file, and commit what is done with it. After an error, the file is as it was, and closed.

        If the error is about what is in the file, it is renamed, to make room for a new one.
        """
        try:
            if self._connection is None or not self.path.exists():
                self.close()
                _make_private(self.path)
                self._connection = sqlite3.connect(self.path, 20.0, isolation_level=None, check_same_thread=False)
                for pragma in _PRAGMAS:
                    self._connection.execute(f"PRAGMA {pragma}")
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA schema_version").fetchone() == (0,):  # the file is empty
                    connection.execute(_CREATE)
                    connection.execute(f"PRAGMA application_id = {_FORMAT}")
                elif connection.execute("PRAGMA application_id").fetchone() != (_FORMAT,):
                    raise UnusableFile("was not written by this version of the exporter")
                yield connection
        except BaseException as error:
            self.close()
            if not _is_of_the_file(error):
                raise
            aside = self.path.with_name(f"{self.path.name}.set-aside")
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
            raise UnusableFile(f"{error}; renamed it to {self.path.replace(aside)}") from None


def _make_private(path: Path) -> None:
    """Make an empty file if there is none, for its owner only. SQLite gives its journal the same mode."""
    path.touch(mode=0o600)
    with suppress(PermissionError):
        path.chmod(0o600)


def _put(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    connection.execute("REPLACE INTO rows VALUES (?, ?, ?)", (key, value, _checksum(key, value)))


def _checksum(key: str, value: bytes) -> int:
    return crc32(value, crc32(bytes(key, "utf-8")))


def _checked(key: str, value: bytes, checksum: int) -> tuple[str, bytes]:
    if _checksum(key, value) != checksum:
        raise UnusableFile(f"the checksum of `{key}` is wrong")
    return key, value


def _is_of_the_file(error: BaseException) -> bool:
    if isinstance(error, sqlite3.DatabaseError):
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _OF_THE_FILE
    return isinstance(error, UnusableFile | msgspec.MsgspecError | TypeError | UnicodeError)
