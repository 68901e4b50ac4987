"""Decisions on `Begin` and `Advance`: creating an invocation, and its owner's commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.acts import acts_bytes, with_act
from awakeables.core.awakeables import AwakeableRow
from awakeables.core.commands import Advance, Begin, FirstStep
from awakeables.core.effects import Effect, TaskFacts
from awakeables.core.invocations import CANCELLED, CANCELLED_OUTCOME, End, Invocation
from awakeables.core.records import text_bytes
from awakeables.core.replies import Advanced, Begun, Fenced, KeyConflict
from awakeables.core.rows import PLACES, Changes, Rows, effect_row

ABANDONED = "its invocation ended"

FENCED = Fenced()


class _Step(msgspec.Struct, frozen=True):
    """What a step changes besides the invocation's row: decided, not yet written."""

    new: dict[str, AwakeableRow]
    changed: list[tuple[AwakeableRow, AwakeableRow]]
    effects: tuple[Effect, ...]
    cancelled_ids: tuple[str, ...]


_NOTHING = _Step({}, [], (), ())


def begin(command: Begin, rows: Rows, now_ms: int, changes: Changes) -> Begun | KeyConflict:
    """Create the invocation, unless it exists or its idempotency key identifies another one."""
    first = command.first
    if rows.invocations.get(command.id) is not None:
        return Begun(id=command.id, created=True, effects=_unsent(first.effects if first else (), rows))
    if command.idempotency is not None:
        known = rows.keys[command.idempotency.scope, command.idempotency.key]
        if known is not None:
            fingerprint, invocation_id = known
            if fingerprint != command.idempotency.fingerprint:
                return KeyConflict(id=invocation_id)
            if invocation_id == command.id:
                return Begun(
                    id=command.id, created=True, effects=_unsent(first.effects if first else (), rows)
                )
            return Begun(id=invocation_id, created=False)
    row = _new_invocation(command, now_ms)
    effects: tuple[Effect, ...] = ()
    if first is not None and command.owner is not None:
        step = _decided(first, (), row, rows, now_ms)
        row = invocations.advance(
            row,
            first.next,
            grows=False,
            owner=command.owner,
            number=first.number,
            build=command.build or "",
            now_ms=now_ms,
        )
        _write(first, step, row, command.owner, changes)
        effects = step.effects
    changes.put_invocation(None, row)
    changes.chunks.append((row.id, 1, command.chunk, now_ms))
    if command.idempotency is not None:
        changes.add_key(command.idempotency, row.id)
    return Begun(id=row.id, created=True, effects=effects)


def _new_invocation(command: Begin, now_ms: int) -> Invocation:
    row = Invocation(
        command.id,
        command.service,
        command.handler,
        now_ms,
        now_ms,
        key_utf8=None if command.key is None else text_bytes(command.key),
        build=command.build,
        acts_json=None if command.by is None else acts_bytes(with_act((), "begin", command.by, now_ms)),
        origin=command.origin,
    )
    if command.owner is not None:
        return invocations.claim(row, owner=command.owner, now_ms=now_ms)
    row.due_ms = now_ms + command.delay_ms if command.delay_ms else invocations.at_once(now_ms)
    return row


def advance(command: Advance, rows: Rows, now_ms: int, changes: Changes) -> Advanced | Fenced:
    """Apply an owner's commit, unless the owner is stale or it was applied before."""
    row = rows.invocations[command.invocation_id]
    if row is None:
        return FENCED
    if command.number <= row.commits and invocations.is_repeat(row, owner=command.owner, epoch=command.epoch):
        return _again(command, row, rows)
    if not invocations.owns(row, owner=command.owner, epoch=command.epoch, version=command.version):
        return FENCED
    after = invocations.advance(
        row,
        command.next,
        grows=command.chunk is not None,
        owner=command.owner,
        number=command.number,
        build=command.build,
        now_ms=now_ms,
    )
    step = _NOTHING
    ends = type(command.next) is End and command.next.abandoned
    if command.effects or command.awakeables or ends or command.cancels or command.schemas:
        step = _decided(command, command.cancels, after, rows, now_ms)
        _write(command, step, after, command.owner, changes)
    changes.put_invocation(row, after)
    if command.chunk is not None:
        changes.chunks.append((row.id, after.version, command.chunk, now_ms))
    return Advanced(invocation=after, effects=step.effects, cancelled_ids=step.cancelled_ids)


