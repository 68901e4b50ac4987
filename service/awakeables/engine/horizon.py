"""How far time may be taken to have passed for deadlines (hard case 5).

An outage must not turn finished work into time-outs: an answer that was in the topic in time
counts, although the service read it late. So deadlines are held against the last moment at
which every completions partition was read to its end.
"""

from __future__ import annotations

from awakeables.ports import Clock

FRESH_MS = 1000
"""A partition that was read to its end within this counts as read now."""


class Horizon:
    """Keeps when each partition was last read to its end."""

    def __init__(self, clock: Clock, *, longest_ms: int) -> None:
        """Begin with nothing read.

        Args:
            clock: The store's clock.
            longest_ms: Deadlines are held back at most this long, also if Kafka never returns.
        """
        self._clock = clock
        self._longest_ms = longest_ms
        self._read_ms: dict[int, int | None] = {}

    def expect(self, partitions: tuple[int, ...]) -> None:
        """These partitions are to be read; until one was read to its end, deadlines wait."""
        self._read_ms = {partition: self._read_ms.get(partition) for partition in partitions}

    def read_to_end(self, partition: int, at_ms: int) -> None:
        """At that moment, the partition had nothing unread."""
        self._read_ms[partition] = at_ms

    def held_back_to_ms(self) -> int | None:
        """The instant to hold deadlines against; None: the store's own now."""
        now_ms = self._clock.now_ms()
        earliest = now_ms - self._longest_ms
        oldest = min(
            (earliest if at_ms is None else at_ms for at_ms in self._read_ms.values()), default=earliest
        )
        return None if oldest >= now_ms - FRESH_MS else max(oldest, earliest)
