"""Killed at any moment: afterwards the exporter serves what a complete poll saw, and counts nothing twice or never."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import ROOT
from support.mortal import Report, listings, read_reports
from support.world import essence, oracle

from inkit_exporter.api.batches import Batch
from inkit_exporter.counters import Counter as Total

ROUNDS, SEED = 200, 1


class History:
    """Computes the totals from the listings that polls saw: each batch's highest numbers minus the baseline."""

    def __init__(self) -> None:
        self.highest: dict[str, Counter[tuple[str, str]]] = {}
        self.baseline: dict[str, Counter[tuple[str, str]]] = {}
        self.finished: set[str] = set()
        self.finished_before: set[str] = set()

    def see(self, listed: list[Batch]) -> None:
        """Add the list that a complete poll saw."""
        first = not self.highest
        for batch in listed:
            highest = self.highest.setdefault(batch.id, Counter())
            for name, counts in batch.destinations.items():
                highest["completed", name] = max(highest["completed", name], counts.completed)
                highest["failed", name] = max(highest["failed", name], counts.failed)
                highest["with_failures", name] = max(highest["with_failures", name], int(counts.failed > 0))
            if batch.finished:
                self.finished.add(batch.id)
        if first:
            self.baseline = {batch_id: Counter(numbers) for batch_id, numbers in self.highest.items()}
            self.finished_before = set(self.finished)

    def totals(self) -> dict[str, object]:
        """Return the totals that must have been counted."""
        sums: Counter[tuple[str, str]] = Counter()
        for batch_id, numbers in self.highest.items():
            sums.update(numbers)
            sums.subtract(self.baseline.get(batch_id, {}))
        return {
            "documents": +sums,
            "created": len(self.highest) - len(self.baseline),
            "finished": len(self.finished - self.finished_before),
        }


def counted(report: Report) -> dict[str, object]:
    """Return the totals that the exporter counted."""

    def by_name(field: str) -> dict[tuple[str, str], int]:
        totals: dict[str, Total] = getattr(report.totals, field)
        return {(field, name): total.value for name, total in totals.items()}

    finished = sum(total.value for total in report.totals.finished.values())
    assert finished == sum(report.totals.durations.counts)
    return {
        "documents": Counter(by_name("completed") | by_name("failed") | by_name("with_failures")),
        "created": report.totals.created.value,
        "finished": finished,
    }


@pytest.mark.process
def test_whenever_the_poller_is_killed_it_continues_from_a_complete_poll(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "support.mortal", str(tmp_path), str(SEED), str(ROUNDS)]
    path = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    steps = {listed[0].id: (step, listed) for step, listed in enumerate(listings(SEED, 4 * ROUNDS))}
    history, latest, restored, unpublished = History(), -1, 0, 0
    for report in read_reports(tmp_path):
        step, listed = steps[report.snapshot.newest[0].id]
        assert step >= latest, "a published poll is never lost"
        restored += report.restored
        unpublished += report.restored and step > latest
        if step > latest:
            history.see(listed)
            latest = step
        assert essence(report.snapshot) == essence(oracle(listed))
        assert counted(report) == history.totals()
    print(f"{restored} of {ROUNDS} restored, {unpublished} of them a poll that was not yet published; {latest} steps")
    assert restored > ROUNDS / 4, "most processes are killed after they started to poll"
    assert unpublished, "some are killed between commit and publication"
    assert latest > ROUNDS / 2
