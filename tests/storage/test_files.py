"""The file of an account: written whole or not at all, readable only by its owner, and set aside when unusable."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from support.conversation import make_batch, pages, poll
from support.world import NOW

from inkit_exporter.api.batches import Batch, Counts
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, PollSettings
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState
from inkit_exporter.storage import files, records
from inkit_exporter.storage.files import AccountFile, UnusableFile
from inkit_exporter.storage.records import Kept, KeptBatch
from inkit_exporter.window.plan import Plan
from inkit_exporter.window.totals import Totals

ORIGIN = records.origin_of(AccountSettings(name="a", api_token_env="T"))
BATCHES = [
    make_batch(f"fb_{i:022}", f"batch {i}", NOW - i, "in_progress", {"box": Counts(i, 0, 0, i)}) for i in range(200)
]


def plan_of(batches: list[Batch]) -> Plan:
    plan = Plan(PollSettings(), Totals())
    poll(plan, pages(batches, 100), NOW)
    return plan


def taken(plan: Plan) -> tuple[Kept, list[tuple[str, KeptBatch | None]]]:
    state = AccountState(account="a", settings=PollSettings(), usage=Usage(RateLimiter(60)), last_success=NOW)
    return records.take(plan, state, ORIGIN), records.take_records(plan, None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that holds BATCHES."""
    found = tmp_path / files.file_name("a")
    with closing(AccountFile(found)) as file:
        file.save(*taken(plan_of(BATCHES)), whole=True)
    return found


def held(path: Path) -> int | None:
    """Check that a file's content is unchanged; return its number of batches, or None if the file is empty."""
    with closing(AccountFile(path)) as file:
        found = file.load()
    if found is None:
        return None
    assert found == (taken(plan_of(BATCHES))[0], dict(taken(plan_of(BATCHES))[1]))
    return len(found[1])


def test_a_file_returns_what_was_saved(path: Path) -> None:
    assert held(path) == len(BATCHES)
    assert held(path.with_name("other.db")) is None


def test_a_save_that_fails_half_way_leaves_the_file_unchanged(path: Path) -> None:
    kept, found = taken(plan_of(BATCHES[:100]))

    def broken() -> Iterator[tuple[str, KeptBatch | None]]:
        yield from found
        raise OSError("gone")

    with closing(AccountFile(path)) as file:
        assert file.load()
        for whole in (True, False):
            with pytest.raises(OSError, match="gone"):
                file.save(kept, broken(), whole=whole)
    assert held(path) == len(BATCHES)


def test_only_changes_are_written(path: Path) -> None:
    with closing(AccountFile(path)) as file:
        assert file.load()
        kept, _ = taken(plan_of(BATCHES[1:]))
        file.save(kept, [(BATCHES[0].id, None)], whole=False)
    with closing(AccountFile(path)) as file:
        found = file.load()
    assert found is not None and len(found[1]) == len(BATCHES) - 1


def test_changes_are_not_written_to_a_file_that_is_new_or_older(path: Path) -> None:
    older = path.read_bytes()
    changes = taken(plan_of(BATCHES[1:]))[0], [(BATCHES[0].id, None)]
    with closing(AccountFile(path)) as file:
        assert file.load()
        path.unlink()
        with pytest.raises(UnusableFile, match="does not hold what was last stored"):
            file.save(*changes, whole=False)
        file.close()
        assert held(path) is None
        path.write_bytes(older)
        assert file.load()
        file.save(*changes, whole=False)
        file.close()
        path.write_bytes(older)
        with pytest.raises(UnusableFile, match="does not hold what was last stored"):
            file.save(*changes, whole=False)
    assert held(path.with_name(f"{path.name}.set-aside")) == len(BATCHES)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"accounts: []\n" * 1000, bytes(8192), os.urandom(8192), b"SQLite format 3\0" + bytes(5000)],
    ids=["empty", "a word", "text", "zeros", "random", "only the first words"],
)
def test_a_file_with_other_content_is_unusable(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    if not content:
        assert held(path) is None
        return
    with pytest.raises(UnusableFile):
        held(path)


def test_a_file_of_another_program_or_version_is_unusable(path: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection, connection:
        connection.execute("CREATE TABLE account (name, value)")
    with pytest.raises(UnusableFile, match="not written by this version"):
        held(foreign)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA application_id = 0x494E4B01")  # INK, and version 1
    with pytest.raises(UnusableFile, match="not written by this version"):
        held(path)


@pytest.mark.parametrize(
    ("key", "why"), [(BATCHES[3].id, "holds 199 batches instead of 200"), ("", "missing required field")]
)
def test_a_missing_row_makes_the_file_unusable(path: Path, key: str, why: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM rows WHERE key = ?", (key,))
    with pytest.raises(UnusableFile, match=rf"{why}.*; renamed it to {path}.set-aside"):
        held(path)
    assert held(path) is None


def test_with_any_wrong_byte_the_file_returns_what_was_saved_or_nothing(path: Path) -> None:
    chance, content = Random(1), path.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        place = chance.randrange(len(content))
        if chance.random() < 0.2:
            del damaged[place:]
        else:
            damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            assert held(path) in (len(BATCHES), None)
        except UnusableFile:
            refused += 1
    assert refused > 100


def test_only_the_owner_can_read_the_directory_and_the_files(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "storage"
    path = directory / files.file_name("a")
    lock = files.lock(directory)
    assert lock is not None
    with lock, closing(AccountFile(path)) as file:
        path.touch(0o666)
        path.chmod(0o666)
        file.save(*taken(plan_of(BATCHES)), whole=True)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        names = {one.name: stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()}
        assert set(names.values()) == {0o600}, names
        directory.chmod(0o755)
        assert files.lock(directory) is None
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_with_other_things_in_it_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "something").touch()
    lock = files.lock(tmp_path)
    assert lock is not None
    lock.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["production", "a/../b", "no", "Ünïcödé ✓", "x" * 64, "ß" * 64, "lock", "."])
def test_every_account_has_its_own_valid_file_name(name: str, tmp_path: Path) -> None:
    found = files.file_name(name)
    assert (tmp_path / found).parent == tmp_path and len(found.encode()) < 100 and found != files.LOCK
    (tmp_path / found).touch()
    assert files.file_name(name + " ") != found and files.file_name(name.upper() + "!").lower() != found.lower()


def test_only_files_of_removed_accounts_are_deleted_after_the_lookback(tmp_path: Path) -> None:
    old = NOW
    ours, left, recent = (tmp_path / files.file_name(name) for name in ("a", "left", "recent"))
    aside, foreign = tmp_path / f"{left.name}.set-aside", tmp_path / "precious.db"
    for path in (ours, left, recent, aside, foreign, tmp_path / files.LOCK):
        path.write_bytes(b"12345")
        os.utime(path, (old, old))
    recent.write_bytes(b"123")
    assert files.tidy(tmp_path, ["a"], keep_seconds=3600) == 3 * 5 + 3
    assert {path.name for path in tmp_path.iterdir()} == {ours.name, recent.name, "precious.db", files.LOCK}
