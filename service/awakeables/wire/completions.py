"""The completion record, in all its forms.

A plain JSON object (schemas/completion.schema.json), or a CloudEvent in binary or structured mode
(schemas/completion-cloudevent.schema.json), recognized by its headers or, if its type is ours, by its
value. An event of another type is read as a plain object: a worker may have copied its task's headers.

A value keeps its JSON text exactly as written: 2⁶⁴ and 0.1000 are not changed. Of duplicate keys the last
one counts. Unknown fields are ignored, so that workers and service can be upgraded independently; an
unknown version `v` is refused.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.awakeables import Completion, DeadTask, Heartbeat, checked_progress
from awakeables.core.effects import Header
from awakeables.core.ids import parse_id
from awakeables.core.jsontext import json_fault
from awakeables.core.outcomes import NO_REASON, Rejection, Resolution
from awakeables.core.texts import excerpt
from awakeables.errors import CallerError, MalformedId
from awakeables.wire.cloudevents import SPECVERSION_MEMBER, CloudEvent, read_event
from awakeables.wire.completion_events import TYPES, attempt_of, body_of, event_id_of
from awakeables.wire.dead_tasks import decode_dead_task, encode_dead_task
from awakeables.wire.traces import TRACEPARENT, known_traceparent

VERSION = 1
STATUSES: Final = ("resolved", "rejected", "heartbeat", "dead-lettered")


class Unreadable(CallerError):
    """The record is not a completion, or names no awakeable."""


class _Envelope(msgspec.Struct):
    awakeable_id: str
    status: str
    value: Raw | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    reason: str | None = None
    code: int | None = None
    details: Raw | UnsetType = UNSET
    progress: Raw | UnsetType = UNSET
    dead_letter: Raw | UnsetType = UNSET
    event_id: str | None = None
    worker: str | None = None
    attempt: int | None = None
    v: int = VERSION


class _Addressed(msgspec.Struct):
    awakeable_id: str


_decoder = msgspec.json.Decoder(_Envelope)
_address_decoder = msgspec.json.Decoder(_Addressed)


def decode_completion(
    value: bytes | None, *, source: str, headers: Sequence[Header] = (), key: bytes | None = None
) -> Completion:
    """Read a completion: a plain one, or a CloudEvent in binary or structured mode.

    A record that names a well-formed awakeable ID but can't be accepted is returned with `refusal` set,
    so that the awakeable's row gets a verdict. If nothing else names the awakeable, the record's key may.
    Of a repeated header the last one counts.

    Raises:
        Unreadable: It names no awakeable.
    """
    trace = event = None
    # A plain record without headers is neither traced nor an event.
    if headers or (value is not None and SPECVERSION_MEMBER in value):
        named = dict(headers)
        trace = known_traceparent(named.get(TRACEPARENT))
        event = read_event(value, named, TYPES)
    try:
        if event is not None and event.find("type") in TYPES:
            return _of_event(event, source, trace)
        return _of_envelope(value, source, trace)
    except (Unreadable, MalformedId) as error:
        refusal = str(error) if event is None else _why(event, error)
        addressed = _address(event.find("subject") if event else None) or _address(_text(key))
        if addressed is None:
            raise Unreadable(refusal) from None
        return Completion(awakeable_id=addressed, body=None, source=source, trace=trace, refusal=refusal)


def _why(event: CloudEvent, error: CallerError) -> str:
    kind = event.find("type")
    if kind is None and event.fault is not None:
        return event.fault
    if kind is None or kind in TYPES:
        return str(error)
    return f"{error}; and events of the type {excerpt(kind)} are not completions"


def _of_event(event: CloudEvent, source: str, trace: str | None) -> Completion:
    awakeable_id = event.find("subject")
    if awakeable_id is None:
        raise Unreadable("the event has no subject; it is the awakeable's ID")
    parse_id(awakeable_id, "prom")
    body, attempt, refusal = None, None, None
    try:
        event.check()
        attempt = attempt_of(event)
        body = body_of(event)
    except ValueError as error:
        refusal = str(error)
    return Completion(
        awakeable_id=awakeable_id,
        body=body,
        source=source,
        event_id=event_id_of(event),
        worker=event.find("worker"),
        attempt=attempt,
        trace=trace,
        refusal=refusal,
    )


def _of_envelope(value: bytes | None, source: str, trace: str | None) -> Completion:
    if not value:
        raise Unreadable("the record has no value; a completion is a JSON object")
    try:
        value.decode()  # msgspec does not look into the strings that it skips
        envelope = _decoder.decode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return _addressed_at_least(value, source, trace, str(error))
    parse_id(envelope.awakeable_id, "prom")
    body: Resolution | Rejection | Heartbeat | DeadTask | None = None
    refusal = None
    if envelope.v != VERSION:
        refusal = f"version {envelope.v} of the completion record is not supported, only {VERSION} is"
    elif envelope.status == "resolved" and envelope.value is not UNSET and envelope.value_base64 is UNSET:
        text = bytes(envelope.value)
        fault = json_fault(text)
        if fault is None:
            body = Resolution(value=Raw(text))
        else:
            refusal = f"value: {fault}"
    else:
        try:
            body = _other_body(envelope)
        except ValueError as error:
            refusal = str(error)
    return Completion(
        awakeable_id=envelope.awakeable_id,
        body=body,
        source=source,
        event_id=envelope.event_id,
        worker=envelope.worker,
        attempt=envelope.attempt,
        trace=trace,
        refusal=refusal,
    )


def _addressed_at_least(value: bytes, source: str, trace: str | None, problem: str) -> Completion:
    try:
        addressed = _address_decoder.decode(value)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Unreadable(f"not a completion: {problem}") from None
    parse_id(addressed.awakeable_id, "prom")
    return Completion(
        awakeable_id=addressed.awakeable_id, body=None, source=source, trace=trace, refusal=problem
    )


def _address(text: str | None) -> str | None:
    """The text if it is an awakeable's ID, else None."""
    try:
        parse_id(text or "", "prom")
    except MalformedId:
        return None
    return text