def _again(command: Advance, row: Invocation, rows: Rows) -> Advanced:
    """Rebuild the reply that was lost; effects that were sent meanwhile are left out."""
    settled = (rows.awakeables[key] for key in command.cancels)
    cancelled_ids = tuple(
        each.id for each in settled if each is not None and each.outcome == CANCELLED_OUTCOME
    )
    return Advanced(invocation=row, effects=_unsent(command.effects, rows), cancelled_ids=cancelled_ids)


def _unsent(effects: Sequence[Effect], rows: Rows) -> tuple[Effect, ...]:
    rows.effects.require(effect.event_id for effect in effects)
    queued = (rows.effects[effect.event_id] for effect in effects)
    return tuple(row.effect for row in queued if row is not None and row.state == "unsent")


def _decided(
    command: Advance | FirstStep, cancels: Sequence[str], row: Invocation, rows: Rows, now_ms: int
) -> _Step:
    """Decide what the step does, without changing anything yet."""
    new: dict[str, AwakeableRow] = {}
    for each in command.awakeables:
        deadline_ms = None if each.timeout_ms is None else now_ms + each.timeout_ms
        new[each.id] = AwakeableRow(
            each.id, row.id, now_ms, each.codec, each.schema_hash, deadline_ms, type_name=each.type_name
        )
    touched: dict[str, tuple[AwakeableRow, AwakeableRow]] = {}
    effects = []
    for effect in command.effects:
        effects.append(effect if effect.task is None else _placed(effect, effect.task, new, touched, rows))
    abandoned = command.next.abandoned if isinstance(command.next, End) else ()
    cancelled_ids = _cancelled(cancels, CANCELLED, new, touched, rows, now_ms) if cancels else ()
    if abandoned:
        _cancelled(abandoned, ABANDONED, new, touched, rows, now_ms)
    return _Step(new, list(touched.values()), tuple(effects), cancelled_ids)


def _placed(
    effect: Effect,
    task: TaskFacts,
    new: dict[str, AwakeableRow],
    touched: dict[str, tuple[AwakeableRow, AwakeableRow]],
    rows: Rows,
) -> Effect:
    """Record the task's topic in its awakeable, and the deadline, set by the store, in the task."""
    row = new.get(task.awakeable_id)
    if row is not None:
        if row.topic is None:
            row.topic = effect.topic
    else:
        stored = rows.awakeables[task.awakeable_id]
        if stored is None:
            return effect
        before, row = touched.get(stored.id, (stored, stored))
        if row.topic is None:
            touched[row.id] = (before, replace(row, topic=effect.topic))
    if row.deadline_ms is None:
        return effect
    return replace(effect, task=replace(task, deadline_ms=row.deadline_ms))


def _cancelled(
    ids: Iterable[str],
    reason: str,
    new: dict[str, AwakeableRow],
    touched: dict[str, tuple[AwakeableRow, AwakeableRow]],
    rows: Rows,
    now_ms: int,
) -> tuple[str, ...]:
    """Cancel the pending ones of these awakeables; return their IDs."""
    cancelled = []
    for key in ids:
        stored = new.get(key) or rows.awakeables[key]
        if stored is None:
            continue
        before, row = touched.get(key, (stored, stored))
        after = awakeables.cancel(row, now_ms=now_ms, reason=reason)
        if after is not None:
            cancelled.append(key)
            if key in new:
                new[key] = after
            else:
                touched[key] = (before, after)
    return tuple(cancelled)


def _write(command: Advance | FirstStep, step: _Step, row: Invocation, owner: str, changes: Changes) -> None:
    for awakeable in step.new.values():
        changes.put_awakeable(None, awakeable)
    for before, after in step.changed:
        changes.put_awakeable(before, after)
    if command.schemas:
        changes.schemas.update(command.schemas)
    first = row.version << PLACES
    for place, effect in enumerate(step.effects, first):
        if changes.rows.effects.get(effect.event_id) is None:
            changes.put_effect(None, effect_row(effect, owner, place))
