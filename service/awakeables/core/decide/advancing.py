"""Decisions on `Begin` and `Advance`: creating an invocation, and its owner's commits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.acts import acts_bytes, with_act
from awakeables.core.awakeables import AwakeableRow, Watch
from awakeables.core.commands import Advance, Begin, FirstStep, NewAwakeable, NewCall
from awakeables.core.decide.calling import (
    CONFLICT,
    abandon,
    cancel_by_id,
    cancel_call,
    create_calls,
    create_promises,
    on_end,
    wait_for_call,
    wait_for_promise,
)
from awakeables.core.decide.queueing import length_of, object_key_of, take_ticket
from awakeables.core.decide.settling import add_dead_letters, new_letters
from awakeables.core.effects import Effect, TaskFacts
from awakeables.core.ids import is_invocation
from awakeables.core.invocations import CALLED_OFF, CANCELLED_OUTCOME, End, Invocation
from awakeables.core.objects import DELAYED, RUN
from awakeables.core.outcomes import Cancellation, Outcome
from awakeables.core.records import text_bytes
from awakeables.core.replies import Advanced, Begun, Fenced, KeyConflict, NotBegun, QueueFull, Wake
from awakeables.core.rows import PLACES, Changes, Draft, Rows, effect_row
from awakeables.core.versions import versions_bytes, with_markers

FENCED = Fenced()


class _Step(NamedTuple):
    """What a step publishes, and which of its invocation's awakeables it settles."""

    effects: tuple[Effect, ...]
    settled: tuple[tuple[str, Outcome], ...]


def begin(  # noqa: C901 - one case after the other
    command: Begin, rows: Rows, now_ms: int, changes: Changes
) -> Begun | KeyConflict | QueueFull | NotBegun:
    """Create the invocation.

    Not if it exists, its idempotency key identifies another one, or the queue of its object's key is full.
    """
    first = command.first
    if rows.invocations.get(command.id) is not None:
        return _begun_before(command, rows)
    if command.idempotency is not None:
        known = rows.keys[command.idempotency.scope, command.idempotency.key]
        if known is not None:
            fingerprint, invocation_id = known
            if not command.idempotency.is_of(fingerprint):
                return KeyConflict(id=invocation_id)
            if invocation_id == command.id:
                return _begun_before(command, rows)
            return Begun(id=invocation_id, created=False)
    workflow = command.workflow
    if workflow is not None and not workflow.is_run and rows.keys[workflow.scope, command.key or ""] is None:
        # It may be sent again, when the run that it was for is purged.
        return NotBegun() if rows.invocations[command.id] is None else _begun_before(command, rows)
    row = new_invocation(command, now_ms)
    step: _Step | None = None
    wakes: tuple[Wake, ...] = ()
    stopped: tuple[Invocation, ...] = ()
    conflicts: tuple[str, ...] = ()
    if first is not None and command.owner is not None:
        row = invocations.advance(
            row,
            first.next,
            grows=False,
            owner=command.owner,
            number=first.number,
            build=command.build or "",
            now_ms=now_ms,
        )
        draft = Draft(changes, now_ms)
        draft.invocations[row.id] = (None, row)
        step = _decide(first, (), row, command.build or "", draft)
        wakes = draft.write()
        stopped = draft.stopped_rows() if draft.stopped else ()
        conflicts = tuple(draft.conflicts)
        _write(first, step, row, command.owner, changes)
    elif command.queue is not None:
        draft = Draft(changes, now_ms)
        if command.delay_ms:
            row = replace(row, ticket=DELAYED)
        else:
            length = length_of(draft, object_key_of(row))
            if command.queue.most is not None and length >= command.queue.most:
                # It may be what fills the queue: then this is sent again after a lost acknowledgement.
                exists = rows.invocations[command.id] is not None
                return _begun_before(command, rows) if exists else QueueFull(length=length)
            row = take_ticket(draft, row)
        draft.put_invocation(None, row)
        draft.write()
    elif workflow is not None and workflow.is_run:
        draft = Draft(changes, now_ms)
        create_promises(draft, workflow, row)
        draft.put_invocation(None, row)
        draft.write()
    else:
        changes.put_invocation(None, row)
    changes.chunks.append((row.id, 1, command.chunk, now_ms))
    if command.idempotency is not None:
        changes.add_key(command.idempotency, row.id)
    if step is None:
        return Begun(id=row.id, created=True)
    return Begun(
        id=row.id,
        created=True,
        effects=step.effects,
        settled=step.settled,
        wakes=wakes,
        stopped=stopped,
        conflicts=conflicts,
    )


