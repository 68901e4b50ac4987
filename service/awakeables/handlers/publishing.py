"""Turns the arguments of `ctx.publish` into a record: its envelope, bytes, headers and trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, get_args

from awakeables.core.effects import Envelope, Header
from awakeables.core.texts import excerpt
from awakeables.core.topics import is_topic_name
from awakeables.errors import HandlerMisuse, Unwritable
from awakeables.handlers.serde import ANY, explain
from awakeables.wire.cloudevents import CONTENT_TYPE
from awakeables.wire.traces import TRACEPARENT, TRACESTATE, Trace

Misuse: TypeAlias = Callable[[str], HandlerMisuse]

ENVELOPES: Final[tuple[Envelope, ...]] = get_args(Envelope)
EVENTS: Final[tuple[Envelope, ...]] = ("cloudevents", "cloudevents-binary")
"""The envelopes in which a task is a CloudEvent."""

MAX_PUBLISH_BYTES = 1_000_000
"""Maximum size of a record: Kafka's default `max.message.bytes` is 1 MiB, with the record's overhead."""

OCTETS: Header = (CONTENT_TYPE, b"application/octet-stream")

OURS = "awakeable-"
EVENT_ATTRIBUTES = ("ce_", "ce-")
"""Prefixes, in any case, of headers that identify a task's awakeable."""

OVERRIDABLE = (CONTENT_TYPE, TRACEPARENT, TRACESTATE)
"""Headers that the record has by default; a handler may give its own."""

Publication: TypeAlias = tuple[bytes | None, bytes, tuple[Header, ...]]
"""A record as the handler passed it: key, value, headers."""


def publication(
    payload: Any,
    *,
    envelope: Envelope,
    topic: str,
    key: str | bytes | None,
    headers: Mapping[str, str | bytes] | None,
    is_task: bool,
    misuse: Misuse,
) -> Publication:
    """Encode a record: bytes as they are, any other payload as JSON.

    A record without an awakeable has no envelope.

    Raises:
        HandlerMisuse: An argument has the wrong type, the envelope does not fit the payload or is only for
            tasks, the record is too large, or a header is reserved.
        Unwritable: JSON or UTF-8 can't represent it.
    """
    if envelope not in ENVELOPES:
        raise misuse(f"envelope={envelope!r} is not one of {', '.join(ENVELOPES)}")
    if not is_task and envelope in EVENTS:
        raise misuse(
            f"envelope={envelope!r} is for tasks: pass an awakeable, or publish the event yourself, "
            "as payload and headers"
        )
    if not isinstance(topic, str) or not is_topic_name(topic):
        raise misuse("invalid topic name: use 1 to 249 letters, digits, '.', '_' and '-'")
    if headers is not None and not isinstance(headers, Mapping):
        raise misuse("headers= must be a mapping of names to strings or bytes")
    is_binary = isinstance(payload, bytes)
    if is_task and is_binary and envelope in ("json", "cloudevents"):
        raise misuse('bytes can\'t go into a JSON envelope; use envelope="none" or "cloudevents-binary"')
    octets = is_binary and envelope == "cloudevents-binary"
    written: tuple[Header, ...] = ()
    try:
        if isinstance(key, str):
            key_bytes: bytes | None = key.encode()
        else:
            key_bytes = None if key is None else _bytes(key, "the key", misuse)
        value: bytes = payload if is_binary else ANY.resolution(payload).content
        if headers or octets:
            written = _headers(headers or {}, octets=octets, is_task=is_task, misuse=misuse)
    except ValueError as error:
        raise Unwritable(f"ctx.publish to {excerpt(topic)} can't be encoded: {explain(error)}") from error
    size = len(key_bytes or b"") + len(value)
    if written:
        size += sum(len(part or b"") for header in written for part in header)
    if size > MAX_PUBLISH_BYTES:
        raise misuse(
            f"key, payload and headers have {size:,} bytes, and at most {MAX_PUBLISH_BYTES:,} fit into a "
            "record; store the payload elsewhere and publish a reference to it"
        )
    return key_bytes, value, written


def _headers(
    given: Mapping[str, str | bytes], *, octets: bool, is_task: bool, misuse: Misuse
) -> tuple[Header, ...]:
    """The handler's headers, with the content type of a binary payload unless one of them has it."""
    headers = tuple(
        (_text(name, misuse), _bytes(content, f"header {excerpt(name)}", misuse))
        for name, content in given.items()
    )
    names = [name.lower() for name, _ in headers]
    for name in names:
        if name.startswith(OURS) or (is_task and name.startswith(EVENT_ATTRIBUTES)):
            raise misuse(
                f"header {excerpt(name)} is reserved: names that begin with awakeable-, and "
                "on a task ce_ and ce-, identify the awakeable of a record; choose another name"
            )
    for name in OVERRIDABLE:
        if names.count(name) > 1:
            raise misuse(f"header {name!r} is given twice, in different cases; give it once")
    return (OCTETS, *headers) if octets and CONTENT_TYPE not in names else headers


def _bytes(content: object, what: str, misuse: Misuse) -> bytes:
    if not isinstance(content, str | bytes):
        raise misuse(f"{what} must be a string or bytes, not {type(content).__name__}")
    return content.encode() if isinstance(content, str) else content


def _text(name: object, misuse: Misuse) -> str:
    if not isinstance(name, str):
        raise misuse(f"a header's name must be a string, not {excerpt(name)}")
    name.encode()
    return name


def traced(
    headers: tuple[Header, ...], trace: Trace, event_id: str, create: Callable[[], str] | None = None
) -> tuple[Header, ...]:
    """The headers with the invocation's trace added, unless they have a `traceparent` already.

    `create` records a span of the record and returns its `traceparent`; without it, the event's ID gives one.
    """
    names = {name.lower() for name, _ in headers} if headers else ()
    if TRACEPARENT in names:
        return headers
    text = trace.traceparent(event_id) if create is None else create()
    traceparent = (TRACEPARENT, text.encode())
    if trace.state and TRACESTATE not in names:
        return (*headers, traceparent, (TRACESTATE, trace.state.encode()))
    return (*headers, traceparent)
