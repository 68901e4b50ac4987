"""The real clock and entropy. Only the composition root uses them; all other code takes them as arguments."""

from __future__ import annotations

import os
import time


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)


class SystemEntropy:
    """Random bytes of the operating system."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)