def _text(key: bytes | None) -> str:
    return (key or b"").decode("ascii", "replace")


def _other_body(envelope: _Envelope) -> Resolution | Rejection | Heartbeat | DeadTask:
    """Any body but a JSON value."""
    match envelope.status:
        case "resolved":
            return _resolution_of_bytes(envelope)
        case "rejected":
            return Rejection(
                reason=envelope.reason or NO_REASON,
                code=500 if envelope.code is None else envelope.code,
                details=UNSET if envelope.details is UNSET else _json("details", envelope.details),
            )
        case "heartbeat":
            if envelope.progress is UNSET:
                return Heartbeat()
            return Heartbeat(progress=checked_progress(_json("progress", envelope.progress)))
        case "dead-lettered":
            return decode_dead_task(envelope.dead_letter, envelope.reason)
        case unknown:
            raise ValueError(f"status {excerpt(unknown)} is not one of {', '.join(STATUSES)}")


def _resolution_of_bytes(envelope: _Envelope) -> Resolution:
    if envelope.value is not UNSET:
        raise ValueError("resolved has both `value` and `value_base64`; send one")
    if envelope.value_base64 is UNSET:
        raise ValueError("resolved requires `value` (it may be null) or `value_base64`")
    try:
        return Resolution(value_base64=b64decode(envelope.value_base64, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"value_base64 is not base64: {error}") from None


def _json(field: str, raw: Any) -> Raw:
    """Check that every reader can decode this JSON."""
    text = bytes(raw)
    fault = json_fault(text)
    if fault is not None:
        raise ValueError(f"{field}: {fault}")
    return Raw(text)


def encode_completion(completion: Completion) -> bytes:
    """Encode a completion as a worker sends it."""
    fields: dict[str, Any] = {"awakeable_id": completion.awakeable_id}
    match completion.body:
        case Resolution() as resolution:
            fields["status"] = "resolved"
            key = "value" if resolution.is_json else "value_base64"
            fields[key] = Raw(resolution.content) if resolution.is_json else resolution.content
        case Rejection() as rejection:
            fields |= {"status": "rejected", "reason": rejection.reason, "code": rejection.code}
            if rejection.details is not UNSET:
                fields["details"] = rejection.details
        case Heartbeat() as heartbeat:
            fields |= {"status": "heartbeat", "progress": heartbeat.progress}
        case DeadTask() as task:
            fields |= {"status": "dead-lettered"} | encode_dead_task(task)
        case None:
            raise ValueError("a completion without a body can't be sent")
    optional = {"event_id": completion.event_id, "worker": completion.worker, "attempt": completion.attempt}
    return msgspec.json.encode(
        fields | {name: value for name, value in optional.items() if value is not None}
    )
