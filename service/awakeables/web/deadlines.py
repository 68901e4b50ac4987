"""Time-outs of requests, all with one timer."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any


class Deadlines:
    """Creates deadlines and expires them.

    `asyncio.timeout` sets a timer each time, which costs as much as answering a request. Most waits here
    have one of a few lengths and end long before their deadline. So the open deadlines of one length are
    kept in a dict, ordered by when they end, and a single timer checks the first of each.
    """

    def __init__(self) -> None:
        """Start without a timer; one is set once there is a deadline."""
        self._open: dict[float, dict[Deadline, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = math.inf

    def within(self, seconds: float) -> Deadline:
        """Limit a block to this time. When it is over, the block is cancelled and raises `TimeoutError`."""
        return Deadline(self, seconds)

    def add(self, deadline: Deadline, seconds: float) -> dict[Deadline, float]:
        """Add a deadline that starts now; return the dict to remove it from."""
        end_s = asyncio.get_running_loop().time() + seconds
        opened = self._open.get(seconds)
        if opened is None:
            opened = self._open[seconds] = {}
        opened[deadline] = end_s
        if end_s < self._next_s:
            self._schedule(end_s)
        return opened

    def _schedule(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_s = at_s
        self._timer = asyncio.get_running_loop().call_at(at_s, self._expire_due)

    def _expire_due(self) -> None:
        """Expire what is due, and set the timer for the next deadline."""
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
            self._schedule(next_s)


class Deadline:
    """A block with a time limit, like `asyncio.timeout`; for one use."""

    __slots__ = ("_cancelling", "_deadlines", "_expired", "_opened", "_seconds", "_task")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "a deadline needs a task to cancel"
        self._task: asyncio.Task[Any] = task
        self._cancelling = task.cancelling()
        self._opened = self._deadlines.add(self, self._seconds)

    def end(self) -> None:
        """Expire now, unless the block has been left."""
        if self._opened.pop(self, None) is not None:
            self.expire()

    def expire(self) -> None:
        """Cancel the block: its time is over."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if not self._expired:
            del self._opened[self]
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            # Nobody else cancelled the task, so the cancellation is ours.
            raise TimeoutError from error
