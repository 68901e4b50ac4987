"""Dead letters: how the copy for the dead-letter topic is made."""

from __future__ import annotations

from awakeables.core.orders import DeadLetter, Effect, Header

ERROR_PREFIX = "__connect.errors."
CODE_HEADER = "awakeable-error-code"
OMITTED_HEADER = "awakeable-value-omitted"


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

    None when there is no value to leave out, or the effect is no dead letter.
    """
    if effect.value is None or not effect.event_id.startswith("dlq_"):
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
