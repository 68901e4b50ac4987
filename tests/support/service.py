"""A service in this process: the real engine, publisher and consumer, on whatever Kafka there is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from awakeables.api import Api
from awakeables.core.awakeables import AwakeableRow, Completion
from awakeables.core.outcomes import Outcome, Rejection, Resolution
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.readtopic import ReadTopic
from awakeables.handlers.context import Context
from awakeables.handlers.service import App, Service
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.partitions import ReadingSettings
from awakeables.kafka.producer import Producer
from awakeables.kafka.publisher import KafkaPublisher
from awakeables.kafka.topicconsumer import TopicConsumer
from awakeables.kafka.topicoffsets import KafkaOffsets
from awakeables.kafka.topics import create_topics
from awakeables.ports import Page, Store
from awakeables.store.memory import MemoryStore
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.store import SqliteStore
from awakeables.telemetry.spans import Spans
from awakeables.testing.bench import new_process
from awakeables.wire.completions import encode_completion
from awakeables.world import SystemClock, SystemEntropy
from support.eventually import eventually

DAY_MS = 24 * 3600 * 1000
READING = ReadingSettings(stuck_retry=timedelta(seconds=1), ahead_retry=timedelta(milliseconds=300))
"""As in production, only less patient."""


def new_store(kind: str, folder: Path, *, url: str = "") -> Store:
    """A store in memory, in a file of this folder, or in a database; the last two keep what is in them."""
    if kind == "postgres":
        return PostgresStore(url, retention_ms=DAY_MS)
    clock = SystemClock()
    if kind == "memory":
        return MemoryStore(clock=clock, retention_ms=DAY_MS)
    return SqliteStore(folder / "shop.db", clock=clock, retention_ms=DAY_MS)


def new_app(name: str = "shop") -> App:
    """An app of a name of its own, whose handlers wait for the outside."""
    service = Service("orders")

    @service.handler()
    async def wait(ctx: Context, order: dict[str, Any]) -> Any:
        timeout = order.get("timeout_s")
        packed = ctx.awakeable(timeout=None if timeout is None else timedelta(seconds=timeout))
        return await packed

    @service.handler()
    async def count(ctx: Context, order: dict[str, Any]) -> int:
        packed = ctx.awakeable(int)
        return await packed

    @service.handler()
    async def fulfil(ctx: Context, order: dict[str, Any]) -> Any:
        packed = ctx.awakeable()
        ctx.publish(order["topic"], order, awakeable=packed)
        return await packed

    return App(f"{name}-{secrets.token_hex(4)}", services=[service])


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A service that runs, and what a test does with it."""

    app: App
    api: Api
    engine: Engine
    consumer: TopicConsumer
    producer: Producer
    store: Store

    @property
    def problems(self) -> dict[str, str]:
        return self.engine.problems

    def deadlines_pass(self) -> bool:
        """Is the topic read to its end, so that time-outs are not held back?"""
        return self.engine.clock.now_ms() - self.engine.horizon.held_back_to_ms() < 1000

    async def call(self, handler: str, **order: Any) -> str:
        """Begin an invocation; its ID."""
        begun = await self.api.begin(self.app.handler("orders", handler), msgspec.json.encode(order))
        return begun.id

    async def pending(self, handler: str = "wait", *, count: int = 1, **order: Any) -> list[str]:
        """IDs of new awakeables that wait for an answer."""
        calls = [await self.call(handler, **order) for _ in range(count)]

        async def rows() -> list[str]:
            found = await self.store.awakeables(Page(limit=10_000))
            ids = [row.id for row in found if row.invocation_id in calls]
            return ids if len(ids) == count else []

        return await eventually(rows)

    async def result(self, invocation_id: str, timeout: float = 15) -> Outcome:
        async with asyncio.timeout(timeout):
            return await self.api.result(invocation_id)

    async def row(self, awakeable_id: str) -> AwakeableRow:
        row = await self.store.awakeable(awakeable_id)
        assert row is not None
        return row

    async def counts(self, awakeable_id: str) -> dict[str, int]:
        """The verdicts in the awakeable's book, by kind."""
        return (await self.row(awakeable_id)).verdicts.counts

    async def settled(self, awakeable_id: str, timeout: float = 15) -> AwakeableRow:
        async def row() -> AwakeableRow | None:
            found = await self.row(awakeable_id)
            return None if found.state == "pending" else found

        found = await eventually(row, timeout)
        assert found is not None
        return found

    async def positions(self) -> dict[int, int]:
        return {row.partition: row.next for row in await self.store.positions(self.app.completions_topic)}


