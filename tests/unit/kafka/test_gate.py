"""The gate before the store: bounded, in order, and nobody is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from awakeables.kafka.gate import Gate


class Visitor:
    """Goes through a gate, and stays inside until it is told to leave."""

    def __init__(self, gate: Gate, count: int) -> None:
        self.inside = False
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._visit(gate, count))

    async def _visit(self, gate: Gate, count: int) -> None:
        async with gate.passing(count):
            self.inside = True
            await self.leave.wait()
        self.inside = False


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_get_in_than_there_is_room_for() -> None:
    gate = Gate(10)
    first, second, third = (Visitor(gate, count) for count in (6, 4, 1))
    await settle()
    assert (first.inside, second.inside, third.inside) == (True, True, False)
    second.leave.set()
    await settle()
    assert third.inside


async def test_one_that_is_larger_than_the_room_gets_in_alone() -> None:
    gate = Gate(10)
    large, small = Visitor(gate, 50), Visitor(gate, 1)
    await settle()
    assert (large.inside, small.inside) == (True, False)
    large.leave.set()
    await settle()
    assert small.inside


async def test_a_small_one_does_not_overtake_a_large_one_that_waits() -> None:
    gate = Gate(10)
    first, large, small = Visitor(gate, 5), Visitor(gate, 8), Visitor(gate, 1)
    await settle()
    assert (large.inside, small.inside) == (False, False)
    first.leave.set()
    await settle()
    assert (large.inside, small.inside) == (True, True)


@pytest.mark.parametrize("late", [False, True])
async def test_one_that_gives_up_takes_no_room_with_it(late: bool) -> None:
    gate = Gate(10)
    first, gone, last = Visitor(gate, 10), Visitor(gate, 10), Visitor(gate, 10)
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
    assert Visitor(gate, 10).task
