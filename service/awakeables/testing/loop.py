"""An asyncio loop for tests: virtual time, and an order of callbacks that a seed decides."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

STARTED_MS = 1_767_225_600_000
"""Virtual time begins on 2026-01-01."""


class Deadlock(Exception):
    """Nothing can ever happen again: no callback is ready and no timer is set."""


class SeededLoop(asyncio.SelectorEventLoop):
    """The standard loop, except that time jumps to the next timer as soon as nothing is ready.

    Callbacks that are ready at once run in an order that the seed decides, so that a test can be
    repeated, and that many seeds try many interleavings.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._virtual_s = 0.0
        # A nanosecond is lost in a float that counts months: timers would never be due.
        self._clock_resolution = 1e-6
        self._chance = Random(seed)  # noqa: S311 - must repeat

    def time(self) -> float:
        return self._virtual_s

    def freeze(self, seconds: float) -> None:
        """Let time pass in which nothing runs, as when the process is stopped."""
        self._virtual_s += seconds

    def _run_once(self) -> None:
        ready: deque[Any] = self._ready  # type: ignore[attr-defined]
        scheduled: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
            self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)
        if not ready:
            if not scheduled:
                raise Deadlock
            self._virtual_s = max(self._virtual_s, scheduled[0]._when)
        elif len(ready) > 1:
            shuffled = list(ready)
            self._chance.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]

    _timer_cancelled_count: int
    _clock_resolution: float


class VirtualClock:
    """The clock of a seeded loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return STARTED_MS + round(self._loop.time() * 1000)

    def monotonic(self) -> float:
        return self._loop.time()


class SeededEntropy:
    """Chance that repeats."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = Random(seed)  # noqa: S311 - must repeat

    def bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)


class InlineExecutor(Executor):
    """Runs blocking work at once: virtual time can't wait for threads."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
