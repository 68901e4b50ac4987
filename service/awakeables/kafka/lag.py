"""Commits to Kafka how far the completions were read, for lag dashboards; it is never read back.

It has its own client, so that a forbidden group, or a coordinator that is down, does not affect reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import KafkaConnection

INTERVAL_S = 5.0
PATIENCE_S = 2.0
START_S = 10.0
AFTER_FAILURE_S = 30.0


async def report_lag(
    connection: KafkaConnection, group: str, offsets: Callable[[], Mapping[TopicPartition, int]]
) -> None:
    """Commit the offsets under the group's name every few seconds, as far as possible, until cancelled."""
    while True:
        consumer = AIOKafkaConsumer(**connection.consumer_options(), group_id=group)
        try:
            async with asyncio.timeout(START_S):
                await consumer.start()
            await _keep_committing(consumer, offsets)
        except (kafka.KafkaError, kafka.IllegalOperation, OSError, TimeoutError):
            await asyncio.sleep(AFTER_FAILURE_S)
        finally:
            await close_consumer(consumer)


async def _keep_committing(
    consumer: AIOKafkaConsumer, offsets: Callable[[], Mapping[TopicPartition, int]]
) -> None:
    committed: Mapping[TopicPartition, int] = {}
    while True:
        await asyncio.sleep(INTERVAL_S)
        now = offsets()
        if not now or now == committed:
            continue
        if now.keys() != committed.keys():
            # Assigned by hand, which joins no group; paused, so that nothing is fetched.
            consumer.assign(list(now))
            consumer.pause(*now)
            for partition, offset in now.items():
                consumer.seek(partition, offset)
        async with asyncio.timeout(PATIENCE_S):
            await consumer.commit(dict(now))
        committed = dict(now)
