"""Calls users' functions in a thread or a task, and returns what they raise as a value.

Neither a future nor a task can carry every exception: with `StopIteration` it never completes,
`SystemExit` and `KeyboardInterrupt` in a task end the process, and a `CancelledError` that the function
raises itself looks like a cancellation of its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from types import CoroutineType
from typing import Any

from awakeables.core.texts import loggable
from awakeables.errors import TerminalError

CLEAN_UP_S = 5.0
"""How long a function may take to clean up when it is cancelled because the process stops."""

MOST_LOOKED_AT = 1000
"""How many items of a user's list are looked at for coroutines."""

MAX_ITEMS = 1_000_000
"""Maximum length of an iterator; some never end."""


@dataclass(frozen=True, slots=True)
class Raised:
    """What a function raised."""

    error: BaseException


def raised(error: BaseException) -> Raised:
    """An error as a value; unless it is a `TerminalError`, it is made safe to log with its stack trace."""
    return Raised(error if issubclass(type(error), TerminalError) else loggable(error))


def items_of(iterator: Iterator[Any]) -> list[Any]:
    """The items of an iterator as a list, which can be iterated more than once."""
    items = list(islice(iterator, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise ValueError(f"an iterator of more than {MAX_ITEMS:,} items can't be kept")
    return items


async def call(function: Callable[..., Any], *args: Any, executor: Executor | None) -> Any | Raised:
    """Call a function: one that is async in a task of its own, any other in a thread.

    Both run under a copy of the caller's context variables.

    Args:
        executor: Has the thread; None: the loop's own.

    Raises:
        asyncio.CancelledError: The caller was cancelled; the function's own are `Raised`.
    """
    if is_async(function):
        return await _in_task(lambda: function(*args))
    pid = os.getpid()
    result = await asyncio.get_running_loop().run_in_executor(
        executor, copy_context().run, _in_thread, pid, function, args
    )
    # A lambda that calls a coroutine function only creates the coroutine in the thread.
    return await _in_task(lambda: result) if inspect.isawaitable(result) else result


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it, or what it wraps, is a coroutine function, or an object whose `__call__` is one."""
    target = getattr(function, "func", function)
    called = getattr(target, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(called)


def _in_thread(pid: int, function: Callable[..., Any], args: tuple[Any, ...]) -> Any | Raised:
    try:
        ended = function(*args)
        if isinstance(ended, Generator):  # it has not begun yet
            ended = items_of(ended)
    except BaseException as error:
        ended = raised(error)
    if os.getpid() != pid:
        # The function has forked and this is the child. It has a copy of everything that is open here, and
        # nothing waits for its result.
        os._exit(_status_of(ended))
    return ended


def _status_of(ended: Any | Raised) -> int:
    """The exit status of a process whose main function ended like this."""
    match ended:
        case Raised(error=SystemExit(code=int(code))):
            return code & 0xFF
        case Raised(error=SystemExit(code=None)):
            return 0
        case Raised():
            return 1
        case _:
            return 0


async def _in_task(function: Callable[[], Awaitable[Any]]) -> Any | Raised:
    caller = asyncio.current_task()
    # The task's name shows the function to monitors of the loop.
    task = asyncio.get_running_loop().create_task(
        _caught(function), name=caller.get_name() if caller else None
    )
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task}, timeout=CLEAN_UP_S)
        raise
    if task.cancelled():
        return Raised(asyncio.CancelledError("the function cancelled its own task"))
    return task.result()


async def _caught(function: Callable[[], Awaitable[Any]]) -> Any | Raised:
    try:
        return await function()
    except BaseException as error:
        return raised(error)


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


def close_unbegun(coroutine: CoroutineType[Any, Any, Any]) -> None:
    """Close a coroutine that will never begin, so that Python does not warn of it."""
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        coroutine.close()


def close_all_unbegun(unwound: BaseException) -> None:
    """Close the coroutines that a handler had made and not passed on yet when it raised this error.

    That is no mistake: if it was suspended, its replay makes them again. But Python would warn of them.
    """
    try:
        trace = unwound.__traceback__
    except Exception:  # a user's class may forbid it
        return
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_globals.get("__name__", "").startswith("awakeables."):
            continue  # some have the error: to look at their variables would make a cycle
        for value in frame.f_locals.values():
            # `type`, since an object may fake its `__class__`.
            items = value.values() if type(value) is dict else value
            many = type(value) in (list, tuple, dict)
            for each in islice(items, MOST_LOOKED_AT) if many else (value,):
                if type(each) is CoroutineType:
                    close_unbegun(each)


def _ignore(_unraisable: object) -> None:
    """Ignore what is raised while a coroutine is freed."""
