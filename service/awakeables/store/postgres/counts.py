"""Counts of rows, for tables that can have millions.

PostgreSQL counts by visiting each entry of an index: a million pending awakeables take a quarter of a
second. So each kind is counted exactly up to a limit, and beyond it at most once a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from awakeables.core.invocations import STATUSES
from awakeables.store.postgres.connection import Connection
from awakeables.store.postgres.queries import QUERIES

EXACT: Final = 10_000
"""Up to this many rows of a kind, its count is exact, which takes a few milliseconds."""

AGE_S: Final = 60.0
"""How old the count of a kind with more rows may be."""

_OPEN: Final = tuple(f"invocations_{status}" for status in STATUSES if status != "completed")
_OTHERS: Final = ("awakeables_pending", "effects_unsent", "effects_failed", "dead_letters")


class Counts:
    """The numbers of rows, in the form of `Inspection.counts`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Measure the age of counts by this clock, in seconds."""
        self._monotonic = monotonic
        self._counted: Mapping[str, int] = {}
        self._counted_s = -AGE_S

    async def read(self, connection: Connection) -> dict[str, int]:
        counts = await _count(connection, EXACT + 1)
        if max(counts.values()) <= EXACT:
            return counts
        if self._monotonic() - self._counted_s >= AGE_S:
            self._counted = await _count(connection, None)
            self._counted_s = self._monotonic()
        known = {name for name in _OTHERS if counts[name] <= EXACT}
        if counts["invocations_open"] <= EXACT:
            known |= {"invocations_open", *_OPEN}
        return {name: count if name in known else self._counted[name] for name, count in counts.items()}


async def _count(connection: Connection, limit: int | None) -> dict[str, int]:
    counts = dict.fromkeys((*_OTHERS, *_OPEN), 0)
    counts |= {kind: count for kind, count in await connection.fetch(QUERIES["count_rows"], limit)}
    return counts | {"invocations_open": sum(counts[name] for name in _OPEN)}
