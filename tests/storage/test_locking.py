"""Only one process uses a storage directory."""

from contextlib import closing
from pathlib import Path

import pytest

from inkit_exporter.errors import ConfigError
from inkit_exporter.storage.files import LOCK
from inkit_exporter.storage.storage import open_storage


async def test_waiting_too_long_for_a_used_directory_is_an_error(tmp_path: Path) -> None:
    problem = r"^--storage.path=\S+: another process uses it; stop that one"
    with closing(await open_storage(tmp_path)), pytest.raises(ConfigError, match=problem):
        await open_storage(tmp_path, patience=0.5)
    with closing(await open_storage(tmp_path, patience=0)):
        pass


async def test_the_lock_leaves_its_file_as_it_is(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(b"anything")
    with closing(await open_storage(tmp_path)):
        pass
    assert (tmp_path / LOCK).read_bytes() == b"anything"
