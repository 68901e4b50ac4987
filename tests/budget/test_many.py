"""What a handler of many waits may cost: linear, however the outcomes come."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

import pytest

from awakeables import Context, Service, TerminalError
from awakeables.core.awakeables import Completion
from awakeables.core.commands import Settle
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import SettledAll
from awakeables.handlers.execution import Execution
from awakeables.handlers.local import LocalAttempt
from awakeables.handlers.service import App
from awakeables.testing import run
from awakeables.testing.bench import Bench, quick
from awakeables.testing.loop import SeededLoop

service = Service("orders")
app = App("shop", services=[service])


@service.handler()
async def many(ctx: Context, count: int) -> int:
    return sum(await ctx.gather(*[ctx.awakeable() for _ in range(count)]))


@service.handler()
async def many_and_a_run(ctx: Context, count: int) -> int:
    await ctx.run("act", lambda: None)
    return sum(await ctx.gather(*[ctx.awakeable() for _ in range(count)]))


@service.handler()
async def one_by_one(ctx: Context, count: int) -> int:
    total = 0
    async for done in ctx.as_completed([ctx.awakeable() for _ in range(count)]):
        total += await done
    return total


@service.handler()
async def in_branches(ctx: Context, count: int) -> int:
    async def branch() -> int:
        answer: int = await ctx.awakeable()
        ctx.publish("notices", answer)
        return answer

    return sum(await ctx.gather(*[branch() for _ in range(count)]))


@service.handler()
async def one(ctx: Context, n: int) -> int:
    return n


@service.handler()
async def calls_many(ctx: Context, count: int) -> int:
    return sum(await ctx.gather(*ctx.map(lambda n: ctx.call(one, n), range(count), concurrency=50)))


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many Python functions are called meanwhile."""
    calls = [0]

    def profile(_frame: FrameType, event: str, _arg: Any) -> None:
        if event == "call":
            calls[0] += 1

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


async def cost_of_answers(count: int, at_once: int, handler: str = "many") -> float:
    """Calls per awakeable from the answers to the end, while the handler is in memory."""
    bench = Bench()
    async with bench.running(app, quick(linger=timedelta(seconds=60))) as process:
        invocation_id = await bench.begin(process, handler, str(count).encode())
        await asyncio.sleep(1)
        ids = [row.id for row in bench.awakeables(invocation_id)]
        with counted() as calls:
            for first in range(0, count, at_once):
                completions = tuple(
                    Completion(awakeable_id=key, body=Resolution.of_json(b"1"), source=f"handler:{key}:1")
                    for key in ids[first : first + at_once]
                )
                reply = await process.engine.committer.commit(Settle(completions=completions), SettledAll)
                process.engine.pool.wake(reply.wakes)
            await bench.status(invocation_id, "completed")
    return calls[0] / count


async def cost_of_calls(count: int) -> float:
    bench = Bench()
    async with bench.running(app, quick(linger=timedelta(seconds=60))) as process:
        with counted() as calls:
            invocation_id = await bench.begin(process, "calls_many", str(count).encode())
            await bench.status(invocation_id, "completed")
    return calls[0] / count


def in_virtual_time(work: Any) -> Any:
    loop = SeededLoop(0)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


@pytest.mark.parametrize(("at_once", "most"), [(100, 33), (1, 185)])
def test_a_gather_is_linear(at_once: int, most: int) -> None:
    few, many_more = (in_virtual_time(cost_of_answers(count, at_once)) for count in (200, 2000))
    assert many_more < 1.1 * few
    assert few < most


@pytest.mark.parametrize("handler", ["many_and_a_run", "one_by_one", "in_branches"])
def test_so_are_other_ways_to_wait_for_many(handler: str) -> None:
    few, many_more = (in_virtual_time(cost_of_answers(count, 100, handler)) for count in (200, 2000))
    assert many_more < 1.2 * few


def test_a_combination_leaves_nothing_that_only_the_collector_frees() -> None:
    async def handler(ctx: Context) -> list[Any]:
        a, b, c = ctx.awakeable(), ctx.awakeable(), ctx.awakeable()
        naps = ctx.map(lambda n: ctx.sleep(timedelta(seconds=n)), [0, 0, 0], concurrency=1)
        undecided = ctx.race(a, ctx.gather(b, c))
        async with ctx.timeout(timedelta(hours=1)):
            await ctx.quorum(2, naps)
        for each in (a, b):
            await ctx.resolve_awakeable(each.id, 1)
        return [await undecided]

    assert_is_freed(handler)


@pytest.mark.parametrize("fails", [False, True])
def test_branches_leave_nothing_that_only_the_collector_frees(fails: bool) -> None:
    async def handler(ctx: Context) -> None:
        async def branch(seconds: int) -> None:
            async with ctx.timeout(timedelta(seconds=2)):
                await ctx.sleep(timedelta(seconds=seconds))

        left = ctx.map(branch, [1, 9, 9], concurrency=2)
        await ctx.race(branch(1), branch(9), *left)
        if fails:
            raise TerminalError("as planned")

    assert_is_freed(handler)


def test_a_failure_leaves_nothing_that_only_the_collector_frees() -> None:
    async def handler(ctx: Context) -> None:
        await ctx.sleep(timedelta(seconds=1))
        raise TerminalError("as planned")

    assert_is_freed(handler)


def assert_is_freed(handler: Any) -> None:
    left = []
    for times in (1, 10):
        run(handler, suspend=False)
        gc.collect()
        gc.disable()
        try:
            for _ in range(times):
                run(handler, suspend=False)
            left.append(sum(isinstance(each, Execution | LocalAttempt) for each in gc.get_objects()))
        finally:
            gc.enable()
            gc.collect()
    assert left[1] <= left[0]


def test_calls_in_a_map_are_linear() -> None:
    few, many_more = (in_virtual_time(cost_of_calls(count)) for count in (100, 500))
    assert many_more < 1.2 * few
    assert few < 480
