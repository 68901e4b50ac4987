"""Executes the actions of `ctx.run`, and encodes their results for the journal (J3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from awakeables.core.journal import RunAttemptFailed
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.texts import described, excerpt
from awakeables.errors import FunctionLimitExceeded, ResultMisfit, TerminalError
from awakeables.handlers.calls import Raised, call
from awakeables.handlers.execution import RunCall
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.serde import result_of
from awakeables.ports import Clock


class ActionLimit(NamedTuple):
    """How long actions may take, where not for as long as they like.

    Attributes:
        until: When they must have ended, by the loop's clock.
        limit_s: The same for people.
    """

    until: float
    limit_s: float


async def execute(
    run: RunCall,
    index: int,
    last_failure: RunAttemptFailed | None,
    *,
    clock: Clock,
    executor: Executor,
    failed: Callable[[BaseException, int, int | None], None],
    raised: Callable[[BaseException], object],
    limit: ActionLimit | None = None,
) -> Resolution | Rejection | RunAttemptFailed | Raised:
    """Execute an action: a coroutine on the loop, anything else in a thread.

    Args:
        run: The call of `ctx.run`.
        index: The index of its operation.
        last_failure: Its last failed attempt, if it has failed before.
        clock: Decides when it is retried.
        executor: Runs blocking actions.
        failed: Called if it fails and has a retry policy: the error, the number of failures, and the
            milliseconds to the next attempt (None: there is none).
        raised: Called with whatever it raises.
        limit: It fails then, whatever it is doing; a thread can't be stopped, and goes on for nothing.

    Returns:
        What to journal: its result, its last failure, or a failure after which it is retried. If it has no
        retry policy and did not raise a `TerminalError`: what it raised.

    Raises:
        ResultMisfit: Its result can't be encoded as its type; a retry would only repeat the side effects.
        FunctionLimitExceeded: It took too long, and has no retry policy.
    """
    began_ms = last_failure.began_ms if last_failure else clock.now_ms()
    calling = call(run.action, *run.args, executor=executor)
    ended = await (calling if limit is None else _within(limit, calling, run.name))
    if not isinstance(ended, Raised):
        try:
            return result_of(run.codec, ended, by=f"run {excerpt(run.name)}")
        except ResultMisfit as misfit:
            raise ResultMisfit(
                f"{misfit}. The action was executed and is not retried; resuming the invocation executes it "
                "again, so guard its side effects with an idempotency key (ctx.uuid())"
            ) from misfit.__cause__
    error = ended.error
    raised(error)
    if isinstance(error, TerminalError):
        return rejection_of(error)
    if run.retry is None:
        if isinstance(error, FunctionLimitExceeded):
            raise error
        return ended
    attempt = (last_failure.attempt if last_failure else 0) + 1
    pause_ms = run.retry.pause_ms(attempt)
    retry_at_ms = clock.now_ms() + (pause_ms or 0)
    if run.retry.is_over(began_ms, retry_at_ms):
        pause_ms = None
    failed(error, attempt, pause_ms)
    if pause_ms is None:
        return Rejection(reason=f"run {run.name!r} failed {attempt} times, last with {described(error)}")
    return RunAttemptFailed(
        of=index, attempt=attempt, began_ms=began_ms, error=described(error), retry_at_ms=retry_at_ms
    )


async def _within(limit: ActionLimit, calling: Awaitable[Any | Raised], name: str) -> Any | Raised:
    try:
        async with asyncio.timeout_at(limit.until):
            return await calling
    except TimeoutError:
        return Raised(
            FunctionLimitExceeded(
                f"run {excerpt(name)} took longer than the function's limit, {limit.limit_s:g} s: use an "
                "awakeable for it, or raise the limit; it may have been done, so look before you resume"
            )
        )


def result_type(action: Callable[..., Any], type_: Any) -> Any:
    """The type of an action's result: `type_` if it is given, otherwise the return annotation."""
    if type_ is not None:
        return type_
    target: Any = getattr(action, "func", action)  # of a functools.partial
    if isinstance(target, type):
        return target
    try:
        function = target if hasattr(target, "__annotations__") else target.__call__
        annotated = get_type_hints(function, include_extras=True).get("return", Any)
    except Exception:  # an annotation is evaluated, and may fail
        return Any
    # A plain function may return a coroutine, which is awaited.
    return get_args(annotated)[-1] if get_origin(annotated) in (Awaitable, Coroutine) else annotated


def shown(type_: Any) -> str:
    """A type's name, for messages."""
    if type_ is Any:
        return "any JSON"
    return f"{type_.__name__ if isinstance(type_, type) else type_!s:.200}"
