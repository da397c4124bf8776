"""What is kept of an account, as values: taken from its plan, and put into a new one. No I/O, no clock."""

import math
from collections.abc import Mapping, Set

from msgspec import Struct
from msgspec.structs import replace

from inkit_exporter.api.batches import Batch, Counts
from inkit_exporter.api.statuses import read_status
from inkit_exporter.config import AccountSettings, Filters, PollSettings
from inkit_exporter.jsonbody import snake_case_of_camel
from inkit_exporter.labels import OTHER
from inkit_exporter.state import AccountState
from inkit_exporter.window.plan import Bookmark, Plan
from inkit_exporter.window.totals import Peaks, Totals
from inkit_exporter.window.window import Snapshot


class Origin(Struct, frozen=True):
    """Where batches come from. Stored batches of another origin are not used."""

    account: str
    base_url: str
    batches: str
    filters: Filters


class Kept(Struct, frozen=True):
    """What is kept of an account besides its batches, as of a complete poll. Times are seconds since the epoch.

    `destinations` and `statuses` are the label values that were admitted, `combinations` and `batch_statuses` those of
    the gauges. `edge` is that of the totals, `cut` that of the window. `stale_after` is 0 unless a slow poll has made
    it longer than the setting. `records` is how many batches there are.
    """

    origin: Origin
    destinations: list[str]
    statuses: list[str]
    combinations: list[tuple[str, str]]
    batch_statuses: list[str]
    lookback: float
    max_batches: int
    mark: Bookmark
    edge: float
    cut: float
    truncated: bool
    totals: Totals
    last_success: float
    stale_after: float
    records: int


class Record(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is kept of one batch: all that window and totals know. `missing`: when a vanished batch was created."""

    batch: Batch | None = None
    changed_at: float | None = None
    peaks: Peaks | None = None
    finished_once: bool = False
    missing: float | None = None


def origin_of(account: AccountSettings) -> Origin:
    """Where the account's batches come from."""
    return Origin(account.name, account.base_url, account.batches, account.filters)


def known_ids(plan: Plan) -> Set[str]:
    """The ids of all batches with something to keep."""
    return plan.window.by_id.keys() | plan.window.totals.missing.keys()


def take_record(plan: Plan, batch_id: str) -> Record | None:
    """What is kept of a batch; None if there is nothing to keep."""
    window, totals = plan.window, plan.window.totals
    batch, missing = window.by_id.get(batch_id), totals.missing.get(batch_id)
    if batch is None and missing is None:
        return None
    peaks, finished_once = totals.peaks.get(batch_id), batch_id in totals.finished_once
    return Record(batch, window.changed_at.get(batch_id), peaks, finished_once, missing)


def take(plan: Plan, state: AccountState, origin: Origin) -> Kept:
    """What is kept besides the batches, after the complete poll that made this state."""
    window, snapshot = plan.window, state.snapshot or plan.window.snapshot(None)
    return Kept(
        origin=origin,
        destinations=sorted(state.labels.destinations.admitted),
        statuses=sorted(state.labels.statuses.admitted),
        combinations=sorted(snapshot.documents),
        batch_statuses=sorted(snapshot.batches),
        lookback=float(state.settings.lookback),
        max_batches=state.settings.max_batches,
        mark=replace(plan.mark),
        edge=window.totals.edge,
        cut=window.cut,
        truncated=window.truncated,
        totals=state.totals,
        last_success=state.last_success or 0.0,
        stale_after=state.stale_after if state.stale_after > state.settings.stale_after else 0.0,
        records=len(window.by_id) + len(window.totals.missing),
    )


def restore_plan(kept: Kept, records: Mapping[str, Record], settings: PollSettings, now: float) -> Plan:
    """A plan that continues the kept one, as far as these settings allow; `now` is wall time."""
    plan = Plan(settings, kept.totals)
    window, totals = plan.window, plan.window.totals
    final = frozenset(map(snake_case_of_camel, settings.final_statuses))
    again: set[str] = set()
    found = [(record, record.batch) for record in records.values() if record.batch]
    for record, stored in sorted(found, key=lambda pair: -pair[1].created_at):
        batch = _read_status_again(stored, final)
        window.upsert(batch, kept.last_success if record.changed_at is None else record.changed_at)
        if batch is not stored:
            again.add(batch.id)
    window.settle(kept.mark.polled_at - settings.resync_interval)
    totals.peaks = {key: record.peaks for key, record in records.items() if record.peaks is not None}
    totals.finished_once = {key for key, record in records.items() if record.finished_once}
    totals.finished_once |= {batch.id for _, batch in found if batch.id in again and batch.finished}
    totals.missing = {key: record.missing for key, record in records.items() if record.missing is not None}
    totals.edge, window.cut, window.truncated, plan.mark = kept.edge, kept.cut, kept.truncated, kept.mark
    longer = settings.lookback > kept.lookback and now - settings.lookback < kept.mark.cutoff
    if longer or (kept.truncated and settings.max_batches > kept.max_batches):
        # The rest of the window must be listed. What was created before the old one began is no news.
        totals.edge = max(totals.edge, min(kept.mark.cutoff, now))
        plan.mark = replace(kept.mark, listed=False, cutoff=-math.inf)
    totals.start_counting()
    totals.changed = again
    return plan


def restore_state(kept: Kept, plan: Plan, state: AccountState, snapshot_at: float) -> AccountState:
    """The state before the first poll, made of what is kept; `snapshot_at` is the snapshot's time by `boot_time`."""
    documents = dict.fromkeys(kept.combinations, Counts(0, 0, 0, 0))
    seen = Snapshot(documents, dict.fromkeys(kept.batch_statuses, 0), None, None, truncated=False)
    return replace(
        state,
        last_success=kept.last_success,
        snapshot_duration=kept.stale_after / 2,
        snapshot=plan.window.snapshot(seen),
        snapshot_at=snapshot_at,
        newest_first=kept.mark.ordered,
        totals=kept.totals.copy(),
    )


def _read_status_again(batch: Batch, final: frozenset[str]) -> Batch:
    """The batch, with `final` decided again: settings or version may have changed. `other` can't be decided."""
    if batch.status == OTHER or (says := read_status(batch.status, final)[1]) == batch.final:
        return batch
    return replace(batch, final=says)
