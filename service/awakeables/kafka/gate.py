"""How much may be on its way into the store at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Lets so many records in at once, in the order in which they come; one batch always."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._inside = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def passing(self, count: int) -> AsyncIterator[None]:
        """Be inside with so many."""
        if self._waiting or not self._has_room(count):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave(count)
                raise
        else:
            self._inside += count
        try:
            yield
        finally:
            self._leave(count)

    def _has_room(self, count: int) -> bool:
        return self._inside == 0 or self._inside + count <= self._capacity

    def _leave(self, count: int) -> None:
        self._inside -= count
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if not self._has_room(wanted):
                    return
                self._inside += wanted
                turn.set_result(None)
            self._waiting.popleft()
