"""The task record in all its forms, with the same facts in headers.

Our envelope (schemas/task.schema.json), the bare payload, or a CloudEvent in binary or
structured mode (schemas/task-cloudevent.schema.json).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from awakeables.core.effects import Effect, Header
from awakeables.core.ids import parse_id
from awakeables.core.records import rfc3339
from awakeables.core.texts import excerpt
from awakeables.core.topics import is_topic_name
from awakeables.errors import CallerError, MalformedId
from awakeables.wire.attempts import MAX_ATTEMPTS, attempt_from
from awakeables.wire.cloudevents import CONTENT_TYPE, CloudEvent, read_event
from awakeables.wire.task_events import REQUESTED, binary_headers, structured
from awakeables.wire.verdicts import encode_verdict

VERSION = 1
JSON_TYPE = b"application/json"
AWAKEABLE_ID = "awakeable-id"
EVENT_ID = "awakeable-event-id"
REPLY_TO = "awakeable-reply-to"


class UnreadableTask(CallerError):
    """The record is not a task."""


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a worker receives it; `payload` is JSON text, or the record's bare value."""

    awakeable_id: str
    reply_to: str
    payload: Raw = Raw(b"null")
    event_id: str | None = None
    task: str | None = None
    deadline: Annotated[datetime, Meta(tz=True)] | None = None
    attempt: Annotated[int, Meta(ge=0, le=MAX_ATTEMPTS)] = 1
    v: int = VERSION


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """The awakeable that a task is for, and the topic for its completion."""

    awakeable_id: str
    reply_to: str


_decoder = msgspec.json.Decoder(TaskRecord)
_address_decoder = msgspec.json.Decoder(Address)


def encode_effect(effect: Effect) -> tuple[bytes | None, list[Header]]:
    """Encode an effect as the value and headers of a record."""
    facts = effect.task
    if facts is None:
        return _encode_other(effect)
    deadline = None if facts.deadline_ms is None else rfc3339(facts.deadline_ms)
    ours: dict[str, bytes | None] = {
        AWAKEABLE_ID: facts.awakeable_id.encode(),
        EVENT_ID: effect.event_id.encode(),
    }
    if facts.task is not None:
        ours["awakeable-task"] = facts.task.encode()
    ours[REPLY_TO] = facts.reply_to.encode()
    if deadline is not None:
        ours["awakeable-deadline"] = deadline.encode()
    ours["awakeable-attempt"] = b"1"
    if facts.heartbeat_ms is not None:
        ours["awakeable-heartbeat-ms"] = str(facts.heartbeat_ms).encode()
    if facts.revoke_to is not None:
        ours["awakeable-revocations"] = facts.revoke_to.encode()
    value = effect.value
    if facts.envelope == "cloudevents":
        value, ours[CONTENT_TYPE] = structured(effect, facts)
    elif facts.envelope == "cloudevents-binary":
        ours |= binary_headers(effect, facts)
        ours[CONTENT_TYPE] = JSON_TYPE
    elif facts.envelope == "json" and value is not None:
        ours[CONTENT_TYPE] = JSON_TYPE
        value = msgspec.json.encode(
            {
                "awakeable_id": facts.awakeable_id,
                "event_id": effect.event_id,
                "task": facts.task,
                "payload": Raw(value),
                "reply_to": facts.reply_to,
                "deadline": deadline,
                "attempt": 1,
            }
        )
    headers: list[Header] = []
    for header in effect.headers:  # ours replace the handler's of the same name, but for the content type
        name = header[0].lower()
        if name == CONTENT_TYPE:
            ours.pop(CONTENT_TYPE, None)
        if name not in ours:
            headers.append(header)
    headers += ours.items()
    return value, headers


def _encode_other(effect: Effect) -> tuple[bytes | None, list[Header]]:
    """An effect that is not a task."""
    if effect.verdict is not None:
        return encode_verdict(effect.verdict), list(effect.headers)
    if effect.kind == "event":  # a dead letter is copied, and sent back, unchanged
        given = [header for header in effect.headers if header[0].lower() != EVENT_ID]
        return effect.value, [*given, (EVENT_ID, effect.event_id.encode())]
    return effect.value, list(effect.headers)


