"""Handlers that run in another process than the instances: a function, which is killed as well.

`uvicorn --factory e2e.chaos.functions:function`; CHAOS_FUNCTION is its URL, and CHAOS_FUNCTION_KEY the file
of the public key that it accepts. Clients call the handlers of `vaults`, which run there, and those of
`tellers`, which run in the instances and call them. What must hold is in `functionaudit`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from awakeables import App, Context, RemoteService, RetryPolicy, Service
from awakeables.remote import asgi
from awakeables.remote.asgi import AsgiApp
from e2e.chaos.questions import NAME, Question, Told, asked, charged, first_one_then_the_other, heard

VAULTS = "vaults"
"""The service that the function has."""

LIMIT = timedelta(seconds=2)
TIMEOUT = timedelta(seconds=4)
REPEATED = RetryPolicy(max_attempts=20, max_interval=timedelta(seconds=2))
"""An action that was frozen over the limit has failed, and is executed again."""

vaults = Service(VAULTS)


@vaults.handler()
async def deposit(ctx: Context, question: Question) -> Told:
    before = await charged(ctx, retry=REPEATED)
    seen = await heard(asked(ctx, question))
    return Told(n=question.n, seen=[seen], effects=[before, await charged(ctx, retry=REPEATED)])


@vaults.handler()
async def transfer(ctx: Context, question: Question) -> Told:
    """Both callees are invocations of the same function."""
    left, right = await ctx.gather(ctx.call(deposit, question), ctx.call(deposit, question))
    return Told(n=question.n, seen=[*left.seen, *right.seen], effects=[*left.effects, *right.effects])


@vaults.handler()
async def either(ctx: Context, question: Question) -> Told:
    return Told(n=question.n, seen=await first_one_then_the_other(ctx, question))


remote_vaults = RemoteService(
    VAULTS, url=os.environ.get("CHAOS_FUNCTION", "http://127.0.0.1:1"), timeout=TIMEOUT
)
remote_deposit = remote_vaults.named("deposit", Question, Told)
tellers = Service("tellers")


@tellers.handler()
async def deposits(ctx: Context, question: Question) -> Told:
    """It runs in an instance, and has a worker of its own beside its callee."""
    answer = asked(ctx, question)
    told = await ctx.call(remote_deposit, question)
    return Told(n=question.n, seen=[*told.seen, await heard(answer)], effects=told.effects)


def function() -> AsgiApp:
    """What the function's process serves."""
    key = Path(os.environ["CHAOS_FUNCTION_KEY"]).read_text()
    return asgi(App(NAME, services=[vaults]), keys=[key], limit=LIMIT)
