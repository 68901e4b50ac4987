"""The verdict record: schemas/verdict.schema.json."""

from __future__ import annotations

from typing import Any

import msgspec

from awakeables.core.awakeables import Verdict
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.records import rfc3339

KAFKA = "kafka:"

_encode = msgspec.json.Encoder().encode


def encode_verdict(verdict: Verdict) -> bytes:
    """Write what became of a completion: the verdict, where the completion came from, what is stored."""
    return _encode(
        {
            "verdict": verdict.kind,
            "awakeable_id": verdict.awakeable_id,
            "at": rfc3339(verdict.at_ms),
            "source": _source(verdict.source),
            "event_id": verdict.event_id,
            "reason": verdict.reason,
            "outcome": None if verdict.outcome is None else _outcome(verdict.outcome),
        }
    )


def _source(source: str) -> dict[str, Any]:
    """`kafka:topic:partition:offset` taken apart; any other source by its kind alone."""
    if not source.startswith(KAFKA):
        return {"kind": source.partition(":")[0]}
    topic, partition, offset = source.removeprefix(KAFKA).rsplit(":", 2)
    return {"kind": "kafka", "topic": topic, "partition": int(partition), "offset": int(offset)}


def _outcome(outcome: Outcome) -> Any:
    match outcome:
        case Resolution() | Rejection():
            return outcome
        case Expiry():
            return {"status": "timed-out", "deadline": rfc3339(outcome.deadline_ms)}
        case Cancellation():
            return {"status": "cancelled", "reason": outcome.reason}
