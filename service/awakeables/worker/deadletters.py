"""Dead letters of a worker: a copy of the record, and why it could not be processed."""

from __future__ import annotations

from typing import Literal, TypeAlias

from awakeables.core.deadletters import OMITTED_HEADER, error_headers
from awakeables.core.topics import DEAD_LETTERS
from awakeables.worker.port import Incoming, Outgoing

DeadLetterCode: TypeAlias = Literal["unreadable", "unknown-task", "invalid", "unanswerable"]
"""Not a task; no function for it; the payload does not fit; Kafka refuses the answer."""


def dead_letter_topic(topic: str) -> str:
    """The dead-letter topic of a task topic."""
    return topic + DEAD_LETTERS


def dead_letter(record: Incoming, code: DeadLetterCode, reason: str) -> Outgoing:
    """The copy: key, value and headers byte for byte, then headers about the error and the source."""
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
    """The copy without its value, for a topic that refuses it as too large; a header says so."""
    return Outgoing(
        topic=letter.topic,
        key=letter.key,
        value=None,
        headers=(*letter.headers, (OMITTED_HEADER, reason.encode())),
    )
