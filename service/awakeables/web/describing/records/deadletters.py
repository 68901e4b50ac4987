"""The schema of a dead letter's headers, as schemas/ has it: the running program never reads that folder.

A test holds the two together.
"""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

DEAD_LETTER: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:awakeables:schema:dead-letter:1",
    "title": "Headers of a dead letter",
    "description": (
        "What a record on a dead-letter topic says of itself in headers, read as an "
        "object of texts in which the last of several headers of one name counts. "
        "Key, value and earlier headers are the original record's, byte for byte. The"
        " __connect.errors names are Kafka Connect's."
    ),
    "type": "object",
    "required": [
        "__connect.errors.topic",
        "__connect.errors.partition",
        "__connect.errors.offset",
        "__connect.errors.class.name",
        "__connect.errors.exception.message",
        "awakeable-error-code",
    ],
    "properties": {
        "__connect.errors.topic": {
            "description": "Where the record was read.",
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{1,249}$",
        },
        "__connect.errors.partition": {"$ref": "#/$defs/number"},
        "__connect.errors.offset": {"$ref": "#/$defs/number"},
        "__connect.errors.class.name": {"$ref": "#/$defs/code"},
        "__connect.errors.exception.message": {
            "description": "What was wrong, for people.",
            "type": "string",
        },
        "awakeable-error-code": {"$ref": "#/$defs/code"},
        "awakeable-value-omitted": {
            "description": (
                "The record was too large for this topic, so its value was left out; this "
                "says what Kafka said. The service's row has the value."
            ),
            "type": "string",
        },
    },
    "$defs": {
        "number": {"type": "string", "pattern": "^[0-9]{1,19}$"},
        "code": {
            "description": (
                "From the completions topic: `unreadable` (no completion, or no well-formed "
                "awakeable ID), `unknown` (no such awakeable), `invalid` (can't be accepted),"
                " `unstorable` (the store refuses it), `skipped` (an operator has moved the "
                "partition past records from here on, which nobody could read; there is no "
                "value), `folded` (more records from here on could not be used than are kept one "
                "by one; the service's row counts them, and there is no value). From a worker's "
                "task topic also `unknown-task` (no function for it) and "
                "`unanswerable` (its answer can't be sent: Kafka does not take it, or the worker may "
                "not answer to its `reply_to`)."
            ),
            "enum": [
                "unreadable",
                "unknown",
                "invalid",
                "unstorable",
                "skipped",
                "folded",
                "unknown-task",
                "unanswerable",
            ],
        },
    },
}
