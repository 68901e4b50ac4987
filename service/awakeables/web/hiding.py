"""What a token sees without the scope `payloads` if the app seals its values: sizes instead of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow, DeadTaskEntry, VerdictEntry
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Header, QueuedEffect
from awakeables.core.invocations import Invocation
from awakeables.core.journal import (
    CancellationRaised,
    Entry,
    Input,
    OutcomeDelivered,
    RunAttemptFailed,
    RunEnded,
    StateSet,
)
from awakeables.core.objects import StateEntry
from awakeables.core.outcomes import (
    Cancellation,
    Expiry,
    Outcome,
    Rejection,
    Resolution,
    as_resolution,
    encode_outcome,
)
from awakeables.core.sealed import Unopened
from awakeables.queries import KeyStatus, WaitingInvocation
from awakeables.web.request import HttpRequest

T = TypeVar("T")

_encode = msgspec.json.encode


def shown(request: HttpRequest, row: T) -> T:
    """A row as this request may see it."""
    if not request.hides_payloads:
        return row
    hidden: T = _HIDING[type(row)](row)
    return hidden


def size_of(content: str | bytes) -> str:
    """What stands for a value."""
    size = len(content.encode()) if isinstance(content, str) else len(content)
    return f"({size:,} bytes)"


def invocation(row: Invocation) -> Invocation:
    failure = row.failure
    return replace(
        row,
        result_json=None if row.result is None else encode_outcome(outcome(row.result)),
        failure_json=failure and _encode(replace(failure, message=size_of(failure.message))),
    )


def journal(entries: Sequence[Entry]) -> list[Entry]:
    return [_entry(entry) for entry in entries]


def awakeable(row: AwakeableRow) -> AwakeableRow:
    heartbeat, verdicts = row.heartbeat, row.verdicts
    hidden = replace(
        verdicts,
        first=tuple(map(_verdict, verdicts.first)),
        last=tuple(map(_verdict, verdicts.last)),
        dead_task=verdicts.dead_task and _dead_task(verdicts.dead_task),
    )
    return replace(
        row,
        outcome_json=None if row.outcome is None else encode_outcome(outcome(row.outcome)),
        verdicts_json=_encode(hidden),
        heartbeat_json=heartbeat and _encode(replace(heartbeat, progress=_json(heartbeat.progress))),
    )


def key_status(status: KeyStatus) -> KeyStatus:
    in_line = [invocation(row) for row in status.in_line]
    return status._replace(head=[waiting(each) for each in status.head], in_line=in_line)


def waiting(each: WaitingInvocation) -> WaitingInvocation:
    return each._replace(row=invocation(each.row))


def dead_letter(row: DeadLetter) -> DeadLetter:
    return replace(
        row,
        reason=size_of(row.reason),
        key=_bytes(row.key),
        value=_bytes(row.value),
        headers=_headers(row.headers),
    )


def queued_effect(row: QueuedEffect) -> QueuedEffect:
    effect = row.effect
    hidden = replace(
        effect, key=_bytes(effect.key), value=_bytes(effect.value), headers=_headers(effect.headers)
    )
    return replace(row, effect=hidden, reason=row.reason and size_of(row.reason))


def state_entry(entry: StateEntry) -> StateEntry:
    if isinstance(entry.value, Unopened):
        return entry
    return replace(entry, value=encode_outcome(_resolution(as_resolution(entry.value))))


def outcome(shown: Outcome) -> Outcome:
    match shown:
        case Resolution():
            return _resolution(shown)
        case Rejection(details=details):
            hidden = UNSET if isinstance(details, UnsetType) else _json(details)
            return replace(shown, reason=size_of(shown.reason), details=hidden)
        case Expiry(progress=progress):
            return shown if isinstance(progress, UnsetType) else replace(shown, progress=_json(progress))
        case Cancellation():
            return replace(shown, reason=size_of(shown.reason))


def _resolution(shown: Resolution) -> Resolution:
    if isinstance(shown.value, Raw):
        return Resolution(value=_json(shown.value))
    return shown if shown.is_absent else Resolution.of_bytes(size_of(shown.content).encode())


def _entry(entry: Entry) -> Entry:
    match entry:
        case Input():
            record = entry.record and replace(
                entry.record,
                key=_bytes(entry.record.key),
                headers=_headers(entry.record.headers),
                written=None,
            )
            return replace(
                entry,
                value=_json(entry.value) if isinstance(entry.value, Raw) else UNSET,
                value_base64=_base64(entry.value_base64),
                headers={name: size_of(value) for name, value in entry.headers.items()},
                record=record,
            )
        case OutcomeDelivered() | RunEnded():
            return replace(entry, outcome=outcome(entry.outcome))
        case StateSet():
            value = _json(entry.value) if isinstance(entry.value, Raw) else UNSET
            return replace(entry, value=value, value_base64=_base64(entry.value_base64))
        case RunAttemptFailed():
            return replace(entry, error=size_of(entry.error))
        case CancellationRaised():
            return replace(entry, reason=size_of(entry.reason))
        case _:
            return entry


def _verdict(entry: VerdictEntry) -> VerdictEntry:
    return replace(entry, reason=entry.reason and size_of(entry.reason))


def _dead_task(entry: DeadTaskEntry) -> DeadTaskEntry:
    return replace(entry, reason=size_of(entry.reason))


def _json(value: Raw) -> Raw:
    return Raw(_encode(size_of(bytes(value))))


def _bytes(value: bytes | None) -> bytes | None:
    return None if value is None else size_of(value).encode()


def _base64(value: bytes | UnsetType) -> bytes | UnsetType:
    return size_of(value).encode() if isinstance(value, bytes) else UNSET


def _headers(headers: Sequence[Header]) -> tuple[Header, ...]:
    return tuple((name, _bytes(value)) for name, value in headers)


_HIDING: Final[Mapping[type, Callable[[Any], Any]]] = {
    AwakeableRow: awakeable,
    DeadLetter: dead_letter,
    Invocation: invocation,
    KeyStatus: key_status,
    QueuedEffect: queued_effect,
    StateEntry: state_entry,
    WaitingInvocation: waiting,
}
