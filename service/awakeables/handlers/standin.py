"""Asyncio's current task while a handler is stepped.

Cancel scopes (time-outs of asyncio and anyio) ask the current task for its cancellations when they are
entered. The stand-in refuses them there, by name; otherwise they would be lost at the next suspension.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awakeables.handlers.execution import Execution

INSTEAD = (
    "await the context's futures directly, or combine them with ctx.gather, ctx.race, ctx.select, ...; for a "
    "time limit use async with ctx.timeout(...). "
    "asyncio's gather, wait, wait_for, timeout, shield and tasks can't be replayed; "
    "put code that needs them into ctx.run"
)


class HandlerTask:
    """The current task of a handler, as asyncio reports it.

    There is a real task only while the handler awaits something from asyncio; then the stand-in has that
    task's attributes. It can't be cancelled while the handler waits for something durable.

    Attributes:
        execution: What it stands in for. That has no reference back: a cycle would keep each attempt
            in memory until the collector runs.
        real: The task that drives the handler while it awaits something from asyncio.
    """

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.real: asyncio.Task[Any] | None = None
        self._waits = False
        self._cancels = 0
        self._own = 0

    def __getattr__(self, name: str) -> Any:
        real = self.__dict__["real"]
        if real is None:
            raise AttributeError(f"a handler that is being stepped has no asyncio.Task, and so no {name!r}")
        return getattr(real, name)

    def get_name(self) -> str:
        return self.execution.invocation_id

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def cancelling(self) -> int:
        """Refuse the cancel scope that is being entered; a task group asks this when it fails."""
        asks = sys._getframe(1).f_globals.get("__name__")
        if self.execution.is_over or asks == "asyncio.taskgroups":
            return self._cancels
        raise self.execution.misuse(
            "a cancel scope (asyncio.timeout or wait_for, a scope of anyio, the "
            f"time-out of an HTTP client) was entered in the handler's own code: {INSTEAD}"
        )

    def cancel(self, msg: object = None) -> bool:
        """Cancel what the handler awaits from asyncio (a task group does so when a task in it fails)."""
        if self._waits and self.real is not None:
            self._cancels += 1
            self._own += 1
            return self.real.cancel()
        # Not raised: the caller is usually a callback of the loop, not the handler.
        self.execution.misuse(
            "asyncio cancelled the handler while it awaited nothing from asyncio (a task group does so when "
            f"a task in it fails): {INSTEAD}"
        )
        return False

    def uncancel(self) -> int:
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    @types.coroutine
    def awaiting(self, item: Any) -> Generator[Any, Any, Any]:
        """Pass what the handler awaits from asyncio on to the loop; return what the loop sends."""
        self._waits = True
        try:
            return (yield item)
        finally:
            self._waits = False
            while self._own and self.real is not None:
                # The handler itself caused this cancellation; it was not meant for the driver.
                self._own -= 1
                self.real.uncancel()
