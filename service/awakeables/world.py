"""The real clock and entropy. Only `runtime.py` and `remote/responder.py` use them: all other code takes them
as arguments.
"""

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
    """The store's clock, as far as a process knows it: instances with different clocks agree on the time.

    It goes on by the machine's monotonic clock, so that setting the machine's time changes nothing. It is
    never ahead of the store's by more than the quickest answer took, nor behind by more than the last one.
    """

    def __init__(self, machine: Clock) -> None:
        """Begin with the machine's time, until `follow` is called."""
        self._machine = machine
        self._ahead_ms: float | None = None
        self.monotonic = machine.monotonic

    def now_ms(self) -> int:
        if self._ahead_ms is None:
            return self._machine.now_ms()
        return round(self.monotonic() * 1000 + self._ahead_ms)

    def follow(self, now_ms: int, took_s: float) -> None:
        """Take the time from an answer of the store.

        A process that was frozen or blocked reads an answer long after it was given. So an answer only
        bounds the store's present time.

        Args:
            now_ms: What the store's clock said.
            took_s: How many seconds ago the answer was asked for, and so how old it is at most.
        """
        earliest_ms = now_ms - self.monotonic() * 1000
        if self._ahead_ms is None or not earliest_ms <= self._ahead_ms <= earliest_ms + took_s * 1000:
            self._ahead_ms = earliest_ms


class SystemEntropy:
    """Random bytes of the operating system."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)
