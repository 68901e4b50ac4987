"""One timer of the event loop for many objects, by a heap of moments."""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

EARLY_S = 0.001
"""How much too early the event loop may call a timer, by the resolution of its clock."""


class Timed(Protocol):
    """Something to call when its time has come.

    Attributes:
        wakes_at: When `on_time` is to be called, in the event loop's time. A timer for another is void.
    """

    wakes_at: float | None

    def on_time(self) -> None:
        """Called when the time has come."""
        ...


class Timers:
    """The moments at which objects are called, unless they have changed their minds."""

    def __init__(self) -> None:
        """Begin with none."""
        self._heap: list[tuple[float, int, Timed]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._variables: Context | None = None

    def begin(self) -> None:
        """From now on call in the caller's context.

        Not in that of whichever request sets a timer, whose ID would be in the log lines of others.
        """
        self._variables = copy_context()

    def clear(self) -> None:
        """Call nobody any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, timed: Timed, moment: float) -> None:
        """Call `timed.on_time` at this moment of the event loop's time, if that is its `wakes_at` then."""
        heappush(self._heap, (moment, next(self._numbers), timed))
        if self._timer is None or moment < self._timer.when():
            self._set(moment)

    def _set(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(moment, self._on_timer, context=self._variables)

    def _on_timer(self) -> None:
        now, due, heap = asyncio.get_running_loop().time(), [], self._heap
        self._timer = None
        while heap and heap[0][0] <= now + EARLY_S:
            moment, _, timed = heappop(heap)
            if timed.wakes_at == moment:
                due.append(timed)
        while heap and heap[0][2].wakes_at != heap[0][0]:
            heappop(heap)
        if heap:
            self._set(heap[0][0])
        for timed in due:
            timed.on_time()


def has_come(moment: float) -> bool:
    """Whether this moment of the event loop's time has come."""
    return moment <= asyncio.get_running_loop().time() + EARLY_S
