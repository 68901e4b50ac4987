"""Decisions on schedules: evaluating their ticks, placing them, pauses."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from awakeables.core.commands import (
    Begin,
    BeginQueued,
    Fire,
    PauseSchedule,
    PlaceSchedules,
    Tick,
    Trigger,
)
from awakeables.core.decide.advancing import new_invocation
from awakeables.core.decide.calling import create_promises
from awakeables.core.decide.queueing import take_ticket
from awakeables.core.replies import Acknowledged, Fenced, Fired, ScheduleChanged
from awakeables.core.rows import Changes, Draft, Rows
from awakeables.core.schedules import Overlap, ScheduleRow


def fire(command: Fire, rows: Rows, now_ms: int, changes: Changes) -> Fired | Fenced:
    """Move a schedule to the tick that follows, and begin what is due; whoever comes second is fenced."""
    row = rows.schedules[command.schedule]
    if row is None or row.declared != command.declared:
        return Fenced()
    if row.next_ms != command.next_ms or row.paused_ms is not None:
        return _fired_before(command, row, rows)
    assert command.following_ms > row.next_ms, "a schedule only moves forward"
    moved = replace(row, next_ms=command.following_ms)
    return _evaluate(command.ticks, command.overlap, row, moved, Draft(changes, now_ms), changes)


def _fired_before(command: Fire, row: ScheduleRow, rows: Rows) -> Fired | Fenced:
    """Rebuild the reply that was lost, if it has begun anything."""
    if row.next_ms != command.following_ms:
        return Fenced()
    ids = [tick.begin.id for tick in command.ticks]
    rows.invocations.require(ids)
    begun = tuple(key for key in ids if rows.invocations[key] is not None)
    return Fired(begun=begun) if begun else Fenced()


def begin_queued(command: BeginQueued, rows: Rows, now_ms: int, changes: Changes) -> Fired | Fenced:
    """Begin the tick that waits, if the invocation before it has ended."""
    row, tick = rows.schedules[command.schedule], command.tick
    if row is None or row.declared != command.declared or row.paused_ms is not None:
        return Fenced()
    draft = Draft(changes, now_ms)
    if row.queued_ms != tick.at_ms or _is_open(row, draft):
        return Fenced()
    return _evaluate([tick], "skip", row, replace(row, queued_ms=None), draft, changes)


def trigger(command: Trigger, rows: Rows, now_ms: int, changes: Changes) -> Fired | Fenced:
    """Begin it now, also while it is paused; what its overlap says holds for this, too."""
    row, tick = rows.schedules[command.schedule], command.tick
    if row is None or row.declared != command.declared:
        return Fenced()
    rows.invocations.require([tick.begin.id])
    if rows.invocations[tick.begin.id] is not None:  # it is sent again
        return Fired(begun=(tick.begin.id,))
    if row.queued_ms == tick.at_ms:
        return Fired(queued=True)
    return _evaluate([tick], command.overlap, row, row, Draft(changes, now_ms), changes)


def _evaluate(
    ticks: Sequence[Tick],
    overlap: Overlap,
    before: ScheduleRow,
    row: ScheduleRow,
    draft: Draft,
    changes: Changes,
) -> Fired | Fenced:
    """Begin, queue or skip ticks, the oldest first, and write the row."""
    if any(changes.rows.invocations.get(tick.begin.id) is not None for tick in ticks):
        return Fenced()  # it is sent again, long after the first time
    begun: list[str] = []
    skipped = skipped_queue = 0
    queued = False
    for tick in ticks:
        waits = row.queued_ms is not None
        if overlap == "allow" or not (waits or _is_open(row, draft)):
            begun.append(_begin(draft, tick.begin))
            row = replace(row, last_invocation=begun[-1])
        elif overlap == "skip":
            skipped += 1
        elif waits:
            skipped_queue += 1
        else:
            row, queued = replace(row, queued_ms=tick.at_ms), True
    draft.write()
    if row != before:
        changes.put_schedule(before, row.name, row)
    return Fired(begun=tuple(begun), skipped=skipped, queued=queued, skipped_queue=skipped_queue)


def _is_open(row: ScheduleRow, draft: Draft) -> bool:
    """Whether the last invocation of a schedule has not ended."""
    last = None if row.last_invocation is None else draft.invocation(row.last_invocation)
    return last is not None and last.status != "completed"


def _begin(draft: Draft, begin: Begin) -> str:
    """Create the invocation of a tick; its ID, or that of the run which the key of a workflow has already."""
    row, run = new_invocation(begin, draft.now_ms), begin.idempotency
    if run is not None:
        known = draft.key(run.scope, run.key)
        if known is not None:
            return known[1]
        draft.add_key(run.scope, run.key, run.fingerprint, row.id)
    if begin.workflow is not None:
        create_promises(draft, begin.workflow, row)
    if begin.queue is not None:
        row = take_ticket(draft, row)
    draft.put_invocation(None, row)
    draft.chunks.append((row.id, begin.chunk))
    return row.id


def place_schedules(command: PlaceSchedules, rows: Rows, now_ms: int, changes: Changes) -> Acknowledged:
    """Write the schedules of the code; what a newer build wrote is left alone while it lives."""
    rows.schedules.require((*(each.name for each in command.schedules), *command.removed))
    for each in command.schedules:
        held, (service, handler, spec) = rows.schedules[each.name], each.declared
        if (held is None or held.declared != each.declared) and each.read_ms != (held and held.next_ms):
            continue  # a tick may have begun meanwhile: whoever reads the row as it is now places it
        if held is None:
            row = ScheduleRow(each.name, service, handler, spec, command.since_ms, each.next_ms)
            changes.put_schedule(None, row.name, row)
        elif held.since_ms <= command.since_ms or command.newest:
            row = replace(held, since_ms=command.since_ms)
            if held.declared != each.declared:
                row = replace(
                    row,
                    service=service,
                    handler=handler,
                    spec_json=spec,
                    next_ms=each.next_ms,
                    queued_ms=None,
                )
            if row != held:
                changes.put_schedule(held, row.name, row)
    for name in command.removed:
        gone = rows.schedules[name]
        if gone is not None and (gone.since_ms <= command.since_ms or command.newest):
            changes.put_schedule(gone, name, None)
    return Acknowledged()


def pause_schedule(command: PauseSchedule, rows: Rows, now_ms: int, changes: Changes) -> ScheduleChanged:
    """Pause a schedule, or resume it with its first tick from now on."""
    held = row = rows.schedules[command.schedule]
    if held is not None and command.paused and held.paused_ms is None:
        row = replace(held, paused_ms=now_ms)
    elif held is not None and not command.paused and held.paused_ms is not None:
        row = replace(held, paused_ms=None, next_ms=max(held.next_ms, command.next_ms))
    if row is not None and row is not held:
        changes.put_schedule(held, row.name, row)
    return ScheduleChanged(row=row)
