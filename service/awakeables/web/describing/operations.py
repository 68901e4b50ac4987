"""What the fixed routes take and answer: the table that `/openapi.json` is made of.

`web/app.py` has the routes themselves, with their scopes; schemas/openapi.yaml is the contract
that both are held to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from awakeables.core.awakeables import State
from awakeables.core.invocations import Status
from awakeables.core.orders import EffectState
from awakeables.telemetry.vocabulary import LETTER_CODES
from awakeables.web import shapes
from awakeables.web.calls import LONGEST_KEY
from awakeables.web.describing.refusals import (
    ALWAYS,
    FAILED,
    INVOCATION_ID,
    LOCATION,
    OF_BODIES,
    OF_VERDICTS,
    RETRY_AFTER,
    WITH_TOKENS,
    Answer,
)
from awakeables.web.lists import LARGEST_LIMIT, USUAL_LIMIT
from awakeables.web.problems import MEDIA_TYPE as PROBLEM

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
ANY_JSON: Final[dict[str, Any]] = {}
TEXT: Final = {"type": "string"}

PATH_PARAMETERS: Final[dict[str, tuple[str, Any]]] = {
    "awakeable_id": ("Its last seven characters are a checksum.", msgspec.json.schema(shapes.AwakeableId)),
    "invocation_id": ("As the header invocation-id has it.", msgspec.json.schema(shapes.InvocationId)),
    "dead_letter_id": ("As the list shows it.", msgspec.json.schema(shapes.DeadLetterId)),
    "event_id": ("As the list shows it.", msgspec.json.schema(shapes.RecordId)),
    "partition": ("Of the completions topic.", {"type": "integer", "minimum": 0}),
    "service": ("A service of the app.", TEXT),
    "handler": ("One of its handlers.", TEXT),
}

REQUEST_HEADERS: Final[dict[str, tuple[str, Any]]] = {
    "idempotency-key": (
        "Unique per handler: the same request again attaches to what it began; another body is refused.",
        {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
    ),
    "prefer": ("`wait=N`: wait at most so many seconds (RFC 7240).", TEXT),
    "traceparent": ("The trace that the request belongs to (W3C Trace Context).", TEXT),
    "awakeable-event-id": ("The answer's own ID; for traces only.", TEXT),
    "awakeable-worker": ("Who answers; for traces only.", TEXT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a path, or of several that mean the same.

    Attributes:
        id: Unique; further paths add a number.
        query: The schemas of its query parameters, with what they mean.
        headers: Names in `REQUEST_HEADERS`.
        body: The schema by media type; None: it takes no body.
        answers: Its own answers, by status.
        refusals: Names of shared answers, by status, beside those that everything has.
    """

    id: str
    tag: str
    summary: str
    paths: tuple[str, ...]
    method: str = "get"
    query: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    body: Mapping[str, Any] | None = None
    answers: Mapping[str, Answer]
    refusals: Mapping[str, str] = field(default_factory=lambda: ALWAYS | WITH_TOKENS)


def _shown(shape: type[shapes.Shape], description: str, *headers: str) -> Answer:
    return Answer(description, {JSON: shape}, headers)


def _paging(id_type: Any) -> dict[str, tuple[str, Any]]:
    limit = {"type": "integer", "minimum": 1, "maximum": LARGEST_LIMIT, "default": USUAL_LIMIT}
    return {
        "limit": ("How many at most.", limit),
        "before": ("Those older than this one: the `next` of the page before.", msgspec.json.schema(id_type)),
    }


def _below_awakeables(verb: str) -> tuple[str, ...]:
    roots = ("/awakeables", "/restate/awakeables", "/restate/a")
    return tuple(f"{root}/{{awakeable_id}}/{verb}" for root in roots)


GUARDED: Final = ALWAYS | WITH_TOKENS
RESULT: Final = Answer(
    "The handler's result: JSON, or bytes.", {JSON: ANY_JSON, BYTES: ANY_JSON}, (INVOCATION_ID,)
)
NOT_YET: Final = _shown(
    shapes.NotYet,
    "It has not ended; `location` says where to ask later.",
    LOCATION,
    RETRY_AFTER,
    INVOCATION_ID,
)
ENDS: Final = {"200": RESULT, "202": NOT_YET} | FAILED
ANSWERING: Final = ("awakeable-event-id", "awakeable-worker", "traceparent")

CALL: Final = Operation(
    id="call",
    tag="handlers",
    method="post",
    paths=("/{service}/{handler}",),
    summary="Call a handler and wait for its end, for a while",
    headers=("idempotency-key", "prefer", "traceparent"),
    body={JSON: ANY_JSON, BYTES: ANY_JSON},
    answers=ENDS,
    refusals=GUARDED | OF_BODIES | {"404": "NotFound"},
)
SEND: Final = Operation(
    id="send",
    tag="handlers",
    method="post",
    paths=("/{service}/{handler}/send",),
    summary="Call a handler, now or later, and don't wait",
    query={"delay": ("When to begin: 500ms, 10s, 2m, 1h30m, 7d or PT10S from now.", TEXT)},
    headers=("idempotency-key", "traceparent"),
    body=CALL.body,
    answers={
        "202": _shown(shapes.Begun, "It is committed, and will run.", LOCATION, RETRY_AFTER, INVOCATION_ID)
    },
    refusals=CALL.refusals,
)

