"""Decisions on the queues of virtual objects: taking a place, and passing the key on."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from awakeables.core import invocations, objects
from awakeables.core.acts import ActKind, acts_bytes, with_act
from awakeables.core.commands import EditState, PauseKey, Queue, ResumeKey, TakeTickets
from awakeables.core.ids import is_invocation
from awakeables.core.invocations import Invocation
from awakeables.core.objects import DELAYED, RUN, ObjectKey, ObjectRow
from awakeables.core.outcomes import Rejection
from awakeables.core.records import text_bytes
from awakeables.core.replies import Acknowledged, KeyChanged
from awakeables.core.rows import Changes, Draft, Rows

MOST_STEPS = 64
"""How far a circle of calls is followed, from one invocation to the one that it waits for."""


def object_key_of(row: Invocation) -> ObjectKey:
    """The key that an exclusive invocation waits for, or holds."""
    return (row.service, row.key_utf8 or b"")


def length_of(draft: Draft, object_key: ObjectKey) -> int:
    """How many exclusive invocations of a key are open."""
    queue = draft.object(object_key)
    return 0 if queue is None else queue.length


def take_ticket(draft: Draft, row: Invocation) -> Invocation:
    """Give an exclusive invocation its place: it runs if the key is free, and is queued otherwise."""
    object_key = object_key_of(row)
    held = draft.object(object_key)
    queue = objects.joined(held, object_key, row.id, now_ms=draft.now_ms)
    draft.put_object(held, object_key, queue)
    row = replace(row, ticket=queue.tail)
    if queue.head == row.id:
        return invocations.take_turn(row, now_ms=draft.now_ms)
    draft.queue(object_key, row.id)
    return invocations.queue(row, now_ms=draft.now_ms)


def leave(draft: Draft, row: Invocation) -> None:
    """Take an exclusive invocation that has ended out of its queue, and let the next one run."""
    if row.ticket in (None, DELAYED, RUN):
        return
    assert row.ticket is not None
    object_key = object_key_of(row)
    held = draft.object(object_key)
    assert held is not None, f"{row.id} has a ticket and its key has no queue"
    queue = objects.left(held)
    if queue.head == row.id:
        queue = objects.with_head(queue, None, now_ms=draft.now_ms)
        if queue.is_free and queue.length:
            queue = _pass_on(draft, queue, row.ticket)
    draft.put_object(held, object_key, queue if queue.is_needed else None)


def _pass_on(draft: Draft, queue: ObjectRow, ticket: int) -> ObjectRow:
    """Let the first one after a ticket run."""
    following = draft.next_in_line(queue.id, ticket)
    if following is None:
        return queue
    draft.put_invocation(following, invocations.take_turn(following, now_ms=draft.now_ms))
    return objects.with_head(queue, following.id, now_ms=draft.now_ms)


def refusal(draft: Draft, how: Queue, object_key: ObjectKey, caller: str) -> Rejection | None:
    """Why a call can't take a place; None: it can."""
    if how.most is not None:
        length = length_of(draft, object_key)
        if length >= how.most:
            return Rejection(
                reason=f"{shown(object_key)} has {length:,} calls in its queue already", code=429
            )
    if how.callers:
        return circle(draft, _head_of(draft, object_key), (caller, *how.callers), [shown(object_key)])
    return None


def circle(
    draft: Draft, row: Invocation | None, callers: Sequence[str], names: list[str]
) -> Rejection | None:
    """Refuse a wait for what itself waits for a caller, by way of keys and calls; None: by no key.

    The row of each invocation on the way is written again, so that of two commits that close a circle
    together one is decided again, and sees the other.

    Args:
        draft: The rows.
        row: Who is waited for.
        callers: Who would wait, and those that wait for it: each of these is taken to wait until it ends.
        names: The keys on the way so far.
    """
    seen = []
    for _ in range(MOST_STEPS):
        if row is None:
            break
        if row.id in callers:
            way = " → ".join(names)
            return Rejection(reason=f"deadlock: {way} would wait for itself", code=409) if way else None
        seen.append(row)
        if row.status == "queued" or row.ticket == DELAYED:
            names.append(shown(object_key_of(row)))
            row = _head_of(draft, object_key_of(row))
        else:
            row = _called_by(draft, row)
    for each in seen:
        draft.put_invocation(each, each)
    return None