def decode_task(value: bytes | None, headers: Sequence[Header]) -> TaskRecord:
    """Read a task: a CloudEvent, the envelope, or a bare payload with its facts in headers.

    A payload can be anything and may itself look like a task. So if there is an `awakeable-id` header, the
    headers' facts count: the value is an event or envelope only if it names the same awakeable, event and
    reply topic, and is the bare payload otherwise. With only an `awakeable-event-id`, a handler published
    the record without an awakeable. Without either, the value decides.

    Raises:
        UnreadableTask: It is not a task in any of these forms; the message says what is missing.
    """
    named = dict(headers)
    if AWAKEABLE_ID not in named:
        if EVENT_ID in named:
            raise UnreadableTask("not a task: it was published without an awakeable")
        return _validated(_by_value(value, named))
    outer = _of_headers(value, named)
    try:
        inner = _by_value(value, named)
    except UnreadableTask:
        return _validated(outer)
    return _validated(inner if _identity(inner) == _identity(outer) else outer)


def _identity(record: TaskRecord) -> tuple[str, str | None, str]:
    return record.awakeable_id, record.event_id, record.reply_to


def _by_value(value: bytes | None, headers: Mapping[str, bytes | None]) -> TaskRecord:
    # An event of another type may be the bare payload of a handler that speaks CloudEvents itself.
    event = read_event(value, headers, (REQUESTED,))
    if event is not None and event.find("type") == REQUESTED:
        return _of_event(event)
    problem = "the record has no value"
    if value is not None:
        try:
            return _decoder.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            problem = str(error)
    raise UnreadableTask(
        f"neither a task ({problem}) nor a payload with {AWAKEABLE_ID} and {REPLY_TO} headers"
    )


def _of_headers(value: bytes | None, headers: Mapping[str, bytes | None]) -> TaskRecord:
    facts = {name: (content or b"").decode("utf-8", "replace") for name, content in headers.items()}
    if REPLY_TO not in facts:
        raise UnreadableTask(f"not a task: it has the header {AWAKEABLE_ID}, but no {REPLY_TO}")
    try:
        deadline = _deadline(facts.get("awakeable-deadline"))
        attempt = attempt_from(facts.get("awakeable-attempt", "1"))
    except ValueError as error:
        raise UnreadableTask(f"the awakeable-… headers can't be read: {error}") from None
    return TaskRecord(
        awakeable_id=facts[AWAKEABLE_ID],
        reply_to=facts[REPLY_TO],
        payload=Raw(value or b"null"),
        event_id=facts.get(EVENT_ID),
        task=facts.get("awakeable-task"),
        deadline=deadline,
        attempt=attempt,
    )


def find_address(value: bytes | None, headers: Sequence[Header]) -> Address | None:
    """The address of a task, even if the record is otherwise unreadable; None: it has none."""
    try:
        task = decode_task(value, headers)
    except (UnreadableTask, ValueError):
        facts = {name: (content or b"").decode("utf-8", "replace") for name, content in headers}
        if AWAKEABLE_ID not in facts:
            if EVENT_ID in facts:
                return None
            try:
                address = _address_decoder.decode(value or b"")
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return None
        else:
            address = Address(awakeable_id=facts[AWAKEABLE_ID], reply_to=facts.get(REPLY_TO, ""))
    else:
        address = Address(awakeable_id=task.awakeable_id, reply_to=task.reply_to)
    try:
        parse_id(address.awakeable_id, "prom")
    except MalformedId:
        return None
    return address if is_topic_name(address.reply_to) else None


def _of_event(event: CloudEvent) -> TaskRecord:
    try:
        event.check()
        return TaskRecord(
            awakeable_id=event.require("subject"),
            reply_to=event.require("replyto"),
            payload=Raw(b"null" if event.data is None else event.data),
            event_id=event.get("id"),
            task=event.get("task"),
            deadline=_deadline(event.get("deadline")),
            attempt=attempt_from(event.get("attempt") or "1"),
        )
    except ValueError as error:
        raise UnreadableTask(f"the task's event can't be read: {error}") from None


def _deadline(text: str | None) -> datetime | None:
    if not text:
        return None
    deadline = datetime.fromisoformat(text)
    if deadline.tzinfo is None:
        raise ValueError(f"the deadline {excerpt(text)} has no time zone")
    return deadline


def _validated(record: TaskRecord) -> TaskRecord:
    if record.v != VERSION:
        raise UnreadableTask(f"version {record.v} of the task record is not supported, only {VERSION} is")
    try:
        parse_id(record.awakeable_id, "prom")
    except MalformedId as error:
        raise UnreadableTask(str(error)) from None
    return record
