"""Calls, and more of them than there are places."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from awakeables import Context
from awakeables.core.commands import Advance, Begin, Idempotency
from awakeables.core.outcomes import Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import (
    IdempotencyConflict,
    NotFound,
    Overloaded,
)
from awakeables.testing.bench import Bench, pass_time
from awakeables.testing.loop import STARTED_MS
from unit.engine.harness import LIVE, Wide, value, wait


async def test_a_call_is_durable_before_it_is_answered_and_its_first_steps_ride_along() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        bench.store.commits.clear()
        invocation_id = await bench.begin(process, "wait")
        assert invocation_id in bench.store.tables.invocations
        await bench.status(invocation_id, "suspended")
        own = [g for g in bench.store.commits if any(isinstance(m, Begin | Advance) for m in g)]
        assert len(own) <= 3, "an invocation needs few commits"


async def test_the_request_s_headers_reach_the_handler() -> None:
    async def headers(ctx: Context) -> dict[str, str]:
        await ctx.sleep(timedelta(hours=1))
        return dict(ctx.request.headers)

    bench = Bench()
    async with bench.serving(headers=headers) as process:
        invocation_id = await bench.begin(process, "headers", headers={"traceparent": "00-1"})
        await pass_time(4000)
        assert value(await bench.status(invocation_id, "completed")) == {"traceparent": "00-1"}


async def test_a_result_is_waited_for_and_asked_for_later() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        waiting = asyncio.ensure_future(process.api.result(invocation_id))
        await bench.settle(process, (await bench.awakeable(invocation_id)).id, {"weight": 7})
        assert await waiting == Resolution.of_json(b"7")
        assert await process.api.result(invocation_id) == Resolution.of_json(b"7")
        with pytest.raises(NotFound, match="no invocation inv_1x"):
            await process.api.result("inv_1x")


async def test_an_idempotency_key_identifies_one_invocation() -> None:
    async def echo(ctx: Context, n: int) -> int:
        return n

    bench = Bench()
    async with bench.serving(echo=echo) as process:
        key = Idempotency(scope="orders/echo", key="k", fingerprint="f")
        handler = process.engine.app.handler("orders", "echo")
        first = await process.api.begin(handler, b"1", idempotency=key)
        second = await process.api.begin(handler, b"1", idempotency=key)
        assert (first.created, second.created, first.id) == (True, False, second.id)
        with pytest.raises(IdempotencyConflict, match="'k' was used for another request"):
            await process.api.begin(handler, b"2", idempotency=replace(key, fingerprint="g"))
        assert value(await bench.status(first.id, "completed")) == 1


async def test_a_delayed_call_begins_then() -> None:
    async def now(ctx: Context) -> float:
        return ctx.now().timestamp()

    bench = Bench()
    async with bench.serving(now=now) as process:
        invocation_id = await bench.begin(process, "now", delay=timedelta(hours=1))
        await pass_time(3590)
        assert bench.row(invocation_id).status == "pending"
        await asyncio.sleep(15)
        at = value(await bench.status(invocation_id, "completed"))
        assert 3600 <= at - STARTED_MS / 1000 < 3605


async def test_an_engine_that_stops_takes_no_calls() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        process.engine.pool.stop_claiming()
        with pytest.raises(Overloaded, match="starting or stopping"):
            await bench.begin(process, "wait")
        process.engine.pool.stopping = False


async def test_a_drained_engine_has_suspended_what_could_be_suspended() -> None:
    bench = Bench()
    async with bench.serving(LIVE, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        key = (await bench.awakeable(invocation_id)).id
        assert process.engine.live == 1
        assert await process.engine.drain(timedelta(seconds=5))
        assert (process.engine.live, bench.row(invocation_id).status) == (0, "suspended")
    async with bench.serving(LIVE, wait=wait) as process:
        await bench.settle(process, key, {"weight": 7})
        assert value(await bench.status(invocation_id, "completed")) == 7


async def test_more_calls_than_slots_wait_as_rows_and_all_are_done() -> None:
    bench = Bench()
    settings = EngineSettings(
        runner=RunnerSettings(linger=timedelta(seconds=30)), max_running=3, horizon=timedelta(0)
    )
    live: list[int] = []

    async def act(ctx: Context) -> int:
        live.append(process.engine.live)
        await ctx.run("act", asyncio.sleep, 0.1)
        return (await ctx.awakeable(Wide, timeout=timedelta(days=1))).weight

    async with bench.serving(settings, act=act) as process:
        ids = [await bench.begin(process, "act") for _ in range(10)]
        for number, invocation_id in enumerate(ids):
            key = (await bench.awakeable(invocation_id)).id
            await bench.settle(process, key, {"weight": number}, f"http:{number}")
        assert [value(await bench.status(key, "completed")) for key in ids] == list(range(10))
    assert max(live) <= 3
