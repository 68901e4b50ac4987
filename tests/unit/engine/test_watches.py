"""Heartbeats, progress, revocations and late answers, as handlers see them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw
from pydantic import BaseModel

from awakeables import Context, Late, TimedOut
from awakeables.core.awakeables import Completion, Heartbeat
from awakeables.core.sources import source_of
from awakeables.errors import HandlerMisuse
from awakeables.handlers.service import App, Service, VirtualObject
from awakeables.testing.bench import Bench, Process, pass_time, quick, until

MINUTE = timedelta(minutes=1)


class Checkpoint(BaseModel):
    epoch: int


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def beat(process: Process, awakeable_id: str, progress: bytes = b"null") -> None:
    body = Heartbeat(progress=Raw(progress))
    completion = Completion(awakeable_id=awakeable_id, body=body, source=source_of("http", "b"))
    assert await process.api.settle(completion) is None


async def train(ctx: Context) -> list[Any]:
    job = ctx.awakeable(str, timeout=timedelta(hours=12), heartbeat_timeout=2 * MINUTE)
    ctx.publish("gpu-jobs", {"from": 0}, awakeable=job)
    try:
        return ["trained", await job]
    except TimedOut as late:
        checkpoint = late.progress(Checkpoint)
        return [late.kind, None if checkpoint is None else checkpoint.epoch, late.progress()]


async def test_a_silent_worker_is_found_and_its_last_progress_is_known(bench: Bench) -> None:
    async with bench.serving(quick(), train=train) as process:
        invocation_id = await bench.begin(process, "train")
        row = await bench.awakeable(invocation_id)
        await pass_time(3600)  # it waits in its topic
        await beat(process, row.id)
        for epoch in range(5):
            await pass_time(100)
            await beat(process, row.id, b'{"epoch": %d}' % epoch)
        assert bench.row(invocation_id).status == "suspended"
        await pass_time(130)
        ended = await bench.status(invocation_id, "completed")
        assert ended.result is not None
        assert ended.result.content == b'["heartbeat",4,{"epoch":4}]'  # type: ignore[union-attr]
        await until(lambda: bench.broker.values("shop.revocations"))
        (said,) = bench.broker.values("shop.revocations")
        assert (said["awakeable_id"], said["state"]) == (row.id, "timed-out")


async def test_its_task_says_that_heartbeats_are_expected(bench: Bench) -> None:
    from awakeables.wire.tasks import encode_effect

    async with bench.serving(quick(), train=train) as process:
        await bench.begin(process, "train")
        await until(lambda: bench.broker.published)
        _, headers = encode_effect(bench.broker.published[0])
        named = dict(headers)
        assert named["awakeable-heartbeat-ms"] == b"120000"
        assert named["awakeable-revocations"] == b"shop.revocations"


async def test_without_a_heartbeat_a_timeout_has_no_progress(bench: Bench) -> None:
    async with bench.serving(quick(), train=train) as process:
        invocation_id = await bench.begin(process, "train")
        await bench.awakeable(invocation_id)
        await pass_time(12 * 3600 + 1)
        ended = await bench.status(invocation_id, "completed")
        assert ended.result.content == b'["deadline",null,null]'  # type: ignore[union-attr]


async def looks(ctx: Context) -> list[Any]:
    job = ctx.awakeable(str, heartbeat_timeout=MINUTE)
    ctx.publish("gpu-jobs", {}, awakeable=job)
    seen: list[Any] = [await job.progress()]
    while True:
        done = await ctx.race(job, ctx.sleep(timedelta(seconds=30)))
        seen.append(await job.progress(Checkpoint))
        if done is not None:
            return [each.epoch if isinstance(each, Checkpoint) else each for each in seen]


@pytest.mark.parametrize("always_suspend", [False, True])
async def test_a_handler_looks_at_the_progress_and_replays_what_it_saw(
    bench: Bench, always_suspend: bool
) -> None:
    async with bench.serving(quick(always_suspend=always_suspend), looks=looks) as process:
        invocation_id = await bench.begin(process, "looks")
        row = await bench.awakeable(invocation_id)
        for epoch in (3, 5):
            await asyncio.sleep(10)
            await beat(process, row.id, b'{"epoch": %d}' % epoch)
            await asyncio.sleep(25)
        await bench.settle(process, row.id, "model")
        ended = await bench.status(invocation_id, "completed")
        assert ended.result.content == b"[null,3,5,5]"  # type: ignore[union-attr]


class Payment(BaseModel):
    cents: int


orders = Service("orders")
late_ones: list[Late[Payment]] = []


@orders.handler()
async def refund_late(ctx: Context, late: Late[Payment]) -> int:
    late_ones.append(late)
    return late.value.cents


@orders.handler()
async def pay(ctx: Context) -> str:
    paid = ctx.awakeable(Payment, timeout=MINUTE, on_late=refund_late)
    ctx.publish("payments", {}, awakeable=paid)
    try:
        return f"paid {(await paid).cents}"
    except TimedOut:
        return "not paid"


async def test_a_late_answer_begins_its_handler_with_the_value(bench: Bench) -> None:
    late_ones.clear()
    async with bench.running(App("shop", services=[orders])) as process:
        invocation_id = await bench.begin(process, "pay")
        row = await bench.awakeable(invocation_id)
        await pass_time(61)
        ended = await bench.status(invocation_id, "completed")
        assert ended.result.content == b'"not paid"'  # type: ignore[union-attr]
        verdict = await bench.settle(process, row.id, {"cents": 5}, source=source_of("http", "1"))
        assert verdict.kind == "late"
        await until(lambda: late_ones)
        assert (await bench.settle(process, row.id, {"cents": 5})).kind == "late"
        assert (
            await bench.settle(process, row.id, {"cents": 6}, source=source_of("http", "2"))
        ).kind == "late"
        wrong = await bench.settle(process, row.id, {"cents": "x"}, source=source_of("http", "3"))
        assert wrong.kind == "late"  # the first one that fits was enough
        await asyncio.sleep(5)
        (late,) = late_ones
        assert (late.value, late.awakeable_id, late.invocation_id) == (
            Payment(cents=5),
            row.id,
            invocation_id,
        )
        assert (late.state, late.worker) == ("timed-out", None)
        assert late.at.tzinfo is not None


async def test_a_late_answer_that_does_not_fit_is_invalid_and_begins_nothing(bench: Bench) -> None:
    late_ones.clear()
    async with bench.running(App("shop", services=[orders])) as process:
        row = await bench.awakeable(await bench.begin(process, "pay"))
        await pass_time(61)
        assert (await bench.settle(process, row.id, {"cents": "x"})).kind == "invalid"
        assert (
            await bench.settle(process, row.id, {"cents": 7}, source=source_of("http", "2"))
        ).kind == "late"
        await until(lambda: late_ones)
        assert late_ones[0].value.cents == 7


cart = VirtualObject("cart")


@cart.handler()
async def keyed(ctx: Any, late: Late[int]) -> None: ...


@orders.handler()
async def inputless(ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heartbeat_timeout": timedelta(milliseconds=900)}, "heartbeat_timeout must be a second or more"),
        ({"heartbeat_timeout": 5}, "heartbeat_timeout"),
        ({"on_late": "drop"}, "'dead-letter' or a handler, not 'drop'"),
        ({"on_late": print}, "pass a function declared with"),
        ({"on_late": keyed}, "cart/keyed: it is called for a key"),
        ({"on_late": inputless}, "orders/inputless: it must take the answer"),
        ({"on_late": refund_late, "type": bytes}, "only JSON can be handed to a handler"),
    ],
)
async def test_misuse_is_refused_by_name(bench: Bench, options: dict[str, Any], message: str) -> None:
    asked = dict(options)
    type_ = asked.pop("type", int)

    async def handler(ctx: Context) -> None:
        await ctx.awakeable(type_, **asked)

    service = Service("tested")
    service.handler("handler")(handler)
    errors: list[BaseException] = []
    async with bench.running(App("shop", services=[orders, cart, service])) as process:
        begun = await process.api.begin(process.api.app.handler("tested", "handler"), None)
        row = await bench.status(begun.id, "paused")
    assert row.failure is not None
    assert row.failure.kind == HandlerMisuse.__name__
    assert message in row.failure.message
    assert errors == []