def new_invocation(command: Begin, now_ms: int) -> Invocation:
    """The row that a command creates: claimed if it has an owner, otherwise pending."""
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
        subscription=command.subscription,
        versions_json=None if command.versions is None else versions_bytes(command.versions),
    )
    if command.owner is not None:
        return invocations.claim(row, owner=command.owner, now_ms=now_ms)
    row.due_ms = invocations.first_due_ms(now_ms, command.delay_ms)
    if command.workflow is not None and command.workflow.is_run:
        row.ticket = RUN
    return row


def _begun_before(command: Begin, rows: Rows) -> Begun:
    """Rebuild the reply that was lost."""
    first = command.first
    if first is None:
        return Begun(id=command.id, created=True)
    settled = _settled_before(first.called_off, first.awakeables, rows)
    return Begun(
        id=command.id,
        created=True,
        effects=_unsent(first.effects, rows),
        settled=settled,
        conflicts=_conflicts_before(first.calls, rows),
    )


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
        attempts=command.attempts,
    )
    if command.markers:
        after.versions_json = with_markers(row.versions_json, command.markers)
    ends = type(command.next) is End and (
        command.next.abandoned or row.awaited or row.ticket is not None or command.dead_letter is not None
    )
    if not (
        ends
        or command.effects
        or command.awakeables
        or command.calls
        or command.cancels
        or command.called_off
        or command.schemas
        or command.writes
    ):
        changes.put_invocation(row, after)
        if command.chunk is not None:
            changes.chunks.append((row.id, after.version, command.chunk, now_ms))
        return Advanced(invocation=after)
    draft = Draft(changes, now_ms)
    draft.invocations[row.id] = (row, after)
    step = _decide(command, command.cancels, after, command.build, draft)
    if command.writes and any(write.name is None for write in command.writes):
        rows.states.require([object_key_of(row)])
    letters = []
    if command.dead_letter is not None:
        letters = new_letters([command.dead_letter], rows)
    wakes = draft.write()
    _write(command, step, after, command.owner, changes)
    if letters:
        add_dead_letters(letters, command.relay_to, now_ms, changes)
    if command.writes:
        changes.write_state(object_key_of(row), command.writes, now_ms)
    if command.chunk is not None:
        changes.chunks.append((row.id, after.version, command.chunk, now_ms))
    if wakes:  # perhaps this one, because a call that it has cancelled is over
        after = rows.invocations[row.id] or after
    stopped = draft.stopped_rows() if draft.stopped else ()
    return Advanced(
        invocation=after,
        effects=step.effects,
        settled=step.settled,
        wakes=wakes,
        stopped=stopped,
        filed=bool(letters),
        conflicts=tuple(draft.conflicts),
    )


def _again(command: Advance, row: Invocation, rows: Rows) -> Advanced:
    """Rebuild the reply that was lost; effects that were sent meanwhile are left out."""
    settled = _settled_before((*command.cancels, *command.called_off), command.awakeables, rows)
    return Advanced(
        invocation=row,
        effects=_unsent(command.effects, rows),
        settled=settled,
        conflicts=_conflicts_before(command.calls, rows),
    )


def _settled_before(
    cancels: Sequence[str], created: Sequence[NewAwakeable], rows: Rows
) -> tuple[tuple[str, Outcome], ...]:
    """The awakeables that a commit which was applied before has settled, or that have been since."""
    cancels = [key for key in cancels if key.startswith("prom")]
    waits = [each.id for each in created if each.source is not None]
    rows.awakeables.require([*cancels, *waits])
    settled = [(key, row.outcome) for key in (*cancels, *waits) if (row := rows.awakeables[key]) is not None]
    return tuple(
        (key, outcome)
        for key, outcome in settled
        if outcome is not None and (key in waits or outcome in (CANCELLED_OUTCOME, CALLED_OFF))
    )


def _conflicts_before(calls: Sequence[NewCall], rows: Rows) -> tuple[str, ...]:
    """The calls of a commit which was applied before that it did not create because of their keys."""
    places = [(CONFLICT, call.id) for call in calls if call.idempotency is not None]
    rows.keys.require(places)
    return tuple(call_id for _, call_id in places if rows.keys[CONFLICT, call_id] is not None)


