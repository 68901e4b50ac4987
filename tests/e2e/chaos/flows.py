"""Handlers of the app that is killed, each for something that the simple shapes of `app` do not use.

Clients call those of `flows`, which begin those of `parts` and `approvals`. What must hold is in `flowaudit`.
"""

from __future__ import annotations

import os
from datetime import timedelta

from awakeables import (
    Cancelled,
    Context,
    Late,
    ObjectContext,
    RetryPolicy,
    Schedule,
    Service,
    SharedContext,
    TerminalError,
    Workflow,
)
from e2e.chaos.ledger import ledger_of_this_process
from e2e.chaos.questions import Answer, Question, Seen, Told, asked, charged, heard

TICKS = "ticks"
"""The name of the schedule."""

TICK = timedelta(seconds=1)
SCHEDULE = Schedule.every(TICK, name=TICKS, overlap="allow", missed="all")
SILENCE = timedelta(seconds=1)
GIVEN_UP = timedelta(seconds=30)
"""For workers whose first heartbeat never came, as Kafka was away."""

PATIENCE = timedelta(seconds=1)
DELAY = timedelta(seconds=0.5)
FOR_EVER = timedelta(days=1)
WORDING = "wording", 2
STEPS = ("seat", "room")
STUBBORN = RetryPolicy(max_attempts=5)

flows = Service("flows")
parts = Service("parts")
approvals = Workflow("approvals")
APPROVED = approvals.promise("approved", Seen)
STAGES = approvals.state("stages", list[str], default=list)


@flows.handler()
async def approved(ctx: Context, question: Question) -> Told:
    """Two signals settle one promise, for which the run waits."""
    key = ctx.request.invocation_id
    run = ctx.send(approval, question, key=key)
    signals = await ctx.gather(ctx.call(approve, question, key=key), ctx.call(approve, question, key=key))
    told = await run
    verdicts = [verdict for signal in signals for verdict in signal.said]
    return Told(n=question.n, seen=[*told.seen, *signals[0].seen, *signals[1].seen], said=verdicts)


@approvals.run(private=True)
async def approval(ctx: ObjectContext, question: Question) -> Told:
    ctx.set(STAGES, ["asked"])
    seen = await ctx.promise(APPROVED)
    ctx.set(STAGES, [*await ctx.get(STAGES), "approved"])
    return Told(n=question.n, seen=[seen])


@approvals.handler(private=True)
async def approve(ctx: SharedContext, question: Question) -> Told:
    seen = await heard(asked(ctx, question))
    verdict = await ctx.promise(APPROVED).resolve(seen)
    return Told(n=question.n, seen=[seen], said=[verdict.kind])


@parts.handler(schedule=SCHEDULE if "CHAOS_TICKS" in os.environ else None)
async def tick(ctx: Context) -> Told:
    at = ctx.request.scheduled_at
    return Told(n=0, said=[at.isoformat() if at else "never"])


@flows.handler()
async def watched(ctx: Context, question: Question) -> Told:
    """The first worker falls silent; others are asked until one has answered."""
    seen: list[Seen] = []
    while not seen or seen[-1].state == "timed-out":
        part = question.model_copy(update={"takes_s": 0.0, "beats": 3, "silent": not seen})
        seen.append(await heard(asked(ctx, part, timeout=GIVEN_UP, heartbeat_timeout=SILENCE)))
    return Told(n=question.n, seen=seen)


@flows.handler()
async def impatient(ctx: Context, question: Question) -> Told:
    """Gives its worker up before it answers: the awakeable times out, or is cancelled."""
    late = question.model_copy(update={"takes_s": 4.0})
    if question.second:
        answer = asked(ctx, late, timeout=PATIENCE, on_late=takes_late)
        return Told(n=question.n, seen=[await heard(answer)])
    answer = asked(ctx, late, on_late=takes_late)
    await ctx.sleep(PATIENCE)
    answer.cancel()
    return Told(n=question.n)


@parts.handler(private=True)
async def takes_late(ctx: Context, late: Late[Answer]) -> Told:
    effect = await charged(ctx)
    return Told(n=late.value.double // 2, effects=[effect], said=[late.awakeable_id, late.value.nonce])


@flows.handler()
async def versioned(ctx: Context, question: Question) -> Told:
    before = ctx.version(*WORDING)
    seen = await heard(asked(ctx, question))
    return Told(n=question.n, seen=[seen], said=[str(before), str(ctx.version(*WORDING))])


@flows.handler()
async def travels(ctx: Context, question: Question) -> Told:
    """A saga, which fails with its question: every second one at least."""
    if question.second:
        question = question.model_copy(update={"manner": "refuses"})
    me = ctx.request.invocation_id
    seen: list[Seen] = []
    try:
        async with ctx.saga() as saga:
            for step in STEPS:
                saga.undo(f"free {step}", free, me, step)
                await ctx.run(f"book {step}", book_step, me, step, retry=STUBBORN)
            seen.append(await heard(asked(ctx, question)))
            if seen[-1].state != "resolved":
                raise TerminalError("the trip is off", code=409)
    except TerminalError:
        return Told(n=question.n, seen=seen, said=["undone"])
    return Told(n=question.n, seen=seen, said=["done"])


def book_step(invocation_id: str, step: str) -> None:
    ledger_of_this_process().write("booked", invocation=invocation_id, step=step)


def free(invocation_id: str, step: str) -> None:
    ledger_of_this_process().write("freed", invocation=invocation_id, step=step)


@flows.handler()
async def calls_off(ctx: Context, question: Question) -> Told:
    """Cancels what it has sent, at any moment of that."""
    sent = ctx.send(shielded, question)
    await ctx.sleep(timedelta(seconds=question.takes_s / 2))
    sent.cancel()
    try:
        return await sent
    except Cancelled as cancelled:
        if cancelled.own:
            raise
        return Told(n=question.n, said=["never begun"])


@parts.handler(private=True)
async def shielded(ctx: Context, question: Question) -> Told:
    async with ctx.shield():
        seen = await heard(asked(ctx, question))
        effect = await charged(ctx)
    try:
        await ctx.sleep(FOR_EVER)
    except Cancelled:
        return Told(n=question.n, seen=[seen], effects=[effect], said=["cancelled"])
    raise AssertionError("it was never cancelled")


@flows.handler()
async def branches(ctx: Context, question: Question) -> Told:
    async def part(_number: int) -> tuple[Seen, str]:
        seen = await heard(asked(ctx, question))
        return seen, await charged(ctx)

    mapped = ctx.map(part, range(3), concurrency=2)
    ended = await ctx.gather(part(3), *mapped)
    return Told(n=question.n, seen=[seen for seen, _ in ended], effects=[effect for _, effect in ended])


@flows.handler()
async def posts(ctx: Context, question: Question) -> Told:
    """What it sends begins later; it attaches to it by its ID."""
    sent = ctx.send(posted, question, delay=DELAY)
    told = await ctx.attach(sent.id, Told)
    return told.model_copy(update={"said": [sent.id, *told.said]})


@parts.handler(private=True)
async def posted(ctx: Context, question: Question) -> Told:
    began = ctx.now()
    return Told(n=question.n, seen=[await heard(asked(ctx, question))], said=[began.isoformat()])
