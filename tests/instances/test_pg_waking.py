"""Wake-ups and answers among instances: without notifications, and without the instance that was called."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context
from awakeables.core.commands import Idempotency
from awakeables.core.instances import Hint
from awakeables.core.outcomes import Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.store.postgres.hints import PostgresHints
from support.eventually import eventually
from support.instances import SOON, TAKEN_OVER_S, Instances

pytestmark = pytest.mark.real_postgres

SWEEPS_S = 2.0
"""The interval of an instance that is not the first."""

SLACK_S = 3.0
"""What a busy machine adds."""


async def wait(ctx: Context) -> int:
    return await ctx.awakeable(int)


async def wait_twice(ctx: Context) -> list[int]:
    return [await ctx.awakeable(int), await ctx.awakeable(int)]


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[Hint]:
    """The hints that were to be sent: all are lost."""
    hints: list[Hint] = []
    monkeypatch.setattr(PostgresHints, "send", lambda _self, _to, hint: hints.append(hint))
    return hints


def lingering(linger: timedelta) -> EngineSettings:
    return replace(SOON, runner=replace(SOON.runner, linger=linger))


async def took_s(work: Any) -> float:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await work
    return loop.time() - began_s


async def test_pg12_without_notifications_all_ends_within_the_linger_and_a_sweep(
    shop: Instances, lost: list[Hint]
) -> None:
    async with shop.serving(wait_twice=wait_twice) as one, shop.serving(wait_twice=wait_twice) as two:
        call = one.process.api.call(one.process.api.app.handler("orders", "wait_twice"), b"null", headers={})
        await call.begun
        first = await shop.awakeable(call.id)
        bound_s = SOON.runner.linger.total_seconds() + SWEEPS_S + SLACK_S
        await shop.settle(two, first.id, 1)
        assert await took_s(shop.awakeable(call.id, 1)) < bound_s
        second = await shop.awakeable(call.id, 1)
        await shop.settle(two, second.id, 2)
        assert await took_s(asyncio.wait_for(call.end, TAKEN_OVER_S)) < bound_s
        assert call.end.result() == Resolution.of_json(b"[1,2]")
        assert lost, "there was something to lose"


async def test_pg12_a_cancellation_without_a_notification(shop: Instances, lost: list[Hint]) -> None:
    async with shop.serving(wait=wait) as one, shop.serving(wait=wait) as two:
        invocation_id = await shop.begin(one, "wait")
        await shop.awakeable(invocation_id)
        await two.process.api.cancel(invocation_id)
        ended = shop.status(invocation_id, "completed")
        assert await took_s(ended) < SOON.runner.linger.total_seconds() + SWEEPS_S + SLACK_S
        assert {hint.kind for hint in lost} <= {"cancelled", "ended"}


async def test_pg13_a_call_is_answered_by_whoever_ends_it_and_outlives_its_instance(shop: Instances) -> None:
    key = Idempotency(scope="orders/wait", key="k1", fingerprint="f")
    async with shop.serving(wait=wait) as second, shop.serving(wait=wait) as third:
        async with shop.serving(wait=wait) as waiter:
            invocation_id = await shop.begin(waiter, "wait", idempotency=key)
            answered = asyncio.ensure_future(waiter.process.api.result(invocation_id))
            awakeable = await shop.awakeable(invocation_id)
            await shop.status(invocation_id, "suspended")
            waiter.process.engine.pool.stop_claiming()  # another one ends it
            attached = asyncio.ensure_future(third.process.api.result(invocation_id))
            await shop.settle(second, awakeable.id, 8)
            assert await asyncio.wait_for(answered, TAKEN_OVER_S) == Resolution.of_json(b"8")
            assert (await shop.row(invocation_id)).committed_by != waiter.owner
        assert await asyncio.wait_for(attached, TAKEN_OVER_S) == Resolution.of_json(b"8")
        assert await shop.begin(third, "wait", idempotency=key) == invocation_id
        assert await third.process.api.result(invocation_id) == Resolution.of_json(b"8")


async def test_pg13_the_instance_that_runs_a_call_and_waits_for_it_dies(shop: Instances) -> None:
    key = Idempotency(scope="orders/wait", key="k1", fingerprint="f")
    async with AsyncExitStack() as others:
        async with shop.serving(lingering(timedelta(minutes=5)), wait=wait) as waiter:
            invocation_id = await shop.begin(waiter, "wait", idempotency=key)
            answered = asyncio.ensure_future(waiter.process.api.result(invocation_id))
            awakeable = await shop.awakeable(invocation_id)
            dead = (await shop.row(invocation_id)).owner
            assert dead == waiter.owner
            second = await others.enter_async_context(shop.serving(wait=wait))
            third = await others.enter_async_context(shop.serving(wait=wait))
        answered.cancel()
        repeated = await shop.begin(third, "wait", idempotency=key)
        assert repeated == invocation_id
        attached = asyncio.ensure_future(third.process.api.result(repeated))
        await shop.settle(second, awakeable.id, 9)
        assert await asyncio.wait_for(attached, TAKEN_OVER_S) == Resolution.of_json(b"9")
        assert (await shop.row(invocation_id)).committed_by != dead


async def test_pg12_a_caller_that_attached_elsewhere_is_answered_without_a_notification(
    shop: Instances, lost: list[Hint]
) -> None:
    async with shop.serving(wait=wait) as one, shop.serving(wait=wait) as two:
        invocation_id = await shop.begin(one, "wait")
        awakeable = await shop.awakeable(invocation_id)
        attached = asyncio.ensure_future(two.process.api.result(invocation_id))
        await shop.settle(one, awakeable.id, 3)
        await shop.status(invocation_id, "completed")
        assert await took_s(asyncio.wait_for(attached, TAKEN_OVER_S)) < 0.25 + SLACK_S


async def test_pg6_who_was_declared_dead_while_alive_goes_on_as_a_new_instance(shop: Instances) -> None:
    settings = lingering(timedelta(minutes=5))
    async with shop.serving(settings, wait=wait) as frozen, shop.serving(settings, wait=wait) as living:
        invocation_id = await shop.begin(frozen, "wait")
        awakeable = await shop.awakeable(invocation_id)
        before = frozen.owner
        await frozen.freeze()

        async def taken_over() -> bool:
            return (await shop.row(invocation_id)).owner == living.owner

        await eventually(taken_over, TAKEN_OVER_S)
        frozen.thaw()
        await eventually(lambda: frozen.owner != before, TAKEN_OVER_S)
        await eventually(lambda: frozen.process.engine.live == 0, TAKEN_OVER_S)
        await shop.settle(frozen, awakeable.id, 1)
        row = await shop.status(invocation_id, "completed")
        assert row.committed_by == living.owner
