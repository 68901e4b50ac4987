"""A hundred workers are asked; eighty good answers are enough, and who is late is told so.

`awakeables dev fanout:app --worker fanout:scorer`, then
`curl localhost:8080/surveys/survey -H 'content-type: application/json' -d '["a", "b", "c"]'`
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel

from awakeables import App, Awakeable, Context, QuorumFailed, Service, Task, TimedOut, Worker

TASKS = "scoring"
PATIENCE = timedelta(minutes=10)

surveys = Service("surveys")


class Survey(BaseModel):
    """What is known when it ends: the scores that came, and how many did not."""

    scores: list[float]
    missing: int
    complete: bool


@surveys.handler()
async def survey(ctx: Context, documents: list[str]) -> Survey:
    asked = [ask(ctx, document) for document in documents]
    needed = max(1, len(asked) * 8 // 10)
    try:
        async with ctx.timeout(PATIENCE):
            await ctx.quorum(needed, asked, cancel_losers=True)
    except (QuorumFailed, TimedOut):
        complete = False  # too many have failed, or time is up: what came is kept
    else:
        complete = True
    scores = [await each for each in asked if each.done and each.exception() is None]
    return Survey(scores=sorted(scores), missing=len(asked) - len(scores), complete=complete)


def ask(ctx: Context, document: str) -> Awakeable[float]:
    score = ctx.awakeable(float)
    ctx.publish(TASKS, document, awakeable=score, task="score")
    return score


app = App("fanout", services=[surveys])

scorer = Worker("scorer")


@scorer.task(TASKS)
async def score(task: Task[str]) -> float:
    return len(task.payload) / 10