def _unsent(effects: Sequence[Effect], rows: Rows) -> tuple[Effect, ...]:
    rows.effects.require(effect.event_id for effect in effects)
    queued = (rows.effects[effect.event_id] for effect in effects)
    return tuple(row.effect for row in queued if row is not None and row.state == "unsent")


def _decide(
    command: Advance | FirstStep, cancels: Sequence[str], row: Invocation, build: str, draft: Draft
) -> _Step:
    """Decide what the step does, without changing anything yet."""
    settled: list[tuple[str, Outcome]] = []
    if command.calls:
        create_calls(draft, command.calls, row.id, build)
    for each in command.awakeables:
        if each.source is not None:
            wait_for = wait_for_call if is_invocation(each.source) else wait_for_promise
            outcome = wait_for(draft, each, row.id)
            if outcome is not None:
                settled.append((each.id, outcome))
            continue
        deadline_ms = None if each.timeout_ms is None else draft.now_ms + each.timeout_ms
        created = AwakeableRow(
            each.id, row.id, draft.now_ms, each.codec, each.schema_hash, deadline_ms, type_name=each.type_name
        )
        if each.heartbeat_ms is not None or each.on_late is not None or each.revoke_to is not None:
            watch = Watch(heartbeat_ms=each.heartbeat_ms, on_late=each.on_late, revoke_to=each.revoke_to)
            created = awakeables.watched(created, watch)
        draft.awakeables[created.id] = (None, created)
    effects = []
    for effect in command.effects:
        effects.append(effect if effect.task is None else _placed(effect, effect.task, draft))
    if cancels or command.called_off:
        settled += _cancelled(cancels, command.called_off, row.id, draft)
    if type(command.next) is End:
        for key in command.next.abandoned:
            wait = draft.awakeable(key)
            if wait is not None:
                abandon(draft, wait)
        on_end(draft, row, command.next.result)
    return _Step(tuple(effects), tuple(settled))


def _placed(effect: Effect, task: TaskFacts, draft: Draft) -> Effect:
    """Record the task's topic in its awakeable, and the deadline, set by the store, in the task."""
    known = draft.awakeables.get(task.awakeable_id)
    row = draft.awakeable(task.awakeable_id) if known is None else known[1]
    if row is None:
        return effect
    if row.topic is None:
        if known is not None and known[0] is None:
            row.topic = effect.topic  # it is new, and known only here
        else:
            draft.put_awakeable(row, replace(row, topic=effect.topic))
    if row.watch_json is not None:
        watch = row.watch
        watched = replace(
            task,
            deadline_ms=watch.final_ms,
            heartbeat_ms=watch.heartbeat_ms,
            revoke_to=watch.revoke_to,
        )
        return replace(effect, task=watched)
    if row.deadline_ms is None:
        return effect
    return replace(effect, task=replace(task, deadline_ms=row.deadline_ms))


def _cancelled(
    cancels: Sequence[str], called_off: Sequence[str], invocation_id: str, draft: Draft
) -> Iterator[tuple[str, Outcome]]:
    """Cancel awakeables and calls; the awakeables that are settled by this, with their outcomes."""
    for key in cancels:
        if _cancel(key, CANCELLED_OUTCOME, draft):
            yield key, CANCELLED_OUTCOME
    for key in called_off:
        if not key.startswith("prom"):
            cancel_by_id(draft, key, invocation_id)
        elif _cancel(key, CALLED_OFF, draft):
            yield key, CALLED_OFF


def _cancel(key: str, why: Cancellation, draft: Draft) -> bool:
    """Cancel an awakeable if it is pending; return whether it was.

    A call of this invocation's own is cancelled instead: the handler may wait for the callee's end.
    """
    row = draft.awakeable(key)
    if row is None or row.state != "pending":
        return False
    if row.owned:
        cancel_call(draft, row)
        return False
    cancelled = awakeables.cancel(row, now_ms=draft.now_ms, reason=why.reason)
    assert cancelled is not None
    draft.put_awakeable(row, cancelled)
    return True


def _write(command: Advance | FirstStep, step: _Step, row: Invocation, owner: str, changes: Changes) -> None:
    if command.schemas:
        changes.schemas.update(command.schemas)
    first = row.version << PLACES
    for place, effect in enumerate(step.effects, first):
        if changes.rows.effects.get(effect.event_id) is None:
            changes.put_effect(None, effect_row(effect, owner, place))
