"""Which offsets may be committed: those below which everything is done with.

Tasks end in any order; an offset says "all before this". So each partition has a watermark, the
first offset that is not done with, and only that is ever committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A topic and one of its partitions."""


class _Window:
    """The offsets of one partition that were begun, in order, from the first that is not done."""

    __slots__ = ("begun", "committed", "done", "last", "watermark")

    def __init__(self, first: int) -> None:
        self.begun: deque[int] = deque()
        self.done: set[int] = set()
        self.last = first - 1
        self.watermark = first
        self.committed = first


class Ledger:
    """The watermarks of the partitions that this process reads."""

    def __init__(self) -> None:
        self._windows: dict[Place, _Window] = {}

    def begin(self, place: Place, offset: int) -> bool:
        """Note that a record was received; False: it was before, don't do it twice.

        The first offset that is begun after `lose` is where the partition is read from.
        """
        window = self._windows.get(place)
        if window is None:
            window = self._windows[place] = _Window(offset)
        if offset <= window.last:
            return False
        window.begun.append(offset)
        window.last = offset
        return True

    def settle(self, place: Place, offset: int) -> None:
        """Note that a record is done with. Of a partition that was lost since, nothing is noted."""
        window = self._windows.get(place)
        if window is None or not window.watermark <= offset <= window.last:
            return
        window.done.add(offset)
        begun, done = window.begun, window.done
        while begun and begun[0] in done:
            settled = begun.popleft()
            done.discard(settled)
            # Offsets that no record has (compaction, transaction markers) lie in between.
            window.watermark = begun[0] if begun else settled + 1

    def open_count(self, place: Place) -> int:
        """How many offsets lie between the watermark and the newest record."""
        window = self._windows.get(place)
        return 0 if window is None else len(window.begun)

    def committable(self) -> dict[Place, int]:
        """The watermarks that have moved since they were committed."""
        return {
            place: window.watermark
            for place, window in self._windows.items()
            if window.watermark > window.committed
        }

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """Note that these offsets are committed."""
        for place, offset in offsets.items():
            window = self._windows.get(place)
            if window is not None:
                window.committed = max(window.committed, offset)

    def lose(self, places: Collection[Place]) -> None:
        """Forget partitions: somebody else may read them now."""
        for place in places:
            self._windows.pop(place, None)
