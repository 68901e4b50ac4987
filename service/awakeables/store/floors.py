"""Where searches for what is due begin, so that they pass over what has been dealt with, or left, long ago.

Of a paused handler any number of invocations may be due, and none is claimed. In PostgreSQL, while an old
snapshot is held (a long `pg_dump`, an abandoned replication slot), an index keeps an entry of each row that
has ever been due. A search that begins with the smallest visits all of them to find nothing. So it begins a
little below where the one before has ended, and with the smallest only now and then: for rows that were
written late, or that another instance had locked and left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WHOLE_S: Final = 2.0
"""How often a search begins with the smallest: what was written late is overlooked for no longer."""

SLACK_MS: Final = 1000
"""How far below the end of the one before a search begins."""


class Floor:
    """Where searches of one kind begin."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin with the smallest; the clock is in seconds."""
        self._monotonic = monotonic
        self._whole_s: float | None = None
        self._about: object = None
        self._reached_ms: int | None = None

    def begin(self, *about: object) -> int | None:
        """Begin a search; return the least instant to look for, or None for all.

        Args:
            about: For what, and by which connection: when that changes, nothing counts as seen.
        """
        now_s = self._monotonic()
        if self._whole_s is None or self._about != about or now_s - self._whole_s >= WHOLE_S:
            self._whole_s, self._about = now_s, about
            return None
        return None if self._reached_ms is None else self._reached_ms - SLACK_MS

    def forget(self) -> None:
        """Begin with the smallest again: what was found has not been dealt with."""
        self._whole_s = None

    def reached(self, ms: int) -> None:
        """Everything up to this instant has been found."""
        self._reached_ms = ms


class Floors:
    """Those of one store.

    Attributes:
        due: Of claims, by the instant since which invocations are due.
        overdue: Of expiry, by deadlines.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin with the smallest; the clock is in seconds."""
        self.due = Floor(monotonic)
        self.overdue = Floor(monotonic)
