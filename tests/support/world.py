"""An account's batches at the API as a random history makes them, and the plain oracle of what a poll should see."""

from bisect import insort
from collections.abc import Set
from itertools import count
from random import Random

from msgspec.structs import replace

from inkit_exporter.api.batches import Batch, Counts
from inkit_exporter.window.window import KEPT, Snapshot, TopBatches
from support.conversation import make_batch

LOOKBACK = 1000.0
NOW = 10_000.0
NOTHING = Counts(0, 0, 0, 0)


def oracle(found: list[Batch], settled: Set[str] = frozenset()) -> Snapshot:
    """The snapshot of a full listing, the slow and plain way; of those batches, these are settled."""
    documents: dict[tuple[str, str], Counts] = {}
    statuses: dict[str, int] = {}
    for batch in found:
        statuses[batch.status] = statuses.get(batch.status, 0) + 1
        for name, numbers in batch.destinations.items():
            documents[name, batch.status] = documents.get((name, batch.status), NOTHING) + numbers
    created = [batch.created_at for batch in found]
    ranked = sorted(found, key=lambda batch: (-batch.created_at, batch.id))
    failed = [b for b in ranked if b.status == "failed" or any(c.failed > 0 for c in b.destinations.values())]
    unfinished = [batch for batch in ranked[::-1] if not batch.finished and batch.id not in settled]
    return Snapshot(
        documents,
        statuses,
        max(created, default=None),
        min((batch.created_at for batch in unfinished), default=None),
        truncated=False,
        newest=tuple(ranked[:KEPT]),
        failing=TopBatches(tuple(failed[:KEPT]), len(failed)),
        unfinished=TopBatches(tuple(unfinished[:KEPT]), len(unfinished)),
    )


def essence(snapshot: Snapshot) -> tuple[object, ...]:
    """A snapshot without the zeros that stay."""
    return (
        {labels: numbers for labels, numbers in snapshot.documents.items() if numbers != NOTHING},
        {status: number for status, number in snapshot.batches.items() if number},
        snapshot.newest_created,
        snapshot.oldest_unfinished_created,
        snapshot.newest,
        replace(snapshot.failing, changed_at=()),
        replace(snapshot.unfinished, changed_at=()),
    )


def recent(listing: list[Batch], now: float = NOW) -> list[Batch]:
    return [batch for batch in listing if batch.created_at >= now - LOOKBACK]


class World:
    """An account's batches at the API, newest first, as a random history makes them."""

    def __init__(self, chance: Random, *, ties: bool) -> None:
        self.chance = chance
        self.ties = ties
        self.batches: list[Batch] = []
        self.now = self.created = NOW
        self.ahead: list[float] = []
        self.settled: Set[str] = set()
        self.ids = count()

    def create(self) -> None:
        if not self.ties:
            self.now += 0.001
        self.created = max([self.created, *(created for created in self.ahead if created <= self.now)])
        created = self.created = self.created if self.ties and self.chance.random() < 0.4 else self.now
        status = self.chance.choice(("in_progress", "in_progress", "pending", "completed", f"odd_{next(self.ids) % 3}"))
        batch = make_batch(f"fb_{next(self.ids)}", "", created, status, self.numbers(status))
        insort(self.batches, batch, key=lambda b: -b.created_at)

    def numbers(self, status: str) -> dict[str, Counts]:
        under_way = (
            0
            if status in ("completed", "failed", "cancelled") or self.chance.random() < 0.4
            else self.chance.randint(0, 3)
        )
        done = self.chance.randint(0, 5), self.chance.randint(0, 2)
        return {
            name: Counts(sum(done) + under_way, *done, under_way)
            for name in self.chance.sample(("box", "sepire", "dropbox"), self.chance.randint(1, 3))
        }

    def change(self, batch: Batch, status: str) -> None:
        self.batches[self.batches.index(batch)] = make_batch(
            batch.id, batch.name, batch.created_at, status, self.numbers(status)
        )

    def pick(self, *, finished: bool) -> Batch | None:
        """One of those whose changes are seen at once, or by the resync only."""
        found = [b for b in recent(self.batches, self.now) if (b.finished or b.id in self.settled) is finished]
        return self.chance.choice(found) if found else None

    def happen(self, what: str) -> None:
        batch = self.pick(finished=what in ("delete", "reopen", "amend"))
        match what:
            case "create":
                self.create()
            case "burst":
                for _ in range(self.chance.randint(5, 25)):
                    self.create()
            case "time":
                self.now += self.chance.uniform(0, 60)
            case "future":
                ahead = make_batch(
                    f"fb_{next(self.ids)}", "", self.now + self.chance.choice((5, 50, 10**9)), "completed", {}
                )
                insort(self.batches, ahead, key=lambda b: -b.created_at)
                self.ahead.append(ahead.created_at)
            case "progress" if batch:
                self.change(batch, self.chance.choice(("in_progress", "pending")))
            case "finish" if batch:
                self.change(batch, self.chance.choice(("completed", "failed", "cancelled")))
            case "vanish" | "delete" if batch:
                self.batches.remove(batch)
            case "reopen" if batch:
                self.change(batch, "in_progress")
            case "amend" if batch:
                self.change(batch, "completed")


SEEN_AT_ONCE = ("create", "burst", "time", "future", "progress", "finish", "finish", "vanish")
SEEN_BY_THE_SWEEP = ("delete", "reopen", "amend")
