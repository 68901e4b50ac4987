"""Limits how many records are being stored at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BatchLimiter:
    """A weighted semaphore, first come, first served; a batch above the limit is admitted alone."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def acquire(self, count: int) -> AsyncIterator[None]:
        """Hold `count` units of the capacity within the block."""
        if self._waiting or not self._has_room(count):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release(count)
                raise
        else:
            self._held += count
        try:
            yield
        finally:
            self._release(count)

    def _has_room(self, count: int) -> bool:
        return self._held == 0 or self._held + count <= self._capacity

    def _release(self, count: int) -> None:
        self._held -= count
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if not self._has_room(wanted):
                    return
                self._held += wanted
                turn.set_result(None)
            self._waiting.popleft()
