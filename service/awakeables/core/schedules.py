"""The row of a schedule: its next tick, and the invocation that the last one has begun.

    a tick is due ─▶ is it the row's `next_ms`? ──no──▶ another instance has evaluated it: nothing
                               │ yes
                               ▼
                     `next_ms` moves to the tick that follows, and in the same commit:
                     the last invocation has ended, or overlap is `allow` ─▶ an invocation begins
                     it is open, and overlap is `skip`  ─▶ nothing
                     it is open, and overlap is `queue` ─▶ the tick waits in `queued_ms`, if none does

The row moves on evaluation, not on success, and only forward.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from awakeables.core.invocations import Status
from awakeables.core.records import Record, Row

Overlap: TypeAlias = Literal["skip", "queue", "allow"]

Declaration: TypeAlias = tuple[str, str, bytes]
"""What a schedule begins, service and handler, and its spec."""


class ScheduleRow(Row):
    """A schedule.

    Attributes:
        spec_json: The schedule as the code declares it.
        since_ms: Since when the build that wrote the spec has been there; a later one is newer.
        next_ms: The tick that is evaluated next.
        paused_ms: Since when an operator has paused it; None: it is not paused.
        last_invocation: What the last tick has begun, if any has.
        queued_ms: The tick that waits for the end of that invocation.
    """

    name: str
    service: str
    handler: str
    spec_json: bytes
    since_ms: int
    next_ms: int
    paused_ms: int | None = None
    last_invocation: str | None = None
    queued_ms: int | None = None

    @property
    def declared(self) -> Declaration:
        return (self.service, self.handler, self.spec_json)


class ListedSchedule(Record):
    """A schedule, and the status of its last invocation; None: it has none, or that was deleted."""

    row: ScheduleRow
    last_status: Status | None

    @property
    def is_free(self) -> bool:
        """Whether its last invocation has ended."""
        return self.last_status in (None, "completed")
