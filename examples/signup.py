"""People sign up under a name, and confirm their address by a link in a mail.

A workflow runs once per key, here once per name: of two people who want the same one, the first gets it. The
links in the mail, a page that waits for the confirmation, and one that shows how far it is, call its other
handlers, which use its promise and read its state.

    awakeables dev signup:app
    curl localhost:8080/signups/ann/run/send --json '"ann@example.com"'
    curl localhost:8080/signups/ann/status -X POST
    curl localhost:8080/signups/ann/clicked --json '"the token that was printed"'
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import timedelta

from pydantic import BaseModel

from awakeables import App, ObjectContext, Rejected, SharedContext, TerminalError, TimedOut, Workflow

PATIENCE = timedelta(days=1)
UNCONFIRMED = "the address was not confirmed in time"
DISOWNED = "the owner of the address has not signed up"

signups = Workflow("signups")  # the key is the name under which a person signs up


class Account(BaseModel):
    name: str
    email: str


class Status(BaseModel):
    step: str
    confirmation: str


CONFIRMED = signups.promise("confirmed", bool)
STEP = signups.state("step", str, default="new")
TOKEN = signups.state("token", str)


@signups.run()
async def sign_up(ctx: ObjectContext, email: str) -> Account:
    """Ask for the confirmation, remind after a day, and give up after another one."""
    token = await ctx.run("make token", new_token)  # not ctx.random(), which is not for secrets
    ctx.set(TOKEN, token)  # committed before the mail is sent
    confirmed = ctx.promise(CONFIRMED)
    for subject in ("welcome", "reminder"):
        await ctx.run(f"send {subject}", send_mail, email, subject, ctx.key, token)
        ctx.set(STEP, f"{subject} sent")
        with suppress(TimedOut):
            async with ctx.timeout(PATIENCE):
                await confirmed
                break
    else:
        await confirmed.reject(UNCONFIRMED, code=408)  # unless a click comes first: then this is a conflict
    await confirmed
    return Account(name=ctx.key, email=email)


@signups.handler()
async def clicked(ctx: SharedContext, token: str) -> str:
    """The link in the mail, which may be clicked twice, or too late."""
    await check(ctx, token)
    verdict = await ctx.promise(CONFIRMED).resolve(True)
    if verdict.kind not in ("accepted", "duplicate"):
        raise TerminalError("this link is not valid any more", code=410)
    return f"welcome, {ctx.key}"


@signups.handler()
async def disown(ctx: SharedContext, token: str) -> str:
    """The other link in the mail: "that was not me"."""
    await check(ctx, token)
    return (await ctx.promise(CONFIRMED).reject(DISOWNED, code=403)).kind


@signups.handler()
async def confirmation(ctx: SharedContext) -> bool:
    """For a page that waits: this call returns when the address is confirmed."""
    return await ctx.promise(CONFIRMED)


@signups.handler()
async def status(ctx: SharedContext) -> Status:
    """Answered at once, during the run and after it."""
    try:
        found = "confirmed" if await ctx.promise(CONFIRMED).peek() else "open"
    except Rejected as error:
        found = error.reason
    return Status(step=await ctx.get(STEP), confirmation=found)


async def check(ctx: SharedContext, token: str) -> None:
    """Names can be guessed; only who has the mail has the token."""
    known = await ctx.get(TOKEN)
    if known is None or not secrets.compare_digest(known.encode(), token.encode()):
        raise TerminalError("this is not the link in the mail", code=403)


def new_token() -> str:
    return secrets.token_urlsafe()


def send_mail(to: str, subject: str, name: str, token: str) -> None:
    print(f"to {to}: {subject}, {name}; the token is {token}")


app = App("signup", services=[signups])
