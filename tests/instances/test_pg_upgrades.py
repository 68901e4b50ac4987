"""Builds side by side, as in a rolling upgrade (hard case 13)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from awakeables import Context
from awakeables.core.outcomes import Resolution
from support.eventually import eventually
from support.instances import SOON, TAKEN_OVER_S, Instance, Instances

pytestmark = pytest.mark.real_postgres

AT_ONCE = replace(SOON, runner=replace(SOON.runner, linger=timedelta(0)))
SWEPT_S = 2.5
"""After this long each instance has looked for work."""


async def wait(ctx: Context) -> int:
    return await ctx.awakeable(int)


async def noticed(*instances: Instance) -> None:
    """Each knows the others."""
    await eventually(
        lambda: all(len(each.process.engine.member.living) == len(instances) for each in instances),
        TAKEN_OVER_S,
    )


async def test_pg19_what_a_newer_build_wrote_is_left_to_it_while_it_lives(shop: Instances) -> None:
    async with AsyncExitStack() as newer, shop.serving(AT_ONCE, build="1", wait=wait) as old:
        new = await newer.enter_async_context(shop.serving(AT_ONCE, build="2", wait=wait))
        await noticed(old, new)
        of_new = await shop.begin(new, "wait")
        of_old = await shop.begin(old, "wait")
        keys = [(await shop.awakeable(each)).id for each in (of_new, of_old)]
        for each in (of_new, of_old):
            await shop.status(each, "suspended")
        new.process.engine.pool.stop_claiming()  # it has no place at the moment
        for key in keys:
            await shop.settle(old, key, 7)
        assert (await shop.status(of_old, "completed")).build == "1"
        await asyncio.sleep(SWEPT_S)
        row = await shop.row(of_new)
        assert (row.status, row.build, row.failure_json) == ("pending", "2", None)
        # The last one of the newer build is gone, so nobody is left to protect it for.
        await newer.aclose()
        row = await shop.status(of_new, "completed")
        assert row.result == Resolution.of_json(b"7")
        assert row.committed_by == old.owner


async def test_pg19_the_newer_build_takes_what_the_older_one_wrote(shop: Instances) -> None:
    async with AsyncExitStack() as older:
        old = await older.enter_async_context(shop.serving(AT_ONCE, build="1", wait=wait))
        invocation_id = await shop.begin(old, "wait")
        key = (await shop.awakeable(invocation_id)).id
        async with shop.serving(AT_ONCE, build="2", wait=wait) as new:
            await noticed(old, new)
            await shop.status(invocation_id, "suspended")
            await old.process.engine.drain(timedelta(seconds=5))
            await older.aclose()
            await shop.settle(new, key, 7)
            row = await shop.status(invocation_id, "completed")
            assert (row.build, row.committed_by) == ("2", new.owner)


async def test_pg19_a_handler_that_only_another_instance_has_is_left_to_it_and_not_paused(
    shop: Instances,
) -> None:
    async with AsyncExitStack() as stack:
        has_it = await stack.enter_async_context(shop.serving(AT_ONCE, wait=wait, added=wait))
        async with shop.serving(AT_ONCE, wait=wait) as lacks_it:
            await noticed(has_it, lacks_it)
            invocation_id = await shop.begin(has_it, "added")
            key = (await shop.awakeable(invocation_id)).id
            await shop.status(invocation_id, "suspended")
            has_it.process.engine.pool.stop_claiming()
            await shop.settle(lacks_it, key, 7)
            await asyncio.sleep(SWEPT_S)
            row = await shop.row(invocation_id)
            assert (row.status, row.starts, row.failure_json) == ("pending", 0, None)
            has_it.process.engine.pool.stopping = False
            has_it.process.engine.pool.look_again()
            assert (await shop.status(invocation_id, "completed")).committed_by == has_it.owner


async def test_pg19_an_instance_that_starts_leaves_what_it_does_not_know_yet_to_the_others(
    shop: Instances,
) -> None:
    async with shop.serving(AT_ONCE, build="2", wait=wait, added=wait) as newer:
        invocation_id = await shop.begin(newer, "added")
        key = (await shop.awakeable(invocation_id)).id
        await shop.status(invocation_id, "suspended")
        newer.process.engine.pool.stop_claiming()
        await shop.settle(newer, key, 7)
        assert (await shop.row(invocation_id)).status == "pending"
        async with shop.serving(AT_ONCE, build="2", wait=wait) as starts:
            await asyncio.sleep(SWEPT_S)
            assert (await shop.row(invocation_id)).status == "pending"
            assert starts.process.engine.live == 0


async def test_pg19_an_older_build_that_takes_over_knows_what_it_may_run(shop: Instances) -> None:
    """The instance that ran it dies; the older build takes it over and leaves it to another newer one."""
    lingers = replace(SOON, runner=replace(SOON.runner, linger=timedelta(minutes=5)))
    async with AsyncExitStack() as stack, shop.serving(lingers, build="1", wait=wait) as old:
        dies = await stack.enter_async_context(shop.serving(lingers, build="2", wait=wait))
        async with shop.serving(lingers, build="2", wait=wait) as lives:
            await noticed(old, dies, lives)
            invocation_id = await shop.begin(dies, "wait")
            key = (await shop.awakeable(invocation_id)).id
            await stack.aclose()
            await shop.settle(old, key, 7)
            row = await shop.status(invocation_id, "completed")
            assert row.committed_by == lives.owner
