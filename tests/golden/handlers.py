"""The handlers whose journals are recorded in v1/. What is here may be added to, never changed.

A handler that changes would no longer show that old journals are understood: add another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from msgspec import Raw
from pydantic import BaseModel

from awakeables import App, Cancelled, Context, Rejected, RetryPolicy, Service, TerminalError, TimedOut
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution

F = TypeVar("F", bound=Callable[..., Any])

service = Service("golden")
app = App("golden", services=[service])


class Order(BaseModel):
    id: str
    count: int = 1


@dataclass
class Parcel:
    id: str
    weight: float = 1.0


class Backwards:
    def dumps(self, value: str) -> bytes:
        return value[::-1].encode()

    def loads(self, content: bytes) -> str:
        return content.decode()[::-1]


@dataclass(frozen=True)
class Script:
    """How a journal comes to be: the input, and the answers to the awakeables in their order.

    The recording ends `lasts_s` after the last answer, if need be in a wait; before the answers
    the invocation is cancelled, if it says so.
    """

    input: bytes = b"null"
    answers: tuple[Outcome, ...] = ()
    cancelled: bool = False
    lasts_s: float = 10_000


SCRIPTS: dict[str, Script] = {}
failures = {"flaky": 0}


def recorded(script: Script) -> Callable[[F], F]:
    """Declare a handler, and how its journal was recorded."""

    def declare(function: F) -> F:
        SCRIPTS[function.__name__] = script
        service.handler()(function)
        return function

    return declare


@recorded(Script(b'{"id":"o-17","count":3}'))
async def returns_at_once(ctx: Context, order: Order) -> Order:
    return order


@recorded(Script(b'{"id":"o-17"}', (Resolution.of_json(b'{ "id": "p-9", "weight": 0.1000 }'),)))
async def packs(ctx: Context, order: Order) -> Parcel:
    packed = ctx.awakeable(Parcel, timeout=timedelta(days=4))
    ctx.publish("pack-requests", order, awakeable=packed, task="pack")
    return await packed


@recorded(
    Script(b'{"id":"o-17"}', (Rejection(reason="out of stock", code=409, details=Raw(b'{"sku":"x"}')),))
)
async def compensates(ctx: Context, order: Order) -> list[Any]:
    packed = ctx.awakeable(Parcel)
    ctx.publish("pack-requests", order, awakeable=packed)
    try:
        await packed
    except Rejected as error:
        refund = await ctx.run("refund", lambda: {"refunded": order.id})
        ctx.publish("notices", {"cancelled": order.id}, key=order.id)
        return [error.reason, error.code, error.details, refund]
    return []


@recorded(Script(b'{"id":"o-17"}', (Rejection(reason="out of stock", code=409, details=Raw(b"[1]")),)))
async def fails(ctx: Context, order: Order) -> Parcel:
    packed = ctx.awakeable(Parcel)
    ctx.publish("pack-requests", order, awakeable=packed, envelope="none")
    return await packed


@recorded(Script())
async def times_out(ctx: Context) -> str:
    try:
        await ctx.awakeable(timeout=timedelta(minutes=5))
    except TimedOut:
        return "timed out"
    return ""


@recorded(Script(answers=(Cancellation(reason="called off"),)))
async def is_cancelled(ctx: Context) -> str:
    try:
        await ctx.awakeable(Parcel)
    except Cancelled as error:
        return f"{error.code}"
    return ""


@recorded(Script())
async def sleeps(ctx: Context) -> list[Any]:
    before = ctx.now()
    first = ctx.uuid()
    await ctx.sleep(timedelta(hours=1))
    return [before.isoformat(), str(first), ctx.random().randint(0, 10**9), ctx.now().isoformat()]


@recorded(Script())
async def retries(ctx: Context) -> str:
    def flaky() -> str:
        failures["flaky"] += 1
        if failures["flaky"] < 3:
            raise ConnectionError("down")
        return "up"

    return await ctx.run("flaky", flaky, retry=RetryPolicy(initial_interval=timedelta(minutes=1)))


@recorded(Script())
async def gives_up(ctx: Context) -> str:
    def broken() -> str:
        raise ConnectionError("down")

    try:
        return await ctx.run("broken", broken, retry=RetryPolicy(max_attempts=2))
    except TerminalError as error:
        return error.reason


@recorded(Script())
async def settles(ctx: Context) -> list[Any]:
    mine, other = ctx.awakeable(Parcel), ctx.awakeable(Parcel)
    verdicts = [
        await ctx.resolve_awakeable(mine.id, {"id": "p-9"}),
        await ctx.resolve_awakeable(mine.id, {"id": "p-8"}),
        await ctx.reject_awakeable(other.id, "no", code=418),
    ]
    return [(await mine).id, *[verdict.kind for verdict in verdicts]]


@recorded(Script(b"\x00\xff", (Resolution.of_bytes(b"\xfe"), Resolution.of_bytes(b"olleh"))))
async def takes_bytes(ctx: Context, content: bytes) -> bytes:
    raw, custom = ctx.awakeable(bytes), ctx.awakeable(serde=Backwards())
    return content + await raw + (await custom).encode()


@recorded(Script(answers=(Resolution.of_json(b'[18446744073709551616, 1e2, "\\u00e9", null]'),)))
async def takes_anything(ctx: Context) -> Any:
    return await ctx.awakeable()


@recorded(Script(b"3", tuple(Resolution.of_json(b"%d" % n) for n in range(3))))
async def fans_out(ctx: Context, count: int) -> list[int]:
    several = [ctx.awakeable(int) for _ in range(count)]
    for number, awakeable in enumerate(several):
        ctx.publish("tasks", number, awakeable=awakeable)
    return [await awakeable for awakeable in reversed(several)]


@recorded(Script(answers=(Resolution.of_json(b"1"),)))
async def waits(ctx: Context) -> int:
    first = await ctx.awakeable(int)
    second = ctx.awakeable(int)
    ctx.publish("tasks", first, awakeable=second)
    return await second


@recorded(Script(lasts_s=60))
async def still_sleeps(ctx: Context) -> None:
    await ctx.run("act", lambda: None)
    await ctx.sleep(timedelta(days=30))


@recorded(Script(cancelled=True))
async def ends_cancelled(ctx: Context) -> Any:
    return await ctx.awakeable(timeout=timedelta(days=30))


@recorded(Script(cancelled=True))
async def undoes_when_cancelled(ctx: Context) -> list[str]:
    first = ctx.awakeable(Parcel)
    ctx.publish("tasks", 1, awakeable=first)
    try:
        await first
    except Cancelled as error:
        await ctx.run("undo", lambda: "undone")
        try:
            await first
        except Cancelled as again:
            return [error.reason, again.reason]
    return []
