"""The app that is killed: simple handlers, and those of `flows`, which say what they were told.

`awakeables serve e2e.chaos.app:app`; CHAOS_NAME names the app and its topics, CHAOS_LEDGER the ledger, and
CHAOS_FUNCTION, if there is one, the URL of the function that has the handlers of `functions`.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

from pydantic import BaseModel

from awakeables import (
    App,
    Context,
    ObjectContext,
    Service,
    SharedContext,
    Subscription,
    TerminalError,
    TimedOut,
    VirtualObject,
)
from e2e.chaos import tampering
from e2e.chaos.books import codec_for
from e2e.chaos.flows import approvals, flows, parts
from e2e.chaos.functions import remote_vaults, tellers
from e2e.chaos.ledger import ledger_of_this_process
from e2e.chaos.questions import (
    NAME,
    NOBODY,
    Question,
    Told,
    asked,
    charged,
    first_one_then_the_other,
    heard,
)

EVENTS = f"{NAME}-events"
"""The topic that handlers subscribe to."""

NOTE, ADD = "events.note", "histories.add"
SUBSCRIPTIONS = (NOTE, ADD)


class Event(BaseModel):
    """A record of the topic that handlers subscribe to.

    Attributes:
        id: Its own.
        fails: The handlers are to fail at it.
    """

    id: str
    question: Question
    fails: bool = False


shapes = Service("shapes")


@shapes.handler()
async def one(ctx: Context, question: Question) -> Told:
    return Told(n=question.n, seen=[await heard(asked(ctx, question))])


@shapes.handler()
async def chain(ctx: Context, question: Question) -> Told:
    first = await heard(asked(ctx, question))
    then = first.answer.double if first.answer else question.n
    second = await heard(asked(ctx, question.model_copy(update={"n": then})))
    return Told(n=question.n, seen=[first, second])


@shapes.handler()
async def pair(ctx: Context, question: Question) -> Told:
    left, right = asked(ctx, question), asked(ctx, question)
    seen = [await heard(right), await heard(left)]
    return Told(n=question.n, seen=seen)


@shapes.handler()
async def charge(ctx: Context, question: Question) -> Told:
    seen = await heard(asked(ctx, question))
    return Told(n=question.n, seen=[seen], effects=[await charged(ctx)])


@shapes.handler()
async def prepaid(ctx: Context, question: Question) -> Told:
    effect = await charged(ctx)
    return Told(n=question.n, seen=[await heard(asked(ctx, question))], effects=[effect])


@shapes.handler()
async def nap(ctx: Context, question: Question) -> Told:
    answer = asked(ctx, question)
    await ctx.sleep(timedelta(seconds=1))
    return Told(n=question.n, seen=[await heard(answer)])


@shapes.handler()
async def unanswered(ctx: Context, question: Question) -> Told:
    answer = asked(ctx, question.model_copy(update={"to": NOBODY}), timeout=timedelta(seconds=2))
    return Told(n=question.n, seen=[await heard(answer)])


@shapes.handler()
async def race(ctx: Context, question: Question) -> Told:
    answer = asked(ctx, question.model_copy(update={"takes_s": 1.4}), timeout=timedelta(seconds=1.5))
    return Told(n=question.n, seen=[await heard(answer)])


@shapes.handler()
async def delegates(ctx: Context, question: Question) -> Told:
    """Its callees are invocations of their own; what they were told is told again."""
    left, right = await ctx.gather(ctx.call(pair, question), ctx.call(charge, question))
    return Told(n=question.n, seen=[*left.seen, *right.seen], effects=right.effects)


@shapes.handler()
async def first_of_two(ctx: Context, question: Question) -> Told:
    return Told(n=question.n, seen=await first_one_then_the_other(ctx, question))


accounts = VirtualObject("accounts")
BOOKED = accounts.state("booked", list[str], default=list)
"""The IDs of the invocations that were booked, in order: each once, and none is lost."""


@accounts.handler()
async def book(ctx: ObjectContext, question: Question) -> Told:
    before = await ctx.get(BOOKED)
    seen = await heard(asked(ctx, question))
    ctx.set(BOOKED, [*before, ctx.request.invocation_id])
    return Told(n=question.n, seen=[seen])


@accounts.shared()
async def balance(ctx: SharedContext, question: Question) -> Told:
    before = await ctx.get(BOOKED)
    await ctx.sleep(timedelta(seconds=0.3))
    after = await ctx.get(BOOKED)
    assert after[: len(before)] == before, (before, after)
    return Told(n=question.n)


@shapes.handler()
async def books(ctx: Context, question: Question) -> Told:
    """Its callees have a key, and take their turns; others of that key come from other calls."""
    key = f"a-{question.n % 23}"
    booked, seen, again = await ctx.gather(
        ctx.call(book, question, key=key),
        ctx.call(balance, question, key=key),
        ctx.call(book, question, key=key),
    )
    return Told(n=question.n, seen=[*booked.seen, *seen.seen, *again.seen])


@shapes.handler()
async def doomed(ctx: Context, question: Question) -> Told:
    await asked(ctx, question.model_copy(update={"manner": "refuses"}))
    raise AssertionError("its awakeable is always rejected")


events = Service("events")


@events.handler(topic=Subscription(EVENTS, max_open=40))
async def note(ctx: Context, event: Event) -> Told:
    check(event)
    seen = await heard(asked(ctx, event.question))
    return Told(n=event.question.n, seen=[seen], record=event.id)


histories = VirtualObject("histories", max_queue=8)
ADDED = histories.state("added", list[str], default=list)
"""The IDs of the key's records, in the order in which their invocations ran."""


@histories.handler(topic=EVENTS)
async def add(ctx: ObjectContext, event: Event) -> Told:
    check(event)
    before = await ctx.get(ADDED)
    if event.question.takes_s:
        await ctx.sleep(timedelta(seconds=event.question.takes_s / 2))
    ctx.set(ADDED, [*before, event.id])
    return Told(n=event.question.n, record=event.id)


fates = Service("fates")


@fates.handler()
async def waits(ctx: Context) -> str:
    answer = ctx.awakeable(str)
    return await answer


@fates.handler()
async def has_a_deadline(ctx: Context, seconds: float) -> str:
    answer = ctx.awakeable(str, timeout=timedelta(seconds=seconds))
    try:
        return await answer
    except TimedOut:
        return "timed out"


@fates.handler()
async def works(ctx: Context, seconds: float) -> str:
    return await ctx.run("work", slow_work, seconds)


@fates.handler()
async def kills_its_process(ctx: Context) -> None:
    ledger_of_this_process().write("shot", invocation=ctx.request.invocation_id)
    os.kill(os.getpid(), signal.SIGKILL)


if "CHAOS_LEDGER" in os.environ:  # served; a test that imports names from here is left as it is
    tampering.begin()
codec = codec_for(os.environ.get("AWAKEABLES_STORE", ""))
with_function = [remote_vaults, tellers] if "CHAOS_FUNCTION" in os.environ else []
here = [shapes, flows, parts, approvals, fates, accounts, events, histories]
app = App(NAME, services=[*here, *with_function], codec=codec)


def check(event: Event) -> None:
    if event.fails:
        raise TerminalError(f"{event.id} is to fail", code=409)


def slow_work(seconds: float) -> str:
    ledger_of_this_process().write("works", seconds=seconds)
    time.sleep(seconds)
    return "done"
