"""The schemas of completions, as schemas/ has them: the running program never reads that folder.

A test holds the two together.
"""

from __future__ import annotations

from typing import Final

from awakeables.web.describing.records.ids import AWAKEABLE_ID, Json

BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

COMPLETION: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:awakeables:schema:completion:1",
    "title": "Completion",
    "description": (
        "What a worker produces to the topic that its task names in `reply_to`: an answer, a sign of "
        "life, or that it can't use the task. Unknown fields are ignored. A value is kept as "
        "its JSON text was written; of duplicate keys the last counts."
    ),
    "type": "object",
    "required": ["awakeable_id", "status"],
    "properties": {
        "awakeable_id": {"$ref": "#/$defs/awakeable_id"},
        "status": {
            "description": (
                "`resolved` and `rejected` settle the awakeable; `heartbeat` says that the work goes on, "
                "`dead-lettered` that the task is on `<topic>.dlq` and is not being worked on."
            ),
            "enum": ["resolved", "rejected", "heartbeat", "dead-lettered"],
        },
        "value": {"description": "resolved: the answer, any JSON; null is an answer."},
        "value_base64": {
            "description": (
                "resolved: the answer of an awakeable that takes bytes; standard base64 with padding."
            ),
            "type": "string",
            "contentEncoding": "base64",
        },
        "reason": {
            "description": "rejected, dead-lettered: what happened, for people.",
            "type": ["string", "null"],
        },
        "code": {"description": "rejected: an HTTP-like number; 500 if absent.", "type": ["integer", "null"]},
        "details": {"description": "rejected: anything, for programs."},
        "progress": {"description": "heartbeat: anything; the last one is shown with the awakeable."},
        "dead_letter": {"description": "dead-lettered: the task, and why it can't be used; see below."},
        "event_id": {
            "description": "The producer's name of this record; for traces only.",
            "type": ["string", "null"],
        },
        "worker": {"description": "Who says so; for traces only.", "type": ["string", "null"]},
        "attempt": {
            "description": "Which try of the task this is; for traces only.",
            "type": ["integer", "null"],
        },
        "v": {
            "description": (
                "The version of this record. A version that the service does not know is refused."
            ),
            "const": 1,
            "default": 1,
        },
    },
    "if": {"required": ["status"], "properties": {"status": {"const": "resolved"}}},
    "then": {
        "description": "Exactly one of `value` and `value_base64`.",
        "oneOf": [
            {"required": ["value"]},
            {
                "required": ["value_base64"],
                "properties": {"value_base64": {"pattern": BASE64}},
            },
        ],
    },
    "else": {
        "if": {"required": ["status"], "properties": {"status": {"const": "dead-lettered"}}},
        "then": {
            "required": ["dead_letter"],
            "properties": {"dead_letter": {"$ref": "#/$defs/dead_letter"}},
        },
    },
    "$defs": {
        "awakeable_id": AWAKEABLE_ID,
        "base64": {"type": "string", "contentEncoding": "base64", "pattern": BASE64},
        "dead_letter": {
            "description": (
                "The service files it as a dead letter, once for each place of a task, and the awakeable "
                "stays pending. An operator can have the task sent to its topic again, if the awakeable's "
                "task was published there."
            ),
            "type": "object",
            "required": ["code", "topic", "partition", "offset", "timestamp_ms"],
            "properties": {
                "code": {
                    "description": "As in the header `awakeable-error-code` of the task's dead letter.",
                    "type": "string",
                    "pattern": "^[a-z][a-z0-9-]{0,39}$",
                },
                "topic": {
                    "description": "Where the task lies, with its partition, offset and timestamp.",
                    "type": "string",
                    "pattern": "^[A-Za-z0-9._-]{1,249}$",
                },
                "partition": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
                "offset": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
                "timestamp_ms": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
                "content": {
                    "description": (
                        "The task byte for byte; left out if key, value and headers together have more "
                        "than 700,000 bytes: then it can't be sent again from here."
                    ),
                    "type": ["object", "null"],
                    "required": ["headers"],
                    "properties": {
                        "key_base64": {"anyOf": [{"$ref": "#/$defs/base64"}, {"type": "null"}]},
                        "value_base64": {"anyOf": [{"$ref": "#/$defs/base64"}, {"type": "null"}]},
                        "headers": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "value_base64": {"anyOf": [{"$ref": "#/$defs/base64"}, {"type": "null"}]},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
COMPLETION_CLOUDEVENT: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:awakeables:schema:completion-cloudevent:1",
    "title": "Completion as a CloudEvent",
    "description": (
        "A completion as a CloudEvent 1.0 in structured mode. Its content-type should begin "
        "with application/cloudevents+json; a JSON object with `specversion` and one of these"
        " types is taken for one without it. In binary mode each attribute stands in a header"
        " `ce_` + its name, `datacontenttype` in the header content-type, and the data is the"
        " record's value; an empty value is no data. Unknown attributes are ignored."
    ),
    "type": "object",
    "required": ["specversion", "id", "source", "type", "subject"],
    "properties": {
        "specversion": {"description": "Of CloudEvents.", "const": "1.0"},
        "id": {
            "description": "Names the event within its source; for traces only.",
            "type": "string",
            "minLength": 1,
        },
        "source": {
            "description": "Who says so, a URI reference; with `id` it is the event ID.",
            "type": "string",
            "minLength": 1,
        },
        "type": {
            "enum": [
                "awakeables.completion.resolved.v1",
                "awakeables.completion.rejected.v1",
                "awakeables.completion.heartbeat.v1",
            ]
        },
        "subject": {"$ref": "#/$defs/awakeable_id"},
        "time": {"description": "Ignored: the record's own time counts.", "type": ["string", "null"]},
        "datacontenttype": {
            "description": (
                "In binary mode it decides: data of a JSON type, or of none, is JSON; of any other, bytes."
            ),
            "type": ["string", "null"],
        },
        "data": {
            "description": (
                "resolved: the answer, any JSON; absent is null. rejected and heartbeat: see below."
            )
        },
        "data_base64": {
            "description": "resolved: the answer of an awakeable that takes bytes.",
            "type": "string",
            "contentEncoding": "base64",
            "pattern": BASE64,
        },
        "worker": {"description": "Extension: which worker; for traces only.", "type": ["string", "null"]},
        "attempt": {
            "description": "Extension: which try of the task this is; for traces only.",
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": 999999999,
        },
    },
    "not": {"description": "Data stands in one of the two.", "required": ["data", "data_base64"]},
    "allOf": [
        {
            "if": {
                "required": ["type"],
                "properties": {"type": {"const": "awakeables.completion.rejected.v1"}},
            },
            "then": {
                "not": {"required": ["data_base64"]},
                "properties": {
                    "data": {
                        "type": ["object", "null"],
                        "properties": {
                            "reason": {
                                "description": "What happened, for people.",
                                "type": ["string", "null"],
                            },
                            "code": {
                                "description": "An HTTP-like number; 500 if absent.",
                                "type": ["integer", "null"],
                            },
                            "details": {"description": "Anything, for programs."},
                        },
                    }
                },
            },
        },
        {
            "if": {
                "required": ["type"],
                "properties": {"type": {"const": "awakeables.completion.heartbeat.v1"}},
            },
            "then": {
                "not": {"required": ["data_base64"]},
                "properties": {
                    "data": {
                        "type": ["object", "null"],
                        "properties": {
                            "progress": {"description": "Anything; the last one is shown with the awakeable."}
                        },
                    }
                },
            },
        },
    ],
    "$defs": {"awakeable_id": AWAKEABLE_ID},
}
