"""The AsyncAPI document of an app: its topics, and the records on them.

Held against schemas/asyncapi.yaml by tests, both ways.
"""

from __future__ import annotations

from typing import Any, Final

from awakeables.handlers.service import App
from awakeables.web.describing.records.completions import COMPLETION, COMPLETION_CLOUDEVENT
from awakeables.web.describing.records.deadletters import DEAD_LETTER
from awakeables.web.describing.records.ids import AWAKEABLE_ID
from awakeables.web.describing.records.tasks import TASK, TASK_CLOUDEVENT
from awakeables.web.describing.records.verdicts import VERDICT
from awakeables.wire.completion_events import TYPES

Json = dict[str, Any]

VERSION: Final = "3.0.0"
JSON: Final = "application/json"
EVENT: Final = "application/cloudevents+json"
SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"
TEXT: Final = {"type": "string"}

SCHEMAS: Final[Json] = {
    "task": TASK,
    "taskEvent": TASK_CLOUDEVENT,
    "completion": COMPLETION,
    "completionEvent": COMPLETION_CLOUDEVENT,
    "verdict": VERDICT,
    "deadLetterHeaders": DEAD_LETTER,
}
TRACE_HEADERS: Final = {"traceparent": TEXT, "tracestate": TEXT}
FACTS: Final = {
    "awakeable-id": AWAKEABLE_ID,
    "awakeable-event-id": TEXT,
    "awakeable-reply-to": TEXT,
    "awakeable-task": TEXT,
    "awakeable-deadline": {"type": "string", "format": "date-time"},
    "awakeable-attempt": {"type": "string", "pattern": "^[0-9]+$"},
} | TRACE_HEADERS
EVENT_FACTS: Final = {
    "ce_specversion": {"const": "1.0"},
    "ce_id": TEXT,
    "ce_source": TEXT,
    "ce_type": {"enum": list(TYPES)},
    "ce_subject": AWAKEABLE_ID,
}
HEADERS: Final[Json] = {
    "taskHeaders": {
        "type": "object",
        "required": ["awakeable-id", "awakeable-event-id", "awakeable-reply-to", "awakeable-attempt"],
        "properties": FACTS,
    },
    "completionHeaders": {"type": "object", "properties": TRACE_HEADERS},
    "completionEventHeaders": {
        "type": "object",
        "required": list(EVENT_FACTS),
        "properties": EVENT_FACTS | TRACE_HEADERS,
    },
    "anything": {"description": "JSON, or bytes, as the content type says."},
}
"""Schemas that need no file of their own."""

CORRELATIONS: Final = {
    "byField": "$message.payload#/awakeable_id",
    "bySubject": "$message.payload#/subject",
    "byHeader": "$message.header#/awakeable-id",
    "byEventHeader": "$message.header#/ce_subject",
}


def asyncapi(app: App, *, version: str, verdicts: bool) -> Json:
    """Describe an app's topics, as the service sees them: it sends tasks and receives completions.

    Args:
        app: Whose topics.
        version: Of the service.
        verdicts: Are verdicts published?
    """
    channels, operations = _channels(app), _operations(app)
    if not verdicts:
        del channels["verdicts"], operations["sendVerdict"]
    return {
        "asyncapi": VERSION,
        "info": {
            "title": app.name,
            "version": version,
            "description": (
                "Workers answer to the topic that their task names. Handlers name the task topics when "
                "they publish, so they can't be listed here; the operator of a worker knows its topics."
            ),
        },
        "defaultContentType": JSON,
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": _messages(),
            "schemas": {name: _schema(schema) for name, schema in (SCHEMAS | HEADERS).items()},
            "correlationIds": {
                name: {"description": "The awakeable's ID.", "location": location}
                for name, location in CORRELATIONS.items()
            },
        },
    }


def _channels(app: App) -> Json:
    topic = {"topic": {"description": "A task topic, as the handler named it."}}
    tasks = ("task", "bareTask", "taskEvent", "binaryTaskEvent")
    completions = ("completion", "completionEvent", "binaryCompletionEvent")
    return {
        "tasks": _channel("{topic}", "What handlers ask for.", *tasks) | {"parameters": topic},
        "completions": _channel(app.completions_topic, "What workers answer.", *completions),
        "replies": _channel(None, "The topic that a task names: the completions topic.", *completions),
        "verdicts": _channel(app.verdicts_topic, "What became of each completion.", "verdict"),
        "deadLetters": _channel(app.dead_letter_topic, "Completions that can't be used.", "deadLetter"),
        "taskDeadLetters": _channel("{topic}.dlq", "Tasks that a worker of ours can't do.", "deadLetter")
        | {"parameters": topic},
    }


