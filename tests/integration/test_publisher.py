"""The publisher on a real Kafka: what it promises as `ports.Publisher`, and how it recovers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from awakeables.core.orders import Effect, TaskFacts
from awakeables.errors import BrokerUnavailable, PublishRefused, TopicMissing
from awakeables.kafka.connection import Connection
from awakeables.kafka.publisher import KafkaPublisher, PublisherSettings
from awakeables.kafka.topics import missing_topics
from awakeables.world import SystemClock
from support.service import read_records

if TYPE_CHECKING:
    from support.real_kafka import RealKafka, TopicFactory

AWAKEABLE = "prom_1"


def effect(number: int, topic: str, value: bytes | None = b"{}", key: bytes | None = b"key") -> Effect:
    return Effect(event_id=f"evt_{number}", stream=f"inv_{number}", topic=topic, key=key, value=value)


@pytest.fixture
async def publisher(bootstrap: str) -> AsyncIterator[KafkaPublisher]:
    publisher = KafkaPublisher(Connection(bootstrap=bootstrap), SystemClock())
    await publisher.start()
    yield publisher
    await publisher.stop()


async def test_a_record_arrives_with_its_key_value_and_headers(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    facts = TaskFacts(awakeable_id=AWAKEABLE, reply_to="shop.completions", enveloped=False)
    await publisher.publish(
        Effect(
            event_id="evt_1",
            stream="inv_1",
            topic=name,
            key=b"k",
            value=b"[1]",
            headers=(("again", b"1"), ("again", b"2"), ("empty", b""), ("null", None)),
            task=facts,
        )
    )
    [record] = await read_records(bootstrap, name, 1)
    assert (record.key, record.value) == (b"k", b"[1]")
    assert record.headers[:4] == (("again", b"1"), ("again", b"2"), ("empty", b""), ("null", None))
    assert ("awakeable-event-id", b"evt_1") in record.headers


async def test_a_record_without_key_and_value_is_published_as_such(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    await publisher.publish(effect(1, name, value=None, key=None))
    [record] = await read_records(bootstrap, name, 1)
    assert (record.key, record.value) == (None, None)


async def test_a_record_that_is_too_large_for_its_topic_is_refused(
    topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("small", partitions=1, max_message_bytes=2000)
    with pytest.raises(PublishRefused, match="small"):
        await publisher.publish(effect(1, name, b"x" * 3000))


async def test_a_record_that_is_too_large_for_any_topic_is_refused(
    topic: TopicFactory, bootstrap: str
) -> None:
    name = await topic("out", partitions=1)
    settings = PublisherSettings(max_request_bytes=10_000)
    publisher = KafkaPublisher(Connection(bootstrap=bootstrap), SystemClock(), settings=settings)
    await publisher.start()
    with pytest.raises(PublishRefused):
        await publisher.publish(effect(1, name, b"x" * 20_000))
    await publisher.stop()


async def test_small_records_pass_that_are_too_large_only_together(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("small", partitions=1, max_message_bytes=2000)
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(publisher.publish(effect(number, name, b"x" * 900)))
    assert len(await read_records(bootstrap, name, 10)) == 10


async def test_one_refused_record_stops_none_beside_or_behind_it(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("small", partitions=1, max_message_bytes=5000)
    values = [b"x" * (6000 if number == 7 else 100) for number in range(20)]
    outcomes = await asyncio.gather(
        *(publisher.publish(effect(number, name, value)) for number, value in enumerate(values)),
        return_exceptions=True,
    )
    await publisher.publish(effect(99, name, b"behind"))
    assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [7]
    assert isinstance(outcomes[7], PublishRefused)
    events = [dict(r.headers)["awakeable-event-id"] for r in await read_records(bootstrap, name, 20)]
    assert set(events) == {f"evt_{number}".encode() for number in [*range(7), *range(8, 20), 99]}


async def test_a_missing_topic_is_told_at_once_and_not_created(
    bootstrap: str, publisher: KafkaPublisher
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(2):
        with pytest.raises(TopicMissing, match="nowhere"):
            await publisher.publish(effect(1, "nowhere"))
    assert loop.time() - began < 2
    assert await missing_topics(Connection(bootstrap=bootstrap), ["nowhere"]) == ["nowhere"]


async def test_a_topic_name_that_kafka_forbids_is_refused(publisher: KafkaPublisher) -> None:
    with pytest.raises(PublishRefused):
        await publisher.publish(effect(1, "no/such:name"))


async def test_a_topic_that_is_created_later_is_found(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    with pytest.raises(TopicMissing):
        await publisher.publish(effect(1, "later"))
    name = await topic("later", partitions=1)
    await publisher.publish(effect(1, name))
    assert len(await read_records(bootstrap, name, 1)) == 1


async def test_hundreds_of_records_are_on_their_way_at_once(
    bootstrap: str, topic: TopicFactory, publisher: KafkaPublisher
) -> None:
    name = await topic("out", partitions=1)
    await asyncio.gather(*(publisher.publish(effect(number, name)) for number in range(2000)))
    assert len(await read_records(bootstrap, name, 2000)) == 2000


async def test_it_starts_without_a_broker_and_says_that_there_is_none() -> None:
    settings = PublisherSettings(timeout=timedelta(milliseconds=300))
    publisher = KafkaPublisher(Connection(bootstrap="127.0.0.1:1"), SystemClock(), settings=settings)
    await publisher.start()
    with pytest.raises(BrokerUnavailable):
        await publisher.publish(effect(1, "out"))
    await publisher.stop()


async def test_a_record_whose_acknowledgement_is_late_is_not_sent_again(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("out", partitions=1)
    settings = PublisherSettings(timeout=timedelta(milliseconds=500))
    publisher = KafkaPublisher(Connection(bootstrap=bootstrap), SystemClock(), settings=settings)
    await publisher.start()
    await publisher.publish(effect(0, name))
    await asyncio.to_thread(real_kafka.take_down)
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(effect(1, name))
    await asyncio.to_thread(real_kafka.bring_up)
    async with asyncio.timeout(30):
        while True:
            try:
                await publisher.publish(effect(1, name))
            except BrokerUnavailable:
                continue
            break
    await publisher.publish(effect(2, name))
    await publisher.stop()
    events = [dict(r.headers)["awakeable-event-id"] for r in await read_records(bootstrap, name, 3)]
    assert events == [b"evt_0", b"evt_1", b"evt_2"]


async def test_it_stops_in_time_while_the_broker_is_away(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("out", partitions=1)
    settings = PublisherSettings(timeout=timedelta(seconds=2))
    publisher = KafkaPublisher(Connection(bootstrap=bootstrap), SystemClock(), settings=settings)
    await publisher.start()
    await publisher.publish(effect(0, name))
    await asyncio.to_thread(real_kafka.take_down)
    try:
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(effect(1, name))
        async with asyncio.timeout(10):
            await publisher.stop()
    finally:
        await asyncio.to_thread(real_kafka.bring_up)


async def test_case_r6_what_is_not_sent_when_it_stops_leaves_no_complaint(
    real_kafka: RealKafka, bootstrap: str, topic: TopicFactory
) -> None:
    name = await topic("out", partitions=1)
    settings = PublisherSettings(timeout=timedelta(seconds=1))
    publisher = KafkaPublisher(Connection(bootstrap=bootstrap), SystemClock(), settings=settings)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await publisher.start()
    await publisher.publish(effect(0, name))
    await asyncio.to_thread(real_kafka.take_down)
    try:
        sent = [asyncio.ensure_future(publisher.publish(effect(n, name, b"x" * 10_000))) for n in range(1, 9)]
        await asyncio.wait(sent, timeout=0.2)
        await publisher.stop()
        await asyncio.wait(sent)
        assert all(isinstance(task.exception(), BrokerUnavailable) for task in sent)
        gc.collect()
        assert complaints == []
    finally:
        await asyncio.to_thread(real_kafka.bring_up)
