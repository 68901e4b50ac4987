"""What one invocation may not do, told clearly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from awakeables import Cancelled, Context
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
