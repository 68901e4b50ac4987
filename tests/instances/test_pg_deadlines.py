"""Deadlines wait until all partitions of the completions topic are read, whichever instance reads them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from awakeables import Context, TimedOut
from awakeables.core.awakeables import Completion
from awakeables.core.outcomes import Resolution
from awakeables.engine.horizon import EXCHANGE_S
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.sinks import CompletionSink
from awakeables.wire.completions import encode_completion
from support.eventually import eventually
from support.instances import SOON, TAKEN_OVER_S, Instances

pytestmark = pytest.mark.real_postgres

READS = replace(SOON, horizon=timedelta(minutes=15))
TIMEOUT = timedelta(milliseconds=200)
LONG_AFTER_S = TIMEOUT.total_seconds() + 2 * EXCHANGE_S + 1.0
"""When a time-out that nothing held back would have come."""

CLOCKS = [timedelta(0), timedelta(minutes=10), timedelta(minutes=-10)]


async def wait_briefly(ctx: Context) -> str:
    try:
        return await ctx.awakeable(str, timeout=TIMEOUT)
    except TimedOut:
        return "timed out"


async def result(shop: Instances, invocation_id: str) -> str:
    row = await shop.status(invocation_id, "completed")
    assert isinstance(row.result, Resolution)
    return row.result.content.decode()


async def test_pg14_no_time_out_while_one_of_three_readers_is_frozen(shop: Instances) -> None:
    one, two, three = (shop.serving(READS, ahead=ahead, wait=wait_briefly) for ahead in CLOCKS)
    async with one as a, two as b, three as c:
        for partition, instance in enumerate((a, b, c)):
            await instance.read(partition, of=3)
        timed_out = await shop.begin(a, "wait")
        assert await result(shop, timed_out) == '"timed out"'
        # The last one reads no more, though it lives: an answer may be in its partition.
        c.readers[2].cancel()
        await asyncio.sleep(2 * EXCHANGE_S)
        held = [await shop.begin(instance, "wait") for instance in (a, b, c)]
        await asyncio.sleep(LONG_AFTER_S)
        keys = [(await shop.awakeables(each))[0] for each in held]
        assert [key.state for key in keys] == ["pending"] * 3
        # The answer to one of them was in time, and is found by the next reader.
        sink = CompletionSink(b.process.engine.completions, 2)
        assert await sink.open() == 0
        answer = encode_completion(
            Completion(awakeable_id=keys[0].id, body=Resolution.of_json(b'"answered"'), source="")
        )
        await sink.take([ConsumedRecord(offset=0, timestamp_ms=0, key=None, value=answer)])
        await b.read(2, of=3)
        assert await result(shop, held[0]) == '"answered"'
        assert [await result(shop, each) for each in held[1:]] == ['"timed out"'] * 2


async def test_pg14_no_time_out_before_a_partition_that_was_added_is_read(shop: Instances) -> None:
    one, two = (shop.serving(READS, ahead=ahead, wait=wait_briefly) for ahead in CLOCKS[1:])
    async with one as a, two as b:
        await a.read(0, of=2)
        await b.read(1, of=2)
        assert await result(shop, await shop.begin(a, "wait")) == '"timed out"'
        # One of them learns of the new partition, which has no row yet; the other still knows two.
        a.partitions = 3
        await eventually(lambda: known_partitions(shop, 3), TAKEN_OVER_S)
        held = await shop.begin(b, "wait")
        await asyncio.sleep(LONG_AFTER_S)
        assert (await shop.awakeables(held))[0].state == "pending"
        await b.read(2, of=3)
        assert await result(shop, held) == '"timed out"'


async def known_partitions(shop: Instances, count: int) -> bool:
    known = await shop.sql("SELECT partitions FROM awakeables.topics")
    return bool(known == count)


async def test_pg14_no_time_out_for_a_partition_that_nobody_has_claimed(shop: Instances) -> None:
    async with shop.serving(READS, wait=wait_briefly) as a:
        await a.read(0, of=2)
        held = await shop.begin(a, "wait")
        await asyncio.sleep(LONG_AFTER_S)
        assert (await shop.awakeables(held))[0].state == "pending"
        await a.read(1, of=2)
        assert await result(shop, held) == '"timed out"'


async def test_pg14_a_deadline_is_by_the_store_s_clock_however_wrong_the_instance_s_is(
    shop: Instances,
) -> None:
    one, two = (shop.serving(READS, ahead=ahead, wait=wait_briefly) for ahead in CLOCKS[1:])
    async with one as ahead, two as behind:
        await ahead.read(0, of=1)
        for instance in (ahead, behind):
            invocation_id = await shop.begin(instance, "wait")
            awakeable = await shop.awakeable(invocation_id)
            assert awakeable.deadline_ms is not None
            now_ms = await shop.sql("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            assert abs(awakeable.deadline_ms - now_ms) < 5_000
            assert await result(shop, invocation_id) == '"timed out"'
            row = await shop.row(invocation_id)
            assert row.ended_ms is not None
            assert row.ended_ms >= awakeable.deadline_ms


async def sleep_briefly(ctx: Context) -> int:
    await ctx.sleep(timedelta(seconds=1))
    return 1


async def test_pg14_a_sleep_takes_as_long_whichever_instance_s_clock_it_began_by(shop: Instances) -> None:
    one, two = (shop.serving(READS, ahead=ahead, nap=sleep_briefly) for ahead in CLOCKS[1:])
    async with one as a, two as b:
        for instance in (a, b):
            row = await shop.status(await shop.begin(instance, "nap"), "completed")
            assert row.ended_ms is not None
            # An instance's clock is behind the store's by as long as a heartbeat's answer took.
            assert 500 <= row.ended_ms - row.created_ms < 8_000
