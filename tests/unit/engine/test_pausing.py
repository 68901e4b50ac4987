"""Pausing an invocation, and beginning one again from an entry of its journal."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from awakeables import App, Cancelled, Context, ObjectContext, Service, TerminalError, VirtualObject
from awakeables.core.invocations import BY_OPERATOR, KILLED
from awakeables.core.journal import Input
from awakeables.core.outcomes import Resolution
from awakeables.doctor.verification import verify
from awakeables.errors import NotFound, NotPossible
from awakeables.store.memoryaudit import MemoryAudit
from awakeables.testing.bench import Bench, Process, quick, until
from unit.engine.harness import value

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))
REPLAYED = quick(always_suspend=True)
ALL = pytest.mark.parametrize("settings", [SUSPENDED, LIVE, REPLAYED], ids=["suspended", "live", "replayed"])

service = Service("orders")
counters = VirtualObject("counters")
COUNT = counters.state("count", int, default=0)
app = App("shop", services=[service, counters])
done: list[str] = []
gates: list[asyncio.Event] = []


@service.handler()
async def several(ctx: Context) -> list[Any]:
    def charge() -> str:
        done.append("charge")
        return "charged"

    first = await ctx.run("charge", charge)
    second = await ctx.awakeable(int)
    ctx.publish("notices", second)
    third = await ctx.awakeable(int)
    return [first, second, third, str(ctx.uuid())]


@service.handler()
async def acts(ctx: Context) -> str:
    async def act() -> str:
        done.append("act")
        await gates[-1].wait()
        return "acted"

    result = await ctx.run("act", act)
    await ctx.awakeable()
    return result


@service.handler()
async def acts_at_once(ctx: Context) -> list[str]:
    async def act(name: str) -> str:
        done.append(name)
        await gates[-1].wait()
        return name

    results = await ctx.gather(*[ctx.run(name, act, name) for name in "abc"])
    await ctx.awakeable()
    return list(results)


@service.handler()
async def fails(ctx: Context) -> None:
    await ctx.awakeable()
    raise TerminalError("no", code=418)


@counters.handler()
async def increment(ctx: ObjectContext) -> int:
    count = await ctx.get(COUNT) + 1
    ctx.set(COUNT, count)
    await ctx.awakeable()
    return count


@service.handler()
async def cleans_up(ctx: Context) -> str:
    try:
        await ctx.awakeable()
    except Cancelled:
        return "cleaned up"
    return "not cancelled"


@pytest.fixture(autouse=True)
def clean() -> None:
    done.clear()
    gates.append(asyncio.Event())


async def answer(bench: Bench, process: Process, invocation_id: str, number: int, with_: int) -> None:
    await until(lambda: len(bench.awakeables(invocation_id)) > number, "it asks")
    await bench.settle(process, bench.awakeables(invocation_id)[number].id, with_)


async def is_sound(bench: Bench) -> None:
    findings = await verify(MemoryAudit(bench.store.tables, clock=bench.clock), retention_ms=10**12)
    assert [str(each) for each in findings.violations] == []


@ALL
async def test_a_paused_invocation_keeps_what_comes_and_goes_on_when_it_is_resumed(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "several")
        await bench.awakeable(invocation_id)
        await process.api.pause(invocation_id, by="ann")
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.kind == BY_OPERATOR
        assert (await process.api.pause(invocation_id)).status == "paused"
        await answer(bench, process, invocation_id, 0, 7)
        await asyncio.sleep(5)
        assert bench.row(invocation_id).status == "paused"
        await process.api.resume(invocation_id)
        await answer(bench, process, invocation_id, 1, 8)
        row = await bench.status(invocation_id, "completed")
        assert value(row)[:3] == ["charged", 7, 8]
        assert done == ["charge"]
        assert [act.act for act in row.acts] == ["pause"]
        with pytest.raises(NotPossible, match="has ended; there is nothing to pause"):
            await process.api.pause(invocation_id)
        await is_sound(bench)


@ALL
async def test_an_action_ends_before_its_invocation_is_paused(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "acts")
        await until(lambda: done, "it acts")
        assert (await process.api.pause(invocation_id)).status == "running"
        await asyncio.sleep(5)
        assert bench.row(invocation_id).status == "running"
        gates[-1].set()
        await bench.status(invocation_id, "paused")
        await process.api.resume(invocation_id)
        await answer(bench, process, invocation_id, 0, 1)
        assert value(await bench.status(invocation_id, "completed")) == "acted"
        assert done == ["act"]


@pytest.mark.parametrize("settings", [SUSPENDED, LIVE], ids=["suspended", "live"])
async def test_actions_that_end_together_are_all_journaled_before_a_pause(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        invocation_id = await bench.begin(process, "acts_at_once")
        await until(lambda: len(done) == 3, "it acts")
        await process.api.pause(invocation_id)
        gates[-1].set()
        await bench.status(invocation_id, "paused")
        await process.api.resume(invocation_id)
        await answer(bench, process, invocation_id, 0, 1)
        assert value(await bench.status(invocation_id, "completed")) == ["a", "b", "c"]
        assert sorted(done) == ["a", "b", "c"]


async def test_a_pause_that_has_not_come_yet_is_taken_back_or_followed_by_a_cancellation() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        invocation_id = await bench.begin(process, "acts")
        await until(lambda: done, "it acts")
        await process.api.pause(invocation_id)
        await process.api.resume(invocation_id)
        gates[-1].set()
        await answer(bench, process, invocation_id, 0, 1)
        assert value(await bench.status(invocation_id, "completed")) == "acted"
        other = await bench.begin(process, "cleans_up")
        await bench.awakeable(other)
        await process.api.pause(other)
        await bench.status(other, "paused")
        await process.api.cancel(other)
        assert value(await bench.status(other, "completed")) == "cleaned up"


async def test_an_owner_that_dies_with_the_mark_leaves_a_paused_invocation() -> None:
    bench = Bench()
    async with bench.running(app, LIVE) as process:
        invocation_id = await bench.begin(process, "acts")
        await until(lambda: done, "it acts")
        await process.api.pause(invocation_id)
    async with bench.running(app, LIVE) as process:
        await bench.status(invocation_id, "paused")
        gates[-1].set()
        await process.api.resume(invocation_id)
        await answer(bench, process, invocation_id, 0, 1)
        await bench.status(invocation_id, "completed")
        assert done == ["act", "act"]


async def test_a_queued_invocation_is_paused_when_its_turn_comes() -> None:
    bench = Bench(service="counters")
    async with bench.running(app, SUSPENDED) as process:
        ids = [await bench.begin(process, "increment", key="k") for _ in range(2)]
        await bench.awakeable(ids[0])
        assert (await process.api.pause(ids[1])).status == "queued"
        await answer(bench, process, ids[0], 0, 1)
        await bench.status(ids[1], "paused")
        await process.api.resume(ids[1])
        await answer(bench, process, ids[1], 0, 1)
        assert value(await bench.status(ids[1], "completed")) == 2
        await is_sound(bench)


@ALL
async def test_a_restart_keeps_what_was_recorded_up_to_an_entry(settings: Any) -> None:
    bench = Bench()
    async with bench.running(app, settings) as process:
        old = await bench.begin(process, "several")
        await answer(bench, process, old, 0, 7)
        await answer(bench, process, old, 1, 8)
        first = value(await bench.status(old, "completed"))
        journal = await bench.journal(old)
        # input, run, outcome, awakeable, outcome, publish, awakeable, outcome
        with pytest.raises(
            NotPossible, match=r"awakeable prom_\w+ waits there for what comes later; .* is 2"
        ):
            await process.api.restart(old, from_entry=3)
        with pytest.raises(NotPossible, match=r"its journal has the entries 0 to 7"):
            await process.api.restart(old, from_entry=8)
        new = await process.api.restart(old, from_entry=5, by="ann")
        await answer(bench, process, new, 0, 9)
        again = value(await bench.status(new, "completed"))
        assert again == [*first[:2], 9, first[3]]
        assert done == ["charge"]
        given = (await bench.journal(new))[0]
        assert isinstance(given, Input)
        assert (given.restart_of, given.kept) == (old, 5)
        assert (await bench.journal(new))[1:6] == journal[1:6]
        [act] = bench.row(old).acts
        assert (act.act, act.by, act.into) == ("restart", "ann", new)
        assert len(bench.broker.published) == 1
        await is_sound(bench)


async def test_a_restart_from_the_input_begins_anew() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        old = await bench.begin(process, "several")
        await bench.awakeable(old)
        with pytest.raises(NotPossible, match="is suspended: pause, cancel or kill it first"):
            await process.api.restart(old)
        await process.api.pause(old)
        new = await process.api.restart(old)
        assert bench.row(old).result == KILLED
        await answer(bench, process, new, 0, 1)
        await answer(bench, process, new, 1, 2)
        assert value(await bench.status(new, "completed"))[:3] == ["charged", 1, 2]
        assert done == ["charge", "charge"]
        again = await process.api.restart(new)
        await answer(bench, process, again, 0, 1)
        await answer(bench, process, again, 1, 2)
        uuids = [value(await bench.status(key, "completed"))[3] for key in (new, again)]
        assert uuids[0] != uuids[1]
        with pytest.raises(NotFound):
            await process.api.restart(process.api.new_id("inv"))
        await is_sound(bench)


async def test_a_restart_of_an_exclusive_handler_takes_a_new_place_and_keeps_the_state() -> None:
    bench = Bench(service="counters")
    async with bench.running(app, SUSPENDED) as process:
        ids = [await bench.begin(process, "increment", key="k") for _ in range(2)]
        await bench.awakeable(ids[0])
        await process.api.pause(ids[0])
        await bench.status(ids[0], "paused")
        new = await process.api.restart(ids[0])
        await answer(bench, process, ids[1], 0, 1)
        await answer(bench, process, new, 0, 1)
        assert value(await bench.status(ids[1], "completed")) == 2
        assert value(await bench.status(new, "completed")) == 3
        with pytest.raises(
            NotPossible, match="'count' uses the state there; the last entry that is possible is 0"
        ):
            await process.api.restart(new, from_entry=2)
        stored = await process.api.state("counters", "k", 9)
        assert [msgspec.json.decode(entry.value)["value"] for entry in stored] == [3]
        await is_sound(bench)


async def test_what_was_cancelled_is_not_restarted_from_beyond_that() -> None:
    bench = Bench()
    async with bench.running(app, SUSPENDED) as process:
        old = await bench.begin(process, "cleans_up")
        await bench.awakeable(old)
        await process.api.cancel(old)
        await bench.status(old, "completed")
        with pytest.raises(
            NotPossible, match="it was cancelled at entry 2; the last entry that is possible is 0"
        ):
            await process.api.restart(old, from_entry=2)
        new = await process.api.restart(old)
        await answer(bench, process, new, 0, 1)
        assert value(await bench.status(new, "completed")) == "not cancelled"
        assert isinstance(bench.row(old).result, Resolution)
        await is_sound(bench)
