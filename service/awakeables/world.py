"""The real clock and entropy. Only the composition root uses them; all other code takes them as arguments."""

from __future__ import annotations

import os
import time

from awakeables.ports import Clock


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)


class FollowingClock:
    """The machine's clock, set by the store's: instances whose clocks differ agree on the time.

    The monotonic clock stays the machine's.
    """

    def __init__(self, machine: Clock) -> None:
        """Follow nobody yet: the time is the machine's."""
        self._machine = machine
        self._ahead_ms = 0
        self.monotonic = machine.monotonic

    def now_ms(self) -> int:
        return self._machine.now_ms() + self._ahead_ms

    def follow(self, now_ms: int) -> None:
        """Be told the time by the store."""
        self._ahead_ms = now_ms - self._machine.now_ms()


class SystemEntropy:
    """Random bytes of the operating system."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)
