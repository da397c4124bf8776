"""The format of the stored files: this version reads a file that was recorded when the format got its number.

If the test fails, an upgrade would lose all totals. Give new fields a default, and leave the others as they are. If
that is not enough, raise the number in inkit_exporter/storage/files.py, say so in CHANGELOG.md, and record a new file:

    PYTHONPATH=.:tests .venv/bin/python tests/storage/test_format.py

Until a release has written files of a number, its format may still change: delete the recorded file, and make it again.
"""

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from support import ROOT
from support.world import NOW

from inkit_exporter.api.batches import Batch, Counts
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, Filters, PollSettings
from inkit_exporter.counters import Counter, Exemplar, Histogram
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState
from inkit_exporter.storage.files import AccountFile
from inkit_exporter.storage.records import Kept, KeptBatch, restore_plan, restore_state
from inkit_exporter.window.plan import Bookmark
from inkit_exporter.window.totals import Past, Totals
from inkit_exporter.window.window import Snapshot

SAMPLES = ROOT / "tests" / "samples"


def counter(value: int, batch_id: str) -> dict[str, Counter]:
    return {"box": Counter(value, Exemplar(batch_id, float(value), NOW))}


# What is in the recorded file. Almost no value is a default, so that a renamed or dropped field shows.
TOTALS = Totals(
    completed=counter(70, "fb_1"),
    failed=counter(8, "fb_2"),
    with_failures=counter(3, "fb_2"),
    created=Counter(12, Exemplar("fb_3", 1.0, NOW)),
    finished={"completed": Counter(9, Exemplar("fb_1", 1.0, NOW))},
    durations=Histogram((10.0, 60.0), (4, 5, 6), (None, Exemplar("fb_1", 20.0, NOW), None), 700.5),
)
KEPT = Kept(
    origin=AccountSettings(
        name="production",
        base_url="https://inkit.example/v2",
        batches="document",
        filters=Filters(search="contract", destination_name="box", destination_status="failed"),
    ),
    max_batches=5000,
    mark=Bookmark(
        newest_first=True,
        page_size=100,
        cutoff=NOW - 1000,
        promised=7,
        known_last="fb_1",
        ended_at=NOW - 50,
        known=NOW - 10,
        polled_at=NOW,
        cursor=NOW - 500,
        backlog=2.5,
    ),
    edge=NOW - 1001,
    cut=-math.inf,
    snapshot=Snapshot(
        documents={("box", "completed"): Counts(5, 4, 1, 0), ("box", "in_progress"): Counts(6, 2, 1, 3)},
        batches={"completed": 1, "in_progress": 1},
        newest_created=NOW - 10,
        oldest_unfinished_created=NOW - 10,
        truncated=True,
        oldest_change=NOW - 5,
    ),
    snapshot_duration=1.5,
    destinations=frozenset({"box", "other"}),
    statuses=frozenset({"completed", "in_progress", "archived"}),
    last_success=NOW,
    totals=TOTALS,
    records=3,
)
RECORDS = {
    "fb_1": KeptBatch(Batch("fb_1", "May", NOW - 90, "completed", {"box": Counts(5, 4, 1, 0)}, True)),  # noqa: FBT003
    "fb_2": KeptBatch(
        Batch("fb_2", "June", NOW - 10, "in_progress", {"box": Counts(6, 2, 1, 3)}, None),
        changed_at=NOW - 5,
        past=Past(NOW - 10, {"box": (3, 2)}, finished=True),
    ),
    "fb_vanished": KeptBatch(past=Past(NOW - 80, {"box": (1, 0)}, finished=True)),
}


def record(path: Path) -> None:
    with closing(AccountFile(path)) as file:
        file.save(KEPT, RECORDS.items(), whole=True)


def format_number(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("PRAGMA application_id").fetchone()
    return int(number) & 0xFF


def sample_of_this_format(directory: Path) -> Path:
    """The path of the recorded file that has the number of the present format."""
    present = directory / "present.db"
    record(present)
    return SAMPLES / f"stored-format-{format_number(present)}.db"


def load(path: Path) -> tuple[Kept, dict[str, KeptBatch]]:
    with closing(AccountFile(path)) as file:
        found = file.load()
    assert found is not None
    return found


def test_this_version_reads_a_recorded_file_of_its_format(tmp_path: Path) -> None:
    sample = sample_of_this_format(tmp_path)
    kept, records = load(Path(shutil.copy(sample, tmp_path)))  # a copy, because an unusable file is renamed
    assert kept == KEPT
    assert records == RECORDS

    settings = PollSettings()
    plan = restore_plan(kept, records, settings)
    state = AccountState(account="production", settings=settings, usage=Usage(RateLimiter(60)))
    restored = restore_state(kept, plan, state, snapshot_at=NOW)
    assert restored.totals == plan.window.totals.totals == TOTALS
    assert restored.snapshot is not None and restored.snapshot.documents == KEPT.snapshot.documents


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        target = sample_of_this_format(Path(directory))
        if target.exists():
            raise SystemExit(f"{target} exists: raise the number of the format first, if a release has written it.")
        shutil.copy(Path(directory) / "present.db", target)
