"""What one invocation may not do, told clearly."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Cancelled, Context, RetryPolicy, TimedOut
from awakeables.core.journal import AwakeableCreated, RunRequested
from awakeables.core.outcomes import Cancellation
from awakeables.engine.engine import EngineSettings
from awakeables.testing.bench import Bench, quick
from unit.engine.harness import value


async def counts(ctx: Context, upto: int) -> int:
    for _ in range(upto):
        ctx.now()
    return upto


async def test_a_journal_of_a_hundred_thousand_entries_is_the_end_of_it() -> None:
    bench = Bench()
    async with bench.serving(counts=counts) as process:
        invocation_id = await bench.begin(process, "counts", b"200000")
        row = await bench.status(invocation_id, "paused")
    assert row.failure is not None
    assert row.failure.message == (
        "the journal has 100,000 entries, the maximum for one invocation "
        "(AWAKEABLES_MAX_JOURNAL_ENTRIES): split its work into several invocations"
    )


async def test_one_that_was_paused_at_the_limit_goes_on_under_a_higher_one() -> None:
    async def waits(ctx: Context) -> Any:
        for _ in range(15):
            await ctx.run("step", lambda: None)
        return await ctx.awakeable()

    def limited(entries: int) -> EngineSettings:
        return replace(quick(), max_journal_entries=entries)

    bench = Bench()
    async with bench.serving(limited(20), waits=waits) as process:
        invocation_id = await bench.begin(process, "waits")
        await bench.status(invocation_id, "paused")
    async with bench.serving(limited(100), waits=waits) as process:
        await process.api.resume(invocation_id)
        await bench.status(invocation_id, "suspended")
        [asked] = [e for e in await bench.journal(invocation_id) if isinstance(e, AwakeableCreated)]
        await bench.settle(process, asked.id, 7)
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_one_that_was_paused_at_the_limit_can_be_cancelled_and_has_room_to_clean_up() -> None:
    async def endless(ctx: Context) -> None:
        try:
            while True:
                await ctx.run("step", lambda: None)
        except Cancelled:
            await ctx.run("undo", lambda: None)
            raise

    bench = Bench()
    async with bench.serving(replace(quick(), max_journal_entries=100), endless=endless) as process:
        invocation_id = await bench.begin(process, "endless")
        await bench.status(invocation_id, "paused")
        await process.api.cancel(invocation_id)
        assert isinstance((await bench.status(invocation_id, "completed")).result, Cancellation)
        assert any(
            isinstance(e, RunRequested) and e.name == "undo" for e in await bench.journal(invocation_id)
        )


@pytest.mark.parametrize("settings", [quick(), quick(always_suspend=True)], ids=["live", "always-suspend"])
async def test_so_many_actions_of_one_invocation_are_executed_at_once(settings: EngineSettings) -> None:
    under_way: set[int] = set()
    most, tries = 0, Counter[int]()

    async def act(number: int) -> int:
        nonlocal most
        under_way.add(number)
        most = max(most, len(under_way))
        tries[number] += 1
        await asyncio.sleep(1)
        under_way.remove(number)
        if number % 7 == 0 and tries[number] < 3:
            raise ValueError("again")
        return number

    async def many(ctx: Context) -> int:
        retry = RetryPolicy(initial_interval=timedelta(seconds=3), max_attempts=5)
        return sum(await ctx.gather(*[ctx.run("act", act, n, retry=retry) for n in range(40)]))

    bench = Bench()
    settings = replace(settings, runner=replace(settings.runner, max_actions=5))
    async with bench.serving(settings, many=many) as process:
        invocation_id = await bench.begin(process, "many")
        assert value(await bench.status(invocation_id, "completed")) == sum(range(40))
    assert most == 5
    assert {number: count for number, count in tries.items() if count > 1} == {
        number: 3 for number in range(0, 40, 7)
    }


async def test_actions_that_hang_and_are_not_awaited_any_more_take_no_place_of_others() -> None:
    async def hangs() -> None:
        await asyncio.sleep(1e9)

    async def gives_up(ctx: Context) -> str:
        for _ in range(6):
            with suppress(TimedOut):
                async with ctx.timeout(timedelta(seconds=1)):
                    await ctx.run("hangs", hangs)
        return await ctx.run("acts", lambda: "done")

    bench = Bench()
    settings = replace(quick(), runner=replace(quick().runner, max_actions=5))
    async with bench.serving(settings, gives_up=gives_up) as process:
        assert value(await bench.status(await bench.begin(process, "gives_up"), "completed")) == "done"


async def test_a_map_of_more_items_than_the_journal_has_room_for_begins_none() -> None:
    async def maps(ctx: Context) -> None:
        ctx.publish("notices", "first")
        await ctx.gather(*ctx.map(lambda each: ctx.run("step", lambda: each), range(50)))

    bench = Bench()
    async with bench.serving(replace(quick(), max_journal_entries=100), maps=maps) as process:
        row = await bench.status(await bench.begin(process, "maps"), "paused")
    assert row.failure is not None
    assert row.failure.message == (
        "ctx.map of 50 items makes at least 100 journal entries, and there is room for 98 "
        "(AWAKEABLES_MAX_JOURNAL_ENTRIES): send invocations for parts of them"
    )
    assert bench.broker.published == []


@pytest.mark.parametrize("of", ["handler", "action"])
async def test_a_result_that_is_too_large_pauses_the_invocation_and_says_its_size(of: str) -> None:
    def large() -> str:
        return "x" * (32 * 1024 * 1024)

    async def returns(ctx: Context) -> str:
        if of == "handler":
            return large()
        return (await ctx.run("large", large))[:3]

    bench = Bench()
    async with bench.serving(returns=returns) as process:
        row = await bench.status(await bench.begin(process, "returns"), "paused")
    assert row.failure is not None
    told = "returned 33,554,434 bytes, and at most 33,554,432 are taken; store them elsewhere"
    assert told in row.failure.message
