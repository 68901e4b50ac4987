"""Who waits for the end of an invocation, in this process."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from awakeables.core.outcomes import Outcome

Waiter: TypeAlias = "asyncio.Future[Outcome | None]"
"""Has the outcome; None where the wait was ended by something else."""


class Waiters:
    """Futures by the invocation that they wait for.

    A runner reports an end or a pause before it leaves the pool. So a waiter that was added while its
    invocation was in the pool will be answered; of any other invocation the row says whether it has
    ended or is paused.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: dict[str, dict[Waiter, bool]] = {}

    def __len__(self) -> int:
        """How many invocations are waited for."""
        return len(self._waiting)

    def add(self, invocation_id: str, *, until_paused: bool) -> Waiter:
        """Wait for an invocation.

        Args:
            invocation_id: It need not exist yet.
            until_paused: A pause, which only an operator ends, ends the wait, too; so does `release`.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(invocation_id, {})[waiter] = until_paused
        return waiter

    def remove(self, invocation_id: str, waiter: Waiter) -> None:
        """Stop waiting; nothing happens if the wait is over already."""
        waiting = self._waiting.get(invocation_id)
        if waiting is not None:
            waiting.pop(waiter, None)
            if not waiting:
                del self._waiting[invocation_id]

    def ended(self, invocation_id: str, outcome: Outcome) -> None:
        """Answer all who wait for it."""
        for waiter in self._waiting.pop(invocation_id, ()):
            if not waiter.done():
                waiter.set_result(outcome)

    def failed(self, invocation_id: str, error: BaseException) -> None:
        """The invocation was not begun: raise this where it is waited for."""
        for waiter in self._waiting.pop(invocation_id, ()):
            if not waiter.done():
                waiter.set_exception(error)

    def paused(self, invocation_id: str) -> None:
        """Answer those who wait for that, too."""
        for waiter, until_paused in self._waiting.get(invocation_id, {}).items():
            if until_paused and not waiter.done():
                waiter.set_result(None)

    def release(self) -> None:
        """End the waits that a pause would end: the process is stopping."""
        for invocation_id in list(self._waiting):
            self.paused(invocation_id)
