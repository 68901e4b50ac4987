"""Infers from the times of fetch responses how far a partition is read, and whether responses still come."""

from __future__ import annotations

from awakeables.engine.horizon import Moment
from awakeables.ports import Clock


class FetchProgress:
    """Infers up to which moment a partition is read, and for how long no fetch response came.

    aiokafka timestamps a response when it receives it; records may have been appended since the
    broker made it. But aiokafka sends a fetch only after the last response. So if one response came
    between two checks, and another one since, the newer was requested after the first of the two
    checks, and everything that was in the partition then is below the end that it reports.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stamp: int | None = None
        self._looked: Moment | None = None
        self._asked_after: Moment | None = None
        self._unread: list[tuple[Moment, int]] = []
        self._position = -1
        self._heard: float | None = None
        self._behind: float | None = None

    def begin(self, stamp: int | None) -> None:
        """Start over: the partition is read from another position from now on.

        Args:
            stamp: When the last response came.
        """
        self._stamp = stamp
        self._looked = Moment.now(self._clock)
        self._asked_after = None
        self._unread.clear()
        self.resume()

    def resume(self) -> None:
        """Count the time without responses from now on."""
        self._heard = self._clock.monotonic()
        self._behind = None

    def pause(self) -> None:
        """Count no time: nothing is fetched."""
        self._heard = self._behind = None

    def look(self, stamp: int | None, position: int, *, end: int | None, stable: int | None) -> Moment | None:
        """Return the latest moment whose records are all below the position, if there is a new one.

        Args:
            stamp: When the last response came.
            position: Everything before it is settled.
            end: The partition's end in that response, including records of open transactions.
            stable: How far it can be read for now.
        """
        looked, self._looked = self._looked, Moment.now(self._clock)
        if stamp != self._stamp:
            self._stamp = stamp
            self._heard = self._looked.monotonic_s
            if self._asked_after is not None and end is not None:
                # Under load the end is always ahead, so the oldest one is kept until it is reached.
                self._unread[1:] = [(self._asked_after, end)]
            self._asked_after = looked
        read = None
        while self._unread and position >= self._unread[0][1]:
            read, _ = self._unread.pop(0)
        if position != self._position or (stable is not None and position >= stable):
            self._behind = None
        elif self._behind is None:
            self._behind = self._looked.monotonic_s
        self._position = position
        return read

    def silent_s(self) -> float:
        """For how long no response came while one was expected."""
        return 0.0 if self._heard is None else self._clock.monotonic() - self._heard

    def behind_s(self) -> float:
        """For how long the position has not moved although there are records that can be read."""
        return 0.0 if self._behind is None else self._clock.monotonic() - self._behind


class OpenTransactionTimer:
    """For how long the last stable offset has not moved, while there are records behind it.

    An open transaction blocks everything behind its first record; so does one that its producer
    has abandoned, until the broker aborts it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stable: int | None = None
        self._since = 0.0

    def seconds(self, *, end: int | None, stable: int | None) -> float:
        """Record both offsets; return 0 while no transaction is open."""
        if end is None or stable is None or stable >= end:
            self._stable = None
            return 0.0
        if stable != self._stable:
            self._stable = stable
            self._since = self._clock.monotonic()
        return self._clock.monotonic() - self._since
