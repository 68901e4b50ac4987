"""Time-outs of requests: one timer for all of them."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any


class Deadlines:
    """Hands out deadlines, and ends what runs past them.

    `asyncio.timeout` takes a timer each time, which costs as much as answering a request does. Most waits
    here have one of a few lengths, and end long before their time: so the open deadlines of a length stand
    in a dict, in the order of their ends, and a single timer looks at the first of each.
    """

    def __init__(self) -> None:
        """Begin with none; a timer is set once there is a deadline."""
        self._open: dict[float, dict[Deadline, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = math.inf

    def within(self, seconds: float) -> Deadline:
        """Bound the block that is entered with this; it raises `TimeoutError` when the time is over.

        What waits in the block is cancelled then.
        """
        return Deadline(self, seconds)

    def add(self, deadline: Deadline, seconds: float) -> dict[Deadline, float]:
        """Keep a deadline that begins now; return where to take it out again."""
        end_s = asyncio.get_running_loop().time() + seconds
        opened = self._open.get(seconds)
        if opened is None:
            opened = self._open[seconds] = {}
        opened[deadline] = end_s
        if end_s < self._next_s:
            self._look_at(end_s)
        return opened

    def _look_at(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_s = at_s
        self._timer = asyncio.get_running_loop().call_at(at_s, self._look)

    def _look(self) -> None:
        """End what is over, and look again when the next one may be."""
        now_s = asyncio.get_running_loop().time()
        self._timer, self._next_s = None, math.inf
        next_s = math.inf
        for seconds, opened in list(self._open.items()):
            over = []
            for deadline, end_s in opened.items():
                if end_s > now_s:
                    next_s = min(next_s, end_s)
                    break
                over.append(deadline)
            for deadline in over:
                del opened[deadline]
                deadline.expire()
            if not opened:
                del self._open[seconds]
        if next_s < math.inf:
            self._look_at(next_s)


class Deadline:
    """A block that ends in time: what `asyncio.timeout` does, for one use."""

    __slots__ = ("_cancelling", "_deadlines", "_expired", "_opened", "_seconds", "_task")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "only a task can be stopped from waiting"
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self._opened = self._deadlines.add(self, self._seconds)

    def end(self) -> None:
        """End the block now, if it has not been left."""
        if self._opened.pop(self, None) is not None:
            self.expire()

    def expire(self) -> None:
        """The time is over: cancel what the block waits for."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if not self._expired:
            del self._opened[self]
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            # No one else has cancelled the task: it was us.
            raise TimeoutError from error