def _head_of(draft: Draft, object_key: ObjectKey) -> Invocation | None:
    queue = draft.object(object_key)
    return None if queue is None or queue.head is None else draft.invocation(queue.head)


def _called_by(draft: Draft, row: Invocation) -> Invocation | None:
    """The open invocation that is all that another one waits for."""
    wait = draft.only_wait_of(row.id)
    source = None if wait is None else wait.source
    called = draft.invocation(source) if is_invocation(source) else None
    return None if called is None or called.status == "completed" else called


def shown(object_key: ObjectKey) -> str:
    """A key for people: carts/c-7."""
    service, key = object_key
    return f"{service}/{key.decode('utf-8', 'replace')}"


def take_tickets(command: TakeTickets, rows: Rows, now_ms: int, changes: Changes) -> Acknowledged:
    """Let delayed invocations whose time has come take their places."""
    draft = Draft(changes, now_ms)
    for invocation_id in command.ids:
        row = draft.invocation(invocation_id)
        if row is not None and row.ticket == DELAYED and row.status == "pending":
            draft.put_invocation(row, take_ticket(draft, row))
    draft.write()
    return Acknowledged()


def pause_key(command: PauseKey, rows: Rows, now_ms: int, changes: Changes) -> KeyChanged:
    """Let nothing of a key begin; what has begun goes on."""
    object_key = (command.service, text_bytes(command.key))
    draft = Draft(changes, now_ms)
    held = draft.object(object_key)
    if held is not None and held.paused_ms is not None:
        return KeyChanged(queue=held)
    queue = objects.paused(held, object_key, now_ms=now_ms)
    head = None if queue.head is None else draft.invocation(queue.head)
    if head is not None and head.epoch == 0:
        draft.put_invocation(head, invocations.queue(head, now_ms=now_ms))
        draft.queue(object_key, head.id)
        queue = objects.with_head(queue, None, now_ms=now_ms)
    queue = _with_act(queue, "pause", command.by, now_ms)
    draft.put_object(held, object_key, queue)
    draft.write()
    return KeyChanged(queue=queue)


def resume_key(command: ResumeKey, rows: Rows, now_ms: int, changes: Changes) -> KeyChanged:
    """Let the first in line of a paused key run."""
    object_key = (command.service, text_bytes(command.key))
    draft = Draft(changes, now_ms)
    held = draft.object(object_key)
    if held is None or held.paused_ms is None:
        return KeyChanged(queue=held)
    queue = _with_act(objects.resumed(held), "resume", command.by, now_ms)
    if queue.is_free and queue.length:
        queue = _pass_on(draft, queue, DELAYED)
    left = queue if queue.is_needed else None
    draft.put_object(held, object_key, left)
    draft.write()
    return KeyChanged(queue=left)


def edit_state(command: EditState, rows: Rows, now_ms: int, changes: Changes) -> KeyChanged:
    """Change the state of a paused key that no invocation holds."""
    object_key = (command.service, text_bytes(command.key))
    held = rows.objects[object_key]
    if held is None or held.paused_ms is None or held.head is not None:
        return KeyChanged(queue=held, accepted=False)
    if any(write.name is None for write in command.writes):
        rows.states.require([object_key])
    queue = _with_act(held, "edit", command.by, now_ms)
    changes.put_object(held, object_key, queue)
    changes.write_state(object_key, command.writes, now_ms)
    return KeyChanged(queue=queue)


def _with_act(queue: ObjectRow, act: ActKind, by: str | None, now_ms: int) -> ObjectRow:
    return objects.with_acts(queue, acts_bytes(with_act(queue.acts, act, by, now_ms)))
