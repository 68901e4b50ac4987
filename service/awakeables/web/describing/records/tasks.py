"""The schemas of tasks, as schemas/ has them: the running program never reads that folder.

A test holds the two together.
"""

from __future__ import annotations

from typing import Final

from awakeables.web.describing.records.ids import AWAKEABLE_ID, Json

TASK: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:awakeables:schema:task:1",
    "title": "Task",
    "description": (
        "The value of a record on a task topic. All but `payload` stands in headers too "
        "(awakeable-id, awakeable-event-id, awakeable-task, awakeable-reply-to, "
        "awakeable-deadline, awakeable-attempt); a task that was published without an "
        "envelope has its facts only there. The headers decide: with an awakeable-id header a"
        " value is this envelope only if its `awakeable_id`, `event_id` and `reply_to` equal "
        "awakeable-id, awakeable-event-id and awakeable-reply-to, else it is the bare payload"
        " of the task that the headers describe. Workers ignore unknown fields."
    ),
    "type": "object",
    "required": ["awakeable_id", "event_id", "task", "payload", "reply_to", "deadline", "attempt"],
    "properties": {
        "awakeable_id": {"$ref": "#/$defs/awakeable_id"},
        "event_id": {
            "description": "The record's ID, stable over resends: a record may come more than once.",
            "type": "string",
        },
        "task": {"description": "The task's name, where its topic has several.", "type": ["string", "null"]},
        "payload": {"description": "What the handler published, any JSON."},
        "reply_to": {
            "description": "The topic that takes the completion.",
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{1,249}$",
        },
        "deadline": {
            "description": "When the awakeable times out; null: never.",
            "type": ["string", "null"],
            "format": "date-time",
        },
        "attempt": {"type": "integer", "minimum": 1},
        "v": {
            "description": (
                "The version of this record. A version that the worker does not know is refused."
            ),
            "const": 1,
            "default": 1,
        },
    },
    "$defs": {"awakeable_id": AWAKEABLE_ID},
}
TASK_CLOUDEVENT: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:awakeables:schema:task-cloudevent:1",
    "title": "Task as a CloudEvent",
    "description": (
        'A task as a CloudEvent 1.0 in structured mode: what `envelope="cloudevents"` '
        'publishes. With `envelope="cloudevents-binary"` each attribute stands in a header '
        "`ce_` + its name, the data's type in the header content-type, and the payload is the"
        " record's value. The facts stand in awakeable-… headers, too, as with every task, "
        "and they decide: where `subject`, `id` and `replyto` differ from awakeable-id, "
        "awakeable-event-id and awakeable-reply-to, the value is a bare payload. Workers "
        "ignore unknown attributes."
    ),
    "type": "object",
    "required": ["specversion", "id", "source", "type", "subject", "replyto"],
    "properties": {
        "specversion": {"description": "Of CloudEvents.", "const": "1.0"},
        "id": {
            "description": "The record's ID, stable over resends: a record may come more than once.",
            "type": "string",
            "minLength": 1,
        },
        "source": {"description": "/apps/ and the app's name.", "type": "string", "minLength": 1},
        "type": {"const": "awakeables.task.requested.v1"},
        "subject": {"$ref": "#/$defs/awakeable_id"},
        "time": {"description": "When the handler published it.", "type": "string", "format": "date-time"},
        "replyto": {
            "description": "Extension: the topic that takes the completion.",
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{1,249}$",
        },
        "task": {
            "description": "Extension: the task's name, where its topic has several.",
            "type": ["string", "null"],
        },
        "deadline": {
            "description": "Extension: when the awakeable times out; absent: never.",
            "type": ["string", "null"],
            "format": "date-time",
        },
        "attempt": {"description": "Extension.", "type": "integer", "minimum": 1},
        "datacontenttype": {"type": ["string", "null"]},
        "data": {"description": "What the handler published, any JSON."},
    },
    "$defs": {"awakeable_id": AWAKEABLE_ID},
}
