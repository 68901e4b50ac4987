"""Handler shapes: what people write. Each returns what it saw, so that it can be held to the rows."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from awakeables.core.ids import promise_id
from awakeables.core.journal import VersionChosen
from awakeables.errors import Cancelled, QuorumFailed, Rejected, TerminalError, TimedOut
from awakeables.handlers.context import Context
from awakeables.handlers.execution import Awakeable, Durable
from awakeables.handlers.late import Late
from awakeables.handlers.objectcontext import ObjectContext, SharedContext
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.schedule import Schedule
from awakeables.handlers.service import App, Service, VirtualObject, Workflow
from awakeables.handlers.subscription import KafkaRecord, Subscription
from awakeables.ports import Clock

TASKS = "tasks"
service = Service("corpus")
only_called = Service("only-called")


class Answer(BaseModel):
    n: int


class Ledger:
    """Every execution of every side effect, noted from the outside."""

    def __init__(self) -> None:
        self.executed: list[tuple[str, str]] = []
        self.flaky: dict[tuple[str, str], int] = {}


ledger = Ledger()


async def seen(awakeable: Awakeable[Any]) -> list[Any]:
    """The awakeable's ID and what it ended with."""
    try:
        value = await awakeable
    except Rejected as error:
        return [awakeable.id, "rejected", error.reason, error.code]
    except TimedOut:
        return [awakeable.id, "timed-out"]
    return [awakeable.id, "resolved", value.n if isinstance(value, Answer) else value]


def effect(ctx: Context, name: str) -> Any:
    """A side effect that leaves a trace, and fails now and then."""
    invocation_id = ctx.request.invocation_id

    async def execute() -> str:
        ledger.executed.append((invocation_id, name))
        times = ledger.flaky.get((invocation_id, name), 0)
        ledger.flaky[invocation_id, name] = times + 1
        if times == 0 and name.startswith("flaky"):
            raise ConnectionError("the first call fails")
        return name

    return execute


@service.handler()
async def no_await(ctx: Context, n: int) -> list[Any]:
    return []


@service.handler()
async def one(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a)]


@service.handler()
async def untyped_with_timeout(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(timeout=timedelta(seconds=20 + n % 30))
    ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a)]


@service.handler()
async def chain(ctx: Context, n: int) -> list[Any]:
    results = []
    for step in range(3):
        a = ctx.awakeable(Answer, timeout=timedelta(seconds=90))
        ctx.publish(TASKS, {"step": step}, awakeable=a)
        results.append(await seen(a))
    return results


@service.handler()
async def fan_out(ctx: Context, n: int) -> list[Any]:
    several = [ctx.awakeable(Answer) for _ in range(4)]
    for a in several:
        ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a) for a in reversed(several)]


