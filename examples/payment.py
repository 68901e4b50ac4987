"""A payment that nobody confirms in time is given up; if the bank says yes an hour later, it is refunded.

The late answer settles nothing: the customer was told no. It begins `refund`, once, whatever the bank
repeats, in the transaction that records it.

    awakeables dev payment:app --task-topic payment-requests
    curl localhost:8080/payments/pay --json '{"order": "o-17", "cents": 900}'
    awakeables resolve prom_1… '{"receipt": "r-1"}'     # now, or after a quarter of an hour
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, Field

from awakeables import App, Context, Late, RetryPolicy, Service, TerminalError, TimedOut

REQUESTS = "payment-requests"
PATIENCE = timedelta(minutes=15)

payments = Service("payments")


class Order(BaseModel):
    order: str
    cents: int = Field(gt=0)


class Receipt(BaseModel):
    receipt: str


def refund_at_the_bank(receipt: str, idempotency_key: str) -> str:
    """A call of the bank's API; the key makes a repeat harmless."""
    return f"refund-of-{receipt}"


@payments.handler(private=True)
async def refund(ctx: Context, late: Late[Receipt]) -> str:
    key = str(ctx.uuid())
    ctx.log.warning("paid_too_late", awakeable_id=late.awakeable_id, receipt=late.value.receipt)
    return await ctx.run("refund", refund_at_the_bank, late.value.receipt, key, retry=RetryPolicy())


@payments.handler()
async def pay(ctx: Context, order: Order) -> Receipt:
    paid = ctx.awakeable(Receipt, timeout=PATIENCE, on_late=refund)
    ctx.publish(REQUESTS, order, awakeable=paid)
    try:
        return await paid
    except TimedOut:
        raise TerminalError(f"order {order.order} was not paid in time", code=402) from None


app = App("payment", services=[payments])
