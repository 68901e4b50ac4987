"""What the times of a broker's answers tell: how far a partition is read, and whether it is heard of."""

from __future__ import annotations

from awakeables.ports import Clock


class Pulse:
    """What the broker's answers tell about time.

    aiokafka stamps an answer when it has it in hands; records may have been appended since the
    broker made it. But it asks again only after it has the last answer. So when one answer came
    between two looks, and another one since, the newer was asked for after the first of the two
    looks, and what was in the partition then is below the end that it tells.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stamp: int | None = None
        self._looked_ms: int | None = None
        self._covered_ms: int | None = None
        self._position = -1
        self._heard: float | None = None
        self._behind: float | None = None

    def begin(self, stamp: int | None) -> None:
        """The partition is read from a new place from now on."""
        self._stamp = stamp
        self._looked_ms = self._clock.now_ms()
        self._covered_ms = None
        self.resume()

    def resume(self) -> None:
        """Answers are waited for from now on."""
        self._heard = self._clock.monotonic()
        self._behind = None

    def end(self) -> None:
        """Nothing is waited for."""
        self._heard = self._behind = None

    def beat(self, stamp: int | None, position: int, *, at_end: bool) -> int | None:
        """Look; the moment whose records all lie below the end known now, if there is one."""
        covered_ms = None
        now_ms, before_ms = self._clock.now_ms(), self._looked_ms
        self._looked_ms = now_ms
        if stamp != self._stamp:
            self._stamp = stamp
            self._heard = self._clock.monotonic()
            covered_ms, self._covered_ms = self._covered_ms, before_ms
        if at_end or position != self._position:
            self._behind = None
        elif self._behind is None:
            self._behind = self._clock.monotonic()
        self._position = position
        return covered_ms

    def silent_s(self) -> float:
        """For how long no answer came while one was waited for."""
        return 0.0 if self._heard is None else self._clock.monotonic() - self._heard

    def behind_s(self) -> float:
        """For how long the position stands still before the end."""
        return 0.0 if self._behind is None else self._clock.monotonic() - self._behind
