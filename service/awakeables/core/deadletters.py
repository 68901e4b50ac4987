"""Dead letters: how the copy for the dead-letter topic is made."""

from __future__ import annotations

from awakeables.core.orders import DeadLetter, Effect, Header

ERROR_PREFIX = "__connect.errors."
CODE_HEADER = "awakeable-error-code"
OMITTED_HEADER = "awakeable-value-omitted"

UNSTORABLE = "unstorable"
SKIPPED = "skipped"
WITHOUT_BYTES = (UNSTORABLE, SKIPPED)
"""Codes of dead letters whose bytes may not have been kept."""


def error_headers(*, topic: str, partition: int, offset: int, code: str, reason: str) -> tuple[Header, ...]:
    """What a dead letter's copy says of itself: where the record came from, and what was wrong."""
    facts = (
        ("topic", topic),
        ("partition", str(partition)),
        ("offset", str(offset)),
        ("class.name", code),
        ("exception.message", reason),
    )
    return (
        *((ERROR_PREFIX + name, text.encode("utf-8", "replace")) for name, text in facts),
        (CODE_HEADER, code.encode()),
    )


def relay(letter: DeadLetter, *, to: str, now_ms: int) -> Effect:
    """The dead letter's copy: key, value and headers byte for byte, then why and from where.

    The names are Kafka Connect's, so that tools which know its dead letters know these.
    """
    why = error_headers(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        code=letter.code,
        reason=letter.reason,
    )
    return Effect(
        event_id=letter.id,
        stream=letter.id,
        topic=to,
        key=letter.key,
        value=letter.value,
        headers=(*letter.headers, *why),
        created_ms=now_ms,
    )


def without_value(effect: Effect, reason: str) -> Effect | None:
    """The same copy for a topic that finds it too large: no value, and a header that says so.

    None when there is no value to leave out, or the effect is no dead letter's copy.
    """
    if effect.value is None or effect.event_id != effect.stream:
        return None
    return Effect(
        event_id=effect.event_id,
        stream=effect.stream,
        topic=effect.topic,
        key=effect.key,
        value=None,
        headers=(*effect.headers, (OMITTED_HEADER, reason.encode())),
        created_ms=effect.created_ms,
    )


def resend(letter: DeadLetter, *, event_id: str, now_ms: int) -> Effect | None:
    """The record as it was, for the topic that it came from; without what a dead letter adds.

    None when its bytes were not kept: the store refused them, or nobody could read them.
    """
    if letter.code in WITHOUT_BYTES and letter.value is None:
        return None
    return Effect(
        event_id=event_id,
        stream=letter.id,
        topic=letter.topic,
        key=letter.key,
        value=letter.value,
        headers=tuple((name, value) for name, value in letter.headers if not _tells_of_error(name)),
        created_ms=now_ms,
    )


def _tells_of_error(name: str) -> bool:
    return name.startswith(ERROR_PREFIX) or name in (CODE_HEADER, OMITTED_HEADER)
