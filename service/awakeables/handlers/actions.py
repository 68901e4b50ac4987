"""`ctx.run`'s actions: executed once, their result in the form in which it is journaled (J3)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, get_type_hints

from awakeables.core.outcomes import Rejection, Resolution
from awakeables.errors import TerminalError
from awakeables.handlers.execution import RunWait
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.serde import ANY, Codec, codec_for, explain


async def perform(run: RunWait, executor: Executor) -> Resolution | Rejection:
    """Execute an action: a coroutine on the loop, anything else in a thread.

    Returns:
        What is to be journaled: its result, or the `TerminalError` that it raised.

    Raises:
        Exception: Whatever else it raised; it may be tried again.
    """
    try:
        result = await _call(run.action, executor)
    except TerminalError as error:
        return rejection_of(error)
    try:
        return run.codec(result).resolution(result)
    except Exception as error:  # a serializer of the user's own may raise anything
        raise TypeError(f"the result of run {run.name!r} can't be serialised: {explain(error)}") from error


async def _call(action: Callable[[], Any], executor: Executor) -> Any:
    target = getattr(action, "func", action)
    called = getattr(target, "__call__", None)  # noqa: B004 - an object whose __call__ is async
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(called):
        return await action()
    result = await asyncio.get_running_loop().run_in_executor(executor, action)
    # A lambda around a coroutine function is called in the thread, which only makes the coroutine.
    return await result if inspect.isawaitable(result) else result


def result_codec(action: Callable[..., Any], type_: Any) -> Codec[Any]:
    """The codec of an action's result: the type that is given, else its return annotation."""
    if type_ is not None:
        return codec_for(type_)
    try:
        annotated = get_type_hints(action, include_extras=True).get("return", Any)
    except (TypeError, NameError, AttributeError):
        return ANY
    return codec_for(annotated)
