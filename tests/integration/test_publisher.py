"""The publisher on a real Kafka: what it promises as `ports.Publisher`, and how it recovers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.partitioner import murmur2
from msgspec.structs import replace

from awakeables.core.effects import Effect, TaskFacts
from awakeables.errors import BrokerUnavailable, PublishRefused, TopicMissing
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.producer import ProducerSettings
from awakeables.kafka.publisher import KafkaPublisher
from awakeables.kafka.topics import missing_topics
from awakeables.telemetry import events
from support.eventually import eventually
from support.logs import heard
from support.publishing import outcomes, publish, publishing
from support.service import read_records

if TYPE_CHECKING:
    from support.real_kafka import RealKafka, TopicFactory

AWAKEABLE = "prom_1"


def effect(number: int, topic: str, value: bytes | None = b"{}", key: bytes | None = b"key") -> Effect:
    return Effect(event_id=f"evt_{number}", stream=f"inv_{number}", topic=topic, key=key, value=value)


def task(number: int, topic: str) -> Effect:
    """A task that the handler gave no key."""
    key = f"prom_{number}"
    facts = TaskFacts(awakeable_id=key, reply_to="shop.completions")
    return replace(effect(number, topic, key=key.encode()), task=facts)


def event_of(record: ConsumerRecord) -> str:
    return str(dict(record.headers)["awakeable-event-id"], "utf-8")


@pytest.fixture
async def publisher(bootstrap: str) -> AsyncIterator[KafkaPublisher]:
    async with publishing(KafkaConnection(bootstrap=bootstrap)) as publisher:
        yield publisher


async def publish_in_the_end(publisher: KafkaPublisher, record: Effect) -> None:
    """Publish, however often the broker is too slow for the publisher's time-out."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await publish(publisher, record)
            except BrokerUnavailable:
                continue


