"""What happens to invocations whose values can't be opened: they wait for the key, and nothing is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from msgspec import Raw

from awakeables import App, Context, ObjectContext, Service, VirtualObject
from awakeables.core.awakeables import Completion, Heartbeat
from awakeables.core.effects import Effect
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Resolution
from awakeables.core.sources import source_of
from awakeables.engine import outbox
from awakeables.errors import BrokerUnavailable, KeyMissing, ValueSealed
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


@orders.handler()
async def double(ctx: Context, count: int) -> int:
    return 2 * count


@orders.handler()
async def asks(ctx: Context, count: int) -> int:
    return await ctx.call(double, count, idempotency_key="k")


@orders.handler()
async def tells(ctx: Context, count: int) -> int:
    ctx.publish("told", f"first {count}")
    waited = await ctx.awakeable(int)
    ctx.publish("told", f"second {count}")
    return waited


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
    path: Path

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
                yield Served(process, store, broker, tmp_path / "shop.db")
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


async def test_many_records_that_can_t_be_opened_hold_up_no_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CLAIM_LIMIT", 3)
    async with shop(ring("old")) as served:
        served.broker.fail = lambda _effect: BrokerUnavailable("down")
        for count in range(10):
            await served.awakeable_of(await served.call("fulfil", count))
    async with shop(LOST) as served:
        reads = 0
        read = served.store.effects

        async def counted(owner: str, limit: int) -> list[Effect]:
            nonlocal reads
            reads += 1
            return await read(owner, limit)

        monkeypatch.setattr(served.process.engine.relay._reader, "effects", counted)
        other = await served.call("fulfil", 99)
        await eventually(lambda: served.broker.published)
        assert [effect.stream for effect in served.broker.published] == [other]
        await served.process.engine.settled_down()
        assert reads < 20


async def test_records_of_a_stream_stay_behind_one_that_can_t_be_opened(shop: Shop) -> None:
    async with shop(ring("old")) as served:
        served.broker.fail = lambda _effect: BrokerUnavailable("down")
        held = await served.call("tells", 1)
        awakeable_id = await served.awakeable_of(held)
        await served.reaches(held, "suspended")
    with closing(sqlite3.connect(served.path)) as connection, connection:
        ((stored,),) = connection.execute("SELECT value FROM outbox").fetchall()
        connection.execute("UPDATE outbox SET value = ?", (stored + b"0",))
    async with shop(ring("old")) as served:
        await served.resolve(awakeable_id, 7)
        await served.reaches(held, "completed")
        await served.process.engine.settled_down()
        assert served.broker.published == []
    with closing(sqlite3.connect(served.path)) as connection, connection:
        connection.execute("UPDATE outbox SET value = ? WHERE value = ?", (stored, stored + b"0"))
    async with shop(ring("old")) as served:
        await eventually(lambda: len(served.broker.published) == 2)
        assert [each.value for each in served.broker.published] == [b'"first 1"', b'"second 1"']


async def test_what_can_t_be_opened_is_purged_like_everything_else(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop(ring("old")) as served:
        expires, purged = await served.call("fulfil", 1), await served.call("fulfil", 2)
        for each in (expires, purged):
            await served.resolve(await served.awakeable_of(each), 4)
            await served.reaches(each, "completed")
    async with shop(LOST) as served:
        await served.process.api.purge(purged)
        later_ms = SystemClock().now_ms() + 60_000
        monkeypatch.setattr(served.process.engine.retention, "_before_ms", lambda _kept: later_ms)
        assert await served.process.engine.retention.purge() == 1
        assert await served.store.invocations(Page(limit=10)) == []
        assert await served.store.awakeables(Page(limit=10)) == []


async def test_a_handler_is_not_told_that_a_call_has_failed_whose_result_can_t_be_opened(shop: Shop) -> None:
    async with shop(ring("old")) as served:
        assert value(await served.reaches(await served.call("asks", 5), "completed")) == 10
    async with shop(LOST) as served:
        again = await served.call("asks", 5)
        failure = (await served.reaches(again, "paused")).failure
        assert failure is not None
        assert failure.kind == "KeyMissing"
        # The others of its commit were not held up.
        other = await served.call("fulfil", 1)
        await served.resolve(await served.awakeable_of(other), 1)
        await served.reaches(other, "completed")
        with pytest.raises(KeyMissing):
            await served.process.api.result((await served.store.invocations(Page(limit=10)))[-1].id)
    async with shop(BOTH_KEYS) as served:
        await served.process.api.resume(again)
        assert value(await served.reaches(again, "completed")) == 10


async def test_a_heartbeat_without_progress_keeps_what_can_t_be_opened(shop: Shop) -> None:
    def heartbeat(progress: bytes) -> Completion:
        beat = Heartbeat(progress=Raw(progress))
        return Completion(awakeable_id=awakeable_id, body=beat, source=source_of("http", "b"))

    async with shop(ring("old")) as served:
        awakeable_id = await served.awakeable_of(await served.call("fulfil", 1))
        await served.process.api.settle(heartbeat(b'"half"'))
    async with shop(LOST) as served:
        await served.process.api.settle(heartbeat(b"null"))
    async with shop(BOTH_KEYS) as served:
        row = await served.store.awakeable(awakeable_id)
        assert row is not None
        assert row.heartbeat is not None
        assert bytes(row.heartbeat.progress) == b'"half"'


async def test_a_clear_value_that_somebody_has_written_is_not_read_if_none_is_expected(shop: Shop) -> None:
    async with shop(ring("old")) as served:
        ended = await served.call("double", 5)
        await served.reaches(ended, "completed")
    with closing(sqlite3.connect(served.path)) as connection, connection:
        connection.execute("UPDATE invocations SET result = ?", (b'{"status":"resolved","value":666}',))
    async with shop(ring("old")) as served:
        assert value(await served.row(ended)) == 666
    async with shop(ring("old", accepts_clear=False)) as served:
        with pytest.raises(ValueSealed, match=f"invocations.result:{ended} is not sealed"):
            await served.process.api.result(ended)
        new = await served.call("double", 6)
        assert value(await served.reaches(new, "completed")) == 12


async def test_a_ring_without_a_current_key_opens_and_seals_nothing(shop: Shop) -> None:
    async with shop(ring("old", seals=False)) as served:
        clear = await served.call("double", 5)
        await served.reaches(clear, "completed")
    async with shop(ring("old")) as served:
        sealed = await served.call("double", 6)
        await served.reaches(sealed, "completed")
    async with shop(ring("old", seals=False)) as served:
        assert [value(await served.row(each)) for each in (clear, sealed)] == [10, 12]


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