@service.handler()
async def awaited_twice(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    first = await seen(a)
    await ctx.sleep(timedelta(seconds=3))
    assert await seen(a) == first
    return [first]


@service.handler()
async def effects_around(ctx: Context, n: int) -> list[Any]:
    await ctx.run("before", effect(ctx, "before"))
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    await ctx.run("after", effect(ctx, "after"))
    return [result]


@service.handler()
async def retried_effect(ctx: Context, n: int) -> list[Any]:
    policy = RetryPolicy(initial_interval=timedelta(seconds=2), max_attempts=5)
    await ctx.run("flaky-run", effect(ctx, "flaky-run"), retry=policy)
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    return [await seen(a)]


@service.handler()
async def failing_attempt(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    await ctx.run("flaky-attempt", effect(ctx, "flaky-attempt"))
    return [result]


@service.handler()
async def sleeper(ctx: Context, n: int) -> list[Any]:
    began = ctx.now()
    await ctx.sleep(timedelta(seconds=30))
    assert ctx.now() - began >= timedelta(seconds=30)
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, str(ctx.uuid()), awakeable=a)
    return [await seen(a)]


@service.handler()
async def answered_before_the_await(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    await ctx.sleep(timedelta(seconds=15))
    return [await seen(a)]


@service.handler()
async def resolves_itself(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    verdict = await ctx.resolve_awakeable(a.id, {"n": n})
    assert verdict.kind == "accepted", verdict
    again = await ctx.reject_awakeable(a.id, "too late")
    assert again.kind == "conflict", again
    return [await seen(a)]


@service.handler()
async def never_waits_for_it(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    await ctx.sleep(timedelta(seconds=n % 4))
    return []


@service.handler()
async def fails_in_the_end(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    raise TerminalError("as planned", code=418, details=[result])


@service.handler()
async def compensates(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer, timeout=timedelta(seconds=25))
    ctx.publish(TASKS, n, awakeable=a, envelope="none")
    result = await seen(a)
    if result[1] != "resolved":
        await ctx.run("compensate", effect(ctx, "compensate"))
    ctx.publish("notices", {"result": result[1]})
    return [result]


@service.handler()
async def undone_when_cancelled(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    try:
        await ctx.sleep(timedelta(seconds=5 + n % 10))
        return [await seen(a)]
    except Cancelled:
        undo = ctx.awakeable(Answer)
        ctx.publish(TASKS, "undo", awakeable=undo)
        await ctx.run("undo", effect(ctx, "undo"))
        await ctx.sleep(timedelta(seconds=2))
        return [await seen(undo)]


async def told(call: Durable[list[Any]]) -> list[Any]:
    """What a call saw; nothing, if it did not end as it should have."""
    try:
        return await call
    except Cancelled as error:
        if error.own:
            raise
    except TerminalError as error:
        if error.reason == "as planned":
            return list(error.details)
        if error.code not in (409, 422, 429):
            raise
    return []


@service.handler()
async def calls_another(ctx: Context, n: int) -> list[Any]:
    return await told(ctx.call(one, n))


@service.handler()
async def calls_several(ctx: Context, n: int) -> list[Any]:
    calls = [ctx.call(handler, n) for handler in (no_await, fails_in_the_end, calls_another)]
    results = [await told(call) for call in reversed(calls)]
    return [each for result in results for each in result]


@service.handler()
async def joins_by_a_key(ctx: Context, n: int) -> list[Any]:
    key = f"key-{n % 3}"
    sent = ctx.send(one, n % 3, idempotency_key=key, delay=timedelta(seconds=n % 5))
    other = ctx.call(one, n, idempotency_key=key)  # joins it, or is refused
    return [*await told(other), *await told(sent), *await told(ctx.attach(sent.id))]


@only_called.handler()
async def until_cancelled(ctx: Context, n: int) -> list[Any]:
    await ctx.sleep(timedelta(days=300))
    raise AssertionError("it was left behind")


@service.handler()
async def leaves_its_calls(ctx: Context, n: int) -> list[Any]:
    calls = [ctx.call(handler, n) for handler in (calls_another, until_cancelled)]
    ctx.send(no_await, n)
    await ctx.sleep(timedelta(seconds=n % 20))
    raise TerminalError("as planned", code=418, details=[] if calls else None)


@service.handler()
async def undone_in_a_call(ctx: Context, n: int) -> list[Any]:
    call = ctx.call(undone_when_cancelled, n)
    try:
        return await told(call)
    except Cancelled:
        # It is cancelled, too, and what it has undone is awaited before its caller undoes anything.
        return [*await told(call), *await told(ctx.call(effects_around, n))]


@service.handler()
async def first_of_several(ctx: Context, n: int) -> list[Any]:
    parts = [ctx.awakeable(Answer) for _ in range(3)]
    for a in parts:
        ctx.publish(TASKS, n, awakeable=a)
    done = await ctx.select(*parts)
    results = [await seen(done)]
    async for each in ctx.as_completed([a for a in parts if a is not done]):
        results.append(await seen(each))
    return results


@service.handler()
async def reminded(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    for _ in range(20):
        try:
            async with ctx.timeout(timedelta(seconds=1 + n % 5)):
                await ctx.gather(a, return_exceptions=True)
        except TimedOut:
            ctx.publish("notices", "reminder")
        else:
            break
    return [await seen(a)]


@service.handler()
async def calls_off_the_rest(ctx: Context, n: int) -> list[Any]:
    calls = ctx.map(lambda k: ctx.call(one, k), range(4), concurrency=2)
    patience = ctx.sleep(timedelta(seconds=20))
    with suppress(Rejected, QuorumFailed):
        await ctx.race(ctx.quorum(2, calls, cancel_losers=True), patience)
    patience.cancel()
    for call in calls:
        call.cancel()
    return [each for call in calls for each in await told(call)]


@service.handler()
async def in_branches(ctx: Context, n: int) -> list[Any]:
    async def asks(k: int) -> list[Any]:
        a = ctx.awakeable(Answer)
        ctx.publish(TASKS, n, awakeable=a)
        async with ctx.shield():
            await ctx.run(f"flaky-{k}", effect(ctx, f"flaky-{k}"))
        result = await seen(a)
        await ctx.sleep(timedelta(seconds=(n + k) % 4))
        return [result, *await told(ctx.call(one, k))]

    several = ctx.map(asks, range(4), concurrency=3)
    return [each for part in await ctx.gather(*several) for each in part]


@service.handler()
async def in_branches_that_lose(ctx: Context, n: int) -> list[Any]:
    """What loses a race, or is left when the handler ends, cleans up."""

    async def asks(k: int) -> list[Any]:
        a = ctx.awakeable(Answer)
        ctx.publish(TASKS, n, awakeable=a)
        try:
            async with ctx.timeout(timedelta(seconds=3 + (n + k) % 9)):
                return await seen(a)
        except Cancelled:
            await ctx.run(f"undo-{k}", effect(ctx, f"undo-{k}"))
            await ctx.sleep(timedelta(seconds=k))
            raise

    async def reads_twice(futures: list[Durable[Any]]) -> list[Any]:
        return [await each for each in futures]

    several = ctx.map(asks, range(4))
    try:
        await ctx.race(reads_twice(several[:2]), reads_twice(several[1:]), cancel_losers=n % 2 == 0)
    except TerminalError as error:
        if isinstance(error, Cancelled) and error.own:
            raise
    results = [await each for each in several if each.done and each.exception() is None]
    return [result for result in results if result[1] != "timed-out"]


@service.handler()
async def races_an_action(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    acted = [ctx.run(f"slow-{k}", slow(ctx, f"slow-{k}", n % 7 * k)) for k in range(2)]
    await ctx.select(*acted, a)
    await ctx.sleep(timedelta(seconds=n % 3))
    await ctx.gather(*acted)
    return [await seen(a)]


@service.handler()
async def cancels_what_acts(ctx: Context, n: int) -> list[Any]:
    """Branches are cancelled, by an answer or with the handler, while their actions may be executed."""

    async def acts(k: int) -> None:
        async with ctx.saga() as undos:
            undos.undo(f"undo-{k}", effect(ctx, f"undo-{k}"))
            await ctx.run(f"flaky-{k}", effect(ctx, f"flaky-{k}"), retry=SEVERAL_TRIES)
            await ctx.run(f"slow-{k}", slow(ctx, f"slow-{k}", n % 7))
            await ctx.sleep(timedelta(seconds=n % 20))

    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    await ctx.race(seen(a), acts(1), acts(2), cancel_losers=n % 3 > 0)
    return [await seen(a)]


SEVERAL_TRIES = RetryPolicy(initial_interval=timedelta(seconds=2), max_attempts=3)


def slow(ctx: Context, name: str, seconds: float) -> Any:
    """A side effect that takes its time."""
    act = effect(ctx, name)

    async def execute() -> str:
        await asyncio.sleep(seconds)
        return str(await act())

    return execute


@service.handler()
async def shielded(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    async with ctx.shield():
        await ctx.sleep(timedelta(seconds=n % 10))
        result = await seen(a)
    await ctx.sleep(timedelta(seconds=n % 3))
    return [result]


@service.handler()
async def saga(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer, timeout=timedelta(seconds=25))
    async with ctx.saga() as undos:
        undos.undo("undo-1", effect(ctx, "undo-1"))
        await ctx.run("done-1", effect(ctx, "done-1"))
        undos.undo("undo-2", effect(ctx, "undo-2"))
        await ctx.run("flaky-2", effect(ctx, "flaky-2"))
        ctx.publish(TASKS, n, awakeable=a)
        result = await seen(a)
        if result[1] != "resolved":
            raise TerminalError("as planned", code=418, details=[result])
    return [result]


# Objects: each notes itself in the log of its key, and nobody's note may be lost.

counters = VirtualObject("counters", max_queue=12)
LOG = counters.state("log", list[str], default=list)
MARKS = counters.state("marks", int)


@counters.handler()
async def noted(ctx: ObjectContext, n: int) -> list[Any]:
    ctx.set(LOG, [*await ctx.get(LOG), ctx.request.invocation_id])
    return []


@counters.handler()
async def noted_after_an_answer(ctx: ObjectContext, n: int) -> list[Any]:
    before = await ctx.get(LOG)
    a = ctx.awakeable(Answer)
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    ctx.set(LOG, [*before, ctx.request.invocation_id])
    await ctx.sleep(timedelta(seconds=n % 3))
    assert await ctx.get(LOG) == [*before, ctx.request.invocation_id]
    return [result]


@counters.handler()
async def noted_and_marked(ctx: ObjectContext, n: int) -> list[Any]:
    names = await ctx.keys()
    if "marks/one" in names:
        ctx.clear(MARKS["one"])
    else:
        ctx.set(MARKS["one"], n)
    before, _ = await ctx.gather(ctx.get(LOG), ctx.run("counted", effect(ctx, "counted")))
    ctx.set(LOG, [*before, ctx.request.invocation_id])
    after = await ctx.keys()
    assert set(after) ^ set(names) == {"marks/one"} | ({"log"} if not before else set()), (names, after)
    raise TerminalError("as planned", code=418, details=[])


@counters.handler()
async def noted_before_others(ctx: ObjectContext, n: int) -> list[Any]:
    ctx.set(LOG, [*await ctx.get(LOG), ctx.request.invocation_id])
    if n < 3:
        return []
    return await told(ctx.call(noted_through_a_service, n))


@only_called.handler()
async def noted_through_a_service(ctx: Context, n: int) -> list[Any]:
    return await told(ctx.call(noted_before_others, n // 3, key=f"k{n % 4}"))


@counters.handler()
async def crossed(ctx: ObjectContext, n: int) -> list[Any]:
    """Called for two keys at once, each of which calls the other."""
    ctx.set(LOG, [*await ctx.get(LOG), ctx.request.invocation_id])
    await ctx.sleep(timedelta(seconds=1))
    return [] if ctx.key == f"k{n % 4}" else await told(ctx.call(noted, n, key=f"k{n % 4}"))


@service.handler()
async def crosses_objects(ctx: Context, n: int) -> list[Any]:
    a, b = n % 4, (n + 1) % 4
    calls = [ctx.call(crossed, b, key=f"k{a}"), ctx.call(crossed, a, key=f"k{b}")]
    return [each for call in calls for each in await told(call)]


@counters.shared()
async def watched(ctx: SharedContext, n: int) -> list[Any]:
    before = await ctx.get(LOG)
    await ctx.sleep(timedelta(seconds=n % 5))
    after = await ctx.get(LOG)
    assert after[: len(before)] == before, (before, after)
    return []


@service.handler()
async def calls_objects(ctx: Context, n: int) -> list[Any]:
    keys = [f"k{k % 3}" for k in range(n % 5)]
    calls = [ctx.call(noted_after_an_answer, n, key=key) for key in keys]
    for key in keys:
        ctx.send(noted, n, key=key, delay=timedelta(seconds=n % 7))
        ctx.send(noted, n, key=key)
    return [each for call in calls for each in await told(call)]


# A workflow: whoever looks at its promise sees the same, and a run that nobody cancels ends by it.

flows = Workflow("flows")
SIGNAL = flows.promise("signal", int)
BEGUN = flows.state("log", list[str], default=list)


async def promised(ctx: SharedContext, signal: Durable[int | None]) -> list[Any]:
    """The promise's ID and what it ended with; without a value, by the end of the run."""
    id_ = promise_id(flows.name, ctx.key, SIGNAL.name)
    try:
        value = await signal
    except Rejected as error:
        return [id_, "cancelled" if error.code == 410 else "rejected"]
    return [id_, "cancelled" if value is None else "resolved", value]


@flows.run()
async def signalled(ctx: ObjectContext, n: int) -> list[Any]:
    ctx.set(BEGUN, [*await ctx.get(BEGUN), ctx.request.invocation_id])
    await ctx.sleep(timedelta(seconds=n % 4))
    return [await promised(ctx, ctx.promise(SIGNAL))]


@flows.handler()
async def signals(ctx: SharedContext, n: int) -> list[Any]:
    signal = ctx.promise(SIGNAL)
    await (signal.reject("no", code=409) if n % 7 == 0 else signal.resolve(n))
    return [await promised(ctx, signal.peek())]


@flows.handler()
async def waits_beside_the_run(ctx: SharedContext, n: int) -> list[Any]:
    return [await promised(ctx, ctx.promise(SIGNAL))]


@service.handler()
async def begins_and_signals(ctx: Context, n: int) -> list[Any]:
    key = f"k{n % 4}"
    ctx.send(signalled, n % 8, key=key)
    for value in range(n % 3):
        ctx.send(signals, n + value, key=key, delay=timedelta(seconds=value * (n % 5)))
    return await told(ctx.call(signalled, n % 8, key=key))


# Code that changes: each process has a build of its own, a later one a higher version.

builds: WeakKeyDictionary[Clock, int] = WeakKeyDictionary()
"""The number of each process's build, by the process's clock; the first is 0."""


def route_of(ctx: Context) -> int:
    """The version that this build asks for; the first one was written before there was anything to ask.

    It asks nevertheless if a later build did: in production, what a newer build wrote is not claimed by it.
    """
    build = builds.get(ctx._execution.world.clock, 0)
    asked = any(isinstance(entry, VersionChosen) for entry in ctx._execution.replay.entries)
    return ctx.version("route", build + 1) if build or asked else 1


@service.handler()
async def changed(ctx: Context, n: int) -> list[Any]:
    results = []
    for step in range(2):
        route = route_of(ctx)
        name = f"route-{step}-{route}"
        await ctx.run(name, effect(ctx, name))
        a = ctx.awakeable(Answer)
        ctx.publish(TASKS, n, awakeable=a)
        results.append(await seen(a))
        for _ in range(route_of(ctx) % 3):
            ctx.publish("notices", step)
    return results


# Subscriptions: both read the same topic, each for itself.

RECORDS = "records"


queues = VirtualObject("queues", max_queue=2)
SEEN = queues.state("log", list[str], default=list)


def by_value(record: KafkaRecord) -> str:
    return f"k{int(record.value or b'') % 2}"


@service.handler(topic=Subscription(RECORDS, max_open=6))
async def taken(ctx: Context, n: int) -> list[Any]:
    a = ctx.awakeable(Answer, timeout=timedelta(seconds=25))
    ctx.publish(TASKS, n, awakeable=a)
    result = await seen(a)
    if n % 3 == 0:
        raise TerminalError("as planned", code=418, details=[result])
    return [result]


@queues.handler(topic=Subscription(RECORDS, key=by_value, max_open=6))
async def taken_in_order(ctx: ObjectContext, n: int) -> list[Any]:
    ctx.set(SEEN, [*await ctx.get(SEEN), ctx.request.invocation_id])
    await ctx.sleep(timedelta(seconds=n % 9))
    return []


# Schedules: of one each tick begins, whatever was down; of the other one tick waits for the one before.

scheduled = Service("scheduled")
EACH_MS = 10_000


@scheduled.handler(schedule=Schedule.every(timedelta(milliseconds=EACH_MS), overlap="allow", missed="all"))
async def each_tick(ctx: Context) -> list[Any]:
    await ctx.sleep(timedelta(seconds=2))
    return []


@scheduled.handler(schedule=Schedule.every(timedelta(seconds=8), overlap="queue"))
async def one_tick_at_a_time(ctx: Context) -> list[Any]:
    a = ctx.awakeable(Answer, timeout=timedelta(seconds=25))
    ctx.publish(TASKS, 1, awakeable=a)
    return [await seen(a)]


laters = Service("laters")


@laters.handler()
async def taken_late(ctx: Context, late: Late[Answer]) -> list[str]:
    await ctx.run("undo", effect(ctx, "undo"))
    return []


@service.handler()
async def given_up(ctx: Context, n: int) -> list[Any]:
    """One worker falls silent, another one answers too late."""
    late, silent = (
        ctx.awakeable(
            Answer,
            timeout=timedelta(seconds=seconds),
            heartbeat_timeout=timedelta(seconds=1),
            on_late=taken_late,
        )
        for seconds in (0.5 + n % 3 / 2, 4)
    )
    ctx.publish(TASKS, n, awakeable=late)
    ctx.publish(TASKS, n, awakeable=silent)
    await silent.progress()
    return [await seen(late), await seen(silent)]


UNDO = ("undone_when_cancelled", "undone_in_a_call")
"""The handlers that end with a value although they were cancelled."""

LEAVES_BRANCHES = ("in_branches_that_lose",)
"""The handlers whose branches may go on after they have returned."""

app = App("sim", services=[service, only_called, counters, flows, queues, scheduled, laters])
