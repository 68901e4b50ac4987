"""Handler shapes: what people write. Each returns what it saw, so that it can be held to the rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from awakeables.errors import Cancelled, Rejected, TerminalError, TimedOut
from awakeables.handlers.context import Context
from awakeables.handlers.execution import Awakeable
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App, Service

TASKS = "tasks"
service = Service("corpus")


class Answer(BaseModel):
    n: int


class Ledger:
    """Every execution of every side effect, noted from the outside."""

    def __init__(self) -> None:
        self.executed: list[tuple[str, str]] = []
        self.flaky: dict[tuple[str, str], int] = {}


ledger = Ledger()


async def seen(awakeable: Awakeable[Any]) -> list[Any]:
    """The awakeable's ID and what it ended with."""
    try:
        value = await awakeable
    except Rejected as error:
        return [awakeable.id, "rejected", error.reason, error.code]
    except TimedOut:
        return [awakeable.id, "timed-out"]
    return [awakeable.id, "resolved", value.n if isinstance(value, Answer) else value]


def effect(ctx: Context, name: str) -> Any:
    """A side effect that leaves a trace, and fails now and then."""
    invocation_id = ctx.request.invocation_id

    async def execute() -> str:
        ledger.executed.append((invocation_id, name))
        times = ledger.flaky.get((invocation_id, name), 0)
        ledger.flaky[invocation_id, name] = times + 1
        if times == 0 and name.startswith("flaky"):
            raise ConnectionError("the first call fails")
        return name

    return execute


@service.handler()
async def no_await(ctx: Context, n: int) -> list[Any]:
    return []


@service.handler()
async def one(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a)]


@service.handler()
async def untyped_with_timeout(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(timeout=timedelta(seconds=20 + n % 30))
    ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a)]


@service.handler()
async def chain(ctx: Context, n: int) -> list[Any]:
    results = []
    for step in range(3):
        a = ctx.awakeable(Answer, timeout=timedelta(seconds=90))
        ctx.publish(TASKS, {"step": step}, awakeable=a)
        results.append(await seen(a))
    return results


@service.handler()
async def fan_out(ctx: Context, n: int) -> list[Any]:
    several = [ctx.awakeable(Answer) for _ in range(4)]
    for a in several:
        ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a) for a in reversed(several)]


@service.handler()
async def awaited_twice(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    first = await seen(a)
    await ctx.sleep(timedelta(seconds=3))
    assert await seen(a) == first
    return [first]


@service.handler()
async def effects_around(ctx: Context, n: int) -> list[Any]:
    await ctx.run("before", effect(ctx, "before"))
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    await ctx.run("after", effect(ctx, "after"))
    return [result]


@service.handler()
async def retried_effect(ctx: Context, n: int) -> list[Any]:
    policy = RetryPolicy(initial_interval=timedelta(seconds=2), max_attempts=5)
    await ctx.run("flaky-run", effect(ctx, "flaky-run"), retry=policy)
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a)]


@service.handler()
async def failing_attempt(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    await ctx.run("flaky-attempt", effect(ctx, "flaky-attempt"))
    return [result]


@service.handler()
async def sleeper(ctx: Context, n: int) -> list[Any]:
    began = ctx.now()
    await ctx.sleep(timedelta(seconds=30))
    assert ctx.now() - began >= timedelta(seconds=30)
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, str(ctx.uuid()), awakeable=a)
    return [await seen(a)]


@service.handler()
async def answered_before_the_await(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    await ctx.sleep(timedelta(seconds=15))
    return [await seen(a)]


@service.handler()
async def resolves_itself(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    verdict = await ctx.resolve_awakeable(a.id, {"n": n})
    assert verdict.kind == "accepted", verdict
    again = await ctx.reject_awakeable(a.id, "too late")
    assert again.kind == "conflict", again
    return [await seen(a)]


@service.handler()
async def never_waits_for_it(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    await ctx.sleep(timedelta(seconds=n % 4))
    return []


@service.handler()
async def fails_in_the_end(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    raise TerminalError("as planned", code=418, details=[result])


@service.handler()
async def compensates(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer, timeout=timedelta(seconds=25))
    ctx.publish(TASKS, n, awakeable=a, envelope="none")
    result = await seen(a)
    if result[1] != "resolved":
        await ctx.run("compensate", effect(ctx, "compensate"))
    ctx.publish("notices", {"result": result[1]})
    return [result]


@service.handler()
async def undone_when_cancelled(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    try:
        await ctx.sleep(timedelta(seconds=5 + n % 10))
        return [await seen(a)]
    except Cancelled:
        undo = ctx.awakeable(Answer)
        ctx.publish(TASKS, "undo", awakeable=undo)
        await ctx.run("undo", effect(ctx, "undo"))
        await ctx.sleep(timedelta(seconds=2))
        return [await seen(undo)]


app = App("sim", services=[service])
