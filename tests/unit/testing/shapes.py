"""Handlers that behave badly or oddly: the kit must show what the service does with them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from awakeables import App, Context, RetryPolicy, Service, TerminalError, TimedOut
from awakeables.core.outcomes import Outcome, Resolution

F = TypeVar("F", bound=Callable[..., Any])

service = Service("shapes")
app = App("shapes", services=[service])


@dataclass(frozen=True)
class Script:
    """An input as it comes over HTTP, and the answers to the awakeables in their order."""

    input: bytes = b""
    answers: tuple[Outcome, ...] = ()


SCRIPTS: dict[str, Script] = {}


def shape(*scripts: Script) -> Callable[[F], F]:
    """Declare a handler; it is run once for each script."""

    def declare(function: F) -> F:
        for number, script in enumerate(scripts or (Script(),)):
            SCRIPTS[f"{function.__name__}:{number}"] = script
        service.handler()(function)
        return function

    return declare


class Order(BaseModel):
    id: str = Field(max_length=4)
    at: datetime | None = None


variable: ContextVar[str] = ContextVar("variable", default="unset")


def resolution(text: bytes) -> Resolution:
    return Resolution.of_json(text)


@shape(
    Script(b'{"id":"o-1"}'),
    Script(b'{"id":"o-12345"}'),
    Script(b"{}"),
    Script(b'{"id":"o-1","at":"2026-01-02T03:04:05Z"}'),
    Script(),
)
async def typed(ctx: Context, order: Order) -> Order:
    return order


@shape(Script(), Script(b"null"), Script(b"1"))
async def takes_nothing(ctx: Context) -> str:
    return "nothing"


@shape(Script(b"\xff"), Script())
async def takes_bytes(ctx: Context, content: bytes) -> bytes:
    return content + b"!"


@shape()
async def raises(ctx: Context) -> None:
    raise ValueError("no such order")


@shape()
async def action_raises(ctx: Context) -> None:
    def act() -> None:
        raise ConnectionError("down")

    await ctx.run("act", act)


@shape()
async def action_is_given_up(ctx: Context) -> None:
    def act() -> None:
        raise ConnectionError("down")

    await ctx.run("act", act, retry=RetryPolicy(initial_interval=timedelta(hours=1), max_attempts=3))


@shape()
async def action_is_terminal(ctx: Context) -> str:
    def act() -> None:
        raise TerminalError("no", code=409, details={"sku": "x"})

    await ctx.run("act", act)
    return "never"


@shape()
async def sleeps_for_a_number(ctx: Context) -> None:
    await ctx.sleep(5)  # type: ignore[arg-type]


@shape()
async def context_in_an_action(ctx: Context) -> str:
    return await ctx.run("act", lambda: str(ctx.uuid()))


@shape()
async def publishes_too_much(ctx: Context) -> None:
    ctx.publish("tasks", "x" * 2_000_000)


@shape()
async def publishes_with_headers(ctx: Context) -> None:
    ctx.publish("tasks", {"n": 2**64}, key="k", headers={"a": "b", "c": b"\x00"})
    ctx.publish("tasks", b"\xff", envelope="none")


@shape()
async def returns_nan(ctx: Context) -> float:
    return float("nan")


@shape()
async def returns_another_type(ctx: Context) -> int:
    return "abc"  # type: ignore[return-value]


@shape(Script(answers=(resolution(b"5"),)), Script())
async def waits_for_a_number(ctx: Context) -> int:
    number = ctx.awakeable(int, timeout=timedelta(days=400))
    ctx.publish("tasks", None, awakeable=number, task="count")
    return await number


@shape()
async def catches_the_time_out(ctx: Context) -> str:
    first = ctx.awakeable(timeout=timedelta(hours=1))
    second = ctx.awakeable(timeout=timedelta(hours=2))
    try:
        await second
    except TimedOut:
        try:
            await first
        except TimedOut as error:
            return error.reason.split()[-1]
    return "never"


@shape()
async def plain_action_has_no_loop(ctx: Context) -> list[Any]:
    def act() -> list[Any]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return ["no loop", threading.current_thread() is threading.main_thread()]
        return ["a loop"]

    return await ctx.run("act", act)


@shape()
async def variable_in_an_action(ctx: Context) -> str:
    variable.set("set")
    return await ctx.run("act", variable.get)


@shape()
async def swallows_its_suspension(ctx: Context) -> str:
    try:
        await ctx.sleep(timedelta(hours=1))
    except BaseException:
        return "swallowed"
    return "done"


@shape()
async def swallows_it_for_ever(ctx: Context) -> str:
    while True:
        with contextlib.suppress(BaseException):
            await ctx.sleep(timedelta(hours=1))


@shape()
async def action_raises_stop_iteration(ctx: Context) -> None:
    await ctx.run("act", next, iter(()))


@shape()
async def action_cancels_itself(ctx: Context) -> None:
    async def act() -> None:
        raise asyncio.CancelledError

    await ctx.run("act", act)


@shape()
async def error_without_words(ctx: Context) -> None:
    raise Wordless


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@shape()
async def gathers(ctx: Context) -> Any:
    return await asyncio.gather(ctx.sleep(timedelta(hours=1)), ctx.sleep(timedelta(hours=2)))


@shape()
async def never_awaits_its_run(ctx: Context) -> str:
    ctx.run("act", lambda: 1)
    return "done"


@shape()
async def drifts(ctx: Context) -> None:
    """What a replay finds different is a mismatch, with the same words."""
    drift.append(1)
    if len(drift) % 2:
        await ctx.sleep(timedelta(hours=1))
    else:
        await ctx.run("act", lambda: None)


drift: list[int] = []
