"""Task records as the service publishes them, workers that do them, and what these answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import IO, Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from awakeables.core.awakeables import Completion
from awakeables.core.effects import Effect, Header, TaskFacts
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.worker import WorkerRunner, WorkerSettings
from awakeables.telemetry.spans import Spans
from awakeables.wire.completions import decode_completion
from awakeables.wire.tasks import encode_effect
from awakeables.worker.loop import LoopSettings
from awakeables.worker.replies import ReplyTopics
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock
from support.eventually import eventually
from support.ids import new_id

ISSUED_MS = 1_790_000_000_000


def awakeable_id(number: int) -> str:
    """The well-formed ID with this number."""
    return new_id("prom", at_ms=ISSUED_MS, entropy=number.to_bytes(10, "big"))


def task_effect(
    payload: Any,
    *,
    number: int,
    topic: str,
    reply_to: str,
    name: str | None = None,
    deadline_ms: int | None = None,
) -> Effect:
    """The effect that becomes a task, keyed as the service keys it."""
    identity = awakeable_id(number)
    return Effect(
        event_id=f"evt_{number}",
        stream="inv_1",
        topic=topic,
        key=identity.encode(),
        value=msgspec.json.encode(payload),
        task=TaskFacts(awakeable_id=identity, reply_to=reply_to, task=name, deadline_ms=deadline_ms),
    )


def task_headers(effect: Effect, *more: Header) -> tuple[bytes | None, list[Header]]:
    """Its value, and its headers with more of them."""
    value, headers = encode_effect(effect)
    return value, [*headers, *more]


async def publish_tasks(
    bootstrap: str, topic: str, reply_to: str, numbers: Iterable[int], **options: Any
) -> None:
    """Tasks whose payload is their number, over all partitions of the topic."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, **options) as producer:
        sent = []
        for number in numbers:
            effect = task_effect({"number": number}, number=number, topic=topic, reply_to=reply_to)
            value, headers = task_headers(effect)
            sent.append(await producer.send(topic, value, key=effect.key, headers=headers))
        await asyncio.gather(*sent)


class Answers:
    """Reads a topic to its end, again and again; a group's offsets are not touched."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self.records: list[ConsumerRecord[bytes, bytes]] = []

    async def read(self) -> list[ConsumerRecord[bytes, bytes]]:
        """All that is there by now."""
        for batch in (await self._consumer.getmany(timeout_ms=50)).values():
            self.records += batch
        return self.records

    async def completions(self) -> dict[str, list[Completion]]:
        """The completions by awakeable ID, in the order in which they were read."""
        found: dict[str, list[Completion]] = {}
        for record in await self.read():
            completion = decode_completion(record.value, source="test")
            found.setdefault(completion.awakeable_id, []).append(completion)
        return found

    async def of_all(self, numbers: Iterable[int], timeout: float = 30) -> dict[str, list[Completion]]:
        """Wait until each of these tasks has an answer."""
        wanted = {awakeable_id(number) for number in numbers}

        async def found() -> dict[str, list[Completion]]:
            completions = await self.completions()
            missing = wanted - completions.keys()
            assert not missing, f"{len(missing)} of {len(wanted)} tasks have no answer"
            return completions

        return await eventually(found, timeout)

    async def at_least(self, count: int, timeout: float = 30) -> list[ConsumerRecord[bytes, bytes]]:
        """Wait until so many records are there."""

        async def found() -> list[ConsumerRecord[bytes, bytes]]:
            records = await self.read()
            return records if len(records) >= count else []

        return await eventually(found, timeout)


@asynccontextmanager
async def answers_in(bootstrap: str, topic: str, **options: Any) -> AsyncIterator[Answers]:
    """Whatever is in the topic, and what comes."""
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=20, **options
    ) as consumer:
        yield Answers(consumer)


async def committed(bootstrap: str, group: str, topic: str, partitions: int = 1) -> dict[int, int]:
    """A group's offsets; partitions without one are left out."""
    places = [TopicPartition(topic, number) for number in range(partitions)]
    async with AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False
    ) as consumer:
        consumer.assign(places)
        offsets = {place.partition: await consumer.committed(place) for place in places}
    return {partition: offset for partition, offset in offsets.items() if offset is not None}


QUICK = WorkerSettings(
    commit_interval=timedelta(milliseconds=100),
    topic_check_interval=timedelta(milliseconds=200),
    stuck_retry_interval=timedelta(seconds=1),
    loop=LoopSettings(reply_topics=ReplyTopics("*")),
)
"""As in production, only less patient, and topics may have any name."""


@asynccontextmanager
async def working(
    worker: Worker,
    connection: KafkaConnection,
    *,
    settings: WorkerSettings = QUICK,
    drain_timeout: timedelta = timedelta(seconds=10),
    spans: Spans | None = None,
) -> AsyncIterator[asyncio.Event]:
    """Run a worker until the block is left, or the event is set; its errors fail the test."""
    stop = asyncio.Event()
    settings = replace(settings, loop=replace(settings.loop, drain_timeout=drain_timeout))
    async with asyncio.TaskGroup() as children:
        children.create_task(
            WorkerRunner(worker, connection, clock=SystemClock(), settings=settings, spans=spans).run(stop)
        )
        try:
            yield stop
        finally:
            stop.set()


@asynccontextmanager
async def process(
    *command: str, pipes: bool = False, stderr: IO[bytes] | None = None, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program in a process group of its own, ended as a whole."""
    pipe = asyncio.subprocess.PIPE if pipes else None
    running = await asyncio.create_subprocess_exec(
        *command, start_new_session=True, env=os.environ | environment, stdin=pipe, stdout=pipe, stderr=stderr
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            os.killpg(running.pid, signal.SIGKILL)
        await asyncio.wait_for(running.communicate(), 20)
