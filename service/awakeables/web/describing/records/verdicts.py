"""The schema of verdicts, as schemas/ has it: the running program never reads that folder.

A test holds the two together.
"""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

OMITTED: Final[Json] = {
    "description": (
        "The outcome has this many bytes, more than a verdict holds: its value, or code and "
        "details, are left out. `GET /awakeables/{id}` has them."
    ),
    "type": "integer",
    "minimum": 1,
}
VERDICT: Final[Json] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:awakeables:schema:verdict:1",
    "title": "Verdict",
    "description": (
        "What became of one completion: the value of a record on the verdicts topic. "
        "Its key is the awakeable's ID. Verdicts are published at least once, in "
        "order per awakeable; a repeat has the same content. A heartbeat that was "
        "kept has none."
    ),
    "type": "object",
    "required": ["verdict", "awakeable_id", "at", "source", "event_id", "reason", "outcome"],
    "properties": {
        "v": {"description": "The version of this record; absent means 1.", "const": 1},
        "verdict": {
            "description": (
                "`accepted`: it settled the awakeable; `duplicate`: the same answer was "
                "there; `conflict`: another answer was there; `late`: time had run out, or it"
                " was called off, or purged; `unknown`: no such awakeable was issued; "
                "`invalid`: it can't be accepted, the awakeable still waits."
            ),
            "enum": ["accepted", "duplicate", "conflict", "late", "unknown", "invalid"],
        },
        "awakeable_id": {
            "description": "Which awakeable it is about.",
            "type": "string",
            "pattern": "^prom_1[0-9a-hjkmnp-tv-z]{33}$",
        },
        "at": {
            "description": "When it was decided, by the service's clock.",
            "type": "string",
            "format": "date-time",
        },
        "source": {
            "description": "Where the completion came from.",
            "oneOf": [
                {
                    "type": "object",
                    "required": ["kind", "topic", "partition", "offset"],
                    "properties": {
                        "kind": {"const": "kafka"},
                        "topic": {"type": "string"},
                        "partition": {"type": "integer", "minimum": 0},
                        "offset": {"type": "integer", "minimum": 0},
                    },
                },
                {
                    "type": "object",
                    "required": ["kind"],
                    "properties": {"kind": {"enum": ["http", "handler"]}},
                },
            ],
        },
        "event_id": {
            "description": (
                "The completion's own event ID, if it had one; of a longer one the first 999 "
                "characters and `…`."
            ),
            "type": ["string", "null"],
        },
        "reason": {
            "description": "Why it was not accepted, for people; shortened in the same way.",
            "type": ["string", "null"],
        },
        "outcome": {
            "description": (
                "What is stored: the answer that counts. Null while the awakeable waits, or "
                "where there is none."
            ),
            "oneOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "required": ["status"],
                    "properties": {
                        "status": {"const": "resolved"},
                        "value": {"description": "Any JSON value, as it was written."},
                        "value_base64": {"type": "string", "contentEncoding": "base64"},
                        "omitted_bytes": OMITTED,
                    },
                    "oneOf": [
                        {"required": ["value"]},
                        {"required": ["value_base64"]},
                        {"required": ["omitted_bytes"]},
                    ],
                },
                {
                    "type": "object",
                    "required": ["status", "reason"],
                    "properties": {
                        "status": {"const": "rejected"},
                        "reason": {"type": "string"},
                        "code": {
                            "type": "integer",
                            "description": "Absent means 500, unless it was omitted.",
                        },
                        "details": {"description": "Any JSON value."},
                        "omitted_bytes": OMITTED,
                    },
                },
                {
                    "type": "object",
                    "required": ["status", "deadline"],
                    "properties": {
                        "status": {"const": "timed-out"},
                        "deadline": {"type": "string", "format": "date-time"},
                    },
                },
                {
                    "type": "object",
                    "required": ["status", "reason"],
                    "properties": {"status": {"const": "cancelled"}, "reason": {"type": "string"}},
                },
            ],
        },
    },
}
