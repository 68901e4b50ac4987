"""Decisions on effects: claimed by a relay, published, refused by Kafka, sent again."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from awakeables.core import awakeables
from awakeables.core.acts import acts_bytes, with_act
from awakeables.core.awakeables import Completion
from awakeables.core.commands import ClaimEffects, MarkPublished, MarkRefused, Republish, Resend
from awakeables.core.deadletters import refusal_to_resend, resend_effect
from awakeables.core.effects import QueuedEffect
from awakeables.core.outcomes import publish_failed
from awakeables.core.replies import Acknowledged, ClaimedEffects, Republished, Resent
from awakeables.core.rows import PLACES, UNCLAIMED, Changes, EffectRow, Rows, effect_row, refused, requeued
from awakeables.core.sources import source_of

LAST_PLACE = (1 << PLACES) - 1
"""An effect that is sent again comes after those already in its stream, and before later ones."""


def claim_effects(
    command: ClaimEffects, found: Sequence[EffectRow], now_ms: int, changes: Changes
) -> ClaimedEffects:
    """Claim the effects that were found for this owner."""
    for row in found:
        changes.put_effect(row, replace(row, claimed_by=command.owner))
    return ClaimedEffects(effect_ids=tuple(row.event_id for row in found))


def mark_published(command: MarkPublished, rows: Rows, now_ms: int, changes: Changes) -> Acknowledged:
    """Delete published effects, without a fence: even if their owner has changed, Kafka has them."""
    changes.delete_published(command.event_ids)
    return Acknowledged()


def mark_refused(command: MarkRefused, rows: Rows, now_ms: int, changes: Changes) -> Acknowledged:
    """Mark a refused effect as failed, and if it is a task, reject its awakeable."""
    effect = rows.effects[command.event_id]
    if effect is None or effect.state != "unsent":
        return Acknowledged()
    if effect.kind == "verdict":
        # A verdict can be looked up (A2), and a missing verdicts topic would fill the store with them.
        changes.delete_effect(effect)
        return Acknowledged()
    task = effect.effect.task
    row = rows.awakeables[task.awakeable_id] if task else None
    if row is None or row.state != "pending":
        changes.put_effect(effect, refused(effect, command.reason))
        return Acknowledged()
    changes.require_waiting([row.invocation_id])
    rejection = publish_failed(effect.topic, command.reason)
    completion = Completion(
        awakeable_id=row.id,
        body=rejection,
        source=source_of("effect", command.event_id),
        event_id=command.event_id,
    )
    result = awakeables.settle(row, completion, now_ms=now_ms, horizon_ms=0)
    changes.put_effect(effect, refused(effect, command.reason))
    changes.put_awakeable(row, result.awakeable)
    return Acknowledged(wakes=(changes.wake(result.awakeable, rejection, now_ms),))


def resend_dead_letter(command: Resend, rows: Rows, now_ms: int, changes: Changes) -> Resent:
    """Queue a dead letter for the topic that it came from."""
    letter = rows.dead_letters[command.dead_letter_id]
    if letter is None:
        return Resent(dead_letter=None, effect=None)
    row = rows.awakeables[letter.awakeable_id] if letter.awakeable_id is not None else None
    refusal = refusal_to_resend(letter, row)
    if refusal is not None:
        return Resent(dead_letter=letter, effect=None, refusal=refusal)
    effect = resend_effect(letter, event_id=command.event_id, now_ms=now_ms)
    queued = rows.effects[effect.event_id]
    if queued is not None and queued.state == "unsent":
        return Resent(dead_letter=letter, effect=effect)
    acts = with_act(letter.acts, "resend", command.by, now_ms)
    after = replace(letter, resent=letter.resent + 1, acts=acts)
    changes.put_dead_letter(letter, after)
    if queued is None:
        changes.put_effect(None, effect_row(effect, UNCLAIMED, after.resent << PLACES))
    return Resent(dead_letter=after, effect=effect)


def republish(command: Republish, rows: Rows, now_ms: int, changes: Changes) -> Republished:
    """Requeue a refused effect, unclaimed, so that any relay takes it.

    Tasks are refused: their awakeables were rejected, and nothing waits for them any more.
    """
    row = rows.effects[command.event_id]
    if row is None or row.state == "unsent":
        return Republished(queued=None if row is None else row.queued, accepted=row is not None)
    if row.kind == "task":
        return Republished(queued=row.queued, accepted=False)
    acts = with_act(row.acts, "resend", command.by, now_ms)
    after = requeued(row, position=_end_of_stream(row, rows), acts_json=acts_bytes(acts))
    changes.put_effect(row, after)
    return Republished(queued=QueuedEffect(effect=row.effect, state="unsent", acts=acts), accepted=True)


def _end_of_stream(row: EffectRow, rows: Rows) -> int:
    """The position after everything that is in the stream now."""
    if row.kind == "event":
        invocation = rows.invocations[row.stream]
        newest = None if invocation is None else invocation.version
    else:
        letter = rows.dead_letters[row.stream]
        newest = None if letter is None else letter.resent
    return row.position if newest is None else newest << PLACES | LAST_PLACE
