"""The app that is killed: handlers of several shapes, which tell what they were told.

`awakeables serve e2e.chaos.app:app`; CHAOS_NAME names the app and its topics, CHAOS_LEDGER the ledger.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from datetime import timedelta
from typing import Literal, TypeAlias

from pydantic import BaseModel

from awakeables import App, Awakeable, Context, Rejected, Service, TimedOut
from e2e.chaos import tampering
from e2e.chaos.ledger import ledger_of_this_process

NAME = os.environ.get("CHAOS_NAME", "chaos")
SIDES = ("north", "south")
"""Two workers, each with a topic and a group of its own, so that one goes on while one is dead."""

NOBODY = "nobody"

Manner: TypeAlias = Literal["once", "twice", "two minds", "by http", "refuses"]
"""How a worker answers: one answer, the same twice, two different ones, over HTTP as well, no."""


class Question(BaseModel):
    n: int
    to: str = "north"
    manner: Manner = "once"
    takes_s: float = 0.0


class Answer(BaseModel):
    """`double` is right or wrong; `nonce` tells which of the answers it is."""

    double: int
    nonce: str


class Seen(BaseModel):
    """What the handler was told about an awakeable."""

    id: str
    state: str
    answer: Answer | None = None
    reason: str | None = None


class Told(BaseModel):
    """What a handler was told, and what its side effect returned."""

    n: int
    seen: list[Seen]
    effect: str | None = None


def topic(side: str) -> str:
    return f"{NAME}-{side}"


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
    effect = await ctx.run("charge", side_effect, ctx.request.invocation_id, str(ctx.uuid()))
    return Told(n=question.n, seen=[seen], effect=effect)


@shapes.handler()
async def prepaid(ctx: Context, question: Question) -> Told:
    effect = await ctx.run("charge", side_effect, ctx.request.invocation_id, str(ctx.uuid()))
    return Told(n=question.n, seen=[await heard(asked(ctx, question))], effect=effect)


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
async def doomed(ctx: Context, question: Question) -> Told:
    await asked(ctx, question.model_copy(update={"manner": "refuses"}))
    raise AssertionError("its awakeable is always rejected")


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
app = App(NAME, services=[shapes, fates])


def asked(ctx: Context, question: Question, *, timeout: timedelta | None = None) -> Awakeable[Answer]:
    answer = ctx.awakeable(Answer, timeout=timeout)
    ctx.publish(topic(question.to), question, awakeable=answer)
    return answer


async def heard(answer: Awakeable[Answer]) -> Seen:
    try:
        return Seen(id=answer.id, state="resolved", answer=await answer)
    except Rejected as no:
        return Seen(id=answer.id, state="rejected", reason=no.reason)
    except TimedOut:
        return Seen(id=answer.id, state="timed-out")


def side_effect(invocation_id: str, key: str) -> str:
    """What must be recorded once; each execution has a nonce."""
    nonce = uuid.uuid4().hex
    ledger_of_this_process().write("effect", invocation=invocation_id, key=key, nonce=nonce)
    time.sleep(0.2)  # room for a kill between the effect and its record
    return nonce


def slow_work(seconds: float) -> str:
    ledger_of_this_process().write("works", seconds=seconds)
    time.sleep(seconds)
    return "done"