@asynccontextmanager
async def running(
    bootstrap: str,
    app: App,
    store: Store,
    *,
    connection: KafkaConnection | None = None,
    settings: ReadingSettings = READING,
    engine_settings: EngineSettings | None = None,
    stuck: timedelta = timedelta(seconds=30),
    consumes: bool = True,
    spans: Spans | None = None,
) -> AsyncIterator[Running]:
    """Serve an app until the block is left; its background errors fail the test.

    With `consumes=False` the test reads the completions topic by consumers of its own.
    """
    clock = SystemClock()
    connection = connection or KafkaConnection(bootstrap=bootstrap)
    producer = Producer(connection, clock)
    publisher = KafkaPublisher(producer, connection)
    process = new_process(
        app,
        store,
        publisher,
        clock=clock,
        entropy=SystemEntropy(),
        settings=engine_settings or EngineSettings(),
        offsets=KafkaOffsets(connection),
        spans=spans,
    )
    engine = process.engine

    def reads(topic: ReadTopic, group: str) -> TopicConsumer:
        return TopicConsumer(
            connection,
            topic,
            group=group,
            clock=clock,
            problems=engine.problems,
            settings=settings,
            stuck=stuck,
        )

    consumer = reads(engine.completions, app.name)
    others = [reads(topic, f"{app.name}:{name}") for name, topic in engine.subscriptions.topics.items()]
    await store.open()
    try:
        async with producer.running(), asyncio.TaskGroup() as tasks:
            serving = [tasks.create_task(engine.run())]
            if consumes:
                serving += [tasks.create_task(each.run()) for each in (consumer, *others)]
            await engine.serving.wait()
            try:
                yield Running(
                    app=app,
                    api=process.api,
                    engine=engine,
                    consumer=consumer,
                    producer=producer,
                    store=store,
                )
            finally:
                for task in reversed(serving):
                    task.cancel()
                await asyncio.wait(serving)
    finally:
        await store.close()
    assert engine.errors == []


async def create_app_topics(bootstrap: str, app: App, *, partitions: int = 2) -> None:
    topics = {app.completions_topic: partitions, app.dead_letter_topic: 1}
    await create_topics(KafkaConnection(bootstrap=bootstrap), topics)


def resolved(awakeable_id: str, value: Any = None) -> bytes:
    body = Resolution(value=msgspec.Raw(msgspec.json.encode(value)))
    return encode_completion(Completion(awakeable_id=awakeable_id, body=body, source="test"))


def rejected(awakeable_id: str, reason: str = "no") -> bytes:
    return encode_completion(
        Completion(awakeable_id=awakeable_id, body=Rejection(reason=reason), source="test")
    )


@asynccontextmanager
async def producing(bootstrap: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A worker's producer, in whatever language it may be written."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def produce(
    bootstrap: str, topic: str, values: Iterable[bytes | None], *, partition: int = 0, **options: Any
) -> None:
    """Write records to one partition, as one batch if they fit."""
    async with producing(bootstrap, **options) as producer:
        futures = [await producer.send(topic, value, key=b"key", partition=partition) for value in values]
        await asyncio.gather(*futures)


async def read_records(
    bootstrap: str, topic: str, count: int, *, partition: int = 0, timeout: float = 15
) -> Sequence[ConsumerRecord]:
    """The first records of a partition."""
    records: list[ConsumerRecord] = []
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none", fetch_max_wait_ms=50)
    await consumer.start()
    try:
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, 0)
        async with asyncio.timeout(timeout):
            while len(records) < count:
                records += (await consumer.getmany(place, timeout_ms=200)).get(place, [])
    finally:
        await consumer.stop()
    return records
