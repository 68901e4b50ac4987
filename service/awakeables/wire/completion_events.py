"""Completions as CloudEvents: schemas/completion-cloudevent.schema.json."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from awakeables.core.awakeables import Heartbeat, checked_progress
from awakeables.core.outcomes import NO_REASON, NULL, Rejection, Resolution
from awakeables.wire.attempts import attempt_from
from awakeables.wire.cloudevents import CloudEvent

RESOLVED = "awakeables.completion.resolved.v1"
REJECTED = "awakeables.completion.rejected.v1"
HEARTBEAT = "awakeables.completion.heartbeat.v1"
TYPES: Final = (RESOLVED, REJECTED, HEARTBEAT)

T = TypeVar("T")


class _Refusal(msgspec.Struct):
    reason: str | None = None
    code: int | None = None
    details: Raw | UnsetType = UNSET


class _Progress(msgspec.Struct):
    progress: Raw = Raw(NULL)


_refusals = msgspec.json.Decoder(_Refusal | None)
_progresses = msgspec.json.Decoder(_Progress | None)


def event_id_of(event: CloudEvent) -> str | None:
    """`source` and `id`, which identify an event together, separated by a space, which no source has."""
    source, identity = event.find("source"), event.find("id")
    return f"{source} {identity}" if source and identity else None


def attempt_of(event: CloudEvent) -> int | None:
    """The event's attempt number.

    Raises:
        ValueError: It is not a number.
    """
    text = event.get("attempt")
    return None if text is None else attempt_from(text)


def body_of(event: CloudEvent) -> Resolution | Rejection | Heartbeat:
    """The completion's body, from an event of one of our types.

    Raises:
        ValueError: Something is missing or invalid; the message says what.
    """
    kind = event.require("type")
    if kind == RESOLVED:
        return _resolution(event)
    if kind == REJECTED:
        return _rejection(_members(event, _refusals))
    data = _members(event, _progresses)
    return Heartbeat() if data is None else Heartbeat(progress=checked_progress(Raw(bytes(data.progress))))


def _resolution(event: CloudEvent) -> Resolution:
    if event.data is None:
        return Resolution.of_json(NULL)
    if event.is_json:
        return Resolution.of_json(event.data.strip())
    return Resolution.of_bytes(event.data)


def _rejection(refusal: _Refusal | None) -> Rejection:
    if refusal is None:
        return Rejection(reason=NO_REASON)
    return Rejection(
        reason=refusal.reason or NO_REASON,
        code=500 if refusal.code is None else refusal.code,
        details=Raw(bytes(refusal.details)) if isinstance(refusal.details, Raw) else UNSET,
    )


def _members(event: CloudEvent, decoder: msgspec.json.Decoder[T | None]) -> T | None:
    if event.data is None:
        return None
    if not event.is_json:
        raise ValueError(
            "the data of this type of event is a JSON object: structured in `data`, not `data_base64`; "
            "binary with the content-type application/json"
        )
    try:
        return decoder.decode(event.data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"the event's data: {error}") from None
