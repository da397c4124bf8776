"""What is kept of an account, as values: taken from its plan, and put into a new one. No I/O, no clock.

Files hold `Kept` and `KeptBatch`, with types of other modules in them. A new field needs a default, or another format
number in storage/files.py. Other changes need another number. A file with another number is set aside, and its totals
are lost.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from inkit_exporter.api.batches import Batch
from inkit_exporter.api.statuses import read_status
from inkit_exporter.config import AccountSettings, PollSettings
from inkit_exporter.labels import OTHER
from inkit_exporter.state import AccountState
from inkit_exporter.window.plan import Bookmark, Plan
from inkit_exporter.window.totals import Past, Totals, TotalsTracker, past_of
from inkit_exporter.window.window import Snapshot, TopBatches


class Kept(Struct, frozen=True):
    """What is kept of an account besides its batches, as of a complete poll. Times are seconds since the epoch.

    `origin` is where its batches come from. `snapshot` has the sums only. `edge` is `not_new_until` of the totals,
    `cut` is `newest_dropped` of the window. `destinations` and `statuses` are the label values so far: what was summed
    under `other` stays there. `records` is how many batches there are.
    """

    origin: AccountSettings
    max_batches: int
    mark: Bookmark
    edge: float
    cut: float
    snapshot: Snapshot
    snapshot_duration: float
    destinations: frozenset[str]
    statuses: frozenset[str]
    last_success: float
    totals: Totals
    records: int


class KeptBatch(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is kept of one batch: all that window and totals know. `batch` is None if it has vanished."""

    batch: Batch | None = None
    changed_at: float | None = None
    past: Past | None = None


def origin_of(account: AccountSettings) -> AccountSettings:
    """Where the account's batches come from: its settings, whatever its token. Those of another origin are not used."""
    return replace(account, api_token_file=None, api_token_env=None)


def take_changed(totals: TotalsTracker) -> set[str] | None:
    """The ids of the batches that are to be written; None for all of them. Later changes are noted from now on."""
    changed = totals.changed if totals.stored else None
    totals.stored, totals.changed = True, set()
    return changed


def take_records(plan: Plan, ids: Iterable[str] | None) -> list[tuple[str, KeptBatch | None]]:
    """What is kept of these batches, or of all, by id. None for a batch that is forgotten."""
    window, totals = plan.window, plan.window.totals
    taken: list[tuple[str, KeptBatch | None]] = []
    for batch_id in window.by_id.keys() | totals.missing.keys() if ids is None else ids:
        batch, missing = window.by_id.get(batch_id), totals.missing.get(batch_id)
        record = KeptBatch(batch, window.changed_at.get(batch_id), missing or totals.past.get(batch_id))
        taken.append((batch_id, record if batch or missing else None))
    return taken


def take(plan: Plan, state: AccountState, origin: AccountSettings) -> Kept:
    """What is kept besides the batches, after the complete poll that made this state."""
    # Only for the types: after a complete poll, no alternative to the snapshot or to its time is needed.
    window, snapshot = plan.window, state.snapshot or plan.window.snapshot(None)
    return Kept(
        origin=origin,
        max_batches=state.settings.max_batches,
        mark=replace(plan.mark),
        edge=window.totals.not_new_until,
        cut=window.newest_dropped,
        snapshot=replace(snapshot, newest=(), failing=TopBatches(), unfinished=TopBatches()),
        snapshot_duration=state.snapshot_duration,
        destinations=frozenset(state.labels.destinations.admitted),
        statuses=frozenset(state.labels.statuses.admitted),
        last_success=state.last_success or 0.0,
        totals=state.totals,
        records=len(window.by_id) + len(window.totals.missing),
    )


def restore_plan(kept: Kept, records: Mapping[str, KeptBatch], settings: PollSettings) -> Plan:
    """A plan that continues the kept one, as far as these settings allow."""
    plan = Plan(settings, kept.totals)
    window, totals = plan.window, plan.window.totals
    totals.past = {key: record.past for key, record in records.items() if record.past and record.batch}
    totals.missing = {key: record.past for key, record in records.items() if record.past and not record.batch}
    found = [(record.batch, record.changed_at) for record in records.values() if record.batch]
    for stored, changed_at in sorted(found, key=lambda pair: -pair[0].created_at):
        # Settings or version may have changed. Nothing can be decided from `other`.
        final = stored.final if stored.status == OTHER else read_status(stored.status, settings.final_statuses)[1]
        batch = stored if final == stored.final else replace(stored, final=final)
        window.upsert(batch, kept.last_success if changed_at is None else changed_at)
        if not batch.final and stored.finished:
            totals.past.setdefault(batch.id, past_of(stored))
    window.settle(kept.mark.polled_at - settings.resync_interval)
    totals.not_new_until, window.newest_dropped = kept.edge, kept.cut
    window.truncated, plan.mark = kept.snapshot.truncated, kept.mark
    if window.truncated and settings.max_batches > kept.max_batches:
        plan.mark = replace(kept.mark, newest_first=False)
    totals.counting = True
    take_changed(totals)  # all of this is stored
    return plan


def restore_state(kept: Kept, plan: Plan, state: AccountState, snapshot_at: float) -> AccountState:
    """The state before the first poll, made of what is kept; `snapshot_at` is the snapshot's time by `boot_time`."""
    state.labels.destinations.admitted |= kept.destinations
    state.labels.statuses.admitted |= kept.statuses
    return replace(
        state,
        last_success=kept.last_success,
        snapshot_duration=kept.snapshot_duration,
        snapshot=plan.window.snapshot(kept.snapshot),
        snapshot_at=snapshot_at,
        newest_first=kept.mark.newest_first,
        totals=kept.totals.copy(),
    )
