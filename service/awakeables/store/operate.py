"""What operator's orders do to the rows, and what they share with the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from awakeables.core import awakeables, invocations
from awakeables.core.acts import noted
from awakeables.core.deadletters import counted_up, divided, fold, refusal_to_resend, relay, resend
from awakeables.core.journal import awakeables_asked
from awakeables.core.orders import (
    Answer,
    Cancel,
    CancelAsked,
    DeadLetter,
    Folding,
    Kill,
    Killed,
    Noted,
    Operating,
    Probe,
    Purge,
    Purged,
    PurgeLetters,
    QueuedEffect,
    Republish,
    Republished,
    Resend,
    Resent,
    Resume,
    Resumed,
    Skip,
    Skipped,
)
from awakeables.store.tables import Tables

UNCLAIMED = ""
ABANDONED = "its invocation ended"


def operate(order: Operating, tables: Tables, *, now_ms: int) -> Answer:
    """Apply one operator's order."""
    match order:
        case Resume():
            return _resume(order, tables, now_ms)
        case Cancel():
            return _cancel(order, tables, now_ms)
        case Kill():
            return _kill(order, tables, now_ms)
        case Purge():
            return _purge(order, tables)
        case PurgeLetters():
            return Purged(count=_purge_letters(order, tables))
        case Resend():
            return _resend(order, tables, now_ms)
        case Republish():
            return _republish(order, tables, now_ms)
        case Skip():
            return _skip(order, tables, now_ms)
        case Probe():
            tables.probe()
            return Noted()
        case _:
            assert_never(order)


def call_off(awakeable_id: str, reason: str, tables: Tables, now_ms: int) -> None:
    """Cancel an awakeable, if it is pending."""
    pending = tables.awakeable(awakeable_id)
    cancelled = pending and awakeables.cancel(pending, now_ms=now_ms, reason=reason)
    if cancelled:
        tables.put_awakeable(cancelled)


def bury(
    letters: Sequence[DeadLetter],
    relay_to: str,
    tables: Tables,
    now_ms: int,
    folding: Folding | None = None,
) -> tuple[list[DeadLetter], list[DeadLetter]]:
    """Keep dead letters, each record once, and queue their copies for the dead-letter topic (K2).

    Returns:
        Those that were added, and those that were folded into one.
    """
    by_source = {letter.source: letter for letter in reversed(letters)}
    new = [letter for source, letter in reversed(by_source.items()) if not tables.has_dead_letter(source)]
    kept, folded = (new, []) if folding is None else divided(new, folding)
    if folded and folding is not None:
        known = tables.dead_letter(folding.into)
        if known is None:
            kept.append(fold(folded, folding, now_ms=now_ms))
        else:
            tables.put_dead_letter(counted_up(known, folded))
    for letter in kept:
        tables.add_dead_letter(letter)
        tables.add_effect(relay(letter, to=relay_to, now_ms=now_ms), UNCLAIMED)
    return kept, folded


def _resume(order: Resume, tables: Tables, now_ms: int) -> Resumed:
    row = tables.invocation(order.invocation_id)
    resumed = row and invocations.resume(row, now_ms=now_ms)
    if row is None or not resumed:
        return Resumed(invocation=row, accepted=False)
    if resumed is not row:
        resumed = replace(resumed, acts=noted(row.acts, "resume", order.by, now_ms))
        tables.put_invocation(resumed)
    return Resumed(invocation=resumed, accepted=True)


def _cancel(order: Cancel, tables: Tables, now_ms: int) -> CancelAsked:
    row = tables.invocation(order.invocation_id)
    cancelled = row and invocations.cancel(row, now_ms=now_ms)
    if row is None or not cancelled:
        return CancelAsked(invocation=row, accepted=False)
    asked = awakeables_asked(tables.chunks(row.id))
    if cancelled is not row:
        cancelled = replace(cancelled, acts=noted(row.acts, "cancel", order.by, now_ms))
        tables.put_invocation(cancelled)
        for awakeable_id in asked:
            call_off(awakeable_id, invocations.CANCELLED, tables, now_ms)
    settled = (tables.awakeable(awakeable_id) for awakeable_id in asked)
    called_off = tuple(row.id for row in settled if row is not None and row.outcome == invocations.CALLED_OFF)
    return CancelAsked(invocation=cancelled, accepted=True, called_off=called_off)


