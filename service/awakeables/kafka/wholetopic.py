"""Reads topics from their beginning to the end that they had at one instant, for checks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from awakeables.errors import BrokerUnavailable
from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.diagnosis import diagnose
from awakeables.kafka.tolerant import OversizedBatch, Records, TolerantReader, UnreadableBatch
from awakeables.kafka.topics import asking, describe

PAGE_RECORDS = 500
WAIT_MS = 1000
MOST_WAITS = 10
"""Reads in a row that may bring nothing; then the rest of a partition is given up."""


@dataclass(frozen=True, slots=True)
class TopicEnd:
    """Where a topic ended.

    Attributes:
        topic_id: Distinguishes it from an earlier topic of the same name; None if the broker knows no IDs.
        offsets: The offset after the last record, by partition.
    """

    topic_id: str | None
    offsets: Mapping[int, int]


class WholeTopics:
    """Reads topics as `whole_topics` has opened them."""

    def __init__(
        self, consumer: AIOKafkaConsumer, connection: KafkaConnection, *, max_unpacked_bytes: int
    ) -> None:
        self._consumer = consumer
        self._connection = connection
        self._max_unpacked_bytes = max_unpacked_bytes

    async def ends(self, topics: Iterable[str]) -> dict[str, TopicEnd]:
        """Where these topics end now; those that are missing or can't be used are left out.

        Raises:
            BrokerUnavailable: Kafka can't be reached.
        """
        wanted = list(dict.fromkeys(topics))
        async with asking(self._connection) as client:
            facts = await describe(client, wanted) if wanted else {}
        ends = {}
        for topic in wanted:
            if facts[topic].problem is None and not facts[topic].leaderless:
                partitions = [TopicPartition(topic, number) for number in sorted(facts[topic].partitions)]
                found = await self._consumer.end_offsets(partitions)
                offsets = {partition.partition: end for partition, end in found.items()}
                ends[topic] = TopicEnd(facts[topic].topic_id, offsets)
        return ends

    async def records(self, topic: str, partition: int, end: int) -> AsyncIterator[Records]:
        """The records of a partition before `end`, page by page; batches that can't be read are left out.

        Raises:
            BrokerUnavailable: It was not read to the end.
        """
        place = TopicPartition(topic, partition)
        self._consumer.assign([place])
        first = (await self._consumer.beginning_offsets([place]))[place]
        self._consumer.seek(place, first)
        reader = TolerantReader(
            self._consumer,
            place,
            self._connection,
            position=first,
            max_unpacked_bytes=self._max_unpacked_bytes,
        )
        waits = 0
        while reader.position < end:
            try:
                records = await reader.read(PAGE_RECORDS, timeout_ms=WAIT_MS)
            except UnreadableBatch as batch:
                if batch.next is None:
                    raise _cut_short(place, reader.position, end) from batch
                reader.go_to(batch.next)
                continue
            except OversizedBatch as batch:
                reader.go_to(batch.next)
                continue
            waits = 0 if records else waits + 1
            if records:
                yield [record for record in records if record.offset < end]
            elif await self._consumer.position(place) >= end:
                return  # the last offsets are a transaction's markers
            elif waits == MOST_WAITS:
                raise _cut_short(place, reader.position, end)


@asynccontextmanager
async def whole_topics(connection: KafkaConnection, *, max_unpacked_bytes: int) -> AsyncIterator[WholeTopics]:
    """Connect, in no consumer group, to read whole topics within the block.

    Raises:
        BrokerUnavailable: Kafka can't be reached, or fails.
    """
    consumer = AIOKafkaConsumer(**connection.consumer_options())
    try:
        try:
            async with asyncio.timeout(connection.request_timeout.total_seconds()):
                await consumer.start()
        except NO_CONNECTION as error:
            raise await diagnose(connection, error) from error
        try:
            yield WholeTopics(consumer, connection, max_unpacked_bytes=max_unpacked_bytes)
        except kafka.KafkaError as error:
            raise await diagnose(connection, error) from error
    finally:
        await close_consumer(consumer)


def _cut_short(place: TopicPartition, position: int, end: int) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"partition {place.partition} of {place.topic} was read to offset {position}, and not to {end}: "
        "the broker sends no more, or a batch that can't be opened is in between"
    )
