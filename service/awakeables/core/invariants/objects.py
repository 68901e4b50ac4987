"""Checks of the queues of objects' keys against the invocations that are in them (O1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import msgspec

from awakeables.core.decide.queueing import object_key_of, shown
from awakeables.core.invariants.findings import Violation
from awakeables.core.invocations import Invocation
from awakeables.core.objects import DELAYED, ObjectKey, ObjectRow


class _Line(msgspec.Struct):
    """The open exclusive invocations of a key.

    Attributes:
        tickets: Those that they have.
        heads: The IDs of those that may run.
    """

    tickets: list[int] = []
    heads: list[str] = []


class Lines:
    """The open exclusive invocations of all keys, and their queues."""

    def __init__(self) -> None:
        self._lines: defaultdict[ObjectKey, _Line] = defaultdict(_Line)

    def see(self, row: Invocation) -> Iterator[Violation]:
        """Note an invocation, and check it by itself."""
        if row.status == "queued" and not row.ticket:
            yield _violation(row.id, "is queued, and has no ticket")
        if row.status == "queued" and row.epoch:
            yield _violation(row.id, f"is queued, and has begun in epoch {row.epoch}")
        if row.ticket is not None and not row.key_utf8:
            yield _violation(row.id, "is exclusive, and has no key")
        if row.ticket and row.ticket > DELAYED and row.result_json is None:
            line = self._lines[object_key_of(row)]
            line.tickets.append(row.ticket)
            if row.status != "queued":
                line.heads.append(row.id)

    def check(self, queue: ObjectRow) -> Iterator[Violation]:
        """Hold the queue of a key against its invocations, all of which must have been seen."""
        line = self._lines.pop(queue.id, _Line())
        where = shown(queue.id)
        if line.heads != ([] if queue.head is None else [queue.head]):
            may_run = ", ".join(line.heads) or "nobody"
            yield _violation(where, f"has the head {queue.head}, and {may_run} may run")
        if queue.is_free and queue.length:
            yield _violation(where, "has no head, is not paused, and has a queue")
        if queue.length != len(line.tickets):
            yield _violation(where, f"counts {queue.length} in its queue, which are {len(line.tickets)}")
        if len(set(line.tickets)) < len(line.tickets) or max(line.tickets, default=0) > queue.tail:
            yield _violation(where, f"gave out {queue.tail} tickets: {sorted(line.tickets)}")
        if not queue.is_needed:
            yield _violation(where, "is idle, and has a row")

    def left(self) -> Iterator[Violation]:
        """The keys that have invocations and no queue."""
        for object_key, line in sorted(self._lines.items()):
            yield _violation(shown(object_key), f"has no queue, and {len(line.tickets)} open invocations")


def _violation(id_: str, text: str) -> Violation:
    return Violation(invariant="O1", id=id_, text=text)