def _kill(order: Kill, tables: Tables, now_ms: int) -> Killed:
    row = tables.invocation(order.invocation_id)
    killed = row and invocations.kill(row, now_ms=now_ms)
    if row is None or not killed:
        return Killed(invocation=row, done=False)
    if killed is not row:
        killed = replace(killed, acts=noted(row.acts, "kill", order.by, now_ms))
        tables.put_invocation(killed)
        for awakeable_id in awakeables_asked(tables.chunks(row.id)):
            call_off(awakeable_id, ABANDONED, tables, now_ms)
    return Killed(invocation=killed, done=True)


def _purge(order: Purge, tables: Tables) -> Purged:
    """Forget what has ended; an invocation that has not, or only lately, is left alone."""
    doomed = []
    for ended in order.ended:
        row = tables.invocation(ended.id)
        if row is not None and row.status == "completed" and row.updated_ms <= order.before_ms:
            doomed.append(ended)
    tables.forget([ended.id for ended in doomed], [key for ended in doomed for key in ended.awakeables])
    return Purged(count=len(doomed))


def _purge_letters(order: PurgeLetters, tables: Tables) -> int:
    letters = tables.forget_letters(order.before_ms, order.limit, order.code)
    return letters if order.letters_only else letters + tables.forget_refused(order.before_ms, order.limit)


def _resend(order: Resend, tables: Tables, now_ms: int) -> Resent:
    letter = tables.dead_letter(order.dead_letter_id)
    if letter is None:
        return Resent(dead_letter=None, effect=None)
    row = tables.awakeable(letter.awakeable_id) if letter.awakeable_id is not None else None
    refusal = refusal_to_resend(letter, row)
    if refusal is not None:
        return Resent(dead_letter=letter, effect=None, refusal=refusal)
    effect = resend(letter, event_id=order.event_id, now_ms=now_ms)
    if tables.effect(effect.event_id) is not None:
        return Resent(dead_letter=letter, effect=effect)
    acts = noted(letter.acts, "resend", order.by, now_ms)
    letter = replace(letter, resent=letter.resent + 1, acts=acts)
    tables.put_dead_letter(letter)
    tables.add_effect(effect, UNCLAIMED)
    return Resent(dead_letter=letter, effect=effect)


def _republish(order: Republish, tables: Tables, now_ms: int) -> Republished:
    """Unclaimed, so that the relay's next look takes it; one with an awakeable has nobody who waits."""
    queued = tables.queued_effect(order.event_id)
    if queued is None or queued.state == "unsent":
        return Republished(queued=queued, accepted=queued is not None)
    if queued.effect.task is not None:
        return Republished(queued=queued, accepted=False)
    acts = noted(queued.acts, "resend", order.by, now_ms)
    tables.requeue_effect(order.event_id, UNCLAIMED, acts)
    return Republished(queued=QueuedEffect(effect=queued.effect, state="unsent", acts=acts), accepted=True)


def _skip(order: Skip, tables: Tables, now_ms: int) -> Skipped:
    if tables.dead_letter(order.dead_letter.id) is not None:
        return Skipped(done=True)
    held = tables.position(order.topic, order.partition)
    if held is None or held.next != order.before:
        return Skipped(done=False)
    again_before = max(held.again_before, held.next) if order.next < held.next else held.again_before
    again_before = 0 if order.anew else again_before
    position = replace(held, next=order.next, epoch=held.epoch + 1, again_before=again_before)
    tables.put_position(order.topic, position)
    bury([order.dead_letter], order.relay_to, tables, now_ms)
    return Skipped(done=True)
