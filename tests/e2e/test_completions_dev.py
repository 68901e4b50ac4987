"""Completions and the publisher on the embedded broker: what a real one can't be made to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from awakeables.core.commands import Command, Settle
from awakeables.core.effects import Effect
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import Reply
from awakeables.devbroker import EmbeddedBroker
from awakeables.errors import BrokerUnavailable, StoreRefused, StoreUnavailable, TopicMissing
from awakeables.handlers.service import App
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.partitions import ReadingSettings
from awakeables.kafka.topics import create_topics, missing_topics
from awakeables.ports import Expectation, Page, Store
from awakeables.store.memory import MemoryStore
from awakeables.world import SystemClock
from support.eventually import eventually
from support.publishing import publish, publishing
from support.raw_kafka import raw_producing
from support.service import DAY_MS, Running, new_app, produce, resolved, running

UNKNOWN_CODEC = 7
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def app() -> App:
    return new_app()


@pytest.fixture
def store() -> Store:
    return MemoryStore(clock=SystemClock(), retention_ms=DAY_MS)


@pytest.fixture
async def shop(broker: EmbeddedBroker, app: App, store: Store) -> AsyncIterator[Running]:
    await broker.create_topic(app.completions_topic, partitions=3)
    await broker.create_topic(app.dead_letter_topic, partitions=1)
    async with running(broker.bootstrap, app, store, connection=_quick(broker)) as shop:
        yield shop


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"wrong_checksum": True}, id="checksum"),
        pytest.param({"codec": UNKNOWN_CODEC}, id="unknown codec"),
        pytest.param({"codec": GZIP}, id="gzip"),
        pytest.param({"codec": SNAPPY}, id="snappy"),
        pytest.param({"codec": LZ4}, id="lz4"),
        pytest.param({"codec": ZSTD}, id="zstd"),
    ],
)
async def test_a_batch_that_cannot_be_opened_stops_its_partition_and_no_other(
    broker: EmbeddedBroker, shop: Running, damage: dict[str, int]
) -> None:
    topic = shop.app.completions_topic
    before, behind, *others = await shop.pending(count=12)
    async with raw_producing(broker.bootstrap) as producer:
        await producer.write(topic, 0, [b"poison", resolved(before)])
        await producer.write(topic, 0, [b"{}"], **damage)  # type: ignore[arg-type]
        await producer.write(topic, 0, [resolved(behind)])
        for number, other in enumerate(others):
            await producer.write(topic, 1 + number % 2, [resolved(other)])

    for awakeable_id in [before, *others]:
        assert (await shop.settled(awakeable_id)).state == "resolved"
    assert "can't be opened" in await eventually(lambda: shop.problems.get("partition 0", ""))
    assert list(shop.problems) == ["partition 0"]
    assert (await shop.row(behind)).state == "pending"
    assert len(await shop.store.dead_letters(Page())) == 1
    assert (await shop.positions())[0] == 2
    # Deadlines are held back: what lies in the closed partition may have been in time.
    assert not shop.deadlines_pass()


async def test_a_batch_that_is_skipped_delays_what_is_behind_it_no_longer(
    broker: EmbeddedBroker, app: App, store: Store
) -> None:
    """Also where a partition that is stuck is looked at again once a minute only, as in production."""
    topic = app.completions_topic
    for name in (topic, app.dead_letter_topic):
        await broker.create_topic(name, partitions=1)
    async with (
        running(broker.bootstrap, app, store, connection=_quick(broker), settings=ReadingSettings()) as shop,
        raw_producing(broker.bootstrap) as producer,
    ):
        [behind] = await shop.pending()
        await eventually(shop.deadlines_pass)
        await producer.write(topic, 0, [b"{}"], codec=UNKNOWN_CODEC)
        await producer.write(topic, 0, [resolved(behind)], wrong_checksum=True)
        await producer.write(topic, 0, [resolved(behind)])
        for offset in (0, 1):
            await eventually(partial(_stuck_at, shop, offset))
            assert (await shop.api.skip(0, None)).next == offset + 1
        assert (await shop.settled(behind)).state == "resolved"
        await eventually(lambda: shop.problems == {})
        letters = await store.dead_letters(Page())
        assert [(letter.code, letter.offset) for letter in letters] == [("skipped", 1), ("skipped", 0)]


async def test_damage_that_is_there_from_the_start_stops_only_its_partition(
    broker: EmbeddedBroker, app: App, store: Store
) -> None:
    await broker.create_topic(app.completions_topic, partitions=2)
    async with raw_producing(broker.bootstrap) as producer:
        await producer.write(app.completions_topic, 0, [b"{}"], wrong_checksum=True)
    async with running(broker.bootstrap, app, store, connection=_quick(broker)) as shop:
        await eventually(lambda: "partition 0" in shop.problems)
        [awakeable_id] = await shop.pending()
        await produce(broker.bootstrap, app.completions_topic, [resolved(awakeable_id)], partition=1)
        await shop.settled(awakeable_id)


async def test_a_broker_that_goes_away_is_a_problem_until_it_is_back(
    broker: EmbeddedBroker, shop: Running
) -> None:
    await broker.down()
    await eventually(lambda: "broker" in shop.problems, timeout=20)
    [awakeable_id] = await shop.pending()
    await broker.up()
    await eventually(lambda: shop.problems == {}, timeout=20)
    await produce(broker.bootstrap, shop.app.completions_topic, [resolved(awakeable_id)])
    await shop.settled(awakeable_id)


async def test_a_broker_that_comes_late_is_waited_for(broker: EmbeddedBroker, app: App, store: Store) -> None:
    await broker.create_topic(app.completions_topic, partitions=1)
    await broker.down()
    async with running(broker.bootstrap, app, store, connection=_quick(broker)) as shop:
        await eventually(lambda: "broker" in shop.problems)
        [awakeable_id] = await shop.pending()
        await broker.up()
        await produce(broker.bootstrap, app.completions_topic, [resolved(awakeable_id)])
        await shop.settled(awakeable_id)
        assert shop.problems == {}


async def test_a_consumer_that_receives_nothing_for_long_is_replaced(
    broker: EmbeddedBroker, app: App, store: Store
) -> None:
    await broker.create_topic(app.completions_topic, partitions=1)
    async with running(
        broker.bootstrap, app, store, connection=_quick(broker), stuck=timedelta(seconds=1)
    ) as shop:
        [awakeable_id] = await shop.pending()
        await eventually(lambda: shop.consumer.reading)
        await broker.down()
        await eventually(lambda: not shop.consumer.reading, timeout=20)
        await broker.up()
        await produce(broker.bootstrap, app.completions_topic, [resolved(awakeable_id)])
        await shop.settled(awakeable_id)


class FaultyStore(MemoryStore):
    """Away for a while, and never takes what it does not like."""

    away = False
    disliked = b"unbearable"

    async def commit(self, members: Sequence[Command]) -> list[Reply]:
        self._check()
        for member in members:
            if isinstance(member, Settle):
                bodies = [c.body for c in member.completions if isinstance(c.body, Resolution)]
                if any(self.disliked in body.content for body in bodies):
                    raise StoreRefused("no, never")
        return await super().commit(members)

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        self._check()
        return await super().expectations(awakeable_ids)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("on holiday")


async def test_completions_wait_for_a_store_that_is_away(broker: EmbeddedBroker, app: App) -> None:
    store = FaultyStore(clock=SystemClock(), retention_ms=DAY_MS)
    await broker.create_topic(app.completions_topic, partitions=2)
    async with running(broker.bootstrap, app, store, connection=_quick(broker)) as shop:
        ids = await shop.pending(count=4)
        store.away = True
        shop.engine.validator._expected.clear()
        for number, awakeable_id in enumerate(ids):
            await produce(
                broker.bootstrap, app.completions_topic, [resolved(awakeable_id)], partition=number % 2
            )
        await eventually(lambda: "store" in shop.problems)
        store.away = False
        for awakeable_id in ids:
            await shop.settled(awakeable_id)
            assert await shop.counts(awakeable_id) == {"accepted": 1}
        await eventually(lambda: shop.problems == {})


async def test_a_record_that_the_store_refuses_is_a_dead_letter_and_those_around_it_are_settled(
    broker: EmbeddedBroker, app: App
) -> None:
    store = FaultyStore(clock=SystemClock(), retention_ms=DAY_MS)
    await broker.create_topic(app.completions_topic, partitions=1)
    await broker.create_topic(app.dead_letter_topic, partitions=1)
    async with running(broker.bootstrap, app, store, connection=_quick(broker)) as shop:
        first, refused, *others = await shop.pending(count=9)
        values = [resolved(first), resolved(refused, "unbearable"), *map(resolved, others)]
        await produce(broker.bootstrap, app.completions_topic, values)
        for awakeable_id in [first, *others]:
            assert (await shop.settled(awakeable_id)).state == "resolved"
        [listed] = await store.dead_letters(Page())
        letter = await store.dead_letter(listed.id)
        assert letter is not None
        assert (letter.offset, letter.value) == (1, values[1])
        assert (await shop.row(refused)).state == "pending"
        assert shop.problems == {}


async def test_publishing_to_a_missing_topic_does_not_create_it(broker: EmbeddedBroker) -> None:
    effect = Effect(event_id="evt_1", stream="inv_1", topic="nowhere", key=b"k", value=b"{}")
    async with publishing(_quick(broker)) as publisher:
        with pytest.raises(TopicMissing, match=r"no topic 'nowhere'; `awakeables topics create` creates it"):
            await publish(publisher, effect)
    assert await missing_topics(_quick(broker), ["nowhere"]) == ["nowhere"]


async def test_case_u2_the_broker_of_dev_has_one_advice_for_a_missing_topic(broker: EmbeddedBroker) -> None:
    effect = Effect(event_id="evt_1", stream="inv_1", topic="nowhere", key=b"k", value=b"{}")
    advice = r"no topic 'nowhere'; .*--worker .*--task-topic nowhere"
    async with publishing(replace(_quick(broker), embedded=True)) as publisher:
        with pytest.raises(TopicMissing, match=advice) as caught:
            await publish(publisher, effect)
    assert "topics create" not in str(caught.value)


async def test_creating_topics_that_exist_needs_no_admin_protocol(broker: EmbeddedBroker) -> None:
    await broker.create_topic("there", partitions=3)
    await create_topics(_quick(broker), {"there": 5})
    assert await missing_topics(_quick(broker), ["there", "not there", "there"]) == ["not there"]


async def test_a_broker_that_refuses_to_create_topics_is_reported_with_what_creates_them(
    broker: EmbeddedBroker,
) -> None:
    with pytest.raises(
        BrokerUnavailable, match=r"does not create topics on request.*`awakeables dev --task-topic TOPIC`"
    ):
        await create_topics(_quick(broker), {"not-there": 5})


def _stuck_at(shop: Running, offset: int) -> bool:
    seen = shop.engine.completions.readers.get(0)
    return seen is not None and seen.stuck is not None and seen.stuck.offset == offset


def _quick(broker: EmbeddedBroker) -> KafkaConnection:
    return replace(KafkaConnection(bootstrap=broker.bootstrap), fetch_max_wait_ms=5)
