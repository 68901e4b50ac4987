"""Effects of a stream under changing owners: all are published, in order but for late repeats (K3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from awakeables import Context
from awakeables.core.effects import Effect
from awakeables.engine.engine import EngineSettings
from support.eventually import eventually
from support.instances import SOON, TAKEN_OVER_S, Instance, Instances, first_occurrences

pytestmark = pytest.mark.real_postgres

CLOCKS = [timedelta(minutes=10), timedelta(minutes=-10)]


def swept(settings: EngineSettings) -> EngineSettings:
    """The outbox is searched more often than in production."""
    return replace(settings, relay=replace(settings.relay, sweep_interval=timedelta(milliseconds=200)))


AT_ONCE = swept(replace(SOON, runner=replace(SOON.runner, linger=timedelta(0))))
HOLDS = swept(replace(SOON, runner=replace(SOON.runner, linger=timedelta(minutes=5))))


async def tell(ctx: Context) -> None:
    """Publish two effects before an answer, and two after it."""
    awakeable = ctx.awakeable(int)
    ctx.publish("notices", 1)
    ctx.publish("notices", 2)
    await awakeable
    ctx.publish("notices", 3)
    ctx.publish("notices", 4)


@asynccontextmanager
async def pair(
    shop: Instances, first: EngineSettings
) -> AsyncIterator[tuple[Instance, Instance, AsyncExitStack]]:
    """The first instance, whose broker takes nothing yet, and another one; the stack ends the first."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(shop.serving(first, ahead=CLOCKS[0], tell=tell))
        one.broker.gate.clear()
        async with shop.serving(AT_ONCE, ahead=CLOCKS[1], tell=tell) as two:
            yield one, two, stack


async def all_sent(shop: Instances) -> bool:
    return bool(await shop.sql("SELECT count(*) = 0 FROM awakeables.outbox"))


async def begun(shop: Instances, instance: Instance) -> tuple[str, str]:
    """An invocation of the instance with two unsent effects; its ID and its awakeable's."""
    invocation_id = await shop.begin(instance, "tell")
    awakeable = await shop.awakeable(invocation_id)
    await eventually(lambda: len(instance.broker.tries) > 0)
    return invocation_id, awakeable.id


async def in_order(shop: Instances) -> None:
    await eventually(lambda: all_sent(shop), TAKEN_OVER_S)
    assert first_occurrences(shop.values("notices")) == [1, 2, 3, 4]


async def test_pg15_the_owner_before_lives_and_goes_on_publishing(shop: Instances) -> None:
    async with pair(shop, AT_ONCE) as (one, two, _):
        invocation_id, key = await begun(shop, one)
        await shop.status(invocation_id, "suspended")
        one.process.engine.pool.stop_claiming()  # the other one goes on with it
        two.broker.gate.clear()
        await shop.settle(two, key, 1)
        await shop.status(invocation_id, "completed")
        one.broker.gate.set()
        await asyncio.sleep(0.3)
        two.broker.gate.set()
        await in_order(shop)


async def test_pg15_the_owner_before_publishes_after_the_next_one(shop: Instances) -> None:
    async with pair(shop, AT_ONCE) as (one, two, _):
        invocation_id, key = await begun(shop, one)
        await shop.status(invocation_id, "suspended")
        one.process.engine.pool.stop_claiming()
        await shop.settle(two, key, 1)
        await shop.status(invocation_id, "completed")
        await eventually(lambda: all_sent(shop), TAKEN_OVER_S)
        assert shop.values("notices") == [1, 2, 3, 4]
        one.broker.gate.set()
        await eventually(lambda: len(shop.published) > 4)
        await in_order(shop)


async def test_pg15_the_owner_before_is_dead(shop: Instances) -> None:
    async with pair(shop, HOLDS) as (one, two, stack):
        invocation_id, key = await begun(shop, one)
        await stack.aclose()
        await shop.settle(two, key, 1)
        await shop.status(invocation_id, "completed")
        await in_order(shop)
        assert shop.values("notices") == [1, 2, 3, 4], "nothing was repeated"


async def test_pg15_the_owner_before_is_frozen_and_publishes_when_it_wakes_up(shop: Instances) -> None:
    async with pair(shop, HOLDS) as (one, two, _):
        invocation_id, key = await begun(shop, one)
        await one.freeze()
        await shop.settle(two, key, 1)
        await shop.status(invocation_id, "completed")
        await eventually(lambda: all_sent(shop), TAKEN_OVER_S)
        before = one.owner
        one.thaw()
        await eventually(lambda: one.owner != before, TAKEN_OVER_S)
        await asyncio.sleep(0.5)
        await in_order(shop)
        assert len(shop.values("notices")) <= 5, "only what it was publishing is repeated"


async def test_pg15_verdicts_of_an_awakeable_are_published_in_their_order(shop: Instances) -> None:
    verdicts = replace(AT_ONCE, verdicts=True)
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        stacks = (first, second)
        both = [
            await stack.enter_async_context(shop.serving(verdicts, ahead=ahead, tell=tell))
            for stack, ahead in zip(stacks, CLOCKS, strict=True)
        ]
        invocation_id = await shop.begin(both[1], "tell")
        key = (await shop.awakeable(invocation_id)).id
        for instance in both:
            instance.broker.gate.clear()
        given = [await shop.settle(both[0], key, 1, "http:0")]
        trying = lambda: [n for n in (0, 1) if has_tried(both[n], "shop.verdicts")]  # noqa: E731
        [holder] = await eventually(trying, TAKEN_OVER_S)
        # Each instance settles some, and the one that holds the stream dies.
        for number in range(1, 6):
            given.append(await shop.settle(both[number % 2], key, number + 1, f"http:{number}"))
        assert not of_awakeable(shop, key)
        await stacks[holder].aclose()
        both[1 - holder].broker.gate.set()
        await eventually(lambda: all_sent(shop), TAKEN_OVER_S)
        sources = [effect.verdict.source for effect in of_awakeable(shop, key) if effect.verdict]
        assert first_occurrences(sources) == [f"http:{number}" for number in range(6)]
        assert [verdict.kind for verdict in given] == ["accepted"] + ["conflict"] * 5


def has_tried(instance: Instance, topic: str) -> bool:
    return any(effect.topic == topic for effect in instance.broker.tries)


def of_awakeable(shop: Instances, awakeable_id: str) -> list[Effect]:
    return [effect for effect in shop.published if effect.stream == awakeable_id]
