"""Cancelling an invocation: told once, at its next await, before what is not yet journaled (hard case 12)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from awakeables import Cancelled, Context, Rejected, RetryPolicy
from awakeables.core.invocations import CANCELLED
from awakeables.core.journal import CancellationRaised, OutcomeDelivered
from awakeables.core.outcomes import Cancellation, Rejection
from awakeables.errors import NotFound, NotPossible
from awakeables.testing.bench import Bench, pass_time, quick, until
from awakeables.testing.loop import STARTED_MS
from support.ids import new_id
from unit.engine.harness import failed, value

SUSPENDED = quick()
LIVE = quick(linger=timedelta(seconds=30))
REPLAYED = quick(always_suspend=True)
ALL = pytest.mark.parametrize("settings", [SUSPENDED, LIVE, REPLAYED], ids=["suspended", "live", "replayed"])


async def wait(ctx: Context) -> Any:
    return await ctx.awakeable()


@ALL
async def test_a_waiting_handler_gets_the_cancellation_and_ends_cancelled(settings: Any) -> None:
    bench = Bench()
    async with bench.serving(settings, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        awakeable = await bench.awakeable(invocation_id)
        waiting = asyncio.ensure_future(process.api.result(invocation_id))
        row = await process.api.cancel(invocation_id)
        assert row.cancelled_ms is not None
        assert await waiting == Cancellation(reason=CANCELLED)
        assert bench.row(invocation_id).status == "completed"
        assert (await bench.settle(process, awakeable.id, 1)).kind == "late"


@ALL
async def test_a_sleeping_handler_is_cancelled_at_once(settings: Any) -> None:
    async def sleep(ctx: Context) -> None:
        await ctx.sleep(timedelta(days=30))

    bench = Bench()
    async with bench.serving(settings, sleep=sleep) as process:
        invocation_id = await bench.begin(process, "sleep")
        await asyncio.sleep(1)
        began_ms = bench.clock.now_ms()
        await process.api.cancel(invocation_id)
        await bench.status(invocation_id, "completed")
        assert bench.clock.now_ms() - began_ms < 1000


@ALL
async def test_it_is_raised_once_and_what_is_created_to_compensate_is_not_touched(settings: Any) -> None:
    async def compensate(ctx: Context) -> list[Any]:
        first = ctx.awakeable()
        try:
            await first
        except Cancelled as error:
            reason = error.reason
        undo = ctx.awakeable(int)
        undone = await undo
        await ctx.sleep(timedelta(seconds=5))
        try:
            await first
        except Cancelled as error:
            return [reason, undone, error.reason]
        return []

    bench = Bench()
    async with bench.serving(settings, compensate=compensate) as process:
        invocation_id = await bench.begin(process, "compensate")
        first = await bench.awakeable(invocation_id)
        await process.api.cancel(invocation_id)
        await until(lambda: len(bench.awakeables(invocation_id)) == 2)
        await process.api.cancel(invocation_id)
        [undo] = [row for row in bench.awakeables(invocation_id) if row.id != first.id]
        assert (await bench.settle(process, undo.id, 7)).kind == "accepted"
        told = value(await bench.status(invocation_id, "completed"))
        assert told == [CANCELLED, 7, f"awakeable {first.id} was cancelled: {CANCELLED}"]
        journal = await bench.journal(invocation_id)
        assert sum(isinstance(entry, CancellationRaised) for entry in journal) == 1


async def test_it_comes_before_an_answer_that_is_not_yet_journaled_and_the_answer_can_still_be_had() -> None:
    async def both(ctx: Context) -> Any:
        awakeable = ctx.awakeable()
        try:
            return await awakeable
        except Cancelled:
            return ["told first", await awakeable]

    bench = Bench()
    async with bench.serving(SUSPENDED, both=both) as process:
        invocation_id = await bench.begin(process, "both")
        awakeable = await bench.awakeable(invocation_id)
        await bench.status(invocation_id, "suspended")
        bench.store.gate.clear()
        settling = asyncio.ensure_future(bench.settle(process, awakeable.id, 7))
        await asyncio.sleep(0.1)
        cancelling = asyncio.ensure_future(process.api.cancel(invocation_id))
        await asyncio.sleep(0.1)
        bench.store.gate.set()
        assert (await settling).kind == "accepted"
        await cancelling
        assert value(await bench.status(invocation_id, "completed")) == ["told first", 7]


async def test_an_action_that_has_begun_is_recorded_and_the_next_await_raises_the_cancellation() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    executed = []

    async def charge() -> str:
        executed.append("charge")
        begun.set()
        await finish.wait()
        return "charged"

    async def pay(ctx: Context) -> Any:
        charged = await ctx.run("charge", charge)
        try:
            await ctx.run("ship", lambda: executed.append("ship"))
        except Cancelled:
            return [charged, "not shipped"]

    bench = Bench()
    async with bench.serving(LIVE, pay=pay) as process:
        invocation_id = await bench.begin(process, "pay")
        await begun.wait()
        await process.api.cancel(invocation_id)
        finish.set()
        assert value(await bench.status(invocation_id, "completed")) == ["charged", "not shipped"]
        assert executed == ["charge"]
        assert any(isinstance(entry, OutcomeDelivered) for entry in await bench.journal(invocation_id))


async def test_a_run_that_waits_to_be_tried_again_is_not() -> None:
    tries = []

    def flaky() -> None:
        tries.append(1)
        raise ConnectionError("down")

    async def retry(ctx: Context) -> None:
        await ctx.run("flaky", flaky, retry=RetryPolicy(initial_interval=timedelta(hours=1)))

    bench = Bench()
    async with bench.serving(SUSPENDED, retry=retry) as process:
        invocation_id = await bench.begin(process, "retry")
        await bench.status(invocation_id, "suspended")
        await process.api.cancel(invocation_id)
        row = await bench.status(invocation_id, "completed")
        assert (row.result, len(tries)) == (Cancellation(reason=CANCELLED), 1)


async def test_only_that_very_error_makes_it_cancelled() -> None:
    async def other(ctx: Context) -> None:
        try:
            await ctx.awakeable()
        except Cancelled as error:
            raise Rejected("undone", code=410) from error

    bench = Bench()
    async with bench.serving(other=other) as process:
        invocation_id = await bench.begin(process, "other")
        await bench.awakeable(invocation_id)
        await process.api.cancel(invocation_id)
        rejection = failed(await bench.status(invocation_id, "completed"))
        assert rejection == Rejection(reason="undone", code=410)


async def test_it_survives_the_process() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        await bench.status(invocation_id, "suspended")
        bench.store.gate.clear()
        cancelling = asyncio.ensure_future(process.api.cancel(invocation_id))
        await asyncio.sleep(0.1)
        bench.store.lose_after = 1
        bench.store.gate.set()
        await until(lambda: bench.row(invocation_id).cancelled_ms)
    cancelling.cancel()
    async with bench.serving(wait=wait):
        assert (await bench.status(invocation_id, "completed")).result == Cancellation(reason=CANCELLED)


async def test_one_that_is_scheduled_for_later_ends_without_having_run() -> None:
    ran = []

    async def later(ctx: Context) -> None:
        ran.append(1)

    bench = Bench()
    async with bench.serving(later=later) as process:
        invocation_id = await bench.begin(process, "later", delay=timedelta(hours=1))
        waiting = asyncio.ensure_future(process.api.result(invocation_id))
        await asyncio.sleep(0.1)
        await process.api.cancel(invocation_id)
        assert await waiting == Cancellation(reason=CANCELLED)
        await pass_time(4000)
        assert ran == []


async def test_one_that_never_ran_ends_and_its_caller_is_answered_though_the_acknowledgement_is_lost() -> (
    None
):
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        invocation_id = await bench.begin(process, "wait", delay=timedelta(hours=1))
        waiting = asyncio.ensure_future(process.api.result(invocation_id))
        await asyncio.sleep(0.1)
        bench.store.lose_after = 1
        assert (await process.api.cancel(invocation_id)).result == Cancellation(reason=CANCELLED)
        async with asyncio.timeout(1):
            assert await waiting == Cancellation(reason=CANCELLED)


async def test_a_busy_handler_is_cancelled_though_the_caller_that_asked_has_gone() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()
    executed: list[int] = []

    async def first() -> None:
        begun.set()
        await finish.wait()

    def note(number: int) -> None:
        executed.append(number)

    async def chain(ctx: Context) -> None:
        await ctx.run("first", first)
        for number in range(9):
            await ctx.run(f"next {number}", note, number)

    bench = Bench()
    async with bench.serving(LIVE, chain=chain) as process:
        invocation_id = await bench.begin(process, "chain")
        await begun.wait()
        await process.engine.committer.drained()
        bench.store.gate.clear()
        cancelling = asyncio.ensure_future(process.api.cancel(invocation_id))
        await asyncio.sleep(0.1)
        cancelling.cancel()
        bench.store.gate.set()
        await until(lambda: bench.row(invocation_id).cancelled_ms)
        finish.set()
        row = await bench.status(invocation_id, "completed")
        assert row.result == Cancellation(reason=CANCELLED)
        assert len(executed) <= 1


async def test_a_handler_that_awaits_nothing_more_is_not_hindered() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def act() -> int:
        begun.set()
        await finish.wait()
        return 7

    async def last(ctx: Context) -> int:
        return await ctx.run("act", act)

    bench = Bench()
    async with bench.serving(LIVE, last=last) as process:
        invocation_id = await bench.begin(process, "last")
        await begun.wait()
        await process.api.cancel(invocation_id)
        finish.set()
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_a_cancel_of_an_ended_or_missing_invocation_is_an_error() -> None:
    async def quickly(ctx: Context) -> int:
        return 1

    bench = Bench()
    async with bench.serving(quickly=quickly) as process:
        invocation_id = await bench.begin(process, "quickly")
        await bench.status(invocation_id, "completed")
        with pytest.raises(NotPossible, match="has ended"):
            await process.api.cancel(invocation_id)
        with pytest.raises(NotFound, match="no invocation"):
            await process.api.cancel(new_id("inv", at_ms=STARTED_MS, entropy=bytes(10)))
