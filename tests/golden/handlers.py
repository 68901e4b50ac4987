"""The handlers whose journals are recorded in v1/. What is here may be added to, never changed.

A handler that changes would no longer show that old journals are understood: add another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from msgspec import Raw
from pydantic import BaseModel

from awakeables import (
    App,
    Cancelled,
    Context,
    ObjectContext,
    Rejected,
    RetryPolicy,
    Service,
    TerminalError,
    TimedOut,
    VirtualObject,
    Workflow,
)
from awakeables.core.outcomes import Cancellation, Outcome, Rejection, Resolution

F = TypeVar("F", bound=Callable[..., Any])

service = Service("golden")
thing = VirtualObject("golden-thing")
flow = Workflow("golden-flow")
app = App("golden", services=[service, thing])


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
    the invocation is cancelled, if it says so. With a key it is an exclusive handler of an object, or the run
    of a workflow. `scheduled_ms` is the tick of a schedule that it is begun for.
    """

    input: bytes = b"null"
    answers: tuple[Outcome, ...] = ()
    cancelled: bool = False
    key: str | None = None
    lasts_s: float = 10_000
    of: str = "golden"
    scheduled_ms: int | None = None


SCRIPTS: dict[str, Script] = {}
failures = {"flaky": 0}


def recorded(script: Script) -> Callable[[F], F]:
    """Declare a handler, and how its journal was recorded."""

    def declare(function: F) -> F:
        SCRIPTS[function.__name__] = script
        (service if script.key is None else thing).handler()(function)
        return function

    return declare


@recorded(Script(scheduled_ms=1_793_509_200_000))
async def is_scheduled(ctx: Context) -> list[Any]:
    tick = ctx.request.scheduled_at
    await ctx.sleep(timedelta(seconds=1))
    return [None if each is None else each.isoformat() for each in (tick, ctx.request.scheduled_at)]


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


@recorded(Script(answers=(Resolution.of_json(b"41"),)))
async def looks_at_progress(ctx: Context) -> list[Any]:
    job = ctx.awakeable(int, heartbeat_timeout=timedelta(minutes=5), revocable=True)
    ctx.publish("gpu-jobs", None, awakeable=job)
    return [await job.progress(), await job, await job.progress(int)]


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


async def doubled(ctx: Context, n: int) -> int:
    if n < 0:
        raise TerminalError("no negative numbers", code=422, details={"n": n})
    return 2 * n


callees = Service("callees")
callees.handler()(doubled)
app.services["callees"] = callees


@recorded(Script(b"4"))
async def calls_others(ctx: Context, n: int) -> list[Any]:
    sent = ctx.send(doubled, n + 1, delay=timedelta(seconds=5), idempotency_key="k")
    first, second = ctx.call(doubled, n), ctx.call(doubled, -n)
    results: list[Any] = [await first]
    try:
        await second
    except TerminalError as error:
        results.append([error.code, error.details])
    return [*results, await sent, await ctx.attach(sent.id, int)]


@recorded(Script(answers=(Resolution.of_json(b"1"),), lasts_s=40_000))
async def combines(ctx: Context) -> list[Any]:
    results: list[Any] = []
    try:
        ctx.send(doubled, "many")  # type: ignore[arg-type]
    except TerminalError as error:
        results.append(error.code)
    first, second = ctx.awakeable(int), ctx.awakeable(int)
    acting = asyncio.sleep
    try:
        async with ctx.timeout(timedelta(hours=1)):
            results.append(await ctx.race(first, second))
            await ctx.gather(second, ctx.sleep(timedelta(days=1)))
    except TimedOut as error:
        results.append(error.kind)
    lost = ctx.run("slow", acting, 5.0)
    await ctx.race(lost, ctx.sleep(timedelta(seconds=1)))
    nap = ctx.sleep(timedelta(days=1))
    second.cancel()
    nap.cancel()
    await ctx.sleep(timedelta(seconds=30))
    await lost
    for part in (second, nap):
        try:
            await part
        except Cancelled as error:
            results.append(error.own)
    return results


COUNT = thing.state("count", int, default=0)
SEEN = thing.state("seen", bool)
PICTURE = thing.state("picture", bytes)


@recorded(Script(b'"x"', (Resolution.of_json(b"41"),), key="c-7"))
async def keeps_state(ctx: ObjectContext, name: str) -> list[Any]:
    before = await ctx.get(COUNT)
    ctx.set(COUNT, before + await ctx.awakeable(int))
    ctx.set(SEEN[name], True)
    ctx.set(PICTURE, b"\x00" * 50)
    await ctx.sleep(timedelta(seconds=1))
    picture = await ctx.get(PICTURE)
    found = [await ctx.get(COUNT), await ctx.get(SEEN[name]), len(picture or b"")]
    ctx.clear(PICTURE)
    names = list(await ctx.keys())
    ctx.clear()
    ctx.set(COUNT, 1)
    return [before, found, names, await ctx.get(SEEN[name]), list(await ctx.keys())]


@recorded(Script(answers=(Resolution.of_json(b"1"),)))
async def asks_for_versions(ctx: Context) -> list[int]:
    first = ctx.version("first", 2)
    ctx.publish("notices", first)
    number = await ctx.awakeable(int)
    return [first, number, ctx.version("second", 1), ctx.version("first", 3)]


async def rewritten_since(ctx: Context, n: int) -> int:
    """Version 2 of the handler of `generations/`: it was two handlers before."""
    return n + await ctx.awakeable(int)


async def changed_since(ctx: Context, n: int) -> list[Any]:
    """Version 1, today: the third generation of its code."""
    route = ctx.version("route", 3)
    if route >= 3:
        ctx.publish("routes", "third")
    elif route == 2:
        ctx.publish("routes", "second")
    first = await ctx.awakeable(int)
    if route >= 2:
        ctx.now()
    return [n, route, first, await ctx.awakeable(int)]


@recorded(Script(answers=(Resolution.of_json(b"1"),)))
async def cancels_what_is_tried(ctx: Context) -> list[Any]:
    async def tries() -> None:
        await ctx.run("unreachable", unreachable, retry=RetryPolicy(initial_interval=timedelta(hours=1)))

    async def asks() -> int:
        return await ctx.awakeable(int)

    trying = ctx.race(tries())
    first = await ctx.race(asks(), trying, cancel_losers=True)
    await ctx.sleep(timedelta(seconds=1))
    error = trying.exception()
    return [first, str(error)]


async def unreachable() -> None:
    raise ConnectionError("nobody is there")


generations = Service("golden-generations")
generations.handler("changes", version=1)(changed_since)
generations.handler("changes", version=2)(rewritten_since)
app.services[generations.name] = generations


VERIFIED = flow.promise("verified", bool)
NOTE = flow.promise("note", str)


async def runs_once(ctx: ObjectContext, name: str) -> list[Any]:
    before = await ctx.promise(NOTE).peek()
    verdict = await ctx.promise(NOTE).resolve(name)
    number = await ctx.awakeable(int)
    again = await ctx.promise(VERIFIED).reject("no", code=409)
    try:
        await ctx.promise(VERIFIED)
    except Rejected as error:
        return [before, verdict.kind, number, again.kind, error.code, await ctx.promise(NOTE)]
    return []


flow.run()(runs_once)
SCRIPTS["run"] = Script(b'"x"', (Resolution.of_json(b"41"),), key="c-7", of=flow.name)
app.services[flow.name] = flow
