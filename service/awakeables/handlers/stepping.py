"""Stepping a handler's coroutine by hand, and what asyncio sees of it meanwhile.

While a handler is stepped the current task is an object of ours. Scopes that cancel (time-outs of
asyncio and anyio) ask the current task for its cancellations when they are entered: so they are
refused there, by name, instead of being lost with the next suspension.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types
from collections.abc import Callable, Generator
from threading import get_ident
from typing import Any, Protocol

BLOCK = object()
"""What a durable future yields to its driver when its outcome must come from outside."""

INSTEAD = (
    "await the context's futures directly, one after the other; for a time limit use "
    "ctx.awakeable(timeout=...). "
    "asyncio's gather, wait, wait_for, timeout, shield and tasks can't be replayed; "
    "put code that needs them into ctx.run"
)

MAX_CLEAN_UPS = 100
"""So often a handler may await something of asyncio's when its attempt is over or the process stops: enough
to clean up, while a loop that swallows what it is told comes to an end."""


class Owner(Protocol):
    """What refuses what a handler does: its execution."""

    @property
    def is_over(self) -> bool:
        """Does nothing that the handler does count any more?"""
        ...

    def misuse(self, message: str) -> Exception: ...


class HandlerTask:
    """The current task of a handler, as asyncio reports it.

    There is no task behind it but while the handler awaits something of asyncio's: then it has all that
    this one has. It can't be cancelled while the handler waits for something durable.

    Attributes:
        thread: Which thread steps the handler now; 0: none does, so whoever uses its context is not it.
    """

    def __init__(self, owner: Owner, name: str) -> None:
        self.thread = 0
        self._owner = owner
        self._name = name
        self._task: asyncio.Task[Any] | None = None
        self._waits = False
        self._cancels = 0
        self._own = 0

    def __getattr__(self, name: str) -> Any:
        task = self.__dict__["_task"]
        if task is None:
            raise AttributeError(f"a handler that is being stepped has no asyncio.Task, and so no {name!r}")
        return getattr(task, name)

    # ── for asyncio ────────────────────────────────────────────────────────────────────────

    def get_name(self) -> str:
        return self._name

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def cancelling(self) -> int:
        """Refuse a scope that asks this when it is entered; a task group asks it when it fails."""
        asks = sys._getframe(1).f_globals.get("__name__")
        if self._owner.is_over or asks == "asyncio.taskgroups":
            return self._cancels
        raise self._owner.misuse(
            "asyncio.timeout or another scope that cancels what it is around (wait_for, anyio's scopes, the "
            f"time limits of HTTP clients) was entered in the handler's own code: {INSTEAD}"
        )

    def cancel(self, msg: object = None) -> bool:
        """Cancel what the handler awaits of asyncio (a task group does, when a task of its own fails)."""
        if self._waits and self._task is not None:
            self._cancels += 1
            self._own += 1
            return self._task.cancel()
        # Not raised: a callback of the loop calls this as a rule, and not the handler.
        self._owner.misuse(
            "asyncio cancelled the handler while it awaited nothing of asyncio's (a task group does, when a "
            f"task of its own fails): {INSTEAD}"
        )
        return False

    def uncancel(self) -> int:
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    # ── for the driver ─────────────────────────────────────────────────────────────────────

    def step(self, resume: Callable[[Any], Any], given: Any) -> Any:
        """Call `send` or `throw` of the handler's coroutine, as the current task."""
        loop, driver = asyncio.get_running_loop(), asyncio.current_task()
        stand_in: Any = self
        if driver is not None:
            _leave(loop, driver)
        _enter(loop, stand_in)
        self.thread = get_ident()
        try:
            return resume(given)
        finally:
            self.thread = 0
            _leave(loop, stand_in)
            if driver is not None:
                _enter(loop, driver)

    @types.coroutine
    def pass_on(self, coroutine: Any, item: Any) -> Generator[Any, Any, None]:
        """Pass what the handler awaits of asyncio on to the loop, in a task, until it yields `BLOCK`."""
        self._task = asyncio.current_task()
        clean_ups = 0
        try:
            while item is not BLOCK and clean_ups < MAX_CLEAN_UPS:
                try:
                    sent = yield from self._awaited(item)
                except BaseException as error:
                    item = self.step(coroutine.throw, error)
                else:
                    item = self.step(coroutine.send, sent)
                clean_ups += self._is_stopped() or self._owner.is_over
            if self._is_stopped():
                # It swallowed the cancellation and goes on.
                raise asyncio.CancelledError
        except StopIteration as stop:
            raise Returned(stop.value) from None
        finally:
            self._task = None

    def _awaited(self, item: Any) -> Generator[Any, Any, Any]:
        self._waits = True
        try:
            return (yield item)
        finally:
            self._waits = False
            while self._own and self._task is not None:
                # What cancelled the await was the handler's own, and not meant for its driver.
                self._own -= 1
                self._task.uncancel()

    def _is_stopped(self) -> bool:
        """Was the task that drives the handler cancelled, and has the handler got the `CancelledError`?"""
        return self._task is not None and self._task.cancelling() > 0


def close(held: list[Any]) -> None:
    """Close a coroutine of the user's, even if it ignores `GeneratorExit`.

    One that ignores `GeneratorExit` is closed again when it is freed, and Python prints a complaint:
    it is freed here, where that is known and wanted by nobody. So it comes in a list, whose owner holds
    nothing else of it.
    """
    complain = sys.unraisablehook
    sys.unraisablehook = _ignore
    try:
        with contextlib.suppress(BaseException):
            held[0].close()
        held.clear()
    finally:
        sys.unraisablehook = complain


def _ignore(_unraisable: object) -> None:
    """Say nothing of what is raised while a coroutine is freed."""


class Returned(Exception):
    """Carries the handler's return value: a StopIteration can't cross a generator."""

    def __init__(self, value: Any) -> None:
        self.value = value


# Documented for implementers of tasks (asyncio-extending).
_enter: Callable[[asyncio.AbstractEventLoop, asyncio.Task[Any]], None] = asyncio.tasks._enter_task
_leave: Callable[[asyncio.AbstractEventLoop, asyncio.Task[Any]], None] = asyncio.tasks._leave_task
