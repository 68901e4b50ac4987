"""What operators and the passing of time ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.acts import acts_bytes, noted
from awakeables.core.answers import Acknowledged, CancelMarked, Killed, Purged, Resumed, Skipped
from awakeables.core.awakeables import AwakeableRow
from awakeables.core.decide.advancing import ABANDONED
from awakeables.core.decide.settling import add_dead_letters, new_letters
from awakeables.core.orders import Cancel, Kill, Probe, Purge, PurgeLetters, Resume, Skip
from awakeables.core.rows import Changes, Rows


def resume(order: Resume, rows: Rows, now_ms: int, changes: Changes) -> Resumed:
    """Let a paused invocation run now."""
    row = rows.invocations[order.invocation_id]
    resumed = row and invocations.resume(row, now_ms=now_ms)
    if row is None or not resumed:
        return Resumed(invocation=row, accepted=False)
    if resumed is not row:
        acts = acts_bytes(noted(row.acts, "resume", order.by, now_ms))
        resumed = replace(resumed, acts_json=acts)
        changes.put_invocation(row, resumed)
    return Resumed(invocation=resumed, accepted=True)


def cancel(order: Cancel, rows: Rows, now_ms: int, changes: Changes) -> CancelMarked:
    """Mark an invocation as cancelled; its owner calls its awakeables off (hard case 12)."""
    row = rows.invocations[order.invocation_id]
    cancelled = row and invocations.cancel(row, now_ms=now_ms)
    if row is None or not cancelled:
        return CancelMarked(invocation=row, accepted=False)
    if cancelled is not row:
        acts = acts_bytes(noted(row.acts, "cancel", order.by, now_ms))
        cancelled = replace(cancelled, acts_json=acts)
        changes.put_invocation(row, cancelled)
    return CancelMarked(invocation=cancelled, accepted=True)


def kill(order: Kill, found: Sequence[AwakeableRow], now_ms: int, changes: Changes) -> Killed:
    """End an invocation as it stands, and cancel its pending awakeables."""
    row = changes.rows.invocations[order.invocation_id]
    killed = row and invocations.kill(row, now_ms=now_ms)
    if row is None or not killed:
        return Killed(invocation=row, done=False)
    if killed is not row:
        acts = acts_bytes(noted(row.acts, "kill", order.by, now_ms))
        killed = replace(killed, acts_json=acts)
        changes.put_invocation(row, killed)
        for pending in found:
            cancelled = awakeables.cancel(pending, now_ms=now_ms, reason=ABANDONED)
            if cancelled is not None:
                changes.put_awakeable(pending, cancelled)
    return Killed(invocation=killed, done=True)


def purge(order: Purge, rows: Rows, now_ms: int, changes: Changes) -> Purged:
    """Delete what has ended; an invocation that has not, or only lately, is left alone."""
    rows.invocations.require([ended.id for ended in order.ended])
    expired = []
    for ended in order.ended:
        row = rows.invocations[ended.id]
        if row is not None and row.status == "completed" and row.updated_ms <= order.before_ms:
            expired.append(ended)
    changes.purged += expired
    return Purged(count=len(expired))


class Old(NamedTuple):
    """The dead letters and refused effects that were found to be old enough to be deleted."""

    letters: Sequence[str]
    effects: Sequence[str]


def purge_letters(order: PurgeLetters, found: Old, now_ms: int, changes: Changes) -> Purged:
    """Delete old dead letters and refused effects."""
    changes.deleted_letters += found.letters
    changes.deleted_effects += found.effects
    return Purged(count=len(found.letters) + len(found.effects))


def skip(order: Skip, rows: Rows, now_ms: int, changes: Changes) -> Skipped:
    """Read a partition on from elsewhere, and fence its reader."""
    if rows.letters[order.dead_letter.id] is not None:
        return Skipped(done=True)
    held = rows.positions[order.topic, order.partition]
    if held is None or held.next != order.before:
        return Skipped(done=False)
    letters = new_letters([order.dead_letter], rows)
    again_before = max(held.again_before, held.next) if order.next < held.next else held.again_before
    again_before = 0 if order.anew else again_before
    row = replace(held, next=order.next, epoch=held.epoch + 1, again_before=again_before)
    changes.put_position(held, row)
    add_dead_letters(letters, order.relay_to, now_ms, changes)
    return Skipped(done=True)


def probe(order: Probe, rows: Rows, now_ms: int, changes: Changes) -> Acknowledged:
    """Have the store write and change no row."""
    changes.probes += 1
    return Acknowledged()
