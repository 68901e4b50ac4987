"""Who waits for the end of an invocation, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from awakeables.core.outcomes import Outcome
from awakeables.errors import NotFound
from awakeables.ports import Inspection

_Waiter: TypeAlias = "asyncio.Future[Outcome | None]"


class Waiters:
    """Futures by the invocation that they wait for.

    A runner reports an end or a pause before it lets go of its invocation. So what is live when a
    wait begins will be reported, and of all else the row says whether it has ended or is paused.
    """

    def __init__(self, reader: Inspection, is_live: Callable[[str], bool]) -> None:
        """Begin with none; `is_live` says whether a runner holds an invocation."""
        self._reader = reader
        self._is_live = is_live
        self._waiting: dict[str, set[_Waiter]] = {}
        self._until_paused: set[_Waiter] = set()

    def __len__(self) -> int:
        """How many invocations are waited for."""
        return len(self._waiting)

    async def wait(self, invocation_id: str, *, until_paused: bool) -> Outcome | None:
        """Wait until an invocation has ended; cancel to stop waiting, which changes nothing.

        Returns:
            None: it is paused, and the wait was for that, too.

        Raises:
            NotFound: There is no such invocation.
        """
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(invocation_id, set()).add(waiter)
        if until_paused:
            self._until_paused.add(waiter)
        try:
            if not self._is_live(invocation_id):
                row = await self._reader.invocation(invocation_id)
                if row is None:
                    raise NotFound(f"no invocation {invocation_id}")
                if row.result is not None or (until_paused and row.status == "paused"):
                    return row.result
            return await waiter
        finally:
            self._until_paused.discard(waiter)
            self._waiting[invocation_id].discard(waiter)
            if not self._waiting[invocation_id]:
                del self._waiting[invocation_id]

    def ended(self, invocation_id: str, outcome: Outcome) -> None:
        """Answer all who wait for it."""
        for waiter in self._waiting.get(invocation_id, ()):
            _answer(waiter, outcome)

    def paused(self, invocation_id: str) -> None:
        """Answer those who wait for that, too."""
        for waiter in self._waiting.get(invocation_id, set()) & self._until_paused:
            _answer(waiter, None)


def _answer(waiter: _Waiter, outcome: Outcome | None) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
