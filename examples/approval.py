"""A person approves an expense: reminded each day, escalated after three, and nobody has to remember.

The person answers with one HTTP request, `POST /awakeables/{id}/resolve`; the ID is in the mail.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel

from awakeables import App, Context, Service, TerminalError, TimedOut

DAY = timedelta(days=1)

expenses = Service("expenses")


class Expense(BaseModel):
    id: str
    cents: int
    manager: str
    director: str


class Decision(BaseModel):
    verdict: Literal["approve", "refuse"]
    by: str


@expenses.handler()
async def approve(ctx: Context, expense: Expense) -> str:
    decision = await ctx.call(decide, expense)
    if decision.verdict == "refuse":
        raise TerminalError(f"{decision.by} has refused", code=409, details={"expense": expense.id})
    ctx.send(audit, f"{expense.id} approved by {decision.by}")
    return await ctx.run("pay", pay, expense.id, str(ctx.uuid()))


@expenses.handler(private=True)
async def decide(ctx: Context, expense: Expense) -> Decision:
    """Ask the manager; after three days the director as well, and take whoever answers first."""
    manager = ctx.awakeable(Decision)
    await ctx.run("ask the manager", send_mail, expense.manager, expense.id, manager.id)
    for _ in range(3):
        try:
            async with ctx.timeout(DAY):
                return await manager
        except TimedOut:
            await ctx.run("remind", send_mail, expense.manager, expense.id, manager.id)
    director = ctx.awakeable(Decision, timeout=7 * DAY)
    await ctx.run("ask the director", send_mail, expense.director, expense.id, director.id)
    return await ctx.race(manager, director, cancel_losers=True)


@expenses.handler(private=True)
async def audit(ctx: Context, text: str) -> None:
    ctx.publish("audit", text)


def send_mail(to: str, expense: str, awakeable_id: str) -> None: ...


def pay(expense: str, idempotency_key: str) -> str:
    return f"paid {expense}"


app = App("expenses", services=[expenses])
