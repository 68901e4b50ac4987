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
from awakeables.engine.engine import EngineSettings
from awakeables.engine.horizon import Moment
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import HandlerMisuse
from awakeables.handlers.service import App, Service, VirtualObject
from awakeables.testing.bench import Bench, Process, pass_time, quick, until
from awakeables.wire.completions import encode_completion
from unit.engine.harness import resolution, value

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


def in_topic(awakeable_id: str, epoch: int) -> bytes:
    """The record of a heartbeat."""
    body = Heartbeat(progress=Raw(b'{"epoch": %d}' % epoch))
    return encode_completion(Completion(awakeable_id=awakeable_id, body=body, source=""))


def all_is_read(bench: Bench, process: Process) -> None:
    """The completions topic, of one partition, is read to its end."""
    process.engine.horizon.expect((0,), Moment.now(bench.clock))
    process.engine.horizon.read_to_end(0, Moment.now(bench.clock), 1)


async def silence(bench: Bench, process: Process, *, seconds: int) -> None:
    """Time in which the topic is read, and nothing is in it."""
    for _ in range(seconds):
        all_is_read(bench, process)
        await asyncio.sleep(1)


HELD_BACK = EngineSettings(runner=RunnerSettings(linger=timedelta(0)), horizon=timedelta(minutes=5))


@pytest.mark.parametrize("outage_s", [1, 121, 240])
@pytest.mark.parametrize("restarted", [False, True], ids=["topic out of reach", "service down"])
async def test_a_heartbeat_that_waits_in_the_topic_is_not_silence(
    bench: Bench, outage_s: int, restarted: bool
) -> None:
    """The worker beats a second before it would count as silent, and that is not read for a while."""

    async def go_on(process: Process) -> None:
        process.engine.horizon.expect((0,), Moment.now(bench.clock))
        await asyncio.sleep(5)  # the sweeper looks
        assert bench.awakeables(invocation_id)[0].state == "pending"
        await bench.records(process, in_topic(key, 2))
        await silence(bench, process, seconds=118)
        assert bench.awakeables(invocation_id)[0].state == "pending"
        await silence(bench, process, seconds=5)
        assert value(await bench.status(invocation_id, "completed")) == ["heartbeat", 2, {"epoch": 2}]

    async with bench.serving(HELD_BACK, train=train) as process:
        all_is_read(bench, process)
        invocation_id = await bench.begin(process, "train")
        key = (await bench.awakeable(invocation_id)).id
        await bench.records(process, in_topic(key, 1))
        await silence(bench, process, seconds=119)
        # Here it beats; nothing is read any more.
        if not restarted:
            await asyncio.sleep(outage_s)
            await go_on(process)
    if restarted:
        await asyncio.sleep(outage_s)
        async with bench.serving(HELD_BACK, train=train) as process:
            await go_on(process)


async def test_an_answer_behind_unread_heartbeats_counts_after_an_outage(bench: Bench) -> None:
    async with bench.serving(HELD_BACK, train=train) as process:
        all_is_read(bench, process)
        invocation_id = await bench.begin(process, "train")
        key = (await bench.awakeable(invocation_id)).id
        await bench.records(process, in_topic(key, 1))
        await silence(bench, process, seconds=110)
        await asyncio.sleep(240)
        await bench.records(process, in_topic(key, 2), in_topic(key, 3), resolution(key, b'"model"'))
        assert value(await bench.status(invocation_id, "completed")) == ["trained", "model"]


@pytest.mark.parametrize(("read_after_s", "end"), [(119, "pending"), (121, "timed-out")])
async def test_a_heartbeat_counts_if_the_topic_was_not_read_beyond_its_deadline(
    bench: Bench, read_after_s: int, end: str
) -> None:
    """It is read long after the deadline; what was read before it decides whether it was in time."""
    async with bench.serving(HELD_BACK, train=train) as process:
        all_is_read(bench, process)
        invocation_id = await bench.begin(process, "train")
        key = (await bench.awakeable(invocation_id)).id
        await bench.records(process, in_topic(key, 1))
        await asyncio.sleep(read_after_s)
        all_is_read(bench, process)
        await asyncio.sleep(60)
        await bench.records(process, in_topic(key, 2))
        [row] = bench.awakeables(invocation_id)
        assert row.state == end
        if end == "timed-out":
            assert value(await bench.status(invocation_id, "completed")) == ["heartbeat", 1, {"epoch": 1}]


async def test_unread_heartbeats_are_waited_for_as_long_as_the_horizon_allows_and_no_longer(
    bench: Bench,
) -> None:
    async with bench.serving(HELD_BACK, train=train) as process:
        all_is_read(bench, process)
        invocation_id = await bench.begin(process, "train")
        key = (await bench.awakeable(invocation_id)).id
        await bench.records(process, in_topic(key, 1))
        await asyncio.sleep(120 + 290)
        assert bench.awakeables(invocation_id)[0].state == "pending"
        await asyncio.sleep(20)
        assert value(await bench.status(invocation_id, "completed")) == ["heartbeat", 1, {"epoch": 1}]
        await bench.records(process, in_topic(key, 2))
        assert bench.awakeables(invocation_id)[0].state == "timed-out"


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
