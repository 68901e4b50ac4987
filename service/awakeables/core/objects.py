"""The queue of a virtual object's key: who holds it, and who comes next.

An exclusive invocation takes a *ticket* in the commit that creates it; a delayed one when its time has come.
The one that holds the key is its *head*, and the only one that may run. When it ends, the next ticket becomes
the head in the same commit. No lock outlives its invocation.

    begin ─▶ queued ──its turn──▶ pending ─▶ running ⇄ suspended, backing-off, paused ─▶ completed
                                      ▲                                                      │
                                      └──────────────── the next in line ◀───────────────────┘

A key has a row only while it has open exclusive invocations, or is paused.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec.structs import replace

from awakeables.core.acts import Acts, acts_from
from awakeables.core.records import Record, Row, text_from

ObjectKey: TypeAlias = tuple[str, bytes]
"""The name of the object, and the key in UTF-8."""

DELAYED = 0
"""The ticket of an exclusive invocation whose time has not come: it has no place in the queue yet."""

RUN = -1
"""The ticket of the run of a workflow, which is the only one of its key."""


class ObjectRow(Row):
    """The queue of one key.

    Attributes:
        head: The invocation that holds the key; None only while the key is paused.
        tail: The last ticket that was given out.
        length: How many exclusive invocations are open and have a place, the head included.
        since_ms: Since when the head holds the key.
        paused_ms: Since when nothing becomes the head; None: the key is not paused.
    """

    service: str
    key_utf8: bytes
    head: str | None
    tail: int
    length: int
    since_ms: int
    paused_ms: int | None = None
    acts_json: bytes | None = None

    @property
    def id(self) -> ObjectKey:
        return (self.service, self.key_utf8)

    @property
    def key(self) -> str:
        return text_from(self.key_utf8)

    @property
    def acts(self) -> Acts:
        """Which operators paused and resumed it."""
        return acts_from(self.acts_json)

    @property
    def is_free(self) -> bool:
        """Whether a new invocation becomes the head at once."""
        return self.head is None and self.paused_ms is None

    @property
    def is_needed(self) -> bool:
        """Whether the row says something that its absence does not."""
        return self.length > 0 or self.paused_ms is not None


class StateWrite(Record):
    """A change to the state of a key.

    Attributes:
        name: The state's name; None: all names.
        value: A `Resolution`, as `encode_outcome` writes it; None: the name is cleared.
    """

    name: str | None = None
    value: bytes | None = None


class StateEntry(Record):
    """A value in the state of a key, as `StateWrite` has it."""

    name: str
    value: bytes
    updated_ms: int


def joined(held: ObjectRow | None, object_key: ObjectKey, invocation_id: str, *, now_ms: int) -> ObjectRow:
    """The queue once an invocation has taken the next ticket, which is then its `tail`."""
    row = held or ObjectRow(*object_key, None, 0, 0, now_ms)
    row = replace(row, tail=row.tail + 1, length=row.length + 1)
    return with_head(row, invocation_id, now_ms=now_ms) if row.is_free else row


def with_head(row: ObjectRow, head: str | None, *, now_ms: int) -> ObjectRow:
    """The queue with another head."""
    return replace(row, head=head, since_ms=now_ms)


def left(row: ObjectRow) -> ObjectRow:
    """The queue once an invocation that is not its head has ended."""
    return replace(row, length=row.length - 1)


def paused(row: ObjectRow | None, object_key: ObjectKey, *, now_ms: int) -> ObjectRow:
    """The queue, paused."""
    return replace(row or ObjectRow(*object_key, None, 0, 0, now_ms), paused_ms=now_ms)


def resumed(row: ObjectRow) -> ObjectRow:
    """The queue, paused no longer."""
    return replace(row, paused_ms=None)


def with_acts(row: ObjectRow, acts_json: bytes | None) -> ObjectRow:
    """The queue with these acts of operators."""
    return replace(row, acts_json=acts_json)
