"""What handlers ask the workers, what they are answered, and what they say they were told."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import Literal, TypeAlias

from pydantic import BaseModel

from awakeables import Awakeable, Context, Rejected, RetryPolicy, TimedOut
from awakeables.handlers.late import OnLate
from e2e.chaos.ledger import ledger_of_this_process

NAME = os.environ.get("CHAOS_NAME", "chaos")
SIDES = ("north", "south")
"""Two workers, each with a topic and a group of its own, so that one goes on while one is dead."""

NOBODY = "nobody"

Manner: TypeAlias = Literal["once", "twice", "two minds", "by http", "refuses"]
"""How a worker answers: one answer, the same twice, two different ones, over HTTP as well, no."""


class Question(BaseModel):
    """A task.

    Attributes:
        second: Whether it is the second of two to its shape, the fourth and so on.
        beats: So many heartbeats are sent before the answer.
        silent: There is no answer, and no heartbeat after these.
    """

    n: int
    to: str = "north"
    manner: Manner = "once"
    takes_s: float = 0.0
    second: bool = False
    beats: int = 0
    silent: bool = False


class Answer(BaseModel):
    """`double` is right or wrong; `nonce` tells which of the answers it is."""

    double: int
    nonce: str


class Progress(BaseModel):
    """What a heartbeat reports; `nonce` tells which of the heartbeats it is."""

    nonce: str


class Seen(BaseModel):
    """What the handler was told about an awakeable; of one that timed out, why, and the last progress."""

    id: str
    state: str
    answer: Answer | None = None
    reason: str | None = None
    late: str | None = None
    progress: Progress | None = None


class Told(BaseModel):
    """What a handler was told.

    Attributes:
        effects: What its side effects returned.
        record: The ID of the record that it was for.
        said: What else it was told; what that is, its check knows.
    """

    n: int
    seen: list[Seen] = []
    effects: list[str] = []
    record: str | None = None
    said: list[str] = []


def topic(side: str) -> str:
    return f"{NAME}-{side}"


def asked(
    ctx: Context,
    question: Question,
    *,
    timeout: timedelta | None = None,
    heartbeat_timeout: timedelta | None = None,
    on_late: OnLate[Answer] = None,
) -> Awakeable[Answer]:
    answer = ctx.awakeable(Answer, timeout=timeout, heartbeat_timeout=heartbeat_timeout, on_late=on_late)
    ctx.publish(topic(question.to), question, awakeable=answer)
    return answer


async def heard(answer: Awakeable[Answer]) -> Seen:
    try:
        return Seen(id=answer.id, state="resolved", answer=await answer)
    except Rejected as no:
        return Seen(id=answer.id, state="rejected", reason=no.reason)
    except TimedOut as late:
        return Seen(id=answer.id, state="timed-out", late=late.kind, progress=late.progress(Progress))


async def first_one_then_the_other(ctx: Context, question: Question) -> list[Seen]:
    """Two answers, in the order in which they come."""
    answers = [asked(ctx, question), asked(ctx, question)]
    seen: list[Seen] = []
    while len(seen) < len(answers):
        left = [answer for answer in answers if answer.id not in {each.id for each in seen}]
        try:
            async with ctx.timeout(timedelta(seconds=0.7)):
                seen.append(await heard(await ctx.select(*left)))
        except TimedOut:
            continue
    return seen


async def charged(ctx: Context, *, retry: RetryPolicy | None = None) -> str:
    """A side effect, which must be recorded once; what it returned."""
    return await ctx.run("charge", side_effect, ctx.request.invocation_id, str(ctx.uuid()), retry=retry)


def side_effect(invocation_id: str, key: str) -> str:
    """Each execution has a nonce."""
    nonce = uuid.uuid4().hex
    ledger_of_this_process().write("effect", invocation=invocation_id, key=key, nonce=nonce)
    time.sleep(0.2)  # room for a kill between the effect and its record
    return nonce
