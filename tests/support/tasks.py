"""Task records as the service publishes them."""

from __future__ import annotations

from typing import Any

import msgspec

from awakeables.core.ids import new_id
from awakeables.core.orders import Effect, Header, TaskFacts
from awakeables.wire.tasks import encode_effect

ISSUED_MS = 1_790_000_000_000


def awakeable_id(number: int) -> str:
    """The well-formed ID with this number."""
    return new_id("prom", at_ms=ISSUED_MS, entropy=number.to_bytes(10, "big"))


def task_effect(
    payload: Any,
    *,
    number: int,
    topic: str,
    reply_to: str,
    name: str | None = None,
    deadline_ms: int | None = None,
) -> Effect:
    """The effect that becomes a task, keyed as the service keys it."""
    identity = awakeable_id(number)
    return Effect(
        event_id=f"evt_{number}",
        stream="inv_1",
        topic=topic,
        key=identity.encode(),
        value=msgspec.json.encode(payload),
        task=TaskFacts(awakeable_id=identity, reply_to=reply_to, task=name, deadline_ms=deadline_ms),
    )


def task_headers(effect: Effect, *more: Header) -> tuple[bytes | None, list[Header]]:
    """Its value, and its headers with more of them."""
    value, headers = encode_effect(effect)
    return value, [*headers, *more]
