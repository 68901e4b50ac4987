"""Killing an invocation: it ends as it stands, and whatever still runs it changes nothing (hard case 4)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context
from awakeables.core.ids import new_id
from awakeables.core.invocations import KILLED
from awakeables.core.orders import Advance
from awakeables.errors import NotFound, NotPossible
from unit.engine.harness import Bench, quick, until

SUSPENDED = quick()
LIVE = quick(linger=timedelta(hours=1))
BOTH = pytest.mark.parametrize("settings", [SUSPENDED, LIVE], ids=["suspended", "live"])


async def wait(ctx: Context) -> Any:
    return await ctx.awakeable()


@BOTH
async def test_whoever_waits_for_it_is_told_at_once_and_nothing_holds_it_any_more(settings: Any) -> None:
    bench = Bench()
    async with bench.serving(settings, wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        awakeable = await bench.awakeable(invocation_id)
        waiting = asyncio.ensure_future(engine.result(invocation_id))
        row = await engine.kill(invocation_id)
        assert (row.status, row.result) == ("completed", KILLED)
        assert await waiting == KILLED
        assert (await bench.settle(engine, awakeable.id, 1)).kind == "late"
        await until(lambda: engine.live == 0, "its handler has left", within_s=1)
        assert bench.row(invocation_id) == row


async def test_its_handler_is_not_told_and_can_keep_nothing() -> None:
    done: list[str] = []
    begun, finish = asyncio.Event(), asyncio.Event()

    async def charge() -> str:
        begun.set()
        await finish.wait()
        done.append("charged")
        return "charged"

    async def pay(ctx: Context) -> Any:
        await ctx.run("charge", charge)
        done.append("went on")
        return await ctx.run("ship", lambda: done.append("shipped"))

    bench = Bench()
    async with bench.serving(LIVE, pay=pay) as engine:
        invocation_id = await bench.begin(engine, "pay")
        await begun.wait()
        row = await engine.kill(invocation_id)
        finish.set()
        await until(lambda: engine.live == 0, "its handler has left")
        assert "shipped" not in done
        assert bench.row(invocation_id) == row
        assert len(await bench.journal(invocation_id)) == row.version


async def test_one_whose_code_no_longer_fits_can_be_killed() -> None:
    async def other(ctx: Context) -> None:
        await ctx.sleep(timedelta(days=1))

    bench = Bench()
    async with bench.serving(work=wait) as engine:
        invocation_id = await bench.begin(engine, "work")
        awakeable = await bench.awakeable(invocation_id)
        await bench.status(invocation_id, "suspended")
    async with bench.serving(work=other) as engine:
        await engine.cancel(invocation_id)
        await bench.status(invocation_id, "paused")
        assert (await engine.kill(invocation_id)).result == KILLED
        assert (await bench.settle(engine, awakeable.id, 1)).kind == "late"
        with pytest.raises(NotPossible, match="not paused"):
            await engine.resume(invocation_id)


async def test_a_lost_acknowledgement_is_told_the_same() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        invocation_id = await bench.begin(engine, "wait")
        await bench.status(invocation_id, "suspended")
        bench.store.lose_after = 1
        assert (await engine.kill(invocation_id)).result == KILLED
        assert (await engine.kill(invocation_id)).result == KILLED


async def test_the_last_commit_of_its_owner_that_came_first_stands() -> None:
    async def at_once(ctx: Context) -> int:
        return 7

    bench = Bench()
    async with bench.serving(work=at_once) as engine:
        invocation_id = await bench.begin(engine, "work")
        await bench.status(invocation_id, "completed")
        with pytest.raises(NotPossible, match="nothing to kill"):
            await engine.kill(invocation_id)
        assert len(bench.store.members(Advance)) == 1


async def test_one_that_is_not_there_can_not_be_killed() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as engine:
        with pytest.raises(NotFound):
            await engine.kill(new_id("inv", at_ms=1, entropy=bytes(10)))