def _channel(address: str | None, description: str, *messages: str) -> Json:
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _operations(app: App) -> Json:
    return {
        "sendTask": _sending_tasks("$message.payload#/reply_to", "task"),
        "sendTaskEvent": _sending_tasks("$message.payload#/replyto", "taskEvent"),
        "sendBareTask": _sending_tasks("$message.header#/awakeable-reply-to", "bareTask", "binaryTaskEvent"),
        "receiveCompletion": {
            "action": "receive",
            "channel": {"$ref": "#/channels/completions"},
            "bindings": {
                "kafka": {"groupId": {"type": "string", "enum": [app.name]}, "bindingVersion": "0.5.0"}
            },
        },
        "sendVerdict": {"action": "send", "channel": {"$ref": "#/channels/verdicts"}},
        "sendDeadLetter": {"action": "send", "channel": {"$ref": "#/channels/deadLetters"}},
    }


def _sending_tasks(reply_to: str, *messages: str) -> Json:
    return {
        "action": "send",
        "channel": {"$ref": "#/channels/tasks"},
        "messages": [{"$ref": f"#/channels/tasks/messages/{name}"} for name in messages],
        "reply": {"address": {"location": reply_to}, "channel": {"$ref": "#/channels/replies"}},
    }


def _messages() -> Json:
    return {
        "task": _message("A task.", "task", "taskHeaders", "byField"),
        "bareTask": _message('Published with `envelope="none"`.', "anything", "taskHeaders", "byHeader"),
        "taskEvent": _message(
            'Published with `envelope="cloudevents"`.', "taskEvent", "taskHeaders", "bySubject", EVENT
        ),
        "binaryTaskEvent": _message(
            'Published with `envelope="cloudevents-binary"`; its attributes stand in ce_ headers, too.',
            "anything",
            "taskHeaders",
            "byHeader",
        ),
        "completion": _message("An answer.", "completion", "completionHeaders", "byField"),
        "completionEvent": _message(
            "An answer as a structured CloudEvent.",
            "completionEvent",
            "completionHeaders",
            "bySubject",
            EVENT,
        ),
        "binaryCompletionEvent": _message(
            "An answer as a binary CloudEvent: the value, or an object of reason, code and details.",
            "anything",
            "completionEventHeaders",
            "byEventHeader",
        ),
        "verdict": _message("What became of a completion.", "verdict", None, "byField"),
        "deadLetter": {
            "summary": "A record that can't be used: key, value and headers byte for byte, and why.",
            "headers": {"$ref": "#/components/schemas/deadLetterHeaders"},
            "payload": {"$ref": "#/components/schemas/anything"},
        },
    }


def _message(
    summary: str, payload: str, headers: str | None, correlation: str, content_type: str = JSON
) -> Json:
    told: Json = {
        "summary": summary,
        "contentType": content_type,
        "payload": {"$ref": f"#/components/schemas/{payload}"},
        "correlationId": {"$ref": f"#/components/correlationIds/{correlation}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "The awakeable's ID, as a rule."},
                "bindingVersion": "0.5.0",
            }
        },
    }
    if headers is not None:
        told["headers"] = {"$ref": f"#/components/schemas/{headers}"}
    return told


def _schema(schema: Json) -> Json:
    return {"schemaFormat": SCHEMA_FORMAT, "schema": _whole(schema, schema.get("$defs", {}))}


def _whole(part: Any, definitions: Json) -> Any:
    """A schema with its definitions at the places that refer to them.

    Parsers of AsyncAPI look `#/$defs/…` up in the document, not in the schema that says it. They can't
    be led elsewhere in the document, either: the schema has an `$id`, which a reference starts from.
    """
    if isinstance(part, list):
        return [_whole(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    found = definitions[part["$ref"].removeprefix("#/$defs/")] if "$ref" in part else {}
    told = {name: value for name, value in part.items() if name not in ("$ref", "$defs")}
    return {name: _whole(value, definitions) for name, value in (found | told).items()}
