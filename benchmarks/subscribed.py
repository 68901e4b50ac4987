"""What is measured: an app whose handler is called with each record of a topic."""

from __future__ import annotations

import os

from awakeables import App, Context, Service, Subscription
from benchmarks.cycle import NAME, Order, Parcel

RECORDS = f"{NAME}.records"
MAX_OPEN = int(os.environ.get("BENCH_MAX_OPEN", "10000"))  # noqa: TID251 - `awakeables serve` imports this

reading = Service("reading")


@reading.handler(topic=Subscription(RECORDS, max_open=MAX_OPEN))
async def accept(ctx: Context, order: Order) -> Parcel:
    return Parcel(tracking=order.id)


app = App(NAME, services=[reading])
