"""The callers in this process that wait for an invocation to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeAlias

from awakeables.core.outcomes import Outcome

Waiter: TypeAlias = "asyncio.Future[Outcome | None]"
"""Resolves to the outcome; None if something else ended the wait."""


class Waiters:
    """Futures, by the invocation that they wait for.

    A runner reports an end or a pause before it leaves the pool. So a waiter that is added while its
    invocation is in the pool will be resolved. For any other invocation, read the row to find out
    whether it has ended or is paused.

    Attributes:
        waiting: The futures by invocation, and whether a pause resolves them, too; only to be looked at.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.waiting: dict[str, dict[Waiter, bool]] = {}

    def __iter__(self) -> Iterator[str]:
        """The invocations that are waited for."""
        return iter(list(self.waiting))

    def add(self, invocation_id: str, *, until_paused: bool) -> Waiter:
        """Wait for an invocation.

        Args:
            invocation_id: It need not exist yet.
            until_paused: Whether a pause, which only an operator ends, also ends the wait; and `release`.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(invocation_id, {})[waiter] = until_paused
        return waiter

    def remove(self, invocation_id: str, waiter: Waiter) -> None:
        """Stop waiting. Does nothing if the wait has ended already."""
        waiting = self.waiting.get(invocation_id)
        if waiting is not None:
            waiting.pop(waiter, None)
            if not waiting:
                del self.waiting[invocation_id]

    def ended(self, invocation_id: str, outcome: Outcome) -> None:
        """Resolve all waiters of an invocation."""
        for waiter in self.waiting.pop(invocation_id, ()):
            if not waiter.done():
                waiter.set_result(outcome)

    def failed(self, invocation_id: str, error: BaseException) -> None:
        """Raise an error in all waiters of an invocation that could not be begun."""
        for waiter in self.waiting.pop(invocation_id, ()):
            if not waiter.done():
                waiter.set_exception(error)

    def paused(self, invocation_id: str) -> None:
        """Resolve the waiters that were added with `until_paused`."""
        for waiter, until_paused in self.waiting.get(invocation_id, {}).items():
            if until_paused and not waiter.done():
                waiter.set_result(None)

    def release(self) -> None:
        """End the waits that a pause would end, because the process is stopping."""
        for invocation_id in list(self.waiting):
            self.paused(invocation_id)
