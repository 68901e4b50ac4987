"""What is in the topics, from the first record to the last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

Records = list[ConsumerRecord]


async def ends_of(bootstrap: str, topic: str, partitions: int) -> dict[int, int]:
    """The next offset of each partition."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        return {place.partition: end for place, end in (await consumer.end_offsets(places)).items()}


async def everything_in(bootstrap: str, topics: Iterable[str], partitions: int) -> Records:
    places = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
    found: Records = []
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, fetch_max_wait_ms=5) as consumer:
        consumer.assign(places)
        for place in places:
            consumer.seek(place, 0)
        ends = await consumer.end_offsets(places)
        async with asyncio.timeout(30):
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += records
    return found
