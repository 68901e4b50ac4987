"""Tasks as CloudEvents: schemas/task-cloudevent.schema.json."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from awakeables.core.effects import Effect, Header, TaskFacts
from awakeables.core.records import rfc3339
from awakeables.wire.cloudevents import PREFIX, SPECVERSION, STRUCTURED_JSON

REQUESTED = "awakeables.task.requested.v1"
JSON_TYPE = "application/json"


def structured(effect: Effect, facts: TaskFacts) -> tuple[bytes, bytes]:
    """The event as JSON, and its content type; the payload is JSON text."""
    event = _attributes(effect, facts) | {"datacontenttype": JSON_TYPE}
    if effect.value is not None:
        event["data"] = Raw(effect.value)
    return msgspec.json.encode(event), STRUCTURED_JSON


def binary_headers(effect: Effect, facts: TaskFacts) -> list[Header]:
    """The event's attributes; its data is the record's value."""
    return [(PREFIX + name, str(value).encode()) for name, value in _attributes(effect, facts).items()]


def _attributes(effect: Effect, facts: TaskFacts) -> dict[str, Any]:
    attributes = {
        "specversion": SPECVERSION,
        "id": effect.event_id,
        "source": facts.source,
        "type": REQUESTED,
        "subject": facts.awakeable_id,
        "time": rfc3339(effect.created_ms),
        "replyto": facts.reply_to,
        "task": facts.task,
        "deadline": None if facts.deadline_ms is None else rfc3339(facts.deadline_ms),
        "attempt": 1,
    }
    return {name: value for name, value in attributes.items() if value is not None}
