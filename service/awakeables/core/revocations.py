"""Revocations: whoever does a task is told that nobody waits for it any more."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.effects import Effect
from awakeables.core.ids import derived_id
from awakeables.core.outcomes import Cancellation, Expiry
from awakeables.core.records import Record, rfc3339

OverState: TypeAlias = Literal["cancelled", "timed-out"]


class Revocation(Record):
    """The record that says that nobody waits for an awakeable's task any more.

    Attributes:
        state: What it is now.
        at: When that was, in RFC 3339.
    """

    awakeable_id: str
    state: OverState
    reason: str
    at: str


def revocation(row: AwakeableRow) -> Effect | None:
    """What says that nobody waits any more for an answer to a row that is settled now; None: nothing does."""
    outcome = row.outcome
    state: OverState = "timed-out"
    match outcome:
        case Expiry(kind="heartbeat"):
            reason = "there was no heartbeat for too long"
        case Expiry():
            reason = "its deadline has passed"
        case Cancellation():
            state, reason = "cancelled", outcome.reason
        case _:
            return None
    topic, at_ms = row.watch.revoke_to, row.settled_ms or 0
    if topic is None:
        return None
    said = Revocation(awakeable_id=row.id, state=state, reason=reason, at=rfc3339(at_ms))
    return Effect(
        event_id=derived_id("evt", at_ms, row.id, "revocation"),
        stream=row.id,
        topic=topic,
        key=row.id.encode(),
        value=msgspec.json.encode(said),
        created_ms=at_ms,
        kind="revocation",
    )
