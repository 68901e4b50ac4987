"""Effects and purges where instances share a store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context
from awakeables.core.commands import PurgeDeadLetters
from awakeables.core.replies import Claimed
from awakeables.engine.outbox import RelaySettings
from awakeables.errors import StoreUnavailable
from awakeables.testing.bench import Bench, quick, until
from unit.engine.harness import heartbeats_unanswered


@pytest.fixture
async def bench() -> Bench:
    return Bench(shared=True)


async def test_effects_are_not_published_by_an_instance_that_may_be_dead(bench: Bench) -> None:
    async def tells(ctx: Context) -> None:
        ctx.publish("notices", await ctx.awakeable(int))
        await ctx.awakeable(int)

    async with bench.serving(quick(linger=timedelta(minutes=5)), tells=tells) as one:
        invocation_id = await bench.begin(one, "tells")
        key = (await bench.awakeable(invocation_id)).id
        acknowledged = await heartbeats_unanswered(bench, one)
        await bench.settle(one, key, 1)
        await until(lambda: bench.row(invocation_id).version == 2, "the effect is stored")
        await asyncio.sleep(1)
        assert bench.broker.tries == []
        acknowledged.set()
        await until(lambda: bench.broker.values("notices") == [1], "it is published")


async def test_effects_that_were_claimed_by_an_order_without_an_answer_go_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tells(ctx: Context) -> None:
        ctx.publish("notices", 1)
        await ctx.awakeable(int)
        ctx.publish("notices", 2)

    # Only a relay's tenth sweep reads what is claimed without a reason.
    at_once = replace(quick(), relay=RelaySettings(sweep_interval=timedelta(minutes=5)))
    async with bench.serving(at_once, tells=tells) as one, bench.serving(at_once, tells=tells) as two:
        bench.broker.gate.clear()
        invocation_id = await bench.begin(one, "tells")
        key = (await bench.awakeable(invocation_id)).id
        await bench.status(invocation_id, "suspended")
        one.engine.pool.stop_claiming()
        commit = bench.store.commit
        lost: list[Any] = []

        async def forgetful(commands: Any) -> Any:
            replies = await commit(commands)
            if not lost and any(isinstance(each, Claimed) and each.effect_ids for each in replies):
                lost.append(replies)
                raise StoreUnavailable("the acknowledgement was lost")
            return replies

        monkeypatch.setattr(bench.store, "commit", forgetful)
        await bench.settle(two, key, 1)
        await until(lambda: lost, "the claim is answered to nobody")
        assert [effect.value for effect in bench.broker.tries] == [b"1"], "by its owner before"
        bench.broker.tries.clear()
        await bench.status(invocation_id, "completed")
        await until(lambda: bench.broker.tries, "something is published")
        assert bench.broker.tries[0].value == b"1"


async def test_one_instance_purges_for_all(bench: Bench) -> None:
    async with bench.serving(), bench.serving(), bench.serving():
        await asyncio.sleep(10)  # all know each other
        before = len(bench.store.members(PurgeDeadLetters))
        await asyncio.sleep(180)
        assert len(bench.store.members(PurgeDeadLetters)) - before == 3
