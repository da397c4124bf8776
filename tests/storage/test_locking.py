"""Only one process uses a storage directory."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from inkit_exporter.errors import ConfigError
from inkit_exporter.storage.files import LOCK
from inkit_exporter.storage.storage import open_storage


async def test_waiting_too_long_for_a_used_directory_is_an_error(tmp_path: Path) -> None:
    first = await open_storage(tmp_path)
    with pytest.raises(ConfigError, match=r"^--storage.path=\S+: another process uses it; stop that one"):
        await open_storage(tmp_path, patience=0.5)
    first.close()
    second = await open_storage(tmp_path, patience=0)
    second.close()


async def test_the_lock_needs_no_shared_memory_and_writes_nothing(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    with (
        closing(sqlite3.connect(tmp_path / LOCK, timeout=0)) as connection,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        connection.execute("SELECT * FROM sqlite_schema")
    assert (tmp_path / LOCK).stat().st_size == 0
    assert not list(tmp_path.glob("*-shm"))
    storage.close()
