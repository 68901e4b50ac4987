"""The verdict record: schemas/verdict.schema.json."""

from __future__ import annotations

from typing import Any

import msgspec

from awakeables.core.awakeables import Verdict
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.records import rfc3339
from awakeables.core.sources import kafka_position, kind_of

_encode = msgspec.json.Encoder().encode


def encode_verdict(verdict: Verdict) -> bytes:
    """Encode a verdict, with the completion's source and the outcome that is stored.

    The verdict must be abridged (`core.awakeables.abridged`): it is at most about 80 kB then.
    """
    return _encode(
        {
            "verdict": verdict.kind,
            "awakeable_id": verdict.awakeable_id,
            "at": rfc3339(verdict.at_ms),
            "source": _source(verdict.source),
            "event_id": verdict.event_id,
            "reason": verdict.reason,
            "outcome": None if verdict.outcome is None else _outcome(verdict.outcome, verdict.omitted_bytes),
        }
    )


def _source(text: str) -> dict[str, Any]:
    """The source: a Kafka record's position, or only the kind of any other."""
    position = kafka_position(text)
    if position is None:
        return {"kind": kind_of(text)}
    topic, partition, offset = position
    return {"kind": "kafka", "topic": topic, "partition": partition, "offset": offset}


def _outcome(outcome: Outcome, omitted_bytes: int) -> Any:
    match outcome:
        case Resolution():
            return {"status": "resolved", "omitted_bytes": omitted_bytes} if omitted_bytes else outcome
        case Rejection():
            if omitted_bytes:
                return {"status": "rejected", "reason": outcome.reason, "omitted_bytes": omitted_bytes}
            return outcome
        case Expiry():
            return {"status": "timed-out", "deadline": rfc3339(outcome.deadline_ms)}
        case Cancellation():
            return {"status": "cancelled", "reason": outcome.reason}
