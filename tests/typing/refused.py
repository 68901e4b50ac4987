"""What the type checker must refuse: each line below has the error that it must give.

`warn_unused_ignores` is on, so a line that is no error any more fails the check.
"""

from __future__ import annotations

from datetime import timedelta

from awakeables import (
    Context,
    KafkaRecord,
    ObjectContext,
    Schedule,
    Service,
    SharedContext,
    Subscription,
    VirtualObject,
    Workflow,
)
from awakeables.testing import Harness

carts = VirtualObject("carts")
service = Service("orders")
COUNT = carts.state("count", int, default=0)
NAME = carts.state("name", str)


async def pack(ctx: Context, order: str) -> int:
    return 1


async def no_handler(order: str) -> None: ...


def takes_two(order: str, count: int) -> None: ...


@carts.handler()
async def add(ctx: ObjectContext, item: str) -> int:
    ctx.set(COUNT, "x")  # type: ignore[misc]
    ctx.set(NAME, 1)  # type: ignore[misc]
    ctx.clear("count")  # type: ignore[arg-type]
    COUNT[1]  # type: ignore[index]
    number: str = await ctx.get(COUNT)  # type: ignore[arg-type]
    return len(number)


@carts.shared()
async def size(ctx: SharedContext) -> int:
    ctx.set(COUNT, 1)  # type: ignore[attr-defined]
    return await ctx.get(COUNT)


@carts.shared()  # type: ignore[arg-type]
async def no_writes(ctx: ObjectContext) -> None: ...


async def branch(n: int) -> str:
    return str(n)


@service.handler()  # type: ignore[arg-type]
async def no_object(ctx: SharedContext) -> None: ...


signups = Workflow("signups")
VERIFIED = signups.promise("verified", bool)


@signups.handler()
async def clicks(ctx: SharedContext) -> None:
    verified = ctx.promise(VERIFIED)
    number: str = await verified  # type: ignore[assignment]
    await verified.resolve("yes")  # type: ignore[arg-type]
    ctx.promise("verified")  # type: ignore[arg-type]
    ctx.promise(COUNT)  # type: ignore[arg-type]
    print(number)


@signups.handler()  # type: ignore[arg-type]
async def no_run(ctx: ObjectContext) -> None: ...


async def no_promise(ctx: Context) -> None:
    ctx.promise(VERIFIED)  # type: ignore[attr-defined]


def counted(record: KafkaRecord) -> int:
    return record.offset


Subscription("t", key=counted)  # type: ignore[arg-type]
Subscription("t", start="first")  # type: ignore[arg-type]
Subscription("t", on_failure="drop")  # type: ignore[arg-type]
Subscription("t", "orders")  # type: ignore[call-arg]
Subscription(topic=3)  # type: ignore[arg-type]


Schedule(5)  # type: ignore[arg-type]
Schedule("0 6 * * *", "UTC")  # type: ignore[call-arg]
Schedule("0 6 * * *", overlap="wait")  # type: ignore[arg-type]
Schedule("0 6 * * *", missed="none")  # type: ignore[arg-type]
Schedule.every(60)  # type: ignore[arg-type]


@service.handler(schedule="0 6 * * *")  # type: ignore[arg-type]
async def no_schedule(ctx: Context) -> None: ...


@service.handler(topic=3)  # type: ignore[arg-type]
async def no_topic(ctx: Context, order: str) -> None: ...


@carts.handler(topic="t", key=counted)  # type: ignore[call-arg]
async def no_key(ctx: ObjectContext, order: str) -> None: ...


async def refused(ctx: Context) -> None:
    number: str = await ctx.awakeable(int)  # type: ignore[assignment]
    await ctx.run("too few", takes_two, "o-1")  # type: ignore[arg-type]
    async with ctx.saga() as saga:
        saga.undo("too few", takes_two, "o-1")  # type: ignore[arg-type]
        saga.undo("wrong", takes_two, 1, 2)  # type: ignore[arg-type]
        saga.undo(takes_two, "o-1", 2)  # type: ignore[arg-type]
    with ctx.shield():  # type: ignore[attr-defined]
        pass
    await ctx.run("wrong", takes_two, 1, 2)  # type: ignore[arg-type,call-arg]
    ctx.publish("pack", number, awakeable="prom_1…")  # type: ignore[arg-type]
    ctx.awakeable(int, timeout=5)  # type: ignore[call-overload]
    ctx.awakeable(int, heartbeat_timeout=5)  # type: ignore[call-overload]
    ctx.awakeable(int, on_late="drop")  # type: ignore[call-overload]
    ctx.awakeable(int, on_late=pack)  # type: ignore[arg-type]
    ctx.sleep(timedelta(1), 2)  # type: ignore[call-arg]
    ctx.call(pack)  # type: ignore[arg-type]
    ctx.call(pack, 1)  # type: ignore[arg-type]
    ctx.call(no_handler, "o-1")  # type: ignore[arg-type]
    ctx.call("orders/pack", "o-1")  # type: ignore[call-overload]
    ctx.send(pack, "o-1", delay=5)  # type: ignore[call-overload]
    number = await ctx.call(pack, "o-1")  # type: ignore[arg-type]
    ctx.call(add, "x")  # type: ignore[arg-type]
    ctx.call(add, 1, key="c-7")  # type: ignore[arg-type]
    ctx.call(add, "x", key=7)  # type: ignore[call-overload]
    ctx.send(size)  # type: ignore[arg-type]
    ctx.get(COUNT)  # type: ignore[attr-defined]
    ctx.gather(1)  # type: ignore[call-overload]
    ctx.select(branch(1))  # type: ignore[type-var]
    ctx.gather(branch)  # type: ignore[call-overload]
    ctx.quorum(1, [1])  # type: ignore[arg-type]
    async with ctx.timeout(5):  # type: ignore[arg-type]
        pass
    with ctx.timeout(timedelta(1)):  # type: ignore[attr-defined]
        pass


def tested(harness: Harness) -> None:
    harness.call(pack, 1)  # type: ignore[arg-type]
    harness.call(add, "x")  # type: ignore[arg-type]
    harness.send(pack)  # type: ignore[arg-type]
    harness.send("orders/pack", "o-1")  # type: ignore[call-overload]
    harness.send(pack, "o-1", delay=5)  # type: ignore[call-overload]
    text: str = harness.call(pack, "o-1")  # type: ignore[assignment]
    harness.set_state(COUNT, "c-7", "many")  # type: ignore[misc]
    harness.advance(text)  # type: ignore[arg-type]
    harness.next_task("packing").payload_as("Parcel")  # type: ignore[arg-type]


@service.handler("versions", version="2")  # type: ignore[arg-type]
async def asks_for_versions(ctx: Context) -> None:
    ctx.version("discount", "2")  # type: ignore[arg-type]
    ctx.version("discount")  # type: ignore[call-arg]
    await ctx.version("discount", 2)  # type: ignore[misc]
