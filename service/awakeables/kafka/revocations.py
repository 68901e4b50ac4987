"""Reads the topics on which services say that nobody waits for a task any more.

Each worker process reads all of it, without a group, from when the oldest of its revocable tasks began.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from awakeables.core.revocations import Revocation
from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.diagnosis import error_text
from awakeables.kafka.topicoffsets import find_offsets
from awakeables.kafka.topics import describe
from awakeables.telemetry import events
from awakeables.worker.heartbeats import OverReason

log = structlog.stdlib.get_logger(__name__)

MOST_KNOWN = 100_000
"""How many revocations are remembered: those of the last minutes, at the rate of a large service."""

MARGIN_MS = 3_600_000
"""How much further back is read: clocks differ, and an older task need not mean reading all of it again."""

POLL_MS = 500
AGAIN_S = 5.0
_decode = msgspec.json.Decoder(Revocation).decode


class Revocations:
    """The revocations that a worker has read."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Prepare; nothing is connected before the first topic is watched."""
        self._connection = connection
        self._known: OrderedDict[str, OverReason] = OrderedDict()
        self._since: dict[str, int] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    def watch(self, topic: str, since_ms: int) -> None:
        """Read a topic from an instant on; one that is read from a later one is read again."""
        if since_ms < self._since.get(topic, since_ms + 1):
            self._since[topic] = since_ms - MARGIN_MS
        if topic not in self._reading:
            self._reading[topic] = asyncio.ensure_future(self._read(topic))

    def why_over(self, awakeable_id: str) -> OverReason | None:
        """Why nobody waits for an awakeable any more, as far as was read."""
        return self._known.get(awakeable_id)

    async def close(self) -> None:
        """Stop reading."""
        for task in self._reading.values():
            task.cancel()
        if self._reading:
            await asyncio.wait(self._reading.values())

    async def _read(self, topic: str) -> None:
        while True:
            consumer = AIOKafkaConsumer(**self._connection.consumer_options())
            try:
                await consumer.start()
                await self._read_with(consumer, topic)
            except (KafkaError, *NO_CONNECTION) as error:
                # The workers' own connection says in the log what is wrong with the broker.
                log.debug(events.CLIENT_REPLACED, client="revocations", error=error_text(error))
            finally:
                await close_consumer(consumer)
            await asyncio.sleep(AGAIN_S)

    async def _read_with(self, consumer: AIOKafkaConsumer, topic: str) -> None:
        """Read on from the instant; what was read before a connection was lost is read again."""
        facts = (await describe(consumer._client, [topic]))[topic]
        if facts.problem is not None:
            return  # there is no such topic yet, or it can't be read now
        places = [TopicPartition(topic, number) for number in sorted(facts.partitions)]
        consumer.assign(places)
        since_ms: int | None = None
        while True:
            if since_ms != self._since[topic]:
                since_ms = self._since[topic]
                for place, offset in (await find_offsets(consumer, places, since_ms)).items():
                    consumer.seek(place, offset)
            batches: dict[Any, list[Any]] = await consumer.getmany(timeout_ms=POLL_MS)
            for records in batches.values():
                for record in records:
                    self._take(record.value)

    def _take(self, value: bytes | None) -> None:
        try:
            said = _decode(value or b"")
        except msgspec.MsgspecError:
            return  # not one of ours
        self._known[said.awakeable_id] = said.state
        self._known.move_to_end(said.awakeable_id)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
