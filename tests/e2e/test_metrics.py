"""Metrics of what reads Kafka: how far it is behind, and a worker's port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import httpx
import pytest

from awakeables.core.commands import Command, Settle
from awakeables.core.replies import Reply
from awakeables.devbroker import EmbeddedBroker
from awakeables.kafka.connection import KafkaConnection
from awakeables.runtime import work
from awakeables.settings import load_settings
from awakeables.store.memory import MemoryStore
from awakeables.telemetry.metrics import Metrics
from awakeables.worker.task import Reject, Task
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock
from support.eventually import eventually
from support.service import DAY_MS, READING, new_app, produce, resolved, running
from support.tasks import answers_in, publish_tasks


class Witness(MemoryStore):
    """Notes what the gauges tell when a batch of the topic is committed."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock(), retention_ms=DAY_MS)
        self.metrics = Metrics()
        self.lags: list[float] = []
        self.behind_s: list[float] = []

    async def commit(self, members: Sequence[Command]) -> list[Reply]:
        if any(isinstance(member, Settle) and member.fence is not None for member in members):
            self.lags.append(lag(self.metrics))
            self.behind_s.append(gauge(self.metrics, "consumer_behind_seconds"))
        return await super().commit(members)


def gauge(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"awakeables_{name}", {"partition": "0"}) or 0.0


def lag(metrics: Metrics) -> float:
    return gauge(metrics, "consumer_lag")


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


async def test_lag_is_reported_per_partition_and_returns_to_0(broker: EmbeddedBroker) -> None:
    app, store = new_app(), Witness()
    await broker.create_topic(app.completions_topic, partitions=1)
    await broker.create_topic(app.dead_letter_topic, partitions=1)
    one_by_one = replace(READING, max_records=1)
    connection = KafkaConnection(bootstrap=broker.bootstrap, fetch_max_wait_ms=5)
    async with running(broker.bootstrap, app, store, connection=connection, settings=one_by_one) as shop:
        store.metrics = shop.engine.metrics
        ids = await shop.pending(count=5)
        await produce(broker.bootstrap, app.completions_topic, [resolved(key) for key in ids])
        for key in ids:
            await shop.settled(key)

        async def nothing_left() -> bool:
            return lag(store.metrics) == gauge(store.metrics, "consumer_behind_seconds") == 0

        await eventually(nothing_left)
    assert store.lags[1:] == [4, 3, 2, 1]
    assert all(behind_s > 0 for behind_s in store.behind_s[1:])


async def test_a_worker_counts_what_became_of_its_tasks(broker: EmbeddedBroker) -> None:
    await broker.create_topic("pack-requests", partitions=1)
    await broker.create_topic("shop.completions", partitions=1)
    worker = Worker("packer")

    @worker.task("pack-requests")
    async def pack(task: Task[dict[str, int]]) -> int:
        if task.payload["number"] == 0:
            raise Reject("out of stock", code=409)
        return task.payload["number"]

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop = asyncio.Event()
    settings = load_settings(kafka=broker.bootstrap, metrics_port=port)
    async with (
        answers_in(broker.bootstrap, "shop.completions") as answers,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(work(worker, settings, stop=stop))
        await publish_tasks(broker.bootstrap, "pack-requests", "shop.completions", range(4))
        await answers.of_all(range(4))

        async def told() -> str:
            text = (await client.get("/metrics")).text
            return text if "awakeables_worker_running 0.0" in text else ""

        text = await eventually(told)
        stop.set()
    of = 'awakeables_worker_tasks_total{fate="%s",topic="pack-requests"} %s\n'
    assert of % ("resolved", "3.0") in text
    assert of % ("rejected", "1.0") in text
    assert 'awakeables_worker_task_seconds_count{topic="pack-requests"} 4.0\n' in text
    assert "process_resident_memory_bytes" in text


async def test_case_o9_a_worker_is_ready_once_it_can_read_and_answer(broker: EmbeddedBroker) -> None:
    worker = Worker("packer")

    @worker.task("pack-requests")
    async def pack(task: Task[dict[str, int]]) -> int:
        return task.payload["number"]

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop = asyncio.Event()
    settings = load_settings(kafka=broker.bootstrap, metrics_port=port)
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(work(worker, settings, stop=stop))

        async def problems() -> dict[str, str]:
            with contextlib.suppress(httpx.ConnectError):
                said: dict[str, str] = (await client.get("/health/ready")).json().get("problems", {})
                return said
            return {"worker": "no answer yet"}

        async def only_the_topic_is_missing() -> bool:
            return set(await problems()) == {"topic pack-requests"}

        async def ready() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        await eventually(only_the_topic_is_missing)
        await broker.create_topic("pack-requests", partitions=1)
        await eventually(ready)
        stop.set()
