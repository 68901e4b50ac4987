"""Decisions on calls: beginning them, waiting for them, and what the end of one does to others."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.awakeables import PROMISE, AwakeableRow
from awakeables.core.commands import NewAwakeable, NewCall, OfWorkflow
from awakeables.core.decide.queueing import circle, leave, object_key_of, refusal, take_ticket
from awakeables.core.ids import parse_id
from awakeables.core.invocations import CANCELLED_OUTCOME, KILLED, Invocation
from awakeables.core.objects import DELAYED, RUN
from awakeables.core.outcomes import Cancellation, Outcome, Rejection
from awakeables.core.records import text_bytes
from awakeables.core.rows import Draft
from awakeables.core.versions import versions_bytes

ABANDONED = "its invocation ended"

ALIAS = "alias"
"""The scope, among those of idempotency keys, of IDs that stand for an older invocation: the key of the call
that asked for them was known."""

CONFLICT = "conflict"
"""The same of IDs that stand for nothing, because the key was used for another request."""

KEY_CONFLICT = Rejection(reason="the key was used with another input before", code=422)
NO_PROMISE = Rejection(
    reason="the run has no such promise: it was begun before the promise was declared", code=404
)
RUN_ENDED = Rejection(reason="the run ended and had not settled this promise", code=410)
ITSELF = Rejection(reason="an invocation can't wait for its own end", code=409)


def create_calls(draft: Draft, calls: Iterable[NewCall], caller: str, build: str) -> None:
    """Create the invocations that a handler calls.

    Not one whose idempotency key stands for an older one, nor one that its key's queue refuses.
    """
    for call in calls:
        workflow = call.workflow
        if workflow is not None and not workflow.is_run and draft.key(workflow.scope, call.key or "") is None:
            row = Invocation(call.id, call.service, call.handler, draft.now_ms, draft.now_ms, build=build)
            row.key_utf8 = text_bytes(call.key or "")
            draft.put_invocation(None, invocations.refuse(row, not_begun(call), now_ms=draft.now_ms))
            draft.chunks.append((row.id, call.chunk))
            continue
        idempotency = call.idempotency
        if idempotency is not None:
            known = draft.key(idempotency.scope, idempotency.key)
            if known is not None:
                fingerprint, invocation_id = known
                scope = ALIAS
                if not idempotency.is_of(fingerprint):
                    scope = CONFLICT
                    draft.conflicts.append(call.id)
                draft.add_key(scope, call.id, "", invocation_id)
                continue
        row = Invocation(call.id, call.service, call.handler, draft.now_ms, draft.now_ms, build=build)
        row.due_ms = invocations.first_due_ms(draft.now_ms, call.delay_ms)
        if call.key is not None:
            row.key_utf8 = text_bytes(call.key)
        if call.versions is not None:
            row.versions_json = versions_bytes(call.versions)
        if call.queue is not None:
            why = refusal(draft, call.queue, object_key_of(row), caller)
            if why is not None:
                draft.refused[call.id] = why
                continue
            row = replace(row, ticket=DELAYED) if call.delay_ms else take_ticket(draft, row)
        if workflow is not None and workflow.is_run:
            row = replace(row, ticket=RUN)
            create_promises(draft, workflow, row)
        draft.put_invocation(None, row)
        draft.chunks.append((row.id, call.chunk))
        if idempotency is not None:
            draft.add_key(idempotency.scope, idempotency.key, idempotency.fingerprint, call.id)


def create_promises(draft: Draft, workflow: OfWorkflow, run: Invocation) -> None:
    """Add the promises of a run."""
    for each in workflow.promises:
        title = None if each.title is None else text_bytes(each.title)
        promise = AwakeableRow(each.id, run.id, draft.now_ms, each.codec, title=title, source_utf8=PROMISE)
        draft.put_awakeable(None, promise)


def not_begun(call: NewCall) -> Rejection:
    """The failure of a call of a workflow's handler whose key has no run."""
    return Rejection(reason=f"{call.service}/{call.key} has not begun: call its run first", code=404)


def wait_for_promise(draft: Draft, wait: NewAwakeable, invocation_id: str) -> Outcome | None:
    """Add the row of a wait for a promise; return its outcome if there is one, or can be none."""
    promise = draft.awakeable(wait.source or "")
    if promise is None or promise.source_utf8 != PROMISE:
        outcome: Outcome | None = NO_PROMISE
    elif promise.state == "pending":
        outcome = None
        # Written though it is as it was: as `wait_for_call` does.
        draft.put_awakeable(promise, replace(promise))
    else:
        outcome = outcome_for_others(promise)
    row = AwakeableRow(
        wait.id,
        invocation_id,
        draft.now_ms,
        title=None if promise is None else promise.title,
        source_utf8=text_bytes(wait.source or ""),
    )
    if outcome is not None:
        row = awakeables.ended(row, outcome, now_ms=draft.now_ms)
    draft.put_awakeable(None, row)
    return outcome


def outcome_for_others(promise: AwakeableRow) -> Outcome:
    """What those that wait for a settled promise get."""
    outcome = promise.known_outcome
    return RUN_ENDED if outcome is None or isinstance(outcome, Cancellation) else outcome


