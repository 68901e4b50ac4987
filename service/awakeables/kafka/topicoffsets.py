"""Finds offsets in topics, with a consumer for a few requests."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.diagnosis import diagnose
from awakeables.kafka.topics import describe, no_topic
from awakeables.ports import Where


class KafkaOffsets:
    """`ports.TopicOffsets` of a cluster."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection

    async def offsets_at(self, topic: str, partitions: Collection[int], where: Where) -> Mapping[int, int]:
        """As `TopicOffsets.offsets_at`."""
        places = [TopicPartition(topic, number) for number in sorted(partitions)]
        consumer = AIOKafkaConsumer(**self._connection.consumer_options())
        try:
            async with asyncio.timeout(self._connection.request_timeout.total_seconds()):
                await consumer.start()
                if (await describe(consumer._client, [topic]))[topic].missing:
                    raise no_topic(topic, self._connection, ours=False)
                consumer.assign(places)  # so that it knows the topic
                consumer.pause(*places)
                found = await find_offsets(consumer, places, where)
        except NO_CONNECTION as error:
            raise await diagnose(self._connection, error) from error
        finally:
            await close_consumer(consumer)
        return {place.partition: offset for place, offset in found.items()}


async def find_offsets(
    consumer: AIOKafkaConsumer, places: list[TopicPartition], where: Where
) -> Mapping[TopicPartition, int]:
    """The offsets of a place in partitions that are assigned to a consumer."""
    if where == "earliest":
        begins: Mapping[TopicPartition, int] = await consumer.beginning_offsets(places)
        return begins
    ends: Mapping[TopicPartition, int] = await consumer.end_offsets(places)
    if where == "latest":
        return ends
    found = await consumer.offsets_for_times(dict.fromkeys(places, max(0, where)))  # from 1970 on
    return {place: ends[place] if found[place] is None else found[place].offset for place in places}
