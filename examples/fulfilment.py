"""Orders are fulfilled from stock, and no unit is promised twice.

The stock of each product is a virtual object: what reserves and releases its units runs one after the other,
while other products go on. An order reserves its lines, waits until they are packed, and gives back what it
has reserved if something fails.

With `{"id": "o-1", "lines": [{"sku": "book", "units": 2}]}` in order.json:

    awakeables dev fulfilment:app --worker fulfilment:warehouse
    curl localhost:8080/stock/book/restock --json 5
    curl localhost:8080/orders/fulfil -H 'idempotency-key: o-1' --json @order.json
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from awakeables import (
    App,
    Context,
    ObjectContext,
    Service,
    SharedContext,
    Task,
    TerminalError,
    VirtualObject,
    Worker,
)

TASKS = "packing"
PATIENCE = timedelta(hours=4)

stock = VirtualObject("stock")  # the key is the product's SKU
orders = Service("orders")


class Line(BaseModel):
    sku: str
    units: int = Field(gt=0)


class Order(BaseModel):
    id: str = Field(min_length=1, max_length=100)
    lines: list[Line] = Field(min_length=1)


class Reservation(BaseModel):
    order: str
    units: int


class Level(BaseModel):
    """How many units are free, and which orders have reserved some."""

    free: int
    orders: list[str]


class Parcel(BaseModel):
    tracking: str


class Receipt(BaseModel):
    order: str
    tracking: str


FREE = stock.state("free", int, default=0)
RESERVED = stock.state("reserved", int, default=0)  # a family: RESERVED[order]


@stock.handler()
async def restock(ctx: ObjectContext, units: int) -> int:
    free = await ctx.get(FREE) + units
    ctx.set(FREE, free)
    return free


@stock.handler()
async def reserve(ctx: ObjectContext, wanted: Reservation) -> None:
    free, reserved = await ctx.get(FREE), await ctx.get(RESERVED[wanted.order])
    if wanted.units > free:
        raise TerminalError(f"{ctx.key} is out of stock", code=409, details={"sku": ctx.key, "free": free})
    # With no await in between: if the order is cancelled, either both are written or neither.
    ctx.set(FREE, free - wanted.units)
    ctx.set(RESERVED[wanted.order], reserved + wanted.units)


@stock.handler()
async def release(ctx: ObjectContext, order: str) -> None:
    """Give back what an order has reserved, if it has."""
    ctx.set(FREE, await ctx.get(FREE) + await ctx.get(RESERVED[order]))
    ctx.clear(RESERVED[order])


@stock.handler()
async def ship(ctx: ObjectContext, order: str) -> None:
    ctx.clear(RESERVED[order])


@stock.shared()
async def level(ctx: SharedContext) -> Level:
    family = f"{RESERVED.name}/"
    holders = [name.removeprefix(family) for name in await ctx.keys() if name.startswith(family)]
    return Level(free=await ctx.get(FREE), orders=holders)


@orders.handler()
async def fulfil(ctx: Context, order: Order) -> Receipt:
    skus = list(dict.fromkeys(line.sku for line in order.lines))
    try:
        wanted = [(line.sku, Reservation(order=order.id, units=line.units)) for line in order.lines]
        await ctx.gather(*[ctx.call(reserve, each, key=sku) for sku, each in wanted])
        packed = ctx.awakeable(Parcel, timeout=PATIENCE)
        ctx.publish(TASKS, order, awakeable=packed, task="pack")
        parcel = await packed
    except TerminalError:  # out of stock, rejected, timed out, cancelled
        # For each product it queues behind the reservation, however far that has come.
        for sku in skus:
            ctx.send(release, order.id, key=sku)
        raise
    for sku in skus:
        ctx.send(ship, order.id, key=sku)
    return Receipt(order=order.id, tracking=parcel.tracking)


app = App("fulfilment", services=[stock, orders])

warehouse = Worker("warehouse")


@warehouse.task(TASKS, name="pack")
async def pack(task: Task[Order]) -> Parcel:
    return Parcel(tracking=f"parcel-of-{task.payload.id}")
