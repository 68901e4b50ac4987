"""Decisions on the commands of operators, retention and recovery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.acts import acts_bytes, with_act
from awakeables.core.awakeables import AwakeableRow
from awakeables.core.commands import Cancel, Kill, Probe, Purge, PurgeDeadLetters, Resume, Skip
from awakeables.core.decide.advancing import ABANDONED
from awakeables.core.decide.settling import add_dead_letters, new_letters
from awakeables.core.replies import Acknowledged, CancelMarked, Killed, Purged, Resumed, Skipped
from awakeables.core.rows import Changes, Rows


def resume(command: Resume, rows: Rows, now_ms: int, changes: Changes) -> Resumed:
    """Make a paused or backing-off invocation due now."""
    row = rows.invocations[command.invocation_id]
    resumed = row and invocations.resume(row, now_ms=now_ms)
    if row is None or not resumed:
        return Resumed(invocation=row, accepted=False)
    if resumed is not row:
        acts = acts_bytes(with_act(row.acts, "resume", command.by, now_ms))
        resumed = replace(resumed, acts_json=acts)
        changes.put_invocation(row, resumed)
    return Resumed(invocation=resumed, accepted=True)


def cancel(command: Cancel, rows: Rows, now_ms: int, changes: Changes) -> CancelMarked:
    """Mark an invocation as cancelled; its owner cancels its awakeables (hard case 12)."""
    row = rows.invocations[command.invocation_id]
    cancelled = row and invocations.cancel(row, now_ms=now_ms)
    if row is None or not cancelled:
        return CancelMarked(invocation=row, accepted=False)
    if cancelled is not row:
        acts = acts_bytes(with_act(row.acts, "cancel", command.by, now_ms))
        cancelled = replace(cancelled, acts_json=acts)
        changes.put_invocation(row, cancelled)
    return CancelMarked(invocation=cancelled, accepted=True)


def kill(command: Kill, found: Sequence[AwakeableRow], now_ms: int, changes: Changes) -> Killed:
    """End an invocation without running its handler, and cancel its pending awakeables."""
    row = changes.rows.invocations[command.invocation_id]
    killed = row and invocations.kill(row, now_ms=now_ms)
    if row is None or not killed:
        return Killed(invocation=row, done=False)
    if killed is not row:
        acts = acts_bytes(with_act(row.acts, "kill", command.by, now_ms))
        killed = replace(killed, acts_json=acts)
        changes.put_invocation(row, killed)
        for pending in found:
            cancelled = awakeables.cancel(pending, now_ms=now_ms, reason=ABANDONED)
            if cancelled is not None:
                changes.put_awakeable(pending, cancelled)
    return Killed(invocation=killed, done=True)


def purge(command: Purge, rows: Rows, now_ms: int, changes: Changes) -> Purged:
    """Delete ended invocations; one that has not ended, or ended too recently, is left alone."""
    rows.invocations.require([ended.id for ended in command.ended])
    expired = []
    for ended in command.ended:
        row = rows.invocations[ended.id]
        if row is not None and row.status == "completed" and row.updated_ms <= command.before_ms:
            expired.append(ended)
    changes.purged += expired
    return Purged(count=len(expired))


class PurgeCandidates(NamedTuple):
    """The IDs of dead letters and refused effects that are old enough to be deleted."""

    dead_letters: Sequence[str]
    effects: Sequence[str]


def purge_dead_letters(
    command: PurgeDeadLetters, found: PurgeCandidates, now_ms: int, changes: Changes
) -> Purged:
    """Delete old dead letters and refused effects."""
    changes.deleted_dead_letters += found.dead_letters
    changes.deleted_effects += found.effects
    return Purged(count=len(found.dead_letters) + len(found.effects))


def skip(command: Skip, rows: Rows, now_ms: int, changes: Changes) -> Skipped:
    """Move a partition's position, and fence its reader."""
    if rows.dead_letters[command.dead_letter.id] is not None:
        return Skipped(done=True)
    held = rows.positions[command.topic, command.partition]
    if held is None or held.next != command.before:
        return Skipped(done=False)
    letters = new_letters([command.dead_letter], rows)
    again_before = max(held.again_before, held.next) if command.next < held.next else held.again_before
    again_before = 0 if command.recreated else again_before
    # The next reader says which topic it is that the operator has moved it in.
    topic_id = None if command.recreated else held.topic_id
    row = replace(held, next=command.next, epoch=held.epoch + 1, again_before=again_before, topic_id=topic_id)
    changes.put_position(held, row)
    add_dead_letters(letters, command.relay_to, now_ms, changes)
    return Skipped(done=True)


def probe(command: Probe, rows: Rows, now_ms: int, changes: Changes) -> Acknowledged:
    """Make the store write to the disk without changing a row."""
    changes.probes += 1
    return Acknowledged()
