"""K1 to K3 and O2, O3: one transaction with the topic, effects, what survives a process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Context, TimedOut
from awakeables.core.commands import Advance, TakePartitions
from awakeables.core.invocations import Suspend
from awakeables.engine.readtopic import ConsumedRecord, FoldingSettings
from awakeables.engine.sinks import CompletionSink
from awakeables.errors import (
    OwnershipLost,
)
from awakeables.testing.bench import Bench, quick, until
from awakeables.testing.loop import STARTED_MS
from support.ids import new_id
from support.logs import heard
from unit.engine.harness import LIVE, TOPIC, resolution, value, wait


async def test_k1_completions_verdicts_wake_ups_and_offsets_commit_together_or_not_at_all() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        key = (await bench.awakeable(invocation_id)).id
        bench.store.lose_before = 1
        bench.store.lose_after = 1
        await bench.records(process, resolution(key), resolution(key), resolution(key, b'{"weight":8}'))
        row = await bench.store.awakeable(key)
        assert row is not None
        assert row.verdicts.counts == {"accepted": 1, "duplicate": 1, "conflict": 1}
        assert bench.store.tables.positions["", TOPIC, 0].next == 3
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_k1_rewinding_the_topic_is_a_no_op() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        await bench.records(process, resolution(key), b"{", resolution(key, b"{}"))
        await until(lambda: process.engine.relay.idle and not bench.store.tables.effects)
        before = bench.store.tables.awakeables[key], dict(bench.store.tables.dead_letters)
        published = len(bench.broker.published)
        for first in (0, 1, 2):
            with pytest.raises(OwnershipLost):
                await bench.records(process, resolution(key), b"{", resolution(key, b"{}"), first=first)
        await asyncio.sleep(10)
        assert (bench.store.tables.awakeables[key], dict(bench.store.tables.dead_letters)) == before
        assert len(bench.broker.published) == published


async def test_k1_a_batch_of_a_reader_that_lost_its_partition_changes_nothing() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        sink = CompletionSink(process.engine.completions, 0)
        await sink.open()
        other = TakePartitions(owner="another", topic=TOPIC, partitions=(0,))
        await process.engine.committer.submit(other)
        record = ConsumedRecord(offset=0, timestamp_ms=0, key=None, value=resolution(key))
        with pytest.raises(OwnershipLost, match="another reader"):
            await sink.take([record])
        assert bench.store.tables.awakeables[key].state == "pending"


async def test_k2_a_bad_record_becomes_a_dead_letter_and_the_offset_moves_on_in_the_same_transaction() -> (
    None
):
    bench = Bench()
    never = new_id("prom", at_ms=STARTED_MS, entropy=bytes(10))
    bad: list[bytes | None] = [b"{broken \xff", None, b"[]", resolution(never), b"9" * 5000, b"[" * 100_000]
    async with bench.serving(wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        await bench.records(process, *bad, resolution(key))
        letters = sorted(bench.store.tables.dead_letters.values(), key=lambda x: x.offset)
        assert [x.code for x in letters] == [
            "unreadable",
            "unreadable",
            "unreadable",
            "unknown",
            "unreadable",
            "unreadable",
        ]
        assert [x.value for x in letters] == bad
        assert bench.store.tables.positions["", TOPIC, 0].next == 7
        assert bench.store.tables.awakeables[key].state == "resolved"
        await until(lambda: len([e for e in bench.broker.published if e.topic == f"{TOPIC}.dlq"]) == 6)
        copies = {e.event_id: e.value for e in bench.broker.published if e.topic == f"{TOPIC}.dlq"}
        assert copies == {letter.id: letter.value for letter in letters}


async def test_k3_what_was_committed_is_published_though_the_process_died_at_once() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        bench.broker.gate.clear()
        invocation_id = await bench.begin(process, "wait")
        await bench.status(invocation_id, "suspended")
    bench.broker.gate.set()
    async with bench.serving(wait=wait):
        await until(lambda: bench.broker.published)
    tries = {e.event_id for e in bench.broker.tries}
    assert len(tries) == 1, "the event ID is stable over resends"


async def test_o2_a_suspended_invocation_holds_nothing_in_memory() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        before = len(asyncio.all_tasks())
        ids = [await bench.begin(process, "wait") for _ in range(50)]
        for invocation_id in ids:
            await bench.status(invocation_id, "suspended")
        await until(lambda: process.engine.live == 0 and len(asyncio.all_tasks()) <= before)


async def test_o3_timers_time_outs_and_retries_survive_restarts() -> None:
    bench = Bench()
    fails = iter([True, False])

    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(timedelta(hours=1))
        return "woken"

    async def timer(ctx: Context) -> str:
        try:
            await ctx.awakeable(timeout=timedelta(hours=1))
        except TimedOut:
            return "timed out"
        return ""

    async def flaky(ctx: Context) -> str:
        if next(fails):
            raise ConnectionError("down")
        return "retried"

    handlers: dict[str, Any] = {"sleeper": sleeper, "timer": timer, "flaky": flaky}
    async with bench.serving(**handlers) as process:
        ids = [await bench.begin(process, name) for name in handlers]
        await bench.status(ids[0], "suspended")
        await bench.status(ids[1], "suspended")
        await bench.status(ids[2], "backing-off")
    await asyncio.sleep(4000)
    async with bench.serving(**handlers):
        rows = [await bench.status(key, "completed") for key in ids]
    assert [value(row) for row in rows] == ["woken", "timed out", "retried"]


async def test_o3_a_wake_up_whose_hint_is_lost_is_found_by_the_sweep() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        await bench.status(invocation_id, "suspended")
        bench.store.lose_hints = True
        await bench.settle(process, bench.awakeables(invocation_id)[0].id, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_o3_a_hint_that_is_lost_while_the_handler_lingers_does_not_suspend_it_forever() -> None:
    """Hard case 1: suspending is conditional on the wake that the owner has seen."""
    bench = Bench()
    async with bench.serving(quick(linger=timedelta(seconds=5)), wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        key = (await bench.awakeable(invocation_id)).id
        bench.store.lose_hints = True
        await bench.settle(process, key, {"weight": 7})
        bench.store.lose_hints = False
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_suspending_passes_the_wake_that_was_seen() -> None:
    """Hard case 1, in the order itself."""
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        await bench.status(await bench.begin(process, "wait"), "suspended")
        steps = [m.next for m in bench.store.members(Advance)]
        assert steps[-1] == Suspend(wake=0)


async def test_case_o4_garbage_without_end_fills_neither_the_file_nor_the_memory() -> None:
    """Of each partition and minute so many are kept; the others are counted, each by its code."""
    bench = Bench()
    settings = replace(quick(), folding=FoldingSettings(letters=10, bytes=10_000))
    async with bench.serving(settings, wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        with heard() as logs:
            for _ in range(5):
                await bench.records(process, *[b"garbage"] * 1000)
        assert [line["event"] for line in logs] == ["dead_letters_added"]
        await bench.records(process, resolution(key))
        letters = sorted(bench.store.tables.dead_letters.values(), key=lambda x: x.offset)
        assert [x.code for x in letters] == ["unreadable"] * 10 + ["folded"]
        assert (letters[-1].offset, letters[-1].last_offset, letters[-1].count) == (10, 4999, 4990)
        counted = process.engine.metrics.registry.get_sample_value
        assert counted("awakeables_dead_letters_total", {"code": "unreadable"}) == 5000
        assert counted("awakeables_dead_letters_total", {"code": "folded"}) == 0
        assert bench.store.tables.awakeables[key].state == "resolved"

        await asyncio.sleep(60)
        await bench.records(process, *[b"garbage"] * 11)
        assert len(bench.store.tables.dead_letters) == 22


async def test_case_o4_a_few_large_dead_letters_are_kept_up_to_a_bound() -> None:
    bench = Bench()
    settings = replace(quick(), folding=FoldingSettings(letters=10, bytes=10_000))
    async with bench.serving(settings, wait=wait) as process:
        for _ in range(3):
            await bench.records(process, b"x" * 4000)
        kept = [x for x in bench.store.tables.dead_letters.values() if x.code != "folded"]
        assert len(kept) == 2


async def test_case_o4_a_flood_of_unknown_ids_fills_no_outbox_with_verdicts() -> None:
    bench = Bench()
    settings = replace(quick(), verdicts=True, folding=FoldingSettings(letters=1, verdicts=10))
    never = resolution(new_id("prom", at_ms=STARTED_MS, entropy=bytes(10)))
    async with bench.serving(settings, wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        bench.broker.gate.clear()
        with heard() as logs:
            for _ in range(3):
                await bench.records(process, *[never] * 8)
        await bench.records(process, resolution(key), resolution(key))
        verdicts = [e.stream for e in bench.store.tables.effects.values() if e.topic == "shop.verdicts"]
        assert (len(verdicts), verdicts[-1]) == (11, key)
        counted = process.engine.metrics.registry.get_sample_value
        assert counted("awakeables_verdicts_unpublished_total") == 15
        assert counted("awakeables_verdicts_total", {"kind": "unknown", "origin": "kafka"}) == 24
        assert [line["event"] for line in logs].count("more_verdicts_than_are_published") == 1

        await asyncio.sleep(60)
        await bench.records(process, never)
        verdicts = [e.stream for e in bench.store.tables.effects.values() if e.topic == "shop.verdicts"]
        assert len(verdicts) == 12
        bench.broker.gate.set()
