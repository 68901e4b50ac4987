"""The handlers of the trees: each does what its input says."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from awakeables.errors import Cancelled, TerminalError
from awakeables.handlers.context import Context
from awakeables.handlers.invoking import Call
from awakeables.handlers.objectcontext import ObjectContext, SharedContext
from awakeables.handlers.service import App, KeyedGroup, Service, VirtualObject, Workflow
from awakeables.handlers.state import State
from simulation.corpus import SEVERAL_TRIES, TASKS, ledger
from simulation.trees.programs import LAYERS, TREES, Node, Step


class Question(BaseModel):
    """What is asked outside: where, and whether it is to be rejected."""

    at: str
    is_rejected: bool


def answer_to(at: str) -> int:
    """The number that answers the question of a place."""
    return zlib.crc32(at.encode()) % 1000


def shown(value: Any) -> Any:
    """A result as the caller's own result has it: a failure as a list."""
    if isinstance(value, Cancelled):
        return ["cancelled"]
    if isinstance(value, TerminalError):
        return ["failed", value.reason]
    return [shown(each) for each in value] if isinstance(value, list | tuple) else value


async def told(future: Awaitable[Any]) -> Any:
    """What it ended with, unless this invocation is cancelled."""
    try:
        return shown(await future)
    except TerminalError as error:
        if isinstance(error, Cancelled) and error.own:
            raise
        return shown(error)


class Interpreter:
    """Takes the steps of a node."""

    def __init__(self, ctx: Context, node: Node) -> None:
        self.ctx = ctx
        self.node = node
        self.sent: dict[str, Call[Any]] = {}

    async def take(self, steps: Sequence[Step]) -> list[Any]:
        """What each step has seen."""
        seen: list[Any] = []
        acted = self.node.given
        for step in steps:
            if step.do.startswith("act"):
                acted = await self._act(step)
                seen.append(acted)
            elif step.called:
                called = [node.model_copy(update={"given": acted}) for node in step.called]
                seen.append(await self._call(step, called))
            elif step.branches:
                seen.append(await self._branch(step))
            else:
                seen.append(await self._alone(step))
        return seen

    async def _act(self, step: Step) -> str:
        invocation_id = self.ctx.request.invocation_id

        async def act() -> str:
            ledger.executed.append((invocation_id, step.at))
            time = ledger.flaky.get((invocation_id, step.at), 0)
            ledger.flaky[invocation_id, step.at] = time + 1
            if step.do == "act twice" and time == 0:
                raise ConnectionError("the first call fails")
            return f"{step.at}#{time}"

        return await self.ctx.run(step.at, act, retry=SEVERAL_TRIES if step.n % 2 else None)

    async def _alone(self, step: Step) -> Any:
        match step.do:
            case "sleep":
                await self.ctx.sleep(timedelta(seconds=step.n))
            case "ask":
                awakeable = self.ctx.awakeable(int)
                question = Question(at=step.at, is_rejected=step.n == 1)
                self.ctx.publish(TASKS, question, awakeable=awakeable)
                return await told(awakeable)
            case "settle":
                await self.ctx.resolve_awakeable(self.node.awakeable, step.n)
            case "attach":
                sent = self.sent[step.of]
                return await told(sent if step.n % 2 else self.ctx.attach(sent.id, list[Any]))
            case "fail":
                raise TerminalError(step.at, code=418)
            case _:
                await self._touch(step)
        return None

    async def _touch(self, step: Step) -> None:
        """Read or write the state of the key."""
        ctx = self.ctx
        if not isinstance(ctx, SharedContext):
            return
        count, marks = STATES[group_of(self.node)]
        before = await ctx.get(count)
        if step.do in ("peek", "add slowly"):
            await ctx.sleep(timedelta(seconds=step.n / 2))
        if not isinstance(ctx, ObjectContext):
            assert before <= await ctx.get(count)
        elif step.do.startswith("add"):
            ctx.set(count, before + step.n)
        elif step.do == "mark":
            ctx.set(marks[step.at], step.n)
        elif step.do == "unmark":
            ctx.clear(marks[step.of])

    async def _call(self, step: Step, called: Sequence[Node]) -> Any:
        ctx = self.ctx
        match step.do:
            case "call":
                return await told(call(ctx, called[0]))
            case "insist":
                return shown(await call(ctx, called[0]))
            case "send":
                self.sent[step.at] = send(ctx, called[0], delay=timedelta(seconds=step.n % 3))
            case "cancel":
                sent = send(ctx, called[0])
                await ctx.sleep(timedelta(seconds=step.n / 2))
                sent.cancel()
                return await told(sent)
            case "join":
                sent = send(ctx, called[0], idempotency_key=joint_key(called[0]))
                joined = call(ctx, called[0], idempotency_key=joint_key(called[0]))
                return [await told(joined), await told(sent)]
            case "hand over":
                awakeable = ctx.awakeable(int)
                send(ctx, called[0].model_copy(update={"awakeable": awakeable.id}))
                return await told(awakeable)
            case "gather":
                calls = [call(ctx, node) for node in called]
                return await told(ctx.gather(*calls, return_exceptions=True))
            case "map":
                several = ctx.map(lambda node: call(ctx, node), called, concurrency=step.n % 2 + 1)
                return await told(ctx.gather(*several, return_exceptions=True))
            case "race":
                calls = [call(ctx, node) for node in called]
                first = await told(ctx.race(*calls))
                return [first, await told(ctx.gather(*calls, return_exceptions=True))]
            case "race to cancel":
                return await told(ctx.race(*(call(ctx, node) for node in called), cancel_losers=True))
        return None

    async def _branch(self, step: Step) -> Any:
        if step.do == "branches that race":
            works = (self.take(branch) for branch in step.branches)
            return await told(self.ctx.race(*works, cancel_losers=step.n % 2 == 0))
        if step.n % 2:
            works = (self.take(branch) for branch in step.branches)
            return await told(self.ctx.gather(*works, return_exceptions=True))
        several = self.ctx.map(self.take, step.branches, concurrency=2)
        return await told(self.ctx.gather(*several, return_exceptions=True))


