"""A function: handlers that run here when there is something to do, and wait as rows of a service elsewhere.

An insurance contract is offered by mail, and the customer has two weeks to answer. With the keys that
docs/functions.md makes, in three terminals:

    QUOTES_KEY=public.pem uvicorn --port 8090 function:function
    AWAKEABLES_FUNCTION_KEY=private.pem awakeables dev service:app
    curl localhost:8080/quotes/offer/send --json '{"id": "q-1", "customer": "Ada", "value": 20000}'

Then stop the first one: the offer waits. `awakeables resolve prom_… true` answers it, and it goes on when the
function is started again.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, Field

from awakeables import App, Context, Service, TimedOut
from awakeables.remote import asgi

quotes = Service("quotes")


class Quote(BaseModel):
    id: str = Field(min_length=1, max_length=100)
    customer: str
    value: int = Field(gt=0)


class Contract(BaseModel):
    quote: str
    premium: int
    state: str


@quotes.handler()
async def offer(ctx: Context, quote: Quote) -> Contract:
    """Offer a contract, and wait for the customer's answer."""
    premium = await ctx.run("rate", rate, quote.value)
    accepted = ctx.awakeable(bool, timeout=timedelta(days=14))
    await ctx.run("send the offer", send_offer, quote.customer, premium, accepted.id)
    try:
        state = "signed" if await accepted else "declined"
    except TimedOut:
        state = "expired"
    return Contract(quote=quote.id, premium=premium, state=state)


def rate(value: int) -> int:
    """Stands for a model that takes a moment, and needs what only this function has."""
    return value // 100 + 5


def send_offer(customer: str, premium: int, answer_to: str) -> None:
    """Stands for a mail with two links, which resolve the awakeable with true or false."""


function = asgi(App("quotes", services=[quotes]), keys=[Path(os.environ["QUOTES_KEY"]).read_text()])