async def test_a_record_arrives_with_its_key_value_and_headers(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    facts = TaskFacts(awakeable_id=AWAKEABLE, reply_to="shop.completions", envelope="none")
    await publish(
        publisher,
        Effect(
            event_id="evt_1",
            stream="inv_1",
            topic=name,
            key=b"k",
            value=b"[1]",
            headers=(("again", b"1"), ("again", b"2"), ("empty", b""), ("null", None)),
            task=facts,
        ),
    )
    [record] = await read_records(bootstrap, name, 1)
    assert (record.key, record.value) == (b"k", b"[1]")
    assert record.headers[:4] == (("again", b"1"), ("again", b"2"), ("empty", b""), ("null", None))
    assert ("awakeable-event-id", b"evt_1") in record.headers


async def test_a_record_without_key_and_value_is_published_as_such(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    await publish(publisher, effect(1, name, value=None, key=None))
    [record] = await read_records(bootstrap, name, 1)
    assert (record.key, record.value) == (None, None)


async def test_a_record_that_is_too_large_for_its_topic_is_refused(
    topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("small", partitions=1, max_message_bytes=2000)
    with pytest.raises(PublishRefused, match="small"):
        await publish(publisher, effect(1, name, b"x" * 3000))


async def test_a_record_that_is_too_large_for_any_topic_is_refused(
    topic: TopicFactory, bootstrap: str
) -> None:
    name = await topic("out", partitions=1)
    settings = ProducerSettings(max_record_bytes=10_000)
    async with publishing(KafkaConnection(bootstrap=bootstrap), settings=settings) as publisher:
        with pytest.raises(PublishRefused):
            await publish(publisher, effect(1, name, b"x" * 20_000))


async def test_small_records_pass_that_are_too_large_only_together(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("small", partitions=1, max_message_bytes=2000)
    effects = [effect(number, name, b"x" * 900) for number in range(10)]
    assert await outcomes(publisher, effects) == [None] * 10
    records = await read_records(bootstrap, name, 10)
    assert [event_of(record) for record in records] == [one.event_id for one in effects], "in order"


async def test_one_refused_record_stops_none_in_its_batch_or_behind_it(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("small", partitions=1, max_message_bytes=5000)
    values = [b"x" * (6000 if number == 7 else 100) for number in range(20)]
    found = await outcomes(publisher, [effect(number, name, value) for number, value in enumerate(values)])
    await publish(publisher, effect(99, name, b"behind"))
    assert [number for number, outcome in enumerate(found) if outcome is not None] == [7]
    assert isinstance(found[7], PublishRefused)
    records = await read_records(bootstrap, name, 20)
    assert {event_of(record) for record in records} == {f"evt_{n}" for n in [*range(7), *range(8, 20), 99]}


async def test_a_record_that_can_not_be_written_stops_none_in_its_batch(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    odd = replace(effect(1, name), headers=(("\udcff", b"1"),))
    found = await outcomes(publisher, [effect(0, name), odd, effect(2, name)])
    assert [type(outcome) for outcome in found] == [type(None), UnicodeEncodeError, type(None)]
    records = await read_records(bootstrap, name, 2)
    assert [event_of(record) for record in records] == ["evt_0", "evt_2"]


async def test_keys_go_where_other_clients_put_them_and_tasks_without_one_of_their_own_together(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    """Design: verdicts and dead letters keep murmur2; a batch of tasks may take one partition."""
    name = await topic("out", partitions=12)
    keyed = [effect(number, name, key=b"awk_%d" % number) for number in range(12)]
    tasks = [task(number, name) for number in range(100, 140)]
    assert await outcomes(publisher, [*keyed, *tasks]) == [None] * 52
    partition_of: dict[str, int] = {}
    async with AIOKafkaConsumer(name, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        while len(partition_of) < 52:
            for place, records in (await consumer.getmany(timeout_ms=500)).items():
                partition_of |= {event_of(record): place.partition for record in records}
    expected = {one.event_id: murmur2(one.key) % 2**31 % 12 for one in keyed}
    assert {key: partition_of[key] for key in expected} == expected
    assert partition_of["evt_1"] == 2, "as Java, kafkajs and librdkafka's murmur2_random do"
    assert len({partition_of[one.event_id] for one in tasks}) == 1


async def test_a_missing_topic_is_reported_at_once_and_not_created(
    bootstrap: str, publisher: KafkaPublisher
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(2):
        with pytest.raises(TopicMissing, match="nowhere"):
            await publish(publisher, effect(1, "nowhere"))
    assert loop.time() - began < 2
    assert await missing_topics(KafkaConnection(bootstrap=bootstrap), ["nowhere"]) == ["nowhere"]


async def test_a_topic_name_that_kafka_forbids_is_refused(publisher: KafkaPublisher) -> None:
    with pytest.raises(PublishRefused):
        await publish(publisher, effect(1, "no/such:name"))


async def test_a_topic_that_is_created_later_is_found(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    with pytest.raises(TopicMissing):
        await publish(publisher, effect(1, "later"))
    name = await topic("later", partitions=1)
    await publish(publisher, effect(1, name))
    assert len(await read_records(bootstrap, name, 1)) == 1


async def test_thousands_of_records_are_under_way_at_once(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    assert await outcomes(publisher, [effect(number, name) for number in range(5000)]) == [None] * 5000
    assert len(await read_records(bootstrap, name, 5000)) == 5000


async def test_a_topic_that_is_missing_holds_up_no_other(
    topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    found = await outcomes(publisher, [effect(1, "nowhere"), effect(2, name)])
    assert [type(outcome) for outcome in found] == [TopicMissing, type(None)]


async def test_it_starts_without_a_broker_and_says_that_there_is_none() -> None:
    timeout = timedelta(milliseconds=300)
    async with publishing(KafkaConnection(bootstrap="127.0.0.1:1"), timeout=timeout) as publisher:
        with pytest.raises(BrokerUnavailable):
            await publish(publisher, effect(1, "out"))


@pytest.mark.takes_kafka_down
async def test_fault_24_a_record_whose_acknowledgement_is_late_is_not_sent_again(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("out", partitions=1)
    timeout = timedelta(milliseconds=500)
    async with publishing(KafkaConnection(bootstrap=bootstrap), timeout=timeout) as publisher:
        await publish_in_the_end(publisher, effect(0, name))
        with real_kafka.frozen():
            for _ in range(3):
                with pytest.raises(BrokerUnavailable):
                    await publish(publisher, effect(1, name))
        await publish_in_the_end(publisher, effect(1, name))
        await publish_in_the_end(publisher, effect(2, name))
    records = await read_records(bootstrap, name, 3)
    assert [event_of(record) for record in records] == ["evt_0", "evt_1", "evt_2"]


@pytest.mark.takes_kafka_down
async def test_it_stops_in_time_while_the_broker_is_away(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("out", partitions=1)
    try:
        async with publishing(
            KafkaConnection(bootstrap=bootstrap), timeout=timedelta(seconds=2)
        ) as publisher:
            await publish(publisher, effect(0, name))
            await asyncio.to_thread(real_kafka.take_down)
            with pytest.raises(BrokerUnavailable):
                await publish(publisher, effect(1, name))
            began_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began_s < 10
    finally:
        await asyncio.to_thread(real_kafka.bring_up)


@pytest.mark.takes_kafka_down
async def test_fault_24_a_producer_that_stalls_is_replaced_and_what_it_held_is_sent_again(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("out", partitions=1)
    settings = ProducerSettings(stall=timedelta(seconds=1))
    # Heard from the start: a broker that has just come up may be silent for that long by itself.
    with heard() as logs:
        async with publishing(KafkaConnection(bootstrap=bootstrap), settings=settings) as publisher:
            await publish_in_the_end(publisher, effect(0, name))
            with real_kafka.frozen():
                sent = asyncio.ensure_future(outcomes(publisher, [effect(number, name) for number in (1, 2)]))
                await eventually(lambda: any(line["event"] == events.CLIENT_REPLACED for line in logs))
            assert await sent == [None, None] or await outcomes(publisher, [effect(1, name)]) == [None]
    seen: set[str] = set()
    most = 2
    while seen != {"evt_0", "evt_1", "evt_2"}:
        # There are more than three if the producer that was replaced has delivered its records, too.
        most += 1
        seen = {event_of(record) for record in await read_records(bootstrap, name, most)}


@pytest.mark.takes_kafka_down
async def test_case_r6_what_is_not_sent_when_it_stops_leaves_no_complaint(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("out", partitions=1)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    try:
        async with publishing(
            KafkaConnection(bootstrap=bootstrap), timeout=timedelta(seconds=1)
        ) as publisher:
            await publish(publisher, effect(0, name))
            await asyncio.to_thread(real_kafka.take_down)
            effects = [effect(number, name, b"x" * 10_000) for number in range(1, 9)]
            sent = asyncio.ensure_future(outcomes(publisher, effects))
            await asyncio.wait({sent}, timeout=0.2)
        assert all(isinstance(outcome, BrokerUnavailable) for outcome in await sent)
        gc.collect()
        assert complaints == []
    finally:
        await asyncio.to_thread(real_kafka.bring_up)
