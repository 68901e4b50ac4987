"""What happens to invocations whose values can't be opened: they wait for the key, and nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from awakeables import App, Context, ObjectContext, Service, VirtualObject
from awakeables.core.awakeables import Completion
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Resolution
from awakeables.core.sources import source_of
from awakeables.errors import BrokerUnavailable
from awakeables.ports import Page, PayloadCodec
from awakeables.store.sqlite.store import SqliteStore
from awakeables.testing.bench import FakeBroker, Process, new_process, quick, serving
from awakeables.world import SystemClock
from support.eventually import eventually
from support.keys import ring
from unit.engine.harness import value

BOTH_KEYS, LOST = ring("old", "new"), ring("new", lost=["old"])

orders = Service("orders")
carts = VirtualObject("carts")
items = carts.state("items", int, default=0)


@orders.handler()
async def fulfil(ctx: Context, count: int) -> int:
    packed = ctx.awakeable(int)
    ctx.publish("pack", count, awakeable=packed)
    return count + await packed


@carts.handler()
async def add(ctx: ObjectContext, count: int) -> int:
    before = await ctx.get(items)
    ctx.set(items, before + count)
    return before + count


app = App("shop", services=[orders, carts])


@dataclass
class Served:
    """A process on the file, and what it has published."""

    process: Process
    store: SqliteStore
    broker: FakeBroker

    async def call(self, handler: str, count: int, *, key: str | None = None) -> str:
        target = app.handler("orders" if key is None else "carts", handler)
        begun = await self.process.api.begin(target, str(count).encode(), key=key)
        return begun.id

    async def awakeable_of(self, invocation_id: str) -> str:
        async def found() -> str:
            rows = await self.store.awakeables(Page(limit=10))
            return next((row.id for row in rows if row.invocation_id == invocation_id), "")

        return await eventually(found)

    async def resolve(self, awakeable_id: str, number: int) -> None:
        body = Resolution.of_json(str(number).encode())
        await self.process.api.settle(
            Completion(awakeable_id=awakeable_id, body=body, source=source_of("http", "t"))
        )

    async def row(self, invocation_id: str) -> Invocation:
        row = await self.store.invocation(invocation_id)
        assert row is not None
        return row

    async def reaches(self, invocation_id: str, status: str) -> Invocation:
        async def has_come() -> bool:
            return (await self.row(invocation_id)).status == status

        await eventually(has_come)
        return await self.row(invocation_id)


Shop: TypeAlias = Callable[[PayloadCodec], AbstractAsyncContextManager[Served]]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Serves the app on one file, with one codec after the other."""

    @asynccontextmanager
    async def served(codec: PayloadCodec) -> AsyncIterator[Served]:
        clock, broker = SystemClock(), FakeBroker()
        store = SqliteStore(tmp_path / "shop.db", clock=clock, retention_ms=86_400_000, codec=codec)
        await store.open()
        try:
            async with serving(new_process(app, store, broker, clock=clock, settings=quick())) as process:
                yield Served(process, store, broker)
        finally:
            await store.close()

    return served


async def test_an_invocation_whose_key_is_lost_is_paused_and_goes_on_once_it_is_back(shop: Shop) -> None:
    async with shop(ring("old")) as served:
        waits = await served.call("fulfil", 3)
        awakeable_id = await served.awakeable_of(waits)
        await served.reaches(waits, "suspended")
    async with shop(LOST) as served:
        await served.resolve(awakeable_id, 4)
        failure = (await served.reaches(waits, "paused")).failure
        assert failure is not None
        assert (failure.kind, failure.message) == ("KeyMissing", "the key 'old' is lost")
        # Others go on meanwhile.
        other = await served.call("fulfil", 1)
        await served.resolve(await served.awakeable_of(other), 1)
        assert value(await served.reaches(other, "completed")) == 2
    async with shop(BOTH_KEYS) as served:
        await served.process.api.resume(waits)
        assert value(await served.reaches(waits, "completed")) == 7


async def test_a_task_that_can_t_be_opened_is_sent_once_its_key_is_back(shop: Shop) -> None:
    async with shop(ring("old")) as served:
        served.broker.fail = lambda _effect: BrokerUnavailable("down")
        held = await served.call("fulfil", 3)
        await served.awakeable_of(held)
    async with shop(LOST) as served:
        other = await served.call("fulfil", 1)
        await eventually(lambda: served.broker.published)
        await served.process.engine.settled_down()
        assert [effect.stream for effect in served.broker.published] == [other]
        (unsent,) = await served.store.queued_effects(Page(limit=10), state="unsent")
        assert unsent.effect.stream == held
    async with shop(BOTH_KEYS) as served:
        await eventually(lambda: served.broker.published)
        assert [(each.stream, each.value) for each in served.broker.published] == [(held, b"3")]


async def test_a_state_that_can_t_be_opened_pauses_who_reads_it(shop: Shop) -> None:
    async with shop(ring("old")) as served:
        await served.reaches(await served.call("add", 3, key="c-7"), "completed")
    async with shop(LOST) as served:
        second = await served.call("add", 4, key="c-7")
        failure = (await served.reaches(second, "paused")).failure
        assert failure is not None
        assert failure.kind == "KeyMissing"
    async with shop(BOTH_KEYS) as served:
        await served.process.api.resume(second)
        assert value(await served.reaches(second, "completed")) == 7


@pytest.mark.parametrize("codec", [ring("old")])
async def test_two_answers_are_compared_although_they_are_sealed(shop: Shop, codec: Any) -> None:
    async with shop(codec) as served:
        waits = await served.call("fulfil", 3)
        awakeable_id = await served.awakeable_of(waits)
        verdicts = []
        for number, origin in ((4, "a"), (4, "b"), (5, "c")):
            completion = Completion(
                awakeable_id=awakeable_id,
                body=Resolution.of_json(str(number).encode()),
                source=source_of("http", origin),
            )
            verdict = await served.process.api.settle(completion)
            verdicts.append(verdict and verdict.kind)
        assert verdicts == ["accepted", "duplicate", "conflict"]
        assert value(await served.reaches(waits, "completed")) == 7
