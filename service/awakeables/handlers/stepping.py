"""Steps a handler's coroutine by hand, with a stand-in as asyncio's current task.

Cancel scopes (time-outs of asyncio and anyio) ask the current task for its cancellations when they are
entered. The stand-in refuses them there, by name; otherwise they would be lost at the next suspension.
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
"""How often a handler may await something from asyncio once its attempt is over or the process stops: enough
to clean up, and a loop that swallows the cancellation still ends."""


class Owner(Protocol):
    """The execution that a handler belongs to, as its task needs it."""

    @property
    def is_over(self) -> bool:
        """Is the attempt over, so that what the handler does has no effect?"""
        ...

    def misuse(self, message: str) -> Exception: ...


class HandlerTask:
    """The current task of a handler, as asyncio reports it.

    A real task is behind it only while the handler awaits something from asyncio; attributes are taken
    from that one then. It can't be cancelled while the handler waits for something durable.

    Attributes:
        thread: The thread that steps the handler now; 0: none, so a use of the context is not the handler's.
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
        """Refuse the cancel scope that is being entered; a task group asks this when it fails."""
        asks = sys._getframe(1).f_globals.get("__name__")
        if self._owner.is_over or asks == "asyncio.taskgroups":
            return self._cancels
        raise self._owner.misuse(
            "a cancel scope (asyncio.timeout or wait_for, a scope of anyio, the "
            f"time-out of an HTTP client) was entered in the handler's own code: {INSTEAD}"
        )

    def cancel(self, msg: object = None) -> bool:
        """Cancel what the handler awaits from asyncio (a task group does so when a task in it fails)."""
        if self._waits and self._task is not None:
            self._cancels += 1
            self._own += 1
            return self._task.cancel()
        # Not raised: the caller is usually a callback of the loop, not the handler.
        self._owner.misuse(
            "asyncio cancelled the handler while it awaited nothing from asyncio (a task group does so when "
            f"a task in it fails): {INSTEAD}"
        )
        return False

    def uncancel(self) -> int:
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    # ── for the driver ─────────────────────────────────────────────────────────────────────

    def step(self, resume: Callable[[Any], Any], given: Any) -> Any:
        """Call `send` or `throw` of the handler's coroutine, with the stand-in as the current task."""
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
        """Pass what the handler awaits from asyncio on to the loop, in a task, until it yields `BLOCK`."""
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
                # The handler swallowed the cancellation and went on.
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
                # The handler itself caused this cancellation; it was not meant for the driver.
                self._own -= 1
                self._task.uncancel()

    def _is_stopped(self) -> bool:
        """Was the task that drives the handler cancelled?"""
        return self._task is not None and self._task.cancelling() > 0


def close(held: list[Any]) -> None:
    """Close a user's coroutine, even if it ignores `GeneratorExit`.

    Python closes such a coroutine again when it is freed, and prints a warning. So it is freed here, with
    the warning suppressed: `held` must be the only reference to it.
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
    """Ignore what is raised while a coroutine is freed."""


class Returned(Exception):
    """Carries the handler's return value, since a generator can't pass a StopIteration on."""

    def __init__(self, value: Any) -> None:
        self.value = value


# Documented for implementers of tasks (asyncio-extending).
_enter: Callable[[asyncio.AbstractEventLoop, asyncio.Task[Any]], None] = asyncio.tasks._enter_task
_leave: Callable[[asyncio.AbstractEventLoop, asyncio.Task[Any]], None] = asyncio.tasks._leave_task
