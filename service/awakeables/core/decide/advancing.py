"""How an invocation begins and how its owner moves it on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.acts import acts_bytes, noted
from awakeables.core.answers import Advanced, Begun, Fenced, KeyConflict
from awakeables.core.awakeables import AwakeableRow
from awakeables.core.effects import Effect, TaskFacts
from awakeables.core.invocations import CALLED_OFF, CANCELLED, End, Invocation
from awakeables.core.orders import Advance, Begin, FirstStep
from awakeables.core.records import text_bytes
from awakeables.core.rows import PLACES, Changes, Rows, effect_row

ABANDONED = "its invocation ended"

FENCED = Fenced()


class _Step(msgspec.Struct, frozen=True):
    """What a step does beside moving the invocation: decided, not yet written."""

    new: dict[str, AwakeableRow]
    changed: list[tuple[AwakeableRow, AwakeableRow]]
    effects: tuple[Effect, ...]
    called_off: tuple[str, ...]


_NOTHING = _Step({}, [], (), ())


def begin(order: Begin, rows: Rows, now_ms: int, changes: Changes) -> Begun | KeyConflict:
    """Create the invocation, unless it was created before or its key stands for another one."""
    first = order.first
    if rows.invocations.get(order.id) is not None:
        return Begun(id=order.id, created=True, effects=_unsent(first.effects if first else (), rows))
    if order.idempotency is not None:
        known = rows.keys[order.idempotency.scope, order.idempotency.key]
        if known is not None:
            fingerprint, invocation_id = known
            if fingerprint != order.idempotency.fingerprint:
                return KeyConflict(id=invocation_id)
            if invocation_id == order.id:
                return Begun(id=order.id, created=True, effects=_unsent(first.effects if first else (), rows))
            return Begun(id=invocation_id, created=False)
    row = _new_invocation(order, now_ms)
    effects: tuple[Effect, ...] = ()
    if first is not None and order.owner is not None:
        step = _decided(first, (), row, rows, now_ms)
        row = invocations.advance(
            row,
            first.next,
            grows=False,
            owner=order.owner,
            number=first.number,
            build=order.build or "",
            now_ms=now_ms,
        )
        _write(first, step, row, order.owner, changes)
        effects = step.effects
    changes.put_invocation(None, row)
    changes.chunks.append((row.id, 1, order.chunk, now_ms))
    if order.idempotency is not None:
        changes.add_key(order.idempotency, row.id)
    return Begun(id=row.id, created=True, effects=effects)


def _new_invocation(order: Begin, now_ms: int) -> Invocation:
    row = Invocation(
        order.id,
        order.service,
        order.handler,
        now_ms,
        now_ms,
        key_utf8=None if order.key is None else text_bytes(order.key),
        build=order.build,
        acts_json=None if order.by is None else acts_bytes(noted((), "begin", order.by, now_ms)),
        origin=order.origin,
    )
    if order.owner is not None:
        return invocations.claim(row, owner=order.owner, now_ms=now_ms)
    row.due_ms = now_ms + order.delay_ms if order.delay_ms else invocations.at_once(now_ms)
    return row


def advance(order: Advance, rows: Rows, now_ms: int, changes: Changes) -> Advanced | Fenced:
    """Apply an owner's commit, unless the owner is stale or it was applied before."""
    row = rows.invocations[order.invocation_id]
    if row is None:
        return FENCED
    if order.number <= row.commits and invocations.is_repeat(row, owner=order.owner, epoch=order.epoch):
        return _again(order, row, rows)
    if not invocations.owns(row, owner=order.owner, epoch=order.epoch, version=order.version):
        return FENCED
    after = invocations.advance(
        row,
        order.next,
        grows=order.chunk is not None,
        owner=order.owner,
        number=order.number,
        build=order.build,
        now_ms=now_ms,
    )
    step = _NOTHING
    ends = type(order.next) is End and order.next.abandoned
    if order.effects or order.awakeables or ends or order.calls_off or order.schemas:
        step = _decided(order, order.calls_off, after, rows, now_ms)
        _write(order, step, after, order.owner, changes)
    changes.put_invocation(row, after)
    if order.chunk is not None:
        changes.chunks.append((row.id, after.version, order.chunk, now_ms))
    return Advanced(invocation=after, effects=step.effects, called_off=step.called_off)


def _again(order: Advance, row: Invocation, rows: Rows) -> Advanced:
    """The answer whose acknowledgement was lost; effects that were sent meanwhile are left out."""
    settled = (rows.awakeables[key] for key in order.calls_off)
    called_off = tuple(each.id for each in settled if each is not None and each.outcome == CALLED_OFF)
    return Advanced(invocation=row, effects=_unsent(order.effects, rows), called_off=called_off)


def _unsent(effects: Sequence[Effect], rows: Rows) -> tuple[Effect, ...]:
    rows.effects.require(effect.event_id for effect in effects)
    queued = (rows.effects[effect.event_id] for effect in effects)
    return tuple(row.effect for row in queued if row is not None and row.state == "unsent")


def _decided(
    order: Advance | FirstStep, calls_off: Sequence[str], row: Invocation, rows: Rows, now_ms: int
) -> _Step:
    """Decide what the step does; nothing is changed yet."""
    new: dict[str, AwakeableRow] = {}
    for each in order.awakeables:
        deadline_ms = None if each.timeout_ms is None else now_ms + each.timeout_ms
        new[each.id] = AwakeableRow(
            each.id, row.id, now_ms, each.codec, each.schema_hash, deadline_ms, type_name=each.type_name
        )
    touched: dict[str, tuple[AwakeableRow, AwakeableRow]] = {}
    effects = []
    for effect in order.effects:
        effects.append(effect if effect.task is None else _placed(effect, effect.task, new, touched, rows))
    abandoned = order.next.abandoned if isinstance(order.next, End) else ()
    called_off = _cancelled(calls_off, CANCELLED, new, touched, rows, now_ms) if calls_off else ()
    if abandoned:
        _cancelled(abandoned, ABANDONED, new, touched, rows, now_ms)
    return _Step(new, list(touched.values()), tuple(effects), called_off)


def _placed(
    effect: Effect,
    task: TaskFacts,
    new: dict[str, AwakeableRow],
    touched: dict[str, tuple[AwakeableRow, AwakeableRow]],
    rows: Rows,
) -> Effect:
    """Note where the task goes, and in the task its awakeable's deadline, which only the row knows."""
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
    """Cancel those of these awakeables that are pending; their IDs."""
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


def _write(order: Advance | FirstStep, step: _Step, row: Invocation, owner: str, changes: Changes) -> None:
    for awakeable in step.new.values():
        changes.put_awakeable(None, awakeable)
    for before, after in step.changed:
        changes.put_awakeable(before, after)
    if order.schemas:
        changes.schemas.update(order.schemas)
    first = row.version << PLACES
    for place, effect in enumerate(step.effects, first):
        if changes.rows.effects.get(effect.event_id) is None:
            changes.put_effect(None, effect_row(effect, owner, place))
