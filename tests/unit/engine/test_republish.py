"""Sending what Kafka has refused again (hard case 9, K3)."""

from __future__ import annotations

import pytest

from awakeables import Context
from awakeables.core.commands import Republish
from awakeables.core.effects import Effect
from awakeables.errors import NotFound, NotPossible, PublishRefused
from awakeables.testing.bench import Bench, Process, until
from support.ids import new_id


async def invoices(ctx: Context, count: int) -> None:
    for number in range(count):
        ctx.publish("invoices", number)


async def task(ctx: Context) -> str:
    packed = ctx.awakeable(str)
    ctx.publish("tasks", 1, awakeable=packed)
    return await packed


def refuse(bench: Bench, *values: bytes) -> None:
    """From now on Kafka refuses records with these values, and only those."""
    bench.broker.fail = lambda effect: PublishRefused("forbidden") if effect.value in values else None


async def refused(bench: Bench, process: Process, count: int = 1) -> Effect:
    """The first of so many records, refused; the others are out."""
    refuse(bench, b"0")
    await bench.begin(process, "invoices", b"%d" % count)
    await until(lambda: bench.store.tables.failed and len(bench.broker.published) == count - 1)
    [effect] = [row.effect for _, row in bench.store.tables.in_state("failed")]
    refuse(bench)
    return effect


async def test_hard_case_9_a_record_that_was_refused_goes_out_again_behind_those_that_have_passed_it() -> (
    None
):
    bench = Bench()
    async with bench.serving(invoices=invoices) as process:
        effect = await refused(bench, process, 3)
        assert await process.api.republish(effect.event_id) == effect
        await until(lambda: not bench.store.tables.effects, within_s=1)
        assert bench.broker.values("invoices") == [1, 2, 0]
        assert bench.broker.published[-1] == effect, "as it was, under its ID"


async def test_one_that_is_refused_again_is_kept_again_with_its_new_reason() -> None:
    bench = Bench()
    async with bench.serving(invoices=invoices) as process:
        effect = await refused(bench, process)
        bench.broker.fail = lambda _effect: PublishRefused("too large")
        await process.api.republish(effect.event_id)
        await until(lambda: bench.store.tables.failed == {effect.event_id: "too large"})
        refuse(bench)
        await process.api.republish(effect.event_id)
        await until(lambda: not bench.store.tables.effects)
        assert bench.broker.published == [effect]


async def test_one_that_outlived_its_process_is_sent_again_by_the_next() -> None:
    bench = Bench()
    async with bench.serving(invoices=invoices) as process:
        effect = await refused(bench, process)
    async with bench.serving(invoices=invoices) as process:
        await process.engine.settled_down()
        assert bench.broker.published == [], "by itself it is left alone"
        await process.api.republish(effect.event_id)
        await until(lambda: bench.broker.published == [effect])


async def test_one_that_carries_an_awakeable_is_not_sent_again() -> None:
    bench = Bench()
    refuse(bench, b"1")
    async with bench.serving(task=task) as process:
        invocation_id = await bench.begin(process, "task")
        await bench.status(invocation_id, "completed")
        [effect] = [row.effect for _, row in bench.store.tables.in_state("failed")]
        refuse(bench)
        with pytest.raises(NotPossible, match="nobody waits for its answer"):
            await process.api.republish(effect.event_id)
        await process.engine.settled_down()
        assert [row.effect for _, row in bench.store.tables.in_state("failed")] == [effect]
        assert bench.broker.published == []


async def test_one_that_is_on_its_way_goes_out_once_also_if_it_carries_an_awakeable() -> None:
    bench = Bench()
    bench.broker.gate.clear()
    async with bench.serving(task=task) as process:
        await bench.begin(process, "task")
        await until(lambda: bench.broker.tries)
        [effect] = bench.broker.tries
        assert await process.api.republish(effect.event_id) == effect
        bench.broker.gate.set()
        await until(lambda: not bench.store.tables.effects)
        assert bench.broker.published == [effect]


async def test_what_is_not_in_the_outbox_can_t_be_sent_again() -> None:
    bench = Bench()
    async with bench.serving(invoices=invoices) as process:
        effect = await refused(bench, process)
        await process.api.republish(effect.event_id)
        await until(lambda: not bench.store.tables.effects)
        for event_id in (effect.event_id, new_id("dlq", at_ms=1, entropy=bytes(10))):
            with pytest.raises(NotFound, match=event_id):
                await process.api.republish(event_id)


async def test_hard_case_3_a_lost_acknowledgement_sends_it_again_once() -> None:
    bench = Bench()
    async with bench.serving(invoices=invoices) as process:
        effect = await refused(bench, process)
        await process.engine.settled_down()
        bench.store.lose_after = 1
        assert await process.api.republish(effect.event_id) == effect
        assert len(bench.store.members(Republish)) == 2
        await until(lambda: not bench.store.tables.effects)
        assert bench.broker.published == [effect]
