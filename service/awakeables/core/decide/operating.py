"""Decisions on the commands of operators, retention and recovery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from awakeables.core import invocations
from awakeables.core.acts import ActKind, acts_bytes, with_act
from awakeables.core.commands import (
    Cancel,
    ExpireState,
    Kill,
    PauseHandlers,
    PauseInvocation,
    Probe,
    Purge,
    PurgeDeadLetters,
    Restart,
    Resume,
    Skip,
)
from awakeables.core.decide.calling import kill_calls, on_end
from awakeables.core.decide.queueing import object_key_of, take_ticket
from awakeables.core.decide.settling import add_dead_letters, new_letters
from awakeables.core.invocations import CANCELLED_OUTCOME, Invocation
from awakeables.core.objects import RUN, StateWrite
from awakeables.core.pauses import PauseRow
from awakeables.core.replies import (
    Acknowledged,
    CancelMarked,
    Killed,
    PauseChanged,
    PauseMarked,
    Purged,
    Restarted,
    Resumed,
    Skipped,
    StateExpired,
)
from awakeables.core.rows import Changes, Draft, Rows
from awakeables.core.versions import versions_bytes


def resume(command: Resume, rows: Rows, now_ms: int, changes: Changes) -> Resumed:
    """Make a paused or backing-off invocation due now."""
    row = rows.invocations[command.invocation_id]
    resumed = row and invocations.resume(row, now_ms=now_ms)
    if row is None or not resumed:
        return Resumed(invocation=row, accepted=False)
    if resumed is not row:
        resumed = _with_act(resumed, "resume", command.by, now_ms)
        changes.put_invocation(row, resumed)
    return Resumed(invocation=resumed, accepted=True)


def pause_handlers(command: PauseHandlers, rows: Rows, now_ms: int, changes: Changes) -> PauseChanged:
    """Pause a handler or a service, or resume it."""
    held = rows.pauses[command.target]
    row = held
    if command.paused and held is None:
        row = PauseRow(target=command.target, since_ms=now_ms, by=command.by)
    elif not command.paused:
        row = None
    if row is not held:
        changes.put_pause(held, command.target, row)
    return PauseChanged(row=row, changed=row is not held)


def pause(command: PauseInvocation, rows: Rows, now_ms: int, changes: Changes) -> PauseMarked:
    """Pause an invocation, or mark one that runs."""
    row = rows.invocations[command.invocation_id]
    paused = row and invocations.pause(row, now_ms=now_ms)
    if row is None or not paused:
        return PauseMarked(invocation=row, accepted=False)
    if paused is not row:
        paused = _with_act(paused, "pause", command.by, now_ms)
        changes.put_invocation(row, paused)
    return PauseMarked(invocation=paused, accepted=True)


def restart(command: Restart, rows: Rows, now_ms: int, changes: Changes) -> Restarted:
    """Begin an invocation that has ended again, under a new ID; one that is paused is killed first."""
    row = rows.invocations[command.invocation_id]
    if row is not None and rows.invocations[command.id] is not None:
        return Restarted(invocation=row, done=True)
    restartable = row is not None and row.status in ("completed", "paused") and row.ticket != RUN
    if row is None or not restartable or row.version != command.version:
        return Restarted(invocation=row, done=False)
    draft = Draft(changes, now_ms)
    acts = with_act(row.acts, "restart", command.by or "unknown", now_ms, into=command.id)
    killed = invocations.kill(row, now_ms=now_ms) if row.status == "paused" else row
    assert killed is not None
    ended = replace(killed, acts_json=acts_bytes(acts))
    draft.put_invocation(row, ended)
    if row.status == "paused":
        kill_calls(draft, ended)
    begun = Invocation(command.id, row.service, row.handler, now_ms, now_ms, key_utf8=row.key_utf8)
    begun.subscription = row.subscription
    begun.build, begun.due_ms = command.build, invocations.at_once(now_ms)
    begun.versions_json = versions_bytes(command.versions)
    # It belongs to whom the older one belongs to.
    whose = tuple(each for each in row.acts[:1] if each.act == "begin")
    begun.acts_json = acts_bytes(with_act(whose, "restart", command.by, now_ms))
    if row.ticket is not None:
        begun = take_ticket(draft, begun)
    draft.put_invocation(None, begun)
    draft.chunks.append((begun.id, command.chunk))
    wakes = draft.write()
    return Restarted(invocation=ended, done=True, wakes=wakes, stopped=draft.stopped_rows())


def cancel(command: Cancel, rows: Rows, now_ms: int, changes: Changes) -> CancelMarked:
    """Mark an invocation as cancelled; its owner cancels its awakeables (hard case 12)."""
    row = rows.invocations[command.invocation_id]
    cancelled = row and invocations.cancel(row, now_ms=now_ms)
    if row is None or not cancelled:
        return CancelMarked(invocation=row, accepted=False)
    if cancelled is row:
        return CancelMarked(invocation=row, accepted=True)
    cancelled = _with_act(cancelled, "cancel", command.by, now_ms)
    draft = Draft(changes, now_ms)
    draft.put_invocation(row, cancelled)
    if cancelled.status == "completed":  # it had not been claimed
        on_end(draft, cancelled, CANCELLED_OUTCOME)
    return CancelMarked(invocation=cancelled, accepted=True, wakes=draft.write())


def kill(command: Kill, rows: Rows, now_ms: int, changes: Changes) -> Killed:
    """End an invocation without running its handler, cancel its pending awakeables, and kill its calls."""
    row = rows.invocations[command.invocation_id]
    killed = row and invocations.kill(row, now_ms=now_ms)
    if row is None or not killed:
        return Killed(invocation=row, done=False)
    if killed is row:
        return Killed(invocation=row, done=True)
    killed = _with_act(killed, "kill", command.by, now_ms)
    draft = Draft(changes, now_ms)
    draft.put_invocation(row, killed)
    kill_calls(draft, killed)
    wakes = draft.write()
    return Killed(invocation=killed, done=True, stopped=draft.stopped_rows(), wakes=wakes)


def _with_act(row: Invocation, act: ActKind, by: str | None, now_ms: int) -> Invocation:
    return replace(row, acts_json=acts_bytes(with_act(row.acts, act, by, now_ms)))


def purge(command: Purge, rows: Rows, now_ms: int, changes: Changes) -> Purged:
    """Delete ended invocations; one that has not ended, or ended too recently, is left alone."""
    rows.invocations.require([ended.id for ended in command.ended])
    expired = []
    for ended in command.ended:
        row = rows.invocations[ended.id]
        if row is not None and row.status == "completed" and row.updated_ms <= command.before_ms:
            expired.append(ended)
    # With a run goes what belongs to its key.
    runs = [row for each in expired if (row := rows.invocations[each.id]) is not None and row.ticket == RUN]
    rows.states.require([object_key_of(row) for row in runs])
    for row in runs:
        changes.write_state(object_key_of(row), [StateWrite(name=None)], now_ms)
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


class KeyState(NamedTuple):
    """The names of the state of a key, when it was last written to, and whether the key has a queue."""

    key: bytes
    names: Sequence[str]
    written_ms: int
    has_queue: bool


def expire_state(
    command: ExpireState, found: Sequence[KeyState], now_ms: int, changes: Changes
) -> StateExpired:
    """Delete the state of keys that nothing was written to for long."""
    old = [each for each in found if each.written_ms < command.before_ms and not each.has_queue]
    for each in old:
        writes = [StateWrite(name=name) for name in each.names]
        changes.write_state((command.service, each.key), writes, now_ms)
    return StateExpired(count=len(old), last=found[-1].key if len(found) == command.limit else None)


def skip(command: Skip, rows: Rows, now_ms: int, changes: Changes) -> Skipped:
    """Move a partition's position, and fence its reader."""
    if rows.dead_letters[command.dead_letter.id] is not None:
        return Skipped(done=True)
    held = rows.positions[command.subscription, command.topic, command.partition]
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
