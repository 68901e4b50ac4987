"""Rows for lists: without the fields that may be large, so that a page takes kilobytes."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow, without_progress
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import QueuedEffect
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Rejection, Resolution, encode_outcome
from awakeables.core.sealed import Unopened, unopened

SUCCEEDED = encode_outcome(Resolution.of_bytes(b""))
"""Stands for a successful result in a list, which shows no values."""


def brief_invocation(row: Invocation) -> Invocation:
    """The row without the value or details of its result."""
    match row.result:
        case Resolution():
            return replace(row, result_json=SUCCEEDED)
        case Rejection() as rejection:
            return replace(row, result_json=encode_outcome(replace(rejection, details=UNSET)))
        case _:
            return row


def brief_awakeable(row: AwakeableRow) -> AwakeableRow:
    """The row without the answer, and without the progress of the last heartbeat."""
    beat = row.heartbeat_json
    if isinstance(beat, Unopened):
        beat = unopened(b"", beat.error)
    elif beat is not None:
        beat = without_progress(beat)
    return replace(row, outcome_json=None, heartbeat_json=beat)


def brief_dead_letter(row: DeadLetter) -> DeadLetter:
    """Without key, value and headers."""
    return replace(row, key=None, value=None, headers=())


def brief_effect(row: QueuedEffect) -> QueuedEffect:
    """Without key, value and headers."""
    return replace(row, effect=replace(row.effect, key=None, value=None, headers=()))
