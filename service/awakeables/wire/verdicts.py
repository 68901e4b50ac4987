"""The verdict record: schemas/verdict.schema.json."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from awakeables.core.awakeables import Verdict
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.records import rfc3339
from awakeables.core.sources import parse_source
from awakeables.core.texts import shortened

MOST_OUTCOME_BYTES = 64 * 1024
"""The verdict of a larger outcome has no value. A verdict has to fit its topic, whose limit the service
does not know, and each repeat of an answer has one: it must not copy a megabyte."""

MOST_CHARACTERS = 1000
"""Of a text that the completion's producer chose; the rest is left out, and `…` says so."""

_encode = msgspec.json.Encoder().encode


def encode_verdict(verdict: Verdict) -> bytes:
    """Write what became of a completion: the verdict, where the completion came from, what is stored.

    At most about 80 kB, however large the completion is.
    """
    return _encode(
        {
            "verdict": verdict.kind,
            "awakeable_id": verdict.awakeable_id,
            "at": rfc3339(verdict.at_ms),
            "source": _source(verdict.source),
            "event_id": verdict.event_id and shortened(verdict.event_id, MOST_CHARACTERS),
            "reason": verdict.reason and shortened(verdict.reason, MOST_CHARACTERS),
            "outcome": None if verdict.outcome is None else _outcome(verdict.outcome),
        }
    )


def _source(text: str) -> dict[str, Any]:
    """Of a Kafka record where it is; of anything else its kind alone."""
    source = parse_source(text)
    if source.kind != "kafka":
        return {"kind": source.kind}
    return {
        "kind": source.kind,
        "topic": source.topic,
        "partition": source.partition,
        "offset": source.offset,
    }


def _outcome(outcome: Outcome) -> Any:
    match outcome:
        case Resolution() | Rejection():
            written = _encode(outcome)
            return Raw(written) if len(written) <= MOST_OUTCOME_BYTES else _in_short(outcome, len(written))
        case Expiry():
            return {"status": "timed-out", "deadline": rfc3339(outcome.deadline_ms)}
        case Cancellation():
            return {"status": "cancelled", "reason": outcome.reason}


def _in_short(outcome: Resolution | Rejection, size: int) -> dict[str, Any]:
    """The outcome without value or details, and how many bytes it has with them."""
    if isinstance(outcome, Resolution):
        return {"status": "resolved", "omitted_bytes": size}
    reason = shortened(outcome.reason, MOST_CHARACTERS)
    return {"status": "rejected", "reason": reason, "omitted_bytes": size}
