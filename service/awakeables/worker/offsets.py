"""Tracks which offsets may be committed: those below which every record is done.

Tasks end in any order, while a committed offset means "all before this". So each partition has a
watermark, the first offset that is not done, and only the watermark is ever committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import TypeAlias

Place: TypeAlias = tuple[str, int]
"""A topic and one of its partitions."""


class _Window:
    """The offsets of one partition that were received, in order, from the first that is not done."""

    __slots__ = ("committed", "done", "last", "received", "watermark")

    def __init__(self, first: int) -> None:
        self.received: deque[int] = deque()
        self.done: set[int] = set()
        self.last = first - 1
        self.watermark = first
        self.committed = first


class OffsetTracker:
    """Keeps the watermarks of the partitions that this process reads."""

    def __init__(self) -> None:
        self._windows: dict[Place, _Window] = {}

    def start(self, place: Place, offset: int) -> None:
        """Record that a record was received.

        The first offset that is started after `forget` is taken as the partition's position. So is one that
        was received before: only a topic that was recreated, or has lost records, goes back without it. What
        ends then of the topic before may pass for a record of the new one at the same offset.
        """
        window = self._windows.get(place)
        if window is None or offset <= window.last:
            window = self._windows[place] = _Window(offset)
        window.received.append(offset)
        window.last = offset

    def finish(self, place: Place, offset: int) -> None:
        """Record that a record is done, unless its partition was forgotten meanwhile."""
        window = self._windows.get(place)
        if window is None or not window.watermark <= offset <= window.last:
            return
        window.done.add(offset)
        received, done = window.received, window.done
        while received and received[0] in done:
            finished = received.popleft()
            done.discard(finished)
            # Offsets that no record has (compaction, transaction markers) lie in between.
            window.watermark = received[0] if received else finished + 1

    def unfinished(self, place: Place) -> int:
        """How many records there are from the watermark to the newest one."""
        window = self._windows.get(place)
        return 0 if window is None else len(window.received)

    def committable(self) -> dict[Place, int]:
        """The watermarks that have moved since they were committed."""
        return {
            place: window.watermark
            for place, window in self._windows.items()
            if window.watermark > window.committed
        }

    def commit(self, offsets: Mapping[Place, int]) -> None:
        """Record that these offsets are committed."""
        for place, offset in offsets.items():
            window = self._windows.get(place)
            if window is not None:
                window.committed = max(window.committed, offset)

    def forget(self, places: Collection[Place]) -> None:
        """Forget partitions: another member of the group may read them now."""
        for place in places:
            self._windows.pop(place, None)
