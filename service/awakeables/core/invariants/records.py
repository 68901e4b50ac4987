"""Checks of what has to do with Kafka: positions (K1), dead letters (K2), records to publish (K3, case 9)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import get_args

import msgspec

from awakeables.core.deadletters import FOLDED, DeadLetter
from awakeables.core.decide.publishing import LAST_PLACE
from awakeables.core.effects import EFFECT_STATES, EffectKind, TaskFacts
from awakeables.core.ids import parse_id
from awakeables.core.invariants.findings import Violation
from awakeables.core.invariants.invocations import Awaited
from awakeables.core.rows import PLACES, EffectRow, KeyRow, PositionRow
from awakeables.errors import MalformedId

_KINDS: tuple[EffectKind, ...] = get_args(EffectKind)


def position_violations(row: PositionRow) -> Iterator[Violation]:
    """What is wrong with a partition's position (K1)."""
    name = f"{row.topic}:{row.partition}"
    if row.subscription:
        name = f"{row.subscription} {name}"
    if row.next < 0 or row.again_before < 0:
        text = f"is at offset {row.next}, and was read before up to {row.again_before}"
        yield Violation(invariant="K1", id=name, text=text)
    # Where a subscription begins is set before somebody reads it.
    if row.epoch < 1 or (row.owner is None and not row.subscription):
        text = f"is read by {row.owner} in epoch {row.epoch}"
        yield Violation(invariant="K1", id=name, text=text)


def dead_letter_violations(letter: DeadLetter, before: DeadLetter | None) -> Iterator[Violation]:
    """What is wrong with a dead letter (K2); `before` is the one whose source sorts before its own."""
    if before is not None and before.source == letter.source:
        text = f"is of the record {letter.source}, as is {before.id}"
        yield Violation(invariant="K2", id=letter.id, text=text)
    place = f"{letter.topic}:{letter.partition}:{letter.offset}"
    if letter.code != FOLDED and place not in letter.source:
        text = f"is at {place}, and its source is {letter.source}"
        yield Violation(invariant="K2", id=letter.id, text=text)
    several = letter.last_offset is not None
    if letter.count < 1 or (letter.count > 1 and not several):
        yield Violation(invariant="K2", id=letter.id, text=f"counts {letter.count} records")
    if letter.last_offset is not None and letter.last_offset < letter.offset:
        text = f"is of the offsets {letter.offset} to {letter.last_offset}"
        yield Violation(invariant="K2", id=letter.id, text=text)


def effect_violations(row: EffectRow) -> Iterator[Violation]:
    """What is wrong with a record to publish by itself (K3)."""
    if row.state not in EFFECT_STATES or row.kind not in _KINDS:
        yield _wrong(row, f"is {row.state!r}, of the kind {row.kind!r}")
    if (row.state == "failed") != (row.reason_utf8 is not None):
        yield _wrong(row, f"is {row.state} {'without' if row.reason_utf8 is None else 'with'} a reason")
    if row.position < 0:
        yield _wrong(row, f"is at position {row.position}")
    try:
        has_task = row.effect.task is not None
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        yield _wrong(row, f"has facts that can't be read: {error}")
    else:
        if has_task != (row.kind == "task"):
            yield _wrong(row, f"is of the kind {row.kind!r}, {'with' if has_task else 'without'} a task")


def task_of(row: EffectRow) -> TaskFacts | None:
    """The facts of a task that can be read."""
    try:
        return row.effect.task
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return None


def stream_violations(
    row: EffectRow, version: int | None, *, gone: Callable[[str], bool]
) -> Iterator[Violation]:
    """Does a handler's record fit its invocation (K3)?

    Args:
        row: A task or an event.
        version: The invocation's version; None: there is none.
        gone: Whether what has this ID may have been deleted after its retention.
    """
    if version is None:
        if not gone(row.stream):
            yield _wrong(row, f"is of {row.stream}, which does not exist")
    elif row.position >> PLACES > version:
        yield _wrong(row, f"is of version {row.position >> PLACES} of {row.stream}, which is at {version}")


def task_violations(
    row: EffectRow, task: TaskFacts, awakeable: Awaited | None, *, gone: Callable[[str], bool]
) -> Iterator[Violation]:
    """Does a task fit its awakeable: A3, K3, case 9? As in `stream_violations`."""
    if awakeable is None:
        if not gone(task.awakeable_id):
            text = f"is a task of {task.awakeable_id}, which has no row"
            yield Violation(invariant="A3", id=row.event_id, text=text)
        return
    if awakeable.invocation_id != row.stream:
        yield _wrong(row, f"is of {row.stream}, its awakeable {awakeable.id} of {awakeable.invocation_id}")
    if row.state == "failed" and awakeable.state == "pending":
        text = f"was refused by Kafka, and its awakeable {awakeable.id} is pending"
        yield Violation(invariant="case 9", id=row.event_id, text=text)


class Places:
    """Finds two records of a stream at one position (K3); streams come one after the other."""

    def __init__(self) -> None:
        self._stream = ""
        self._taken: dict[int, str] = {}

    def see(self, row: EffectRow) -> Iterator[Violation]:
        """Check the next record.

        Only a handler's own have a position each: those of older releases have 0, and what is sent again
        comes at the end of its version.
        """
        if row.stream != self._stream:
            self._stream, self._taken = row.stream, {}
        if row.kind not in ("task", "event") or row.position in (0, row.position | LAST_PLACE):
            return
        other = self._taken.setdefault(row.position, row.event_id)
        if other != row.event_id:
            yield _wrong(row, f"is at position {row.position} of {row.stream}, as is {other}")


def may_be_gone(id_: str, *, now_ms: int, retention_ms: int) -> bool:
    """May the row with this ID have been deleted after its retention?"""
    kind = id_.partition("_")[0]
    try:
        return kind in ("inv", "prom") and now_ms - parse_id(id_, kind) > retention_ms  # type: ignore[arg-type]
    except MalformedId:
        return False


def key_violations(key: KeyRow, existing: Container[str]) -> Iterator[Violation]:
    """Is an idempotency key's invocation among those that exist (case 8)?"""
    if key.invocation_id not in existing:
        text = f"has the idempotency key {key.key!r} of {key.scope}, and does not exist"
        yield Violation(invariant="case 8", id=key.invocation_id, text=text)


def _wrong(row: EffectRow, text: str) -> Violation:
    return Violation(invariant="K3", id=row.event_id, text=text)
