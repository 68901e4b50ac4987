"""An agent asks a person before it uses a tool that can't be undone.

Each answer of the model and each use of a tool is an action of the journal: after a crash the agent goes on
where it was, and the model is not asked again. A dangerous tool waits for a person, for days if need be,
without a process that has to stay up.

    awakeables dev agent:app
    curl localhost:8080/agents/run --json '"refund order o-17"'
    awakeables resolve prom_1… '{"allowed": true, "by": "ann"}'

`ask_model` stands for a call of your model's API. It is a function, so a test replaces it by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel

from awakeables import App, Context, RetryPolicy, Service, TerminalError, TimedOut

PATIENCE = timedelta(days=3)
MOST_TURNS = 20
NEEDS_A_PERSON = {"refund"}

agents = Service("agents")


class ToolCall(BaseModel):
    tool: str
    arguments: dict[str, Any] = {}


class Turn(BaseModel):
    """What the model wants next: to use a tool, or to give its answer."""

    text: str = ""
    use: ToolCall | None = None


class Message(BaseModel):
    role: Literal["user", "assistant", "tool"]
    text: str


class Permission(BaseModel):
    allowed: bool
    by: str
    reason: str = ""


def ask_model(messages: list[Message]) -> Turn:
    """Ask the model; here it looks an order up, refunds it, and says so."""
    tools = [message.text for message in messages if message.role == "tool"]
    order = messages[0].text.split()[-1]
    if not tools:
        return Turn(use=ToolCall(tool="look_up", arguments={"order": order}))
    if len(tools) == 1:
        return Turn(use=ToolCall(tool="refund", arguments={"order": order, "cents": 900}))
    return Turn(text=f"done: {tools[-1]}")


def look_up(order: str) -> str:
    return f"{order} costs 900 cents"


def refund(order: str, cents: int) -> str:
    return f"{cents} cents of {order} were refunded"


TOOLS: dict[str, Callable[..., str]] = {"look_up": look_up, "refund": refund}


def ask_person(call: ToolCall, awakeable_id: str) -> None:
    """Send somebody the question, with a link that has the ID."""


@agents.handler()
async def run(ctx: Context, wish: str) -> str:
    messages = [Message(role="user", text=wish)]
    for _ in range(MOST_TURNS):
        turn = await ctx.run("model", ask_model, messages, retry=RetryPolicy(max_attempts=5))
        if turn.use is None:
            return turn.text
        messages.append(Message(role="assistant", text=turn.use.model_dump_json()))
        messages.append(Message(role="tool", text=await use(ctx, turn.use)))
    raise TerminalError(f"no answer after {MOST_TURNS} turns", code=508)


async def use(ctx: Context, call: ToolCall) -> str:
    """Use a tool, if need be after a person has allowed it; the model is told what came of it."""
    function = TOOLS.get(call.tool)
    if function is None:
        return f"there is no tool {call.tool!r}"
    if call.tool in NEEDS_A_PERSON:
        permission = ctx.awakeable(Permission, timeout=PATIENCE)
        await ctx.run("ask", ask_person, call, permission.id)
        try:
            decision = await permission
        except TimedOut:
            return "nobody has allowed it in time"
        if not decision.allowed:
            return f"{decision.by} does not allow it: {decision.reason or 'no reason given'}"
    return await ctx.run(call.tool, functools.partial(function, **call.arguments))


app = App("agent", services=[agents])
