"""Heartbeats and revocations over a real Kafka, with the worker SDK on the other side."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from awakeables import App, Context, Late, Service, Task, TaskOver, TimedOut, Worker
from awakeables.core.outcomes import Resolution
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import create_topics
from awakeables.ports import Page
from support.eventually import eventually
from support.real_kafka import TopicFactory
from support.service import create_app_topics, new_app, new_store, produce, resolved, running
from support.tasks import working

late_values: list[int] = []
PAGE = Page(limit=100)


def app_of_trainers() -> App:
    """An app of a name of its own, whose handlers watch their workers."""
    service = Service("orders")

    @service.handler()
    async def train(ctx: Context, order: dict[str, Any]) -> Any:
        job = ctx.awakeable(
            int, timeout=timedelta(minutes=5), heartbeat_timeout=timedelta(seconds=order["silence_s"])
        )
        ctx.publish(order["topic"], order, awakeable=job)
        try:
            return ["trained", await job]
        except TimedOut as late:
            return [late.kind, late.progress()]

    @service.handler()
    async def refund(ctx: Context, late: Late[int]) -> None:
        late_values.append(late.value)

    @service.handler()
    async def pay(ctx: Context, order: dict[str, Any]) -> Any:
        paid = ctx.awakeable(int, timeout=timedelta(seconds=1), on_late=refund)
        ctx.publish(order["topic"], order, awakeable=paid)
        try:
            return await paid
        except TimedOut:
            return "not paid"

    return App(new_app("train").name, services=[service])


class Bench:
    """A service, a task topic, and what workers need to reach them."""

    def __init__(self, bootstrap: str, app: App, tasks: str) -> None:
        self.bootstrap = bootstrap
        self.app = app
        self.tasks = tasks
        self.connection = KafkaConnection(
            bootstrap=bootstrap, fetch_max_wait_ms=50, session_timeout=timedelta(seconds=6)
        )


@pytest.fixture
async def bench(bootstrap: str, topic: TopicFactory) -> Bench:
    app = app_of_trainers()
    await create_app_topics(bootstrap, app)
    made = Bench(bootstrap, app, await topic("gpu-jobs", partitions=1))
    await create_topics(made.connection, {app.revocations_topic: 1})
    return made


async def test_a_worker_that_makes_heartbeats_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    worker = Worker(f"trainer-{bench.tasks}")

    @worker.task(bench.tasks)
    async def train(task: Task[dict[str, Any]]) -> int:
        for epoch in range(8):
            await asyncio.sleep(0.5)
            await task.heartbeat({"epoch": epoch})
        return 8

    store = new_store("sqlite", tmp_path)
    async with running(bench.bootstrap, bench.app, store) as shop, working(worker, bench.connection):
        called = await shop.call("train", topic=bench.tasks, silence_s=2)
        outcome = await shop.result(called, timeout=40)
    assert isinstance(outcome, Resolution)
    assert json.loads(outcome.content) == ["trained", 8]


async def test_a_silent_worker_is_given_up_and_told(bench: Bench, tmp_path: Path) -> None:
    over: list[str] = []
    worker = Worker(f"trainer-{bench.tasks}")

    @worker.task(bench.tasks)
    async def train(task: Task[dict[str, Any]]) -> int:
        await task.heartbeat({"epoch": 3})
        await asyncio.sleep(4)  # it hangs
        for _ in range(200):
            await asyncio.sleep(0.1)
            try:
                await task.heartbeat({"epoch": 4})
            except TaskOver as error:
                over.append(error.reason)
                raise
        return 1

    store = new_store("sqlite", tmp_path)
    async with running(bench.bootstrap, bench.app, store) as shop, working(worker, bench.connection):
        called = await shop.call("train", topic=bench.tasks, silence_s=1)
        outcome = await shop.result(called, timeout=40)
        assert isinstance(outcome, Resolution)
        assert json.loads(outcome.content) == ["heartbeat", {"epoch": 3}]
        await eventually(lambda: over, 30)
    assert over == ["timed-out"]


async def test_a_cancelled_task_ends_in_the_worker_and_one_that_waited_is_not_begun(
    bench: Bench, tmp_path: Path
) -> None:
    begun: list[str] = []
    ended: list[str] = []
    worker = Worker(f"trainer-{bench.tasks}", concurrency=1)

    @worker.task(bench.tasks)
    async def train(task: Task[dict[str, Any]]) -> int:
        begun.append(task.payload["name"])
        try:
            while True:
                await asyncio.sleep(0.1)
                await task.heartbeat()
        except TaskOver as error:
            ended.append(error.reason)
            raise

    store = new_store("sqlite", tmp_path)
    async with running(bench.bootstrap, bench.app, store) as shop, working(worker, bench.connection):
        first = await shop.call("train", topic=bench.tasks, silence_s=60, name="first")
        await eventually(lambda: begun, 30)
        second = await shop.call("train", topic=bench.tasks, silence_s=60, name="second")
        await asyncio.sleep(1)
        await shop.api.cancel(second)
        await asyncio.sleep(2)
        await shop.api.cancel(first)
        await eventually(lambda: ended, 30)
        third = await shop.call("train", topic=bench.tasks, silence_s=60, name="third")
        await eventually(lambda: "third" in begun, 30)
        await shop.api.cancel(third)
        await eventually(lambda: len(ended) == 2, 30)
    assert begun == ["first", "third"]
    assert ended == ["cancelled", "cancelled"]


async def test_a_late_answer_over_kafka_begins_its_handler_once(bench: Bench, tmp_path: Path) -> None:
    late_values.clear()
    async with running(bench.bootstrap, bench.app, new_store("sqlite", tmp_path)) as shop:
        called = await shop.call("pay", topic=bench.tasks)
        outcome = await shop.result(called, timeout=30)
        assert isinstance(outcome, Resolution)
        assert json.loads(outcome.content) == "not paid"
        (row,) = [each for each in await shop.api.awakeables(PAGE) if each.invocation_id == called]
        again = [resolved(row.id, 7), resolved(row.id, 7), resolved(row.id, 8)]
        await produce(bench.bootstrap, bench.app.completions_topic, again)
        await eventually(lambda: late_values, 30)
        await eventually(lambda: shop.counts(row.id), 30)
    assert late_values == [7]
