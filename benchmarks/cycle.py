"""What is measured: one callback cycle, as an app and its worker."""

from __future__ import annotations

import os
from datetime import timedelta

from pydantic import BaseModel

from awakeables import App, Context, ObjectContext, Service, Task, VirtualObject, Worker

NAME = os.environ.get("BENCH_NAME", "bench")  # noqa: TID251 - `awakeables serve` imports this, without arguments
TASKS = f"{NAME}.tasks"
TIMEOUT = timedelta(hours=4)


class Order(BaseModel):
    id: str
    item: str = "book"


class Parcel(BaseModel):
    tracking: str


bench = Service("bench")


@bench.handler()
async def cycle(ctx: Context, order: Order) -> Parcel:
    packed = ctx.awakeable(Parcel, timeout=TIMEOUT)
    ctx.publish(TASKS, order, awakeable=packed)
    return await packed


@bench.handler()
async def echo(ctx: Context, order: Order) -> Parcel:
    return Parcel(tracking=order.id)


@bench.handler()
async def nap(ctx: Context, order: Order) -> Parcel:
    await ctx.sleep(TIMEOUT)
    return Parcel(tracking=order.id)


@bench.handler()
async def call(ctx: Context, order: Order) -> Parcel:
    return await ctx.call(echo, order)


counters = VirtualObject("counters")
COUNT = counters.state("count", int, default=0)


@counters.handler()
async def increment(ctx: ObjectContext, order: Order) -> int:
    count = await ctx.get(COUNT) + 1
    ctx.set(COUNT, count)
    return count


app = App(NAME, services=[bench, counters])

# As many slots as calls in flight: a slot is held until Kafka has the answer.
worker = Worker(f"{NAME}-worker", concurrency=512)


@worker.task(TASKS)
async def pack(task: Task[Order]) -> Parcel:
    return Parcel(tracking=f"parcel-of-{task.payload.id}")
