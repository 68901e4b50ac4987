"""The story's app: orders that wait for a worker, for a person, and for nobody."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from awakeables import App, Context, Rejected, Service, Task, TimedOut, Worker


class Order(BaseModel):
    id: str
    item: str


class Parcel(BaseModel):
    tracking: str


class Receipt(BaseModel):
    order: str
    parcel: Parcel
    booking: str


orders = Service("orders")


@orders.handler()
async def fulfil(ctx: Context, order: Order) -> Receipt:
    packed = ctx.awakeable(Parcel, timeout=timedelta(hours=4))
    ctx.publish("pack-requests", order, awakeable=packed)
    parcel = await packed  # here its process is killed
    booking = await ctx.run("book", book, order, ctx.uuid())
    return Receipt(order=order.id, parcel=parcel, booking=booking)


@orders.handler()
async def approve(ctx: Context, order: Order) -> dict[str, Any]:
    approval = ctx.awakeable(timeout=timedelta(days=30))
    ctx.publish("approval-requests", order, awakeable=approval)  # for a person, who answers by curl
    try:
        return {"order": order.id, "approved": await approval}
    except Rejected as no:
        return {"order": order.id, "refused": no.reason}


@orders.handler()
async def quote(ctx: Context, order: Order) -> dict[str, Any]:
    price = ctx.awakeable(float, timeout=timedelta(seconds=3))
    ctx.publish("quote-requests", order, awakeable=price)  # nobody reads these
    try:
        return {"order": order.id, "price": await price}
    except TimedOut:
        return {"order": order.id, "price": "on request"}


def book(order: Order, idempotency_key: UUID) -> str:
    """The side effect: a line in a ledger, which shows how often it happened."""
    with Path(os.getenv("DEMO_LEDGER", "ledger.txt")).open("a") as ledger:
        ledger.write(f"{order.id} {idempotency_key}\n")
    return str(idempotency_key)


app = App("demo", services=[orders])

packer = Worker("packer")


@packer.task("pack-requests")
async def pack(task: Task[Order]) -> Parcel:
    return Parcel(tracking=f"parcel-of-{task.payload.id}")
