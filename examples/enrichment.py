"""A stream of orders is enriched with a risk that someone else computes, and goes on to another topic.

Each record of `orders` begins one invocation, which asks an assessor, waits for at most ten minutes and
publishes the order with its risk to `assessed-orders`. The key of the records is the customer: one
customer's orders leave in the order in which they came, those of different customers at the same time.
An order that the assessor rejects becomes a dead letter, and can be sent again.

    awakeables dev enrichment:app --worker enrichment:assessor --task-topic assessed-orders
    echo 'ann:{"id": "o-1", "cents": 90000}' | kcat -P -b 127.0.0.1:PORT -t orders -K :   # the log has PORT
    kcat -C -b 127.0.0.1:PORT -t assessed-orders -o beginning -e
    awakeables subscriptions list
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from awakeables import (
    App,
    ObjectContext,
    Reject,
    Subscription,
    Task,
    TimedOut,
    VirtualObject,
    Worker,
)

ORDERS = "orders"
ASSESSED = "assessed-orders"
TASKS = "assessments"
PATIENCE = timedelta(minutes=10)
"""How long an order may hold up the later ones of its customer."""

customers = VirtualObject("customers")  # the key is that of the record


class Order(BaseModel):
    id: str = Field(min_length=1, max_length=100)
    cents: int = Field(gt=0)


class Assessment(BaseModel):
    risk: float = Field(ge=0, le=1)


class AssessedOrder(BaseModel):
    """An order with what is known about it; without a risk if nobody assessed it in time."""

    id: str
    customer: str
    cents: int
    number: int
    risk: float | None


SEEN = customers.state("seen", int, default=0)


@customers.handler(topic=Subscription(ORDERS, name="enrichment", max_open=5_000))
async def enrich(ctx: ObjectContext, order: Order) -> None:
    number = await ctx.get(SEEN) + 1  # a record begins one invocation, so each order is counted once
    ctx.set(SEEN, number)
    assessed = ctx.awakeable(Assessment, timeout=PATIENCE)
    ctx.publish(TASKS, order, awakeable=assessed, task="assess", key=ctx.key)
    try:
        risk = (await assessed).risk
    except TimedOut:
        risk = None
    enriched = AssessedOrder(id=order.id, customer=ctx.key, cents=order.cents, number=number, risk=risk)
    ctx.publish(ASSESSED, enriched, key=ctx.key, headers=source_of(ctx))


def source_of(ctx: ObjectContext) -> dict[str, str]:
    """Where the order came from, for those who look for its record."""
    record = ctx.request.record
    return {} if record is None else {"source": f"{record.topic}-{record.partition}@{record.offset}"}


app = App("enrichment", services=[customers])

assessor = Worker("assessor")


@assessor.task(TASKS, name="assess")
async def assess(task: Task[Order]) -> Assessment:
    if task.payload.cents > 1_000_000:
        raise Reject("a person must look at this order", code=422)
    return Assessment(risk=min(1.0, task.payload.cents / 100_000))
