"""Checks of an awakeable's row by itself: A1, A2, A4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import msgspec

from awakeables.core.awakeables import (
    KEPT_AT_EACH_END,
    PROMISE,
    STATES,
    VERDICTS,
    AwakeableRow,
    AwakeableState,
    VerdictHistory,
    VerdictKind,
)
from awakeables.core.invariants.findings import Violation
from awakeables.core.outcomes import Cancellation, Expiry, Outcome, Rejection, Resolution

_OUTCOMES: Mapping[AwakeableState, type[Outcome]] = {
    "resolved": Resolution,
    "rejected": Rejection,
    "timed-out": Expiry,
    "cancelled": Cancellation,
}
_ANSWERED: tuple[AwakeableState, ...] = ("resolved", "rejected")
_SAID_OF: Mapping[VerdictKind, tuple[AwakeableState, ...]] = {
    "accepted": _ANSWERED,
    "duplicate": _ANSWERED,
    "conflict": _ANSWERED,
    "late": ("resolved", "rejected", "timed-out", "cancelled"),
    "invalid": STATES,
}
"""The states in which an awakeable can have a verdict of each kind."""


def awakeable_violations(row: AwakeableRow, schemas: Collection[str]) -> Iterator[Violation]:
    """What is wrong with a row, while the store has schemas with these hashes."""
    try:
        outcome, history = row.outcome, row.verdicts
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        yield Violation(invariant="A1", id=row.id, text=f"can't be read: {error}")
        return
    for text in _one_outcome(row, outcome):
        yield Violation(invariant="A1", id=row.id, text=text)
    for text in _true_verdicts(row, history):
        yield Violation(invariant="A2", id=row.id, text=text)
    is_answer = isinstance(outcome, Resolution) and row.source_utf8 in (None, PROMISE)
    if isinstance(outcome, Resolution) and is_answer and outcome.is_json != (row.codec == "json"):
        found = "JSON" if outcome.is_json else "bytes"
        yield Violation(invariant="A4", id=row.id, text=f"is of {row.codec}, and has {found}")
    if row.schema_hash is not None and row.schema_hash not in schemas:
        yield Violation(invariant="A4", id=row.id, text=f"names the schema {row.schema_hash}, which is gone")


def _one_outcome(row: AwakeableRow, outcome: Outcome | None) -> Iterator[str]:
    if row.state not in STATES:
        yield f"is in the unknown state {row.state!r}"
    elif row.state == "pending":
        if outcome is not None or row.settled_ms is not None or row.settled_by is not None:
            yield "is pending, and has an outcome, its time or its source"
    else:
        if outcome is None:
            yield f"is {row.state} without an outcome"
        elif not isinstance(outcome, _OUTCOMES[row.state]):
            yield f"is {row.state}, and its outcome is a {type(outcome).__name__}"
        if row.settled_ms is None:
            yield f"is {row.state} without a time"
        if (row.settled_by is not None) != _is_answered(row):
            yield f"is {row.state}, settled by {row.settled_by}"


def _is_answered(row: AwakeableRow) -> bool:
    """Whether a completion settled it; a wait for a call is settled by the call's end."""
    return row.state in _ANSWERED and row.source_utf8 in (None, PROMISE)


def _true_verdicts(row: AwakeableRow, history: VerdictHistory) -> Iterator[str]:
    kept = Counter(entry.kind for entry in (*history.first, *history.last))
    total = sum(history.counts.values())
    wanted = min(total, KEPT_AT_EACH_END), min(max(0, total - KEPT_AT_EACH_END), KEPT_AT_EACH_END)
    if (len(history.first), len(history.last)) != wanted:
        yield f"counts {total} verdicts, and keeps {len(history.first)} and {len(history.last)}"
    for kind in VERDICTS:
        count = history.counts.get(kind, 0)
        if kept[kind] > count:
            yield f"counts {count} verdicts {kind!r}, and keeps {kept[kind]}"
        if count and row.state not in _SAID_OF.get(kind, ()):
            yield f"is {row.state}, and has a verdict {kind!r}"
    accepted = history.counts.get("accepted", 0)
    if accepted != _is_answered(row):
        yield f"is {row.state}, and {accepted} answers were accepted"
    sources = {entry.source for entry in (*history.first, *history.last) if entry.kind == "accepted"}
    if sources - {row.settled_by}:
        yield f"was settled by {row.settled_by}, and accepted from {', '.join(sorted(sources))}"
