"""Rows as JSON: the shapes that a client of the HTTP interface sees."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw

from awakeables.core.awakeables import VERDICTS, Awakeable, BookEntry, Verdict
from awakeables.core.invocations import Failure, Invocation
from awakeables.core.journal import Entry
from awakeables.core.orders import DeadLetter
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution
from awakeables.core.records import instant as instant_of
from awakeables.core.replay import describe
from awakeables.engine.offsets import Reading
from awakeables.ports import Expectation

Json: TypeAlias = dict[str, Any]

_LATEST_MS = 253_402_300_799_999
"""The end of the year 9999: later instants can't be written."""


def instant(at_ms: int | None) -> str | None:
    """Milliseconds since 1970 as RFC 3339."""
    if at_ms is None:
        return None
    at = instant_of(min(at_ms, _LATEST_MS))
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def outcome(ended: Outcome | None) -> Json | None:
    match ended:
        case None:
            return None
        case Resolution():
            if ended.is_json:
                return {"status": "resolved", "value": Raw(ended.content)}
            return {"status": "resolved", "value_base64": ended.content}
        case Rejection():
            return {
                "status": "rejected",
                "reason": ended.reason,
                "code": ended.code,
                "details": None if ended.details is UNSET else ended.details,
            }
        case Expiry():
            return {"status": "timed-out", "deadline": instant(ended.deadline_ms)}
        case Cancellation():
            return {"status": "cancelled", "reason": ended.reason}


def verdict(told: Verdict) -> Json:
    return {
        "verdict": told.kind,
        "awakeable_id": told.awakeable_id,
        "event_id": told.event_id,
        "at": instant(told.at_ms),
    }


def invocation(row: Invocation) -> Json:
    """A row of the list."""
    return {
        "id": row.id,
        "service": row.service,
        "handler": row.handler,
        "key": row.key,
        "status": row.status,
        "ended": _ended(row.result),
        "attempts": row.attempts,
        "due": instant(row.due_ms),
        "cancelled": instant(row.cancelled_ms),
        "failure": _failure(row.failure),
        "build": row.build,
        "created": instant(row.created_ms),
        "updated": instant(row.updated_ms),
    }


def invocation_with_journal(row: Invocation, journal: Sequence[Entry]) -> Json:
    return invocation(row) | {
        "result": outcome(row.result),
        "journal": [_entry(index, entry) for index, entry in enumerate(journal)],
    }


def awakeable(row: Awakeable) -> Json:
    """A row of the list."""
    return {
        "id": row.id,
        "invocation": row.invocation_id,
        "state": row.state,
        "codec": row.codec,
        "deadline": instant(row.deadline_ms),
        "created": instant(row.created_ms),
        "settled": instant(row.settled_ms),
        "settled_by": row.settled_by,
        "verdicts": {kind: row.book.counts.get(kind, 0) for kind in VERDICTS},
    }


def awakeable_in_full(row: Awakeable, expected: Expectation | None) -> Json:
    schema = expected.schema if expected is not None else None
    beat = row.beat
    return awakeable(row) | {
        "schema": None if schema is None else Raw(schema),
        "outcome": outcome(row.outcome),
        "first": [_book_entry(entry) for entry in row.book.first],
        "last": [_book_entry(entry) for entry in row.book.last],
        "heartbeat": beat and {"progress": beat.progress, "at": instant(beat.at_ms), "worker": beat.worker},
    }


def dead_letter(row: DeadLetter) -> Json:
    """A row of the list."""
    return {
        "id": row.id,
        "code": row.code,
        "reason": row.reason,
        "topic": row.topic,
        "partition": row.partition,
        "offset": row.offset,
        "timestamp": instant(row.timestamp_ms),
        "awakeable_id": row.awakeable_id,
        "at": instant(row.at_ms),
        "resent": row.resent,
    }


def reading(row: Reading) -> Json:
    return {
        "topic": row.topic,
        "partition": row.partition,
        "next": row.next,
        "end": row.end,
        "lag": row.lag,
        "epoch": row.epoch,
        "problem": row.problem,
    }


def dead_letter_in_full(row: DeadLetter) -> Json:
    """With key, value and headers: as text when they are UTF-8, else in `…_base64`."""
    headers = [{"name": name, **_content("value", value)} for name, value in row.headers]
    return dead_letter(row) | _content("key", row.key) | _content("value", row.value) | {"headers": headers}


def _content(name: str, content: bytes | None) -> Json:
    if content is None:
        return {name: None}
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(content).decode()}


def _ended(result: Outcome | None) -> str | None:
    match result:
        case None:
            return None
        case Resolution():
            return "succeeded"
        case Cancellation():
            return "cancelled"
        case _:
            return "failed"


def _failure(failure: Failure | None) -> Json | None:
    if failure is None:
        return None
    return {"kind": failure.kind, "message": failure.message, "at": instant(failure.at_ms)}


def _book_entry(entry: BookEntry) -> Json:
    return {
        "verdict": entry.kind,
        "source": entry.source,
        "at": instant(entry.at_ms),
        "event_id": entry.event_id,
        "traceparent": entry.trace,
        "reason": entry.reason,
    }


def _entry(index: int, entry: Entry) -> Json:
    return {"index": index, "entry": Raw(msgspec.json.encode(entry)), "text": describe(entry)}
