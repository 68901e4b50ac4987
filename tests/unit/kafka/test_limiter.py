"""The limiter before the store: bounded, in order, and no waiter is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from awakeables.kafka.limiter import BatchLimiter


class Holder:
    """Acquires capacity, and holds it until `leave` is set."""

    def __init__(self, limiter: BatchLimiter, count: int) -> None:
        self.inside = False
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._visit(limiter, count))

    async def _visit(self, limiter: BatchLimiter, count: int) -> None:
        async with limiter.acquire(count):
            self.inside = True
            await self.leave.wait()
        self.inside = False


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_get_in_than_there_is_room_for() -> None:
    limiter = BatchLimiter(10)
    first, second, third = (Holder(limiter, count) for count in (6, 4, 1))
    await settle()
    assert (first.inside, second.inside, third.inside) == (True, True, False)
    second.leave.set()
    await settle()
    assert third.inside


async def test_one_that_is_larger_than_the_room_gets_in_alone() -> None:
    limiter = BatchLimiter(10)
    large, small = Holder(limiter, 50), Holder(limiter, 1)
    await settle()
    assert (large.inside, small.inside) == (True, False)
    large.leave.set()
    await settle()
    assert small.inside


async def test_a_small_one_does_not_overtake_a_large_one_that_waits() -> None:
    limiter = BatchLimiter(10)
    first, large, small = Holder(limiter, 5), Holder(limiter, 8), Holder(limiter, 1)
    await settle()
    assert (large.inside, small.inside) == (False, False)
    first.leave.set()
    await settle()
    assert (large.inside, small.inside) == (True, True)


@pytest.mark.parametrize("late", [False, True])
async def test_one_that_gives_up_takes_no_room_with_it(late: bool) -> None:
    limiter = BatchLimiter(10)
    first, gone, last = Holder(limiter, 10), Holder(limiter, 10), Holder(limiter, 10)
    await settle()
    if late:
        # In the very turn in which it is let in.
        first.leave.set()
        await asyncio.sleep(0)
    gone.task.cancel()
    first.leave.set()
    await settle()
    assert last.inside
    last.leave.set()
    await settle()
    assert Holder(limiter, 10).task
