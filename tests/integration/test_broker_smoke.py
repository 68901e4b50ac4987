"""The broker is the real one: what the engine builds on holds here, or nowhere."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiokafka import ConsumerRecord

    from support.real_kafka import RealKafka, TopicFactory


@asynccontextmanager
async def producing(bootstrap: str, **options: object) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def read_everything(
    bootstrap: str, topic: str, *, isolation_level: str = "read_uncommitted"
) -> list[ConsumerRecord]:
    """All records of partition 0, up to the end that the broker named when we asked."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level=isolation_level
    )
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        records: list[ConsumerRecord] = []
        async with asyncio.timeout(20):
            # The position also passes what is no record: aborted ones and transaction markers.
            while await consumer.position(partition) < end:
                batches = await consumer.getmany(partition, timeout_ms=200)
                records.extend(batches.get(partition, ()))
        return records
    finally:
        await consumer.stop()


async def test_a_record_comes_back_with_its_key_value_and_headers(
    bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("round-trip", partitions=1)
    headers = [("traceparent", b"00-ab-cd-01"), ("attempt", b"1"), ("attempt", b"2")]
    async with producing(bootstrap) as producer:
        sent = await producer.send_and_wait(name, key=b"awk_1", value=b"{}", headers=headers)
        await producer.send_and_wait(name, key=b"awk_1", value=None)

    record, tombstone = await read_everything(bootstrap, name)

    assert (record.offset, record.key, record.value) == (sent.offset, b"awk_1", b"{}")
    assert list(record.headers) == headers
    assert (tombstone.key, tombstone.value) == (b"awk_1", None)


async def test_an_aborted_transaction_is_unseen_by_a_read_committed_consumer(
    bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("transactions", partitions=1)
    async with producing(bootstrap, transactional_id=f"smoke-{name}") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(name, b"aborted")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(name, b"committed")

    committed = await read_everything(bootstrap, name, isolation_level="read_committed")
    everything = await read_everything(bootstrap, name)

    assert [record.value for record in committed] == [b"committed"]
    assert [record.value for record in everything] == [b"aborted", b"committed"]


@pytest.mark.takes_kafka_down
async def test_records_survive_a_restart_of_the_broker(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("restart", partitions=1)
    async with producing(bootstrap) as producer:
        await producer.send_and_wait(name, b"before")

    await asyncio.to_thread(real_kafka.restart)

    assert real_kafka.bootstrap == bootstrap
    async with producing(bootstrap) as producer:
        await producer.send_and_wait(name, b"after")
    assert [record.value for record in await read_everything(bootstrap, name)] == [
        b"before",
        b"after",
    ]
