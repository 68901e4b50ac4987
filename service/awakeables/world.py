"""The real clock and entropy. Only the composition root uses them; all other code takes them as arguments."""

from __future__ import annotations

import os
import time


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class SystemEntropy:
    """Random bytes of the operating system, read in blocks to save a system call per ID."""

    BLOCK_BYTES = 4096

    def __init__(self) -> None:
        self._block = b""
        self._used = 0

    def bytes(self, count: int) -> bytes:
        if self._used + count > len(self._block):
            self._block = os.urandom(max(self.BLOCK_BYTES, count))
            self._used = 0
        self._used += count
        return self._block[self._used - count : self._used]
