"""The hard cases, by number (docs/architecture.md)."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from awakeables import Context, Rejected, TerminalError, TimedOut
from awakeables.core.awakeables import Completion
from awakeables.core.commands import Advance, Begin, Claim, TakeOver
from awakeables.core.invocations import CRASHED
from awakeables.core.journal import AwakeableCreated, OutcomeDelivered, RunRequested
from awakeables.core.outcomes import Cancellation, Expiry, Rejection, Resolution
from awakeables.core.replies import Fenced
from awakeables.engine.engine import EngineSettings
from awakeables.engine.horizon import Moment
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import (
    PublishRefused,
    StoreRefused,
)
from awakeables.testing.bench import Bench, quick, until
from awakeables.testing.loop import STARTED_MS
from unit.engine.harness import BOTH, LIVE, Wide, failed, resolution, value, wait


class Narrow(BaseModel):
    weight: Annotated[int, Field(le=10)]


async def test_hard_case_1_outcomes_are_journaled_where_they_are_handed_out_not_when_they_came() -> None:
    bench = Bench()

    async def both(ctx: Context) -> list[int]:
        one, other = ctx.awakeable(int), ctx.awakeable(int)
        await ctx.run("between", lambda: None)
        return [await one, await other]

    async with bench.serving(both=both) as process:
        invocation_id = await bench.begin(process, "both")
        await bench.status(invocation_id, "suspended")
        asked = [e.id for e in await bench.journal(invocation_id) if isinstance(e, AwakeableCreated)]
        await bench.settle(process, asked[1], 2, "http:2")
        await bench.settle(process, asked[0], 1, "http:1")
        assert value(await bench.status(invocation_id, "completed")) == [1, 2]
        delivered = [e.of for e in await bench.journal(invocation_id) if isinstance(e, OutcomeDelivered)]
        assert delivered == [3, 1, 2]


async def test_hard_case_2_an_invocation_whose_data_the_store_refuses_fails_alone() -> None:
    bench = Bench()

    async def keep(ctx: Context, text: str) -> str:
        await ctx.run("keep", lambda: text)
        return text

    def refused(member: Any) -> bool:
        return isinstance(member, Advance) and member.chunk is not None and b"poison" in member.chunk

    async with bench.serving(keep=keep) as process:
        bench.store.refuses = refused
        ids = [await bench.begin(process, "keep", text) for text in (b'"a"', b'"poison"', b'"b"')]
        rows = [await bench.status(key, "completed") for key in ids]
        assert [value(rows[0]), value(rows[2])] == ["a", "b"]
        assert failed(rows[1]).reason == (
            "the store refuses what the handler has produced: this data can't be kept"
        )


async def test_hard_case_2_a_settlement_that_the_store_refuses_raises() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        bench.store.refuses = lambda member: type(member).__name__ == "Settle"
        with pytest.raises(StoreRefused):
            await bench.settle(process, key, {"weight": 1})


@pytest.mark.parametrize("losses", [1, 2, 5])
@BOTH
async def test_hard_case_3_lost_acknowledgements_are_not_taken_for_another_owner(
    settings: EngineSettings, losses: int
) -> None:
    bench = Bench()
    executed: list[int] = []

    async def steps(ctx: Context) -> int:
        for number in range(4):
            await ctx.run(f"step-{number}", executed.append, number)
            ctx.publish("notices", number)
        return (await ctx.awakeable(Wide)).weight

    async with bench.serving(settings, steps=steps) as process:
        bench.store.lose_after = losses
        invocation_id = await bench.begin(process, "steps")
        key = (await bench.awakeable(invocation_id)).id
        bench.store.lose_after = losses
        await bench.settle(process, key, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7
        await until(lambda: bench.broker.values("notices") == [0, 1, 2, 3])
        assert process.engine.live == 0
    assert executed == [0, 1, 2, 3]
    assert bench.row(invocation_id).attempts == 0
    assert Fenced() not in [answer for answers in bench.store.answers for answer in answers]


async def test_hard_case_3_a_row_that_its_owner_does_not_hold_is_released() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        order = Begin(
            id=process.engine.ids.new("inv"),
            service="orders",
            handler="wait",
            chunk=b'[{"k":"input","service":"orders","handler":"wait","seed":"s","at_ms":1}]',
            owner=process.engine.member.id,
        )
        await process.engine.committer.submit(order)
        assert bench.row(order.id).status == "running"
        await bench.status(order.id, "suspended")


async def test_hard_case_3_an_owner_s_name_is_new_for_each_start() -> None:
    bench = Bench()
    owners = set()
    for _ in range(3):
        async with bench.serving(wait=wait) as process:
            owners.add(process.engine.member.id)
    assert len(owners) == 3
    assert {order.owner for order in bench.store.members(TakeOver)} == owners


@pytest.mark.parametrize("end", ["returns", "fails", "rejected"])
async def test_hard_case_4_an_ended_invocation_cancels_its_pending_awakeables_in_the_same_commit(
    end: str,
) -> None:
    bench = Bench()

    async def handler(ctx: Context) -> None:
        ctx.awakeable(Wide)
        other = ctx.awakeable(Wide)
        if end == "fails":
            raise TerminalError("no")
        if end == "rejected":
            await ctx.reject_awakeable(other.id, "no")
            await other

    async with bench.serving(handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        await bench.status(invocation_id, "completed")
        rows = bench.awakeables(invocation_id)
        abandoned = [row for row in rows if row.state == "cancelled"]
        assert len(abandoned) == (1 if end == "rejected" else 2)
        for row in abandoned:
            assert row.outcome == Cancellation(reason="its invocation ended")
            assert (await bench.settle(process, row.id, {"weight": 1})).kind == "late"
        assert isinstance(bench.row(invocation_id).result, Resolution if end == "returns" else Rejection)


async def test_hard_case_5_an_answer_that_came_to_the_topic_in_time_counts_after_an_outage() -> None:
    bench = Bench()
    settings = EngineSettings(runner=RunnerSettings(linger=timedelta(0)), horizon=timedelta(minutes=15))

    async def timed(ctx: Context) -> Any:
        awakeables = [ctx.awakeable(Wide, timeout=timedelta(minutes=5)) for _ in range(2)]
        ends: list[Any] = []
        for awakeable in awakeables:
            try:
                ends.append((await awakeable).weight)
            except TimedOut:
                ends.append("timed out")
        return ends

    async with bench.serving(settings, timed=timed) as process:
        process.engine.horizon.expect((0,), Moment.now(bench.clock))
        process.engine.horizon.read_to_end(0, Moment.now(bench.clock), 1)
        invocation_id = await bench.begin(process, "timed")
        await bench.status(invocation_id, "suspended")
        key = bench.awakeables(invocation_id)[0].id
    await asyncio.sleep(600)
    async with bench.serving(settings, timed=timed) as process:
        process.engine.horizon.expect((0,), Moment.now(bench.clock))
        await asyncio.sleep(30)
        assert {row.state for row in bench.awakeables(invocation_id)} == {"pending"}, (
            "nobody is timed out yet"
        )
        await bench.records(process, resolution(key))
        for _ in range(20):
            process.engine.horizon.expect((0,), Moment.now(bench.clock))
            process.engine.horizon.read_to_end(0, Moment.now(bench.clock), 1)
            await asyncio.sleep(0.25)
        assert value(await bench.status(invocation_id, "completed")) == [7, "timed out"]


async def test_hard_case_5_deadlines_are_held_back_for_so_long_and_no_longer() -> None:
    bench = Bench()
    settings = EngineSettings(runner=RunnerSettings(linger=timedelta(0)), horizon=timedelta(minutes=15))

    async def timed(ctx: Context) -> str:
        try:
            await ctx.awakeable(timeout=timedelta(minutes=5))
        except TimedOut:
            return "timed out"
        return ""

    async with bench.serving(settings, timed=timed) as process:
        process.engine.horizon.expect((0,), Moment.now(bench.clock))
        invocation_id = await bench.begin(process, "timed")
        await asyncio.sleep(19 * 60)
        assert bench.awakeables(invocation_id)[0].state == "pending"
        await asyncio.sleep(2 * 60)
        assert value(bench.row(invocation_id)) == "timed out"
        outcome = bench.awakeables(invocation_id)[0].outcome
        assert outcome == Expiry(deadline_ms=STARTED_MS + 300_000)


async def test_hard_case_6_the_same_status_and_value_are_a_duplicate_whatever_the_event_id() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id

        def said(text: bytes | None, source: str) -> Completion:
            body = Rejection(reason="no") if text is None else Resolution.of_json(text)
            return Completion(awakeable_id=key, body=body, source=source, event_id="e1")

        kinds = [
            await process.api.settle(said(b'{"weight":7}', "1")),
            await process.api.settle(said(b'{ "weight": 7 }', "2")),
            await process.api.settle(said(b'{"weight":8}', "3")),
            await process.api.settle(said(None, "4")),
        ]
        assert [v.kind for v in kinds if v] == ["accepted", "duplicate", "conflict", "conflict"]


def narrowed(type_: Any) -> Any:
    async def fulfil(ctx: Context) -> int:
        awakeable = ctx.awakeable(type_)
        ctx.publish("pack", 1, awakeable=awakeable)
        parcel = await awakeable
        return int(parcel.weight)

    return fulfil


@pytest.mark.parametrize("mode", ["suspended", "live", "always-suspend"])
async def test_hard_case_7_an_accepted_value_that_newer_code_refuses_pauses_the_invocation_and_is_kept(
    mode: str,
) -> None:
    settings = {"suspended": quick(), "live": LIVE, "always-suspend": quick(always_suspend=True)}[mode]
    bench = Bench()
    async with bench.serving(settings, fulfil=narrowed(Wide)) as process:
        invocation_id = await bench.begin(process, "fulfil")
        key = (await bench.awakeable(invocation_id)).id
        await until(lambda: bench.broker.published)
    async with bench.serving(settings, fulfil=narrowed(Narrow)) as process:
        assert (await bench.settle(process, key, {"weight": 50})).kind == "accepted", (
            "the pinned schema decides"
        )
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.kind == "ValueRefused"
        assert f"the answer to awakeable {key} does not fit its current type (weight: " in row.failure.message
        assert "it is kept: deploy code that accepts it, then resume" in row.failure.message
        await process.api.resume(invocation_id)
        await bench.status(invocation_id, "paused")
        kept = bench.store.tables.awakeables[key].outcome
        assert kept == Resolution.of_json(b'{"weight":50}')
    async with bench.serving(settings, fulfil=narrowed(Wide)) as process:
        await process.api.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == 50


async def test_hard_case_7_an_input_that_newer_code_refuses_pauses_the_invocation_too() -> None:
    async def old(ctx: Context, order: Wide) -> int:
        await ctx.awakeable()
        return order.weight

    async def new(ctx: Context, order: Narrow) -> int:
        await ctx.awakeable()
        return order.weight

    bench = Bench()
    async with bench.serving(fulfil=old) as process:
        invocation_id = await bench.begin(process, "fulfil", b'{"weight":50}')
        await bench.status(invocation_id, "suspended")
        key = (await bench.awakeable(invocation_id)).id
    async with bench.serving(fulfil=new) as process:
        await bench.settle(process, key, 1)
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.kind == "ValueRefused"
        assert row.failure.message.startswith("the input does not fit its current type (weight: ")
    async with bench.serving(fulfil=old) as process:
        await process.api.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == 50


async def test_hard_case_7_a_run_s_result_that_newer_code_refuses_pauses_the_invocation_too() -> None:
    def loading(type_: Any) -> Any:
        async def fulfil(ctx: Context) -> int:
            loaded: Any = await ctx.run("load", lambda: {"weight": 50}, type=type_)
            await ctx.awakeable()
            return int(loaded.weight)

        return fulfil

    bench = Bench()
    async with bench.serving(fulfil=loading(Wide)) as process:
        invocation_id = await bench.begin(process, "fulfil")
        key = (await bench.awakeable(invocation_id)).id
        await bench.status(invocation_id, "suspended")
    async with bench.serving(fulfil=loading(Narrow)) as process:
        await bench.settle(process, key, 1)
        row = await bench.status(invocation_id, "paused")
        assert row.failure is not None
        assert row.failure.message.startswith("the result of run 'load' does not fit its current type")
    async with bench.serving(fulfil=loading(Wide)) as process:
        await process.api.resume(invocation_id)
        assert value(await bench.status(invocation_id, "completed")) == 50


async def test_hard_case_8_a_thousand_answers_leave_twenty_verdicts_and_their_counts() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        await bench.records(process, *[resolution(key, b'{"weight":%d}' % (n % 3)) for n in range(1000)])
        book = bench.store.tables.awakeables[key].verdicts
        assert book.counts == {"accepted": 1, "duplicate": 333, "conflict": 666}
        assert (len(book.first), len(book.last)) == (10, 10)
        assert bench.store.tables.dead_letters == {}


async def test_hard_case_8_heartbeats_overwrite_one_row() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as process:
        key = (await bench.awakeable(await bench.begin(process, "wait"))).id
        beats = [
            f'{{"awakeable_id":"{key}","status":"heartbeat","progress":{n}}}'.encode() for n in range(100)
        ]
        await bench.records(process, *beats)
        row = bench.store.tables.awakeables[key]
        assert row.heartbeat is not None
        assert bytes(row.heartbeat.progress) == b"99"
        assert row.verdicts.counts == {}


async def test_hard_case_9_an_awakeable_whose_task_kafka_refuses_is_rejected_with_publish_failed() -> None:
    bench = Bench()
    bench.broker.fail = lambda e: PublishRefused("too large") if e.topic == "pack" else None

    async def fulfil(ctx: Context) -> list[Any]:
        awakeable = ctx.awakeable(Wide)
        ctx.publish("pack", 1, awakeable=awakeable)
        ctx.publish("notices", "passes")
        try:
            await awakeable
        except Rejected as error:
            return [error.reason, error.code]
        return []

    for settings in (quick(), LIVE):
        async with bench.serving(settings, fulfil=fulfil) as process:
            invocation_id = await bench.begin(process, "fulfil")
            assert value(await bench.status(invocation_id, "completed")) == [
                "publish-failed: topic 'pack': too large",
                502,
            ]
            await until(lambda: "passes" in bench.broker.values("notices"))


async def test_hard_case_11_a_handler_that_kills_its_process_is_parked_after_five_starts() -> None:
    bench = Bench()
    starts: list[int] = []

    async def deadly(ctx: Context) -> None:
        starts.append(1)
        await asyncio.Event().wait()

    async with bench.serving(deadly=deadly, wait=wait) as process:
        invocation_id = await bench.begin(process, "deadly")
        await until(lambda: starts)

    def started_or_parked(known: int) -> bool:
        return len(starts) > known or bench.row(invocation_id).status == "paused"

    for _ in range(8):
        known = len(starts)
        async with bench.serving(deadly=deadly, wait=wait):
            await until(functools.partial(started_or_parked, known))
    row = bench.row(invocation_id)
    assert row.status == "paused"
    assert row.failure is not None
    assert row.failure.kind == CRASHED
    assert len(starts) == 5
    assert bench.store.members(Claim)


async def test_hard_case_15_a_run_is_journaled_as_soon_as_it_is_known_not_only_at_the_next_wait() -> None:
    bench = Bench()
    held = asyncio.Event()

    async def handler(ctx: Context) -> str:
        await ctx.run("act", lambda: "x")
        await held.wait()
        return "done"

    async with bench.serving(LIVE, handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        await asyncio.sleep(0.5)
        journal = await bench.journal(invocation_id)
        assert [type(entry) for entry in journal[1:]] == [RunRequested, OutcomeDelivered]
        held.set()
        assert value(await bench.status(invocation_id, "completed")) == "done"
