"""An order that is packed by a worker: the example of the README."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from awakeables import App, Context, Reject, Rejected, Service, Task, TimedOut, Worker


class Order(BaseModel):
    id: str
    item: str = "book"


class Parcel(BaseModel):
    tracking: str


class Receipt(BaseModel):
    order: str
    parcel: Parcel


orders = Service("orders")


@orders.handler()
async def fulfil(ctx: Context, order: Order) -> Receipt:
    packed = ctx.awakeable(Parcel, timeout=timedelta(hours=4))  # packed.id; awaitable
    ctx.publish("pack-requests", order, awakeable=packed)  # a task that carries the ID
    try:
        parcel = await packed  # minutes or months; costs nothing; survives kill -9
    except (Rejected, TimedOut):  # the worker rejected it, or time ran out
        await ctx.run("refund", refund, order, ctx.uuid())  # not repeated once recorded
        raise
    return Receipt(order=order.id, parcel=parcel)


def refund(order: Order, idempotency_key: UUID) -> str:
    return f"refunded {order.id} ({idempotency_key})"


app = App("shop", services=[orders])

packer = Worker("packer")


@packer.task("pack-requests")
async def pack(task: Task[Order]) -> Parcel:  # returning resolves
    if task.payload.item == "unicorn":
        raise Reject("out of stock", code=409)  # rejects
    return Parcel(tracking=f"parcel-of-{task.payload.id}")
