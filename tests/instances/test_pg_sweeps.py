"""Sweeps and purges of several instances at once: each thing happens once, and none fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from awakeables import Context, TimedOut
from awakeables.engine.retention import RetentionSettings
from support.eventually import eventually
from support.instances import SOON, TAKEN_OVER_S, Instance, Instances

pytestmark = pytest.mark.real_postgres

PURGES = replace(
    SOON,
    retention=RetentionSettings(
        ended=timedelta(0), dead_letters=timedelta(0), interval=timedelta(milliseconds=20)
    ),
)
KEEPS = replace(SOON, retention=replace(PURGES.retention, ended=timedelta(days=7)))

OLD_ROWS = (
    """
INSERT INTO awakeables.dead_letters (
    id, source, topic, partition, "offset", timestamp_ms, code, reason, at_ms, resent, count)
SELECT 'dlq_0' || n, 't:0:' || n, 't', 0, n, n, 'unreadable', '\\x00', n, 0, 1
FROM generate_series(1, 2000) AS n
""",
    """
INSERT INTO awakeables.outbox (event_id, stream, claimed_by, state, created_ms, topic, position, kind)
SELECT 'evt_0' || n, 'inv_' || n, 'own_1', 'failed', n, 't', n, 'event' FROM generate_series(1, 2000) AS n
""",
)


async def quickly(ctx: Context) -> str:
    try:
        return await ctx.awakeable(str, timeout=timedelta(milliseconds=100))
    except TimedOut:
        ctx.publish("notices", 1)
        return "timed out"


async def empty(shop: Instances, *tables: str) -> bool:
    counts = " + ".join(f"(SELECT count(*) FROM awakeables.{table})" for table in tables)
    return bool(await shop.sql(f"SELECT {counts} = 0"))


async def test_pg_purges_of_three_instances_race_and_delete_everything(shop: Instances) -> None:
    for statement in OLD_ROWS:
        await shop.sql(statement)
    one, two, three = (shop.serving(PURGES, quickly=quickly) for _ in range(3))
    async with one as a, two as b, three as c:
        for instance in (a, b, c):
            # Also while it is not the first one.
            instance.readers[-1] = asyncio.create_task(purging(instance))
        for number in range(30):
            await shop.begin((a, b, c)[number % 3], "quickly")
        await eventually(
            lambda: empty(
                shop, "invocations", "journal", "awakeables", "idempotency", "outbox", "dead_letters"
            ),
            TAKEN_OVER_S,
        )
        assert len(shop.published) >= 30


async def purging(instance: Instance) -> None:
    while True:
        await instance.process.engine.retention.purge()
        await asyncio.sleep(0.01)


async def test_pg_sweeps_of_three_instances_time_each_awakeable_out_once(shop: Instances) -> None:
    reads = replace(SOON, horizon=timedelta(0))
    one, two, three = (shop.serving(reads, quickly=quickly) for _ in range(3))
    async with one as a, two as b, three as c:

        async def sweeping(instance: Instance) -> None:
            while True:
                await instance.process.engine.sweep()
                await asyncio.sleep(0.01)

        for instance in (a, b, c):
            instance.readers[-1] = asyncio.create_task(sweeping(instance))
        begun = [await shop.begin((a, b, c)[number % 3], "quickly") for number in range(30)]
        for invocation_id in begun:
            row = await shop.status(invocation_id, "completed")
            assert row.wake == 1
        await eventually(lambda: empty(shop, "outbox"), TAKEN_OVER_S)
        assert {effect.stream for effect in shop.published} == set(begun)


async def test_pg_who_is_left_purges_for_those_that_are_gone(shop: Instances) -> None:
    async with shop.serving(KEEPS, quickly=quickly) as survivor:
        async with shop.serving(KEEPS, quickly=quickly) as other:
            await eventually(
                lambda: all(len(each.process.engine.member.living) == 2 for each in (survivor, other)),
                TAKEN_OVER_S,
            )
            assert survivor.process.engine.member.is_first != other.process.engine.member.is_first
        await shop.sql(OLD_ROWS[0])
        await eventually(lambda: empty(shop, "dead_letters"), TAKEN_OVER_S)
        assert survivor.process.engine.member.is_first
