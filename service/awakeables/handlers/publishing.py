"""What `ctx.publish` makes of a payload: its form, its bytes, the trace that it carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from awakeables.core.orders import CloudEventMode, Header
from awakeables.errors import HandlerMisuse
from awakeables.handlers.serde import ANY
from awakeables.wire.traces import TRACEPARENT, TRACESTATE, Trace

Envelope: TypeAlias = Literal["json", "none", "cloudevents", "cloudevents-binary"]
Form: TypeAlias = bool | CloudEventMode
Misuse: TypeAlias = Callable[[str], HandlerMisuse]

FORMS: Final[dict[str, Form]] = {
    "json": True,
    "none": False,
    "cloudevents": "structured",
    "cloudevents-binary": "binary",
}
"""As `TaskFacts.enveloped` tells it."""

MAX_PUBLISH_BYTES = 1_000_000
"""Kafka's default `max.message.bytes` is 1 MiB with the record's overhead; refuse at the call."""

OCTETS: Header = ("content-type", b"application/octet-stream")


def form_of(envelope: str, *, is_task: bool, misuse: Misuse) -> Form:
    """The form of a record; what carries no awakeable is sent as it is.

    Raises:
        HandlerMisuse: There is no such form, or none for what carries no awakeable.
    """
    form = FORMS.get(envelope)
    if form is None:
        raise misuse(f"envelope={envelope!r} is none of {', '.join(FORMS)}")
    if is_task:
        return form
    if isinstance(form, str):
        raise misuse(
            f"envelope={envelope!r} is for tasks: hand it an awakeable, or publish the event that you want "
            "as payload and headers"
        )
    return False


def payload_bytes(payload: Any, form: Form, *, misuse: Misuse) -> bytes:
    """The payload as JSON text; bytes as they are.

    Raises:
        HandlerMisuse: Bytes for a form that is JSON, or more than fits a record.
        ValueError: JSON can't say it.
    """
    if not isinstance(payload, bytes):
        value = ANY.resolution(payload).content
    elif form in (True, "structured"):
        raise misuse('bytes can\'t stand in a JSON envelope; use envelope="none" or "cloudevents-binary"')
    else:
        value = payload
    if len(value) > MAX_PUBLISH_BYTES:
        raise misuse(
            f"the payload has {len(value):,} bytes, at most {MAX_PUBLISH_BYTES:,} fit a record; put it "
            "elsewhere and publish a reference"
        )
    return value


def traced(headers: tuple[Header, ...], trace: Trace, event_id: str) -> tuple[Header, ...]:
    """The headers with the invocation's trace, unless they name one themselves."""
    if any(name.lower() == TRACEPARENT for name, _ in headers):
        return headers
    traceparent = (TRACEPARENT, trace.traceparent(event_id).encode())
    if trace.state:
        return (*headers, traceparent, (TRACESTATE, trace.state.encode()))
    return (*headers, traceparent)
