"""Commits to Kafka how far a topic was read, for lag dashboards; it is never read back.

Where partitions are assigned by hand, it has its own client, so that a forbidden group, or a coordinator
that is down, does not affect reading. A group with members accepts offsets only from them, so there the
member itself commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import KafkaConnection
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

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


async def commit_lag(consumer: AIOKafkaConsumer, offsets: Callable[[], Mapping[TopicPartition, int]]) -> None:
    """Commit the offsets of a member's partitions every few seconds, until cancelled.

    What fails is left: partitions may have moved, and the next member commits for them.
    """
    committed: Mapping[TopicPartition, int] = {}
    while True:
        await asyncio.sleep(INTERVAL_S)
        now = dict(offsets())
        if not now or now == committed:
            continue
        try:
            async with asyncio.timeout(PATIENCE_S):
                await consumer.commit(now)
        except (kafka.KafkaError, TimeoutError) as error:
            log.debug(events.OFFSETS_NOT_COMMITTED, error=repr(error))
        else:
            committed = now
