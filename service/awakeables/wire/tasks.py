"""The task record in all its forms, and the same facts in headers.

Our envelope (schemas/task.schema.json), the bare payload, or a CloudEvent in binary or
structured mode (schemas/task-cloudevent.schema.json).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from awakeables.core.ids import parse_id
from awakeables.core.orders import Effect, Header, TaskFacts
from awakeables.core.records import rfc3339
from awakeables.core.topics import is_topic_name
from awakeables.errors import CallerError, MalformedId
from awakeables.wire.cloudevents import CONTENT_TYPE, CloudEvent, read_event
from awakeables.wire.task_events import REQUESTED, binary_headers, structured

VERSION = 1
JSON_TYPE = b"application/json"
EVENT_ID = "awakeable-event-id"


class UnreadableTask(CallerError):
    """The record is no task."""


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a worker gets it; `payload` is JSON text, or the record's bare value."""

    awakeable_id: str
    reply_to: str
    payload: Raw = Raw(b"null")
    event_id: str | None = None
    task: str | None = None
    deadline: Annotated[datetime, Meta(tz=True)] | None = None
    attempt: int = 1
    v: int = VERSION


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Which awakeable a task is for, and where its worker answers."""

    awakeable_id: str
    reply_to: str


_decoder = msgspec.json.Decoder(TaskRecord)
_address_decoder = msgspec.json.Decoder(Address)


def encode_effect(effect: Effect) -> tuple[bytes | None, list[Header]]:
    """The value and the headers of the record that an effect becomes."""
    headers = list(effect.headers)
    facts = effect.task
    if facts is None:
        if effect.stream.startswith("inv_"):  # a dead letter goes, and goes back, as it was
            headers.append((EVENT_ID, effect.event_id.encode()))
        return effect.value, headers
    headers += _facts_as_headers(effect.event_id, facts)
    if facts.enveloped == "structured":
        value, content_type = structured(effect, facts)
        return value, [*headers, (CONTENT_TYPE, content_type)]
    if facts.enveloped == "binary":
        return effect.value, [*headers, *binary_headers(effect, facts)]
    if not facts.enveloped or effect.value is None:
        return effect.value, headers
    record = {
        "awakeable_id": facts.awakeable_id,
        "event_id": effect.event_id,
        "task": facts.task,
        "payload": Raw(effect.value),
        "reply_to": facts.reply_to,
        "deadline": _instant(facts.deadline_ms),
        "attempt": 1,
    }
    return msgspec.json.encode(record), [*headers, (CONTENT_TYPE, JSON_TYPE)]


def _facts_as_headers(event_id: str, facts: TaskFacts) -> list[Header]:
    pairs = (
        ("awakeable-id", facts.awakeable_id),
        (EVENT_ID, event_id),
        ("awakeable-task", facts.task),
        ("awakeable-reply-to", facts.reply_to),
        ("awakeable-deadline", _instant(facts.deadline_ms)),
        ("awakeable-attempt", "1"),
    )
    return [(name, text.encode()) for name, text in pairs if text is not None]


def _instant(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return rfc3339(at_ms)


def decode_task(value: bytes | None, headers: Sequence[Header]) -> TaskRecord:
    """Read a task: a CloudEvent, the envelope, or a bare payload whose facts stand in the headers.

    Raises:
        UnreadableTask: It is none of them; the message says what is missing.
    """
    # An event of another type may be the bare payload of a handler that speaks CloudEvents itself.
    event = read_event(value, dict(headers))
    if event is not None and event.find("type") == REQUESTED:
        return _checked(_of_event(event))
    facts = {name: (content or b"").decode("utf-8", "replace") for name, content in headers}
    envelope_problem = ""
    if value is not None:
        try:
            record = _decoder.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            envelope_problem = str(error)
        else:
            return _checked(record)
    if "awakeable-id" not in facts or "awakeable-reply-to" not in facts:
        problem = envelope_problem or "the record has no value"
        raise UnreadableTask(
            f"neither a task ({problem}) nor a payload with awakeable-id and awakeable-reply-to headers"
        )
    try:
        deadline = _deadline(facts.get("awakeable-deadline"))
        attempt = int(facts.get("awakeable-attempt", "1"))
    except ValueError as error:
        raise UnreadableTask(f"the awakeable-… headers can't be read: {error}") from None
    return _checked(
        TaskRecord(
            awakeable_id=facts["awakeable-id"],
            reply_to=facts["awakeable-reply-to"],
            payload=Raw(value or b"null"),
            event_id=facts.get(EVENT_ID),
            task=facts.get("awakeable-task"),
            deadline=deadline,
            attempt=attempt,
        )
    )


def find_address(value: bytes | None, headers: Sequence[Header]) -> Address | None:
    """Whose task a record is, also of one that can't be read otherwise; None: it doesn't say."""
    try:
        task = decode_task(value, headers)
    except (UnreadableTask, ValueError):
        facts = {name: (content or b"").decode("utf-8", "replace") for name, content in headers}
        awakeable_id, reply_to = facts.get("awakeable-id"), facts.get("awakeable-reply-to")
        if awakeable_id is None or reply_to is None:
            try:
                address = _address_decoder.decode(value or b"")
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return None
        else:
            address = Address(awakeable_id=awakeable_id, reply_to=reply_to)
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
            attempt=int(event.get("attempt") or "1"),
        )
    except ValueError as error:
        raise UnreadableTask(f"the task's event can't be read: {error}") from None


def _deadline(text: str | None) -> datetime | None:
    if not text:
        return None
    deadline = datetime.fromisoformat(text)
    if deadline.tzinfo is None:
        raise ValueError(f"the deadline {text!r} has no time zone")
    return deadline


def _checked(record: TaskRecord) -> TaskRecord:
    if record.v != VERSION:
        raise UnreadableTask(f"version {record.v} of the task record is not known here, only {VERSION} is")
    try:
        parse_id(record.awakeable_id, "prom")
    except MalformedId as error:
        raise UnreadableTask(str(error)) from None
    return record
