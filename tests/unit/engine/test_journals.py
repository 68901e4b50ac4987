"""J1 to J3: one writer, replay, runs once recorded."""

from __future__ import annotations

import asyncio

import msgspec

from awakeables import Context
from awakeables.engine.engine import EngineSettings
from awakeables.testing.bench import Bench, until
from unit.engine.harness import BOTH, Wide, value, wait


async def test_j1_a_stale_owner_s_commit_changes_nothing() -> None:
    bench = Bench()
    held, kept = asyncio.Event(), asyncio.Event()

    async def slow(ctx: Context) -> str:
        await ctx.run("act", held.wait, type=bool)
        ctx.publish("notices", "done")
        return "mine"

    async def slower(ctx: Context) -> str:
        await ctx.run("act", kept.wait, type=bool)
        ctx.publish("notices", "done")
        return "theirs"

    async with bench.serving(act=slow) as old:
        invocation_id = await bench.begin(old, "act")
        await asyncio.sleep(1)
        old.engine.pool.stop_claiming()  # it would claim the row again itself
        async with bench.serving(act=slower) as new:
            await until(
                lambda: bench.row(invocation_id).owner == new.engine.member.id and new.engine.live == 1
            )
            row, chunks = bench.row(invocation_id), dict(bench.store.tables.journals[invocation_id])
            held.set()
            await until(lambda: old.engine.live == 0)
            assert bench.row(invocation_id) == row
            assert bench.store.tables.journals[invocation_id] == chunks
            kept.set()
            assert value(await bench.status(invocation_id, "completed")) == "theirs"
        await until(lambda: bench.broker.published)
        await asyncio.sleep(5)
        assert len({effect.event_id for effect in bench.broker.published}) == 1, "the stale one's is not out"


async def v1(ctx: Context) -> str:
    await ctx.run("reserve", lambda: "a")
    awakeable = ctx.awakeable(int)
    await awakeable
    await ctx.run("charge", lambda: "b")
    return "v1"


async def v2(ctx: Context) -> str:
    await ctx.run("reserve", lambda: "a")
    await ctx.run("check", lambda: "new")
    await ctx.awakeable(int)
    return "v2"


async def test_j2_code_that_does_something_else_is_parked_with_a_diff_and_goes_on_under_the_old_code() -> (
    None
):
    bench = Bench()
    async with bench.serving(fulfil=v1) as process:
        invocation_id = await bench.begin(process, "fulfil")
        await bench.status(invocation_id, "suspended")
        key = (await bench.awakeable(invocation_id)).id
    before = await bench.journal(invocation_id)
    async with bench.serving(fulfil=v2) as process:
        await bench.settle(process, key, 1)
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.kind == "ReplayMismatch"
        assert row.failure.message.splitlines() == [
            "the handler no longer does what its journal says: its code has changed, "
            "or it takes the time, randomness or an iteration order from elsewhere than ctx.",
            "       0  input of orders/fulfil",
            "       1  run 'reserve'",
            "       2  outcome of entry 1",
            f"  -    3  awakeable {key}",
            "  +       the handler asks for: run 'check'",
            "Deploy code that repeats the journal (the line marked -), then resume the invocation.",
        ]
        assert await bench.journal(invocation_id) == before, "it never runs on"
        assert (await process.api.resume(invocation_id)).status == "pending"
        await bench.status(invocation_id, "paused")
    async with bench.serving(fulfil=v1) as process:
        await process.api.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == "v1"


async def test_j2_a_handler_that_is_gone_or_a_journal_that_can_t_be_read_parks_the_invocation() -> None:
    bench = Bench()
    async with bench.serving(one=wait, other=wait) as process:
        gone, unreadable = await bench.begin(process, "one"), await bench.begin(process, "other")
        for key in (gone, unreadable):
            await bench.status(key, "suspended")
            assert await bench.awakeable(key)
    bench.store.tables.journals[unreadable][9] = b'[{"k":"telepathy"}]'
    async with bench.serving(other=wait) as process:
        for key in (gone, unreadable):
            await bench.settle(process, (await bench.awakeable(key)).id, {"weight": 1})
        first, second = await bench.status(gone, "paused"), await bench.status(unreadable, "paused")
        assert first.failure is not None
        assert "has no handler 'one'; it has: other" in first.failure.message
        assert second.failure is not None
        assert "'telepathy'" in second.failure.message
        fine = await bench.begin(process, "other")
        await bench.settle(process, (await bench.awakeable(fine)).id, {"weight": 3}, "http:9")
        assert value(await bench.status(fine, "completed")) == 3
    async with bench.serving(one=wait) as process:
        await process.api.resume(gone)
        assert value(await bench.status(gone, "completed")) == 1


@BOTH
async def test_j3_a_run_that_is_recorded_is_never_executed_again(settings: EngineSettings) -> None:
    bench = Bench()
    executed: list[str] = []

    async def act(ctx: Context) -> int:
        await ctx.run("once", lambda: executed.append("x"))
        return (await ctx.awakeable(Wide)).weight

    for _ in range(3):
        async with bench.serving(settings, act=act) as process:
            if not bench.store.tables.invocations:
                invocation_id = await bench.begin(process, "act")
            key = (await bench.awakeable(invocation_id)).id
            await asyncio.sleep(1)
    async with bench.serving(settings, act=act) as process:
        await bench.settle(process, key, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7
    assert executed == ["x"]


async def test_j3_a_run_starts_only_after_what_it_was_decided_on_is_committed() -> None:
    bench = Bench()
    recorded: list[int] = []

    async def act(ctx: Context) -> None:
        ctx.now()
        ctx.awakeable()
        ctx.publish("notices", 1)

        def look() -> None:
            chunks = bench.store.tables.journals[ctx.request.invocation_id]
            recorded.append(sum(len(msgspec.json.decode(chunk)) for chunk in chunks.values()))

        await ctx.run("act", look)

    async with bench.serving(act=act) as process:
        bench.store.lose_before = 2
        await bench.status(await bench.begin(process, "act"), "completed")
    assert recorded == [5], "input, now, awakeable, publish, run"


async def test_j3_a_crash_between_the_side_effect_and_the_journal_executes_it_again_under_one_key() -> None:
    bench = Bench()
    keys: list[str] = []

    async def charge(ctx: Context) -> str:
        key = ctx.uuid()

        def act() -> str:
            keys.append(str(key))
            if len(keys) == 1:
                bench.store.gate.clear()
            return "charged"

        return await ctx.run("charge", act)

    async with bench.serving(charge=charge) as process:
        invocation_id = await bench.begin(process, "charge")
        await until(lambda: keys)
        await asyncio.sleep(1)
    bench.store.gate.set()
    async with bench.serving(charge=charge):
        assert value(await bench.status(invocation_id, "completed")) == "charged"
    assert len(keys) == 2
    assert len(set(keys)) == 1