def cancel_wait(draft: Draft, wait: AwakeableRow) -> AwakeableRow | None:
    """Cancel a pending awakeable, or wait, of an invocation that has ended; and who waits for a promise."""
    cancelled = awakeables.cancel(wait, now_ms=draft.now_ms, reason=ABANDONED)
    if cancelled is None:
        return None
    draft.put_awakeable(wait, cancelled)
    if wait.source_utf8 == PROMISE:
        for other in draft.waits_for(wait.id):
            draft.put_awakeable(other, awakeables.ended(other, RUN_ENDED, now_ms=draft.now_ms))
            draft.woken.append((other, RUN_ENDED))
    return cancelled


def wait_for_call(draft: Draft, wait: NewAwakeable, invocation_id: str) -> Outcome | None:
    """Add the row of a wait for a call; return its outcome if the call has ended, or can't be waited for."""
    assert wait.source is not None
    target = _target(draft, wait.source, invocation_id)
    if isinstance(target, Invocation):
        outcome = target.known_result
        if outcome is None and not wait.owned:  # it may be behind the caller, in the queue of a key
            outcome = circle(draft, target, [invocation_id], [])
        if outcome is None:
            target = draft.invocation(target.id) or target
            # Written even if it is set: so a store in which several instances write at once sees that this
            # was decided on a call that had not ended.
            draft.put_invocation(target, replace(target, awaited=True))
        source = target.id
    else:
        outcome, source = target, wait.source
    row = AwakeableRow(wait.id, invocation_id, draft.now_ms, source_utf8=text_bytes(source), owned=wait.owned)
    if outcome is not None:
        row = awakeables.ended(row, outcome, now_ms=draft.now_ms)
    draft.put_awakeable(None, row)
    return outcome


def _target(draft: Draft, source: str, caller: str) -> Invocation | Outcome:
    """The invocation that an ID stands for, or why there is none to wait for."""
    if source in draft.refused:
        return draft.refused[source]
    alias, conflict = draft.new_key(ALIAS, source), draft.new_key(CONFLICT, source)
    row = draft.invocation(source) if alias is None and conflict is None else None
    if row is None:
        if conflict or (alias is None and draft.key(CONFLICT, source)):
            return KEY_CONFLICT
        alias = alias or draft.key(ALIAS, source)
        row = None if alias is None else draft.invocation(alias[1])
    if row is None:
        if draft.now_ms - parse_id(source, "inv") > draft.retention_ms:
            return Rejection(reason=f"invocation {source} was purged after its retention", code=410)
        return Rejection(reason=f"no invocation {source}", code=404)
    return ITSELF if row.id == caller else row


def on_end(draft: Draft, row: Invocation, result: Outcome) -> None:
    """Settle the waits for the end of an invocation, and pass its key on; of a run, end its promises."""
    if row.ticket == RUN:
        for wait in draft.waits_of(row.id):
            if wait.source_utf8 == PROMISE:
                cancel_wait(draft, wait)
    elif row.ticket:
        leave(draft, row)
    if row.awaited:
        for wait in draft.waits_for(row.id):
            draft.put_awakeable(wait, awakeables.ended(wait, result, now_ms=draft.now_ms))
            draft.woken.append((wait, result))


def abandon(draft: Draft, wait: AwakeableRow) -> None:
    """Cancel what an invocation that has ended still waits for; a call of its own is cancelled, too."""
    if cancel_wait(draft, wait) is not None and wait.owned:
        cancel_call(draft, wait)


def cancel_call(draft: Draft, wait: AwakeableRow) -> None:
    """Cancel an invocation that another one has called."""
    row = draft.invocation(wait.source or "")
    if row is not None:
        _cancel(draft, row)


def _cancel(draft: Draft, row: Invocation) -> None:
    cancelled = invocations.cancel(row, now_ms=draft.now_ms)
    if cancelled is None or cancelled is row:
        return
    draft.put_invocation(row, cancelled)
    draft.stopped.append(row.id)
    if cancelled.status == "completed":  # it had not been claimed
        on_end(draft, cancelled, CANCELLED_OUTCOME)


def cancel_by_id(draft: Draft, invocation_id: str, caller: str) -> None:
    """Cancel an invocation because a handler says so, if there is one that has not ended."""
    target = _target(draft, invocation_id, caller)
    if isinstance(target, Invocation):
        _cancel(draft, target)


def kill_calls(draft: Draft, killed: Invocation) -> None:
    """Cancel what a killed invocation waits for, and kill what it has called, and so on."""
    left = [killed]
    while left:
        row = left.pop()
        for wait in draft.waits_of(row.id):
            cancel_wait(draft, wait)
            call = draft.invocation(wait.source or "") if wait.owned else None
            after = None if call is None else invocations.kill(call, now_ms=draft.now_ms)
            if call is not None and after is not None and after is not call:
                draft.put_invocation(call, after)
                draft.stopped.append(call.id)
                left.append(after)
        on_end(draft, row, KILLED)
