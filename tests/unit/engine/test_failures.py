"""Attempts that fail, and what is parked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from awakeables import Context, RetryPolicy
from awakeables.engine.engine import EngineSettings
from awakeables.errors import (
    NotFound,
    NotPossible,
)
from awakeables.testing.bench import Bench, quick
from unit.engine.harness import value, wait


async def test_a_paused_invocation_goes_on_when_it_is_resumed_and_its_attempts_restart_at_1() -> None:
    bench = Bench()
    broken = True
    calls: list[int] = []

    async def flaky(ctx: Context) -> str:
        calls.append(ctx.request.attempt)
        if broken:
            raise ConnectionError("down")
        return "mended"

    # An hour of back-offs: looked for every ten seconds, or the looking is all that is computed.
    seldom = replace(quick(), sweep_interval=timedelta(seconds=10))
    async with bench.serving(seldom, flaky=flaky) as process:
        invocation_id = await bench.begin(process, "flaky")
        await asyncio.sleep(5200)
        row = await bench.status(invocation_id, "paused")
        assert (len(calls), calls[-1]) == (70, 70)
        assert row.failure is not None
        assert (row.failure.kind, row.failure.message) == ("ConnectionError", "down")
        broken = False
        await process.api.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == "mended"
        assert calls[-1] == 1
        with pytest.raises(NotPossible, match="is completed, not paused"):
            await process.api.resume(invocation_id)
        with pytest.raises(NotFound):
            await process.api.resume("inv_1x")


async def test_a_back_off_can_be_cut_short() -> None:
    bench = Bench()
    fails = iter([True, False])

    async def flaky(ctx: Context) -> str:
        if next(fails):
            raise ConnectionError("down")
        return "mended"

    async with bench.serving(flaky=flaky) as process:
        invocation_id = await bench.begin(process, "flaky")
        await bench.status(invocation_id, "backing-off")
        began = bench.clock.monotonic()
        await process.api.resume(invocation_id)
        await bench.status(invocation_id, "completed")
        assert bench.clock.monotonic() - began < 0.2


async def test_an_error_whose_message_is_not_utf_8_is_kept_with_the_row() -> None:
    bench = Bench()

    async def read(ctx: Context) -> None:
        raise OSError("no such file: \udcff")

    async with bench.serving(read=read) as process:
        row = await bench.status(await bench.begin(process, "read"), "backing-off")
        assert row.failure is not None
        assert row.failure.message == "no such file: ?"


async def test_one_handler_s_unusual_error_affects_no_other_invocation() -> None:
    class Odd(BaseException):
        pass

    async def odd(ctx: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(5))
            raise Odd

    bench = Bench()
    async with bench.serving(odd=odd, wait=wait) as process:
        other = await bench.begin(process, "wait")
        await bench.status(await bench.begin(process, "odd"), "backing-off")
        await bench.settle(process, (await bench.awakeable(other)).id, {"weight": 7})
        assert value(await bench.status(other, "completed")) == 7


async def test_an_action_that_keeps_failing_pauses_the_invocation_whatever_goes_on_beside_it() -> None:
    """Of the actions beside it none is executed twice."""
    bench = Bench()
    acted: list[str] = []

    async def fails() -> None:
        raise ConnectionError("down")

    async def takes_time(name: str) -> None:
        await asyncio.sleep(0.7)
        acted.append(name)

    async def works(ctx: Context) -> None:
        for n in range(400):
            await ctx.run(f"act-{n}", takes_time, f"act-{n}")
            await ctx.sleep(timedelta(seconds=5))

    async def stuck(ctx: Context) -> None:
        await ctx.run("fails", fails)

    async def both(ctx: Context) -> None:
        await ctx.gather(works(ctx), stuck(ctx))

    seldom = replace(quick(), sweep_interval=timedelta(seconds=10))
    async with bench.serving(seldom, both=both) as process:
        invocation_id = await bench.begin(process, "both")
        await asyncio.sleep(6000)
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert (row.failure.kind, row.failure.message) == ("ConnectionError", "down")
        assert row.failure.tries == {2: 70}
    assert len(acted) == len(set(acted)) > 20


async def test_an_action_that_succeeds_after_others_went_on_beside_it_begins_the_count_anew() -> None:
    bench = Bench()
    tries: list[int] = []

    async def flaky() -> None:
        tries.append(len(tries))
        if len(tries) < 4:
            raise ConnectionError("down")

    async def fails(ctx: Context) -> None:
        await ctx.run("flaky", flaky)
        await ctx.sleep(timedelta(seconds=60))
        if len(tries) == 4:
            tries.append(ctx.request.attempt)
            raise ValueError("the first of its kind")

    async def sleeps(ctx: Context) -> None:
        for _ in range(30):
            await ctx.sleep(timedelta(seconds=0.3))

    async def both(ctx: Context) -> None:
        await ctx.gather(sleeps(ctx), fails(ctx))

    async with bench.serving(both=both) as process:
        invocation_id = await bench.begin(process, "both")
        await bench.status(invocation_id, "completed")
    assert tries == [0, 1, 2, 3, 1]


async def test_each_action_has_a_count_of_its_own_whatever_fails_beside_it() -> None:
    tried: list[object] = []

    async def fails() -> None:
        tried.append("always")
        await asyncio.sleep(5)
        raise ConnectionError("down")

    async def once(number: int) -> None:
        tried.append(number)
        if tried.count(number) == 1:
            raise ConnectionError(f"{number} is down")

    async def others(ctx: Context) -> None:
        for number in range(40):
            await ctx.run("once", once, number)

    async def both(ctx: Context) -> None:
        await ctx.gather(ctx.run("always", fails), others(ctx))

    bench = Bench()
    async with bench.serving(tries(3), both=both) as process:
        row = await bench.status(await bench.begin(process, "both"), "paused")
        assert row.failure is not None
        assert max(row.failure.tries.values()) == 3
    assert tried.count("always") == 3


async def test_the_first_failure_of_an_action_is_one_whatever_has_failed_before() -> None:
    tried: list[str] = []

    async def in_the_third_try() -> None:
        tried.append("third")
        if tried.count("third") < 3:
            raise ConnectionError("down")
        await asyncio.sleep(1)

    async def in_the_second_try() -> None:
        tried.append("second")
        if tried.count("second") < 2:
            raise ConnectionError("down as well")

    async def later(ctx: Context) -> None:
        await ctx.sleep(timedelta(seconds=10))
        await ctx.run("second", in_the_second_try)

    async def both(ctx: Context) -> None:
        await ctx.gather(ctx.run("third", in_the_third_try), later(ctx))

    bench = Bench()
    async with bench.serving(tries(3), both=both) as process:
        await bench.status(await bench.begin(process, "both"), "completed")
    assert (tried.count("third"), tried.count("second")) == (3, 2)


async def test_an_action_that_lost_a_race_and_hangs_holds_up_no_retry() -> None:
    tried: list[str] = []

    async def hangs() -> None:
        tried.append("hangs")
        await asyncio.sleep(1e9)

    async def flaky() -> None:
        tried.append("flaky")
        if tried.count("flaky") == 1:
            raise ConnectionError("down")

    async def loses(ctx: Context) -> str:
        await ctx.race(ctx.run("hangs", hangs), ctx.sleep(timedelta(seconds=1)))
        await ctx.run("flaky", flaky)
        return "done"

    bench = Bench()
    async with bench.serving(loses=loses) as process:
        assert value(await bench.status(await bench.begin(process, "loses"), "completed")) == "done"
    assert tried == ["hangs", "flaky", "flaky"]


def tries(most: int) -> EngineSettings:
    settings = quick()
    retry = RetryPolicy(initial_interval=timedelta(seconds=5), max_attempts=most)
    return replace(settings, runner=replace(settings.runner, retry=retry))
