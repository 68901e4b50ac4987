"""The part of a completion record that reports a dead task: `dead_letter` of schemas/completion.schema.json.

It includes the task's key, value and headers if they fit, so that an operator can send the task again.
It has all of them or none, since part of a task would be a different task.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from awakeables.core.awakeables import DeadTask
from awakeables.core.effects import Header
from awakeables.core.outcomes import NO_REASON
from awakeables.core.texts import excerpt
from awakeables.core.topics import is_topic_name

MOST_CONTENT_BYTES = 700_000
"""In base64 this still fits a topic with Kafka's default `max.message.bytes`, 1,048,588."""

MOST_REASON_CHARACTERS = 1000

_Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Header(msgspec.Struct):
    name: str
    value_base64: str | None = None


class _Content(msgspec.Struct):
    headers: list[_Header]
    key_base64: str | None = None
    value_base64: str | None = None


class _DeadLetter(msgspec.Struct):
    code: Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,39}$")]
    topic: str
    partition: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    offset: _Natural
    timestamp_ms: _Natural
    content: _Content | None = None


_decoder = msgspec.json.Decoder(_DeadLetter)


def encode_dead_task(task: DeadTask) -> dict[str, Any]:
    """The fields of the completion record that report a dead task."""
    letter: dict[str, Any] = {
        "code": task.code,
        "topic": task.topic,
        "partition": task.partition,
        "offset": task.offset,
        "timestamp_ms": max(0, task.timestamp_ms),
    }
    if task.whole and fits(task.key, task.value, task.headers):
        # msgspec writes bytes as base64.
        headers = [{"name": name, "value_base64": value} for name, value in task.headers]
        letter["content"] = {"key_base64": task.key, "value_base64": task.value, "headers": headers}
    return {"reason": _bounded(task.reason), "dead_letter": letter}


def fits(key: bytes | None, value: bytes | None, headers: tuple[Header, ...]) -> bool:
    """Whether the task is small enough to be included in its report."""
    size = len(key or b"") + len(value or b"") + sum(len(name) + len(text or b"") for name, text in headers)
    return size <= MOST_CONTENT_BYTES


def decode_dead_task(letter: Raw | UnsetType, reason: str | None) -> DeadTask:
    """Decode the report of a dead task from a completion record.

    Raises:
        ValueError: Something is missing or invalid; the message says what.
    """
    if letter is UNSET:
        raise ValueError(
            "dead-lettered requires `dead_letter`: where the task is, and why it is a dead letter"
        )
    try:
        report = _decoder.decode(letter)
        key, value, headers = _content(report.content)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"dead_letter: {error}") from None
    if not is_topic_name(report.topic):
        raise ValueError(f"dead_letter: {excerpt(report.topic)} is not a topic name")
    return DeadTask(
        code=report.code,
        reason=_bounded(reason or NO_REASON),
        topic=report.topic,
        partition=report.partition,
        offset=report.offset,
        timestamp_ms=report.timestamp_ms,
        key=key,
        value=value,
        headers=headers,
        whole=report.content is not None,
    )


def _content(content: _Content | None) -> tuple[bytes | None, bytes | None, tuple[Header, ...]]:
    if content is None:
        return None, None, ()
    headers = tuple((header.name, _bytes(header.value_base64)) for header in content.headers)
    return _bytes(content.key_base64), _bytes(content.value_base64), headers


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text, validate=True)


def _bounded(text: str) -> str:
    return text if len(text) <= MOST_REASON_CHARACTERS else text[: MOST_REASON_CHARACTERS - 1] + "…"
