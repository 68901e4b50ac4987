"""Decisions on subscriptions: invocations for a batch of records, where to begin reading, pauses."""

from __future__ import annotations

from msgspec.structs import replace

from awakeables.core.commands import BeginBatch, PausePartitions, PlacePartitions
from awakeables.core.decide.advancing import new_invocation
from awakeables.core.decide.calling import create_promises
from awakeables.core.decide.queueing import length_of, object_key_of, shown, take_ticket
from awakeables.core.decide.settling import add_dead_letters, by_code, is_next, keep
from awakeables.core.replies import Acknowledged, BatchBegun, Fenced, PartitionsTaken
from awakeables.core.rows import Changes, Draft, PositionRow, Rows


def begin_batch(command: BeginBatch, rows: Rows, now_ms: int, changes: Changes) -> BatchBegun | Fenced:
    """Create an invocation for each record, in order, up to the first one whose key's queue is full."""
    fence = command.fence
    held = rows.positions[fence.subscription, fence.topic, fence.partition]
    if held is None or not is_next(fence, held):
        return Fenced()
    draft, next_, full, joined = Draft(changes, now_ms), fence.next, None, 0
    for offset, begin in zip(command.offsets, command.begins, strict=True):
        row, run = new_invocation(begin, now_ms), begin.idempotency
        if run is not None:
            if draft.key(run.scope, run.key) is not None:
                joined += 1
                continue
            draft.add_key(run.scope, run.key, run.fingerprint, row.id)
        if begin.workflow is not None:
            create_promises(draft, begin.workflow, row)
        if begin.queue is not None:
            length = length_of(draft, object_key_of(row))
            if begin.queue.most is not None and length >= begin.queue.most:
                next_, full = offset, (shown(object_key_of(row)), length)
                break
            row = take_ticket(draft, row)
        draft.put_invocation(None, row)
        draft.chunks.append((row.id, begin.chunk))
    ids = tuple(key for key, _ in draft.chunks)
    letters = [letter for letter in command.dead_letters if letter.offset < next_]
    kept, folded, counted = keep(letters, rows, command.folding, now_ms)
    draft.write()
    add_dead_letters(kept, command.relay_to, now_ms, changes)
    if counted is not None:
        changes.put_dead_letter(*counted)
    changes.put_position(held, replace(held, next=next_))
    return BatchBegun(
        ids=ids, next=next_, full=full, joined=joined, dead_letters=tuple(kept), folded=by_code(folded)
    )


def place_partitions(command: PlacePartitions, rows: Rows, now_ms: int, changes: Changes) -> PartitionsTaken:
    """Set where partitions begin; the positions of all of them afterwards."""
    offsets = {(command.subscription, command.topic, number): offset for number, offset in command.offsets}
    rows.positions.require(offsets)
    positions = []
    for place, offset in offsets.items():
        row = rows.positions[place]
        if row is None:
            row = PositionRow(*place, next=offset, epoch=1, topic_id=command.topic_id)
            changes.put_position(None, row)
        positions.append(row.position)
    return PartitionsTaken(positions=tuple(positions))


def pause_partitions(command: PausePartitions, rows: Rows, now_ms: int, changes: Changes) -> Acknowledged:
    """Pause or resume what a subscription reads."""
    places = [(command.subscription, command.topic, number) for number in command.partitions]
    rows.positions.require(places)
    for place in places:
        row = rows.positions[place]
        if row is None:
            continue
        if command.paused and row.paused_ms is None:
            changes.put_position(row, replace(row, paused_ms=now_ms, epoch=row.epoch + 1))
        elif not command.paused and row.paused_ms is not None:
            changes.put_position(row, replace(row, paused_ms=None))
    return Acknowledged()
