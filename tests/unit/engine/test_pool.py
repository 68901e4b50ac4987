"""How many suspended handlers go on at once: few while answers wait to be read, many otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

from awakeables import Context
from awakeables.engine.pool import BEHIND, FEW
from awakeables.engine.readerstate import ReaderState, StuckBatch
from awakeables.testing.bench import Bench, until

COUNT = 3 * FEW


class Door:
    """Handlers come to it after their answer, and are counted."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def pass_through(self) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1

    async def waits(self, ctx: Context) -> None:
        """A handler that comes to it."""
        await ctx.awakeable()
        await ctx.run("pass", self.pass_through)


async def answered(bench: Bench, process: Any) -> list[str]:
    """So many suspended invocations, whose answers are told."""
    ids = [await bench.begin(process, "waits") for _ in range(COUNT)]
    for invocation_id in ids:
        await bench.status(invocation_id, "suspended")
    for number, invocation_id in enumerate(ids):
        await bench.settle(process, (await bench.awakeable(invocation_id)).id, 1, source=f"http:{number}")
    return ids


async def all_completed(bench: Bench, ids: list[str]) -> None:
    await until(lambda: all(bench.row(key).status == "completed" for key in ids))


async def test_while_many_answers_wait_to_be_read_few_handlers_go_on_at_once_but_all_do() -> None:
    door, bench = Door(), Bench()
    async with bench.serving(waits=door.waits) as process:
        process.engine.completions.readers[0] = ReaderState(lag=BEHIND + 1)
        ids = await answered(bench, process)
        await until(lambda: door.inside == FEW)
        await asyncio.sleep(5)
        assert door.inside == FEW
        door.open.set()
        await all_completed(bench, ids)
        assert door.most == FEW


async def test_once_the_answers_are_read_the_places_are_all_there_again() -> None:
    door, bench = Door(), Bench()
    async with bench.serving(waits=door.waits) as process:
        process.engine.completions.readers[0] = ReaderState(lag=BEHIND + 1)
        ids = await answered(bench, process)
        await until(lambda: door.inside == FEW)
        process.engine.completions.readers[0] = ReaderState(lag=0)
        await until(lambda: door.inside == COUNT)
        door.open.set()
        await all_completed(bench, ids)


async def test_a_new_call_is_not_held_up_by_answers_that_wait() -> None:
    async def quickly(ctx: Context) -> int:
        return 1

    bench = Bench()
    async with bench.serving(quickly=quickly) as process:
        process.engine.completions.readers[0] = ReaderState(lag=10 * BEHIND)
        ids = [await bench.begin(process, "quickly") for _ in range(2 * FEW)]
        await all_completed(bench, ids)


async def test_what_can_t_be_read_for_now_holds_up_no_handler() -> None:
    """Its partition waits for an operator, or for a transaction, for however long."""
    door, bench = Door(), Bench()
    async with bench.serving(waits=door.waits) as process:
        readers = process.engine.completions.readers
        readers[0] = ReaderState(lag=BEHIND + 1, stuck=StuckBatch(offset=3, next=None))
        readers[1] = ReaderState(lag=BEHIND + 1, ahead=True)
        readers[2] = ReaderState(lag=BEHIND + 1, transaction_s=60.0)
        ids = await answered(bench, process)
        await until(lambda: door.inside == COUNT)
        door.open.set()
        await all_completed(bench, ids)