OPERATIONS: Final = (
    CALL,
    SEND,
    Operation(
        id="resolve",
        tag="awakeables",
        method="post",
        paths=_below_awakeables("resolve"),
        summary="Resolve an awakeable with the body; an absent one is null",
        headers=ANSWERING,
        body={JSON: ANY_JSON, BYTES: ANY_JSON},
        answers={"200": _shown(shapes.Verdict, "Committed: accepted, or a duplicate of what was.")},
        refusals=GUARDED | OF_BODIES | OF_VERDICTS,
    ),
    Operation(
        id="reject",
        tag="awakeables",
        method="post",
        paths=_below_awakeables("reject"),
        summary="Reject an awakeable; a body that is no JSON is the reason",
        headers=ANSWERING,
        body={JSON: shapes.Refusal, "text/plain": TEXT},
        answers={"200": _shown(shapes.Verdict, "Committed: accepted, or a duplicate of what was.")},
        refusals=GUARDED | OF_BODIES | OF_VERDICTS,
    ),
    Operation(
        id="listAwakeables",
        tag="awakeables",
        paths=("/awakeables",),
        summary="List awakeables, newest first",
        query={"state": ("Only those in this state.", msgspec.json.schema(State))}
        | _paging(shapes.AwakeableId),
        answers={"200": _shown(shapes.Awakeables, "A page of them.")},
    ),
    Operation(
        id="showAwakeable",
        tag="awakeables",
        paths=("/awakeables/{awakeable_id}",),
        summary="Show an awakeable, and what became of its completions",
        answers={"200": _shown(shapes.AwakeableInFull, "The awakeable.")},
        refusals=GUARDED | {"404": "NotFound"},
    ),
    Operation(
        id="listInvocations",
        tag="invocations",
        paths=("/invocations",),
        summary="List invocations, newest first",
        query={
            "status": ("Only those of this status.", msgspec.json.schema(Status)),
            "service": ("Only those of this service.", TEXT),
            "handler": ("With `idempotency_key`: only that of this handler.", TEXT),
            "idempotency_key": ("Only those that were called with this key: at most one per handler.", TEXT),
        }
        | _paging(shapes.InvocationId),
        answers={"200": _shown(shapes.Invocations, "A page of them.")},
    ),
    Operation(
        id="showInvocation",
        tag="invocations",
        paths=("/invocations/{invocation_id}",),
        summary="Show an invocation and its journal",
        answers={"200": _shown(shapes.InvocationInFull, "The invocation.")},
        refusals=GUARDED | {"404": "NotFound"},
    ),
    Operation(
        id="output",
        tag="invocations",
        paths=("/invocations/{invocation_id}/output",),
        summary="Get an invocation's result if there is one",
        answers=ENDS,
        refusals=GUARDED | {"404": "NotFound"},
    ),
    Operation(
        id="attach",
        tag="invocations",
        paths=("/invocations/{invocation_id}/attach",),
        summary="Wait for an invocation's end, as its call does",
        headers=("prefer",),
        answers=ENDS,
        refusals=GUARDED | {"404": "NotFound"},
    ),
    Operation(
        id="cancel",
        tag="invocations",
        method="post",
        paths=("/invocations/{invocation_id}/cancel",),
        summary="Cancel an invocation: its handler gets `Cancelled` at its next await",
        answers={"202": _shown(shapes.Invocation, "It is marked; one that never ran has ended.")},
        refusals=GUARDED | {"404": "NotFound", "409": "NotPossible", "422": "Unfit"},
    ),
    Operation(
        id="kill",
        tag="invocations",
        method="post",
        paths=("/invocations/{invocation_id}/kill",),
        summary="End an invocation at once, without notice to its handler",
        answers={"200": _shown(shapes.Invocation, "It has ended.")},
        refusals=GUARDED | {"404": "NotFound", "409": "NotPossible", "422": "Unfit"},
    ),
    Operation(
        id="resume",
        tag="invocations",
        method="post",
        paths=("/invocations/{invocation_id}/resume",),
        summary="Let a paused invocation go on",
        answers={"200": _shown(shapes.Invocation, "It goes on.")},
        refusals=GUARDED | {"404": "NotFound", "409": "NotPossible", "422": "Unfit"},
    ),
    Operation(
        id="listDeadLetters",
        tag="dead letters",
        paths=("/dead-letters",),
        summary="List records that could not be used, newest first",
        query=_paging(shapes.DeadLetterId),
        answers={"200": _shown(shapes.DeadLetters, "A page of them.")},
    ),
    Operation(
        id="showDeadLetter",
        tag="dead letters",
        paths=("/dead-letters/{dead_letter_id}",),
        summary="Show a record that could not be used, byte for byte",
        answers={"200": _shown(shapes.DeadLetterInFull, "The dead letter.")},
        refusals=GUARDED | {"404": "NotFound"},
    ),
    Operation(
        id="resend",
        tag="dead letters",
        method="post",
        paths=("/dead-letters/{dead_letter_id}/resend",),
        summary="Send a record again to the topic that it came from",
        answers={"202": _shown(shapes.Resent, "It goes out by way of the outbox.")},
        refusals=GUARDED | {"404": "NotFound", "409": "NotPossible", "422": "Unfit"},
    ),
    Operation(
        id="purgeDeadLetters",
        tag="dead letters",
        method="post",
        paths=("/dead-letters/purge",),
        summary="Delete records that could not be used, by age, by code or both",
        query={
            "older_than": ("Those that are so old, as 7d or PT12H; else of any age.", {"type": "string"}),
            "code": ("Those with this code.", {"enum": sorted(LETTER_CODES)}),
        },
        answers={"200": _shown(shapes.Purged, "They are deleted.")},
        refusals=GUARDED,
    ),
    Operation(
        id="listOutbox",
        tag="outbox",
        paths=("/outbox",),
        summary="List records that are not in Kafka, newest first",
        query={
            "state": ("Only those in this state.", msgspec.json.schema(EffectState) | {"default": "failed"})
        }
        | _paging(shapes.RecordId),
        answers={"200": _shown(shapes.Outbox, "A page of them.")},
    ),
    Operation(
        id="showOutboxRecord",
        tag="outbox",
        paths=("/outbox/{event_id}",),
        summary="Show a record that is not in Kafka, and why it was refused",
        answers={"200": _shown(shapes.OutboxRecordInFull, "The record.")},
        refusals=GUARDED | {"404": "NotFound"},
    ),
    Operation(
        id="republish",
        tag="outbox",
        method="post",
        paths=("/outbox/{event_id}/resend",),
        summary="Send a record again that Kafka has refused",
        answers={"202": _shown(shapes.Republished, "It goes out with what else is unsent.")},
        refusals=GUARDED | {"404": "NotFound", "409": "NotPossible", "422": "Unfit"},
    ),
    Operation(
        id="listOffsets",
        tag="offsets",
        paths=("/offsets",),
        summary="Show how far the completions topic is read",
        answers={"200": _shown(shapes.Partitions, "Its partitions.")},
    ),
    Operation(
        id="skip",
        tag="offsets",
        method="post",
        paths=("/offsets/{partition}/skip",),
        summary="Move a partition past a batch that can't be opened",
        query={
            "to": ("The offset to go on from; else right after the batch.", {"type": "integer", "minimum": 0})
        },
        answers={"200": _shown(shapes.Partition, "Where it goes on.")},
        refusals=GUARDED | {"404": "NotFound", "409": "NotPossible", "422": "Unfit"},
    ),
    Operation(
        id="live",
        tag="health",
        paths=("/health/live",),
        summary="Does the process answer?",
        answers={"200": _shown(shapes.Live, "It does.")},
        refusals=ALWAYS,
    ),
    Operation(
        id="ready",
        tag="health",
        paths=("/health/ready",),
        summary="Is work taken, and what is degraded?",
        answers={
            "200": _shown(shapes.Ready, "It is."),
            "503": Answer("It isn't.", {JSON: shapes.NotReady, PROBLEM: shapes.Problem}, (RETRY_AFTER,)),
        },
        refusals=ALWAYS,
    ),
    Operation(
        id="metrics",
        tag="health",
        paths=("/metrics",),
        summary="What was counted, for Prometheus",
        answers={
            "200": Answer(
                "OpenMetrics if it is asked for, else Prometheus' text format.",
                {"text/plain": TEXT, "application/openmetrics-text": TEXT},
            )
        },
    ),
    Operation(
        id="openapi",
        tag="documents",
        paths=("/openapi.json",),
        summary="This document, with the app's handlers and their types",
        answers={"200": Answer("OpenAPI 3.1.", {JSON: {"type": "object"}})},
    ),
    Operation(
        id="asyncapi",
        tag="documents",
        paths=("/asyncapi.json",),
        summary="The app's topics and the records on them",
        answers={"200": Answer("AsyncAPI 3.0.", {JSON: {"type": "object"}})},
    ),
    Operation(
        id="docs",
        tag="documents",
        paths=("/docs",),
        summary="The OpenAPI document for people",
        answers={"200": Answer("A page without scripts.", {"text/html": TEXT})},
    ),
)
