"""Executes the actions of `ctx.run`, and encodes their results for the journal (J3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, get_args, get_origin, get_type_hints

from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.texts import excerpt
from awakeables.errors import ResultMisfit, TerminalError
from awakeables.handlers.calls import Raised, call
from awakeables.handlers.execution import RunCall
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.serde import result_of


async def perform(run: RunCall, executor: Executor) -> Resolution | Rejection | Raised:
    """Execute an action: a coroutine on the loop, anything else in a thread.

    Returns:
        Its result, or the `TerminalError` that it raised, to be journaled; or another error, after which it
        may be retried.

    Raises:
        ResultMisfit: Its result can't be written as its type; a retry would only repeat the side effects.
    """
    ended = await call(run.action, executor=executor)
    match ended:
        case Raised(error=TerminalError() as error):
            return rejection_of(error)
        case Raised():
            return ended
    try:
        return result_of(run.codec, ended, by=f"run {excerpt(run.name)}")
    except ResultMisfit as misfit:
        raise ResultMisfit(
            f"{misfit}. The action was executed and is not retried; resuming the invocation executes it "
            "again, so guard its side effects with an idempotency key (ctx.uuid())"
        ) from misfit.__cause__


def result_type(action: Callable[..., Any], type_: Any) -> Any:
    """The type of an action's result: the one that is given, else its return annotation."""
    if type_ is not None:
        return type_
    target: Any = getattr(action, "func", action)  # of a functools.partial
    if isinstance(target, type):
        return target
    try:
        function = target if hasattr(target, "__annotations__") else target.__call__
        annotated = get_type_hints(function, include_extras=True).get("return", Any)
    except Exception:  # to find out what an annotation means, it is evaluated
        return Any
    # A plain function may hand on a coroutine, which is awaited.
    return get_args(annotated)[-1] if get_origin(annotated) in (Awaitable, Coroutine) else annotated


def shown(type_: Any) -> str:
    """A type's name for people."""
    if type_ is Any:
        return "what JSON can say"
    return f"{type_.__name__ if isinstance(type_, type) else type_!s:.200}"
