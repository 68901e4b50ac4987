"""Changes whose wake-ups the database counts, so that settling never conflicts with an owner's commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.outcomes import Outcome
from awakeables.core.replies import (
    Acknowledged,
    Advanced,
    Begun,
    CancelMarked,
    Expired,
    Killed,
    Reply,
    Restarted,
    SettledAll,
    Wake,
)
from awakeables.core.rows import Changes, Rows

Woken: TypeAlias = Mapping[str, tuple[int, str | None]]
"""The wake-up counts and owners of invocations, after the write."""


CAN_WAKE = (Begun, SettledAll, Expired, Acknowledged, Advanced, CancelMarked, Killed, Restarted)


class BlindChanges(Changes):
    """Changes that wake an invocation without having read it.

    An invocation that is loaded, because a command of the group is about it, is woken on its row: no row
    is written twice in one statement.

    Attributes:
        wakes: How many wake-ups the database is to count, by invocation.
        woken_ms: When.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self.wakes: Counter[str] = Counter()
        self.woken_ms = 0

    def require_waiting(self, invocation_ids: Iterable[str]) -> None:
        """Nothing of them is read."""

    def wake(self, awakeable: AwakeableRow, outcome: Outcome, now_ms: int) -> Wake:
        """Count a wake-up; `wake` in the reply is its number within this group until `with_counts`."""
        invocation_id = awakeable.invocation_id
        if invocation_id in self.rows.invocations:
            return super().wake(awakeable, outcome, now_ms)
        self.wakes[invocation_id] += 1
        self.woken_ms = now_ms
        return Wake(
            invocation_id=invocation_id,
            wake=self.wakes[invocation_id],
            awakeable_id=awakeable.id,
            outcome=outcome,
        )


def with_counts(replies: Sequence[Reply], wakes: Mapping[str, int], woken: Woken) -> list[Reply]:
    """The replies with the counts and owners that the database has returned."""

    def counted(wake: Wake) -> Wake:
        if wake.invocation_id not in woken:
            return wake
        total, owner = woken[wake.invocation_id]
        return replace(wake, wake=total - wakes[wake.invocation_id] + wake.wake, owner=owner)

    return [
        replace(reply, wakes=tuple(map(counted, reply.wakes)))
        if isinstance(reply, CAN_WAKE) and reply.wakes
        else reply
        for reply in replies
    ]
