"""The real clock and real chance: handed in by the composition root, used nowhere else directly."""

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
    """The operating system's chance, fetched in blocks: a system call per ID would cost more."""

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