def joint_key(node: Node) -> str | None:
    """The idempotency key of a call that is made twice; a run has its own."""
    return None if node.kind == "run" else node.path


def call(ctx: Any, node: Node, **options: Any) -> Call[list[Any]]:
    called: Call[list[Any]] = ctx.call(function_of(node), node, **keyed(node), **options)
    return called


def send(ctx: Any, node: Node, **options: Any) -> Call[list[Any]]:
    sent: Call[list[Any]] = ctx.send(function_of(node), node, **keyed(node), **options)
    return sent


def keyed(node: Node) -> dict[str, Any]:
    """The argument of a call that names the key."""
    return {} if node.kind == "service" else {"key": node.key}


def function_of(node: Node) -> Any:
    """The function of the handler that a node is called as."""
    return FUNCTIONS[group_of(node), node.kind]


def group_of(node: Node) -> str:
    """The name of the service, object or workflow."""
    match node.kind:
        case "service":
            return service.name
        case "run":
            return flows.name
        case _:
            return layers[node.layer].name


FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {}
STATES: dict[str, tuple[State[int], State[int | None]]] = {}
"""The counter and the marks, by the name of the object or workflow."""

service = Service("nodes")
flows = Workflow("runs")
layers = [VirtualObject(f"layer{number}") for number in range(max(TREES.layers, LAYERS.layers))]


@service.handler()
async def plain(ctx: Context, node: Node) -> list[Any]:
    return await Interpreter(ctx, node).take(node.steps)


@flows.run()
async def run(ctx: ObjectContext, node: Node) -> list[Any]:
    return await Interpreter(ctx, node).take(node.steps)


def _with_state(group: KeyedGroup) -> None:
    STATES[group.name] = (group.state("count", int, default=0), group.state("marks", int))


def _with_handlers(layer: VirtualObject) -> None:
    @layer.handler()
    async def exclusive(ctx: ObjectContext, node: Node) -> list[Any]:
        return await Interpreter(ctx, node).take(node.steps)

    @layer.shared()
    async def shared(ctx: SharedContext, node: Node) -> list[Any]:
        return await Interpreter(ctx, node).take(node.steps)

    FUNCTIONS[layer.name, "exclusive"], FUNCTIONS[layer.name, "shared"] = exclusive, shared


FUNCTIONS[service.name, "service"], FUNCTIONS[flows.name, "run"] = plain, run
for group in (flows, *layers):
    _with_state(group)
for layer in layers:
    _with_handlers(layer)

app = App("trees", services=[service, flows, *layers])
