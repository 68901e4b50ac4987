"""Dead letters of a worker: the record as it was, and why nobody could do it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from awakeables.core.deadletters import OMITTED_HEADER, error_headers
from awakeables.core.topics import DEAD_LETTERS
from awakeables.worker.port import Incoming, Outgoing

DeadLetterCode: TypeAlias = Literal["unreadable", "unknown-task", "invalid", "unanswerable"]
"""No task; nobody's task; a payload that does not fit; an answer that Kafka doesn't take."""


def dead_letter_topic(topic: str) -> str:
    """Where the dead letters of a task topic go."""
    return topic + DEAD_LETTERS


def dead_letter(record: Incoming, code: DeadLetterCode, reason: str) -> Outgoing:
    """The copy: key, value and headers byte for byte, then where it came from and why."""
    why = error_headers(
        topic=record.topic, partition=record.partition, offset=record.offset, code=code, reason=reason
    )
    return Outgoing(
        topic=dead_letter_topic(record.topic),
        key=record.key,
        value=record.value,
        headers=(*record.headers, *why),
    )


def without_value(letter: Outgoing, reason: str) -> Outgoing:
    """The same copy where the topic finds it too large: no value, and a header that says so."""
    return Outgoing(
        topic=letter.topic,
        key=letter.key,
        value=None,
        headers=(*letter.headers, (OMITTED_HEADER, reason.encode())),
    )
