"""Completions from a real Kafka: once, in spite of everything that comes along (K1, K2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import MessageSizeTooLargeError

from awakeables.core.commands import PartitionFence, Settle, TakePartitions
from awakeables.core.deadletters import DeadLetter
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import PartitionsTaken, Reply
from awakeables.errors import OwnershipLost, StoreUnavailable
from awakeables.kafka import lag, topicconsumer
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.metadata import TopicsRequest
from awakeables.kafka.partitions import LOOKS_TO_BE_SURE
from awakeables.kafka.topics import create_topics, facts_of, missing_topics
from awakeables.ports import Page, Store
from awakeables.world import SystemClock, SystemEntropy
from support.eventually import eventually
from support.ids import new_id
from support.raw_kafka import raw_producing
from support.service import (
    READING,
    Running,
    create_app_topics,
    new_app,
    new_store,
    produce,
    producing,
    read_records,
    rejected,
    resolved,
    running,
)

if TYPE_CHECKING:
    from awakeables.handlers.service import App

UNKNOWN = new_id("prom", at_ms=SystemClock().now_ms(), entropy=SystemEntropy().bytes(10))


@pytest.fixture
def app() -> App:
    return new_app()


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """SQLite, as in production, for most: tests/contract holds that the stores do the same."""
    return new_store(getattr(request, "param", "sqlite"), tmp_path)


BOTH_STORES = pytest.mark.parametrize("store", ["memory", "sqlite"], indirect=True)


@pytest.fixture
async def shop(bootstrap: str, app: App, store: Store) -> AsyncIterator[Running]:
    await create_app_topics(bootstrap, app)
    async with running(bootstrap, app, store) as shop:
        yield shop


# ── once ────────────────────────────────────────────────────────────────────────────────────


async def test_fault_4_a_completion_twice_in_one_batch_is_accepted_once(
    bootstrap: str, shop: Running
) -> None:
    [awakeable_id] = await shop.pending()
    await produce(bootstrap, shop.app.completions_topic, [resolved(awakeable_id, 1)] * 2)
    await eventually(lambda: _told(shop, awakeable_id, {"accepted": 1, "duplicate": 1}))


async def test_fault_4_a_completion_in_two_batches_is_accepted_once(bootstrap: str, shop: Running) -> None:
    [awakeable_id] = await shop.pending()
    for _ in range(2):
        await produce(bootstrap, shop.app.completions_topic, [resolved(awakeable_id, 1)])
    await eventually(lambda: _told(shop, awakeable_id, {"accepted": 1, "duplicate": 1}))


async def test_fault_4_a_completion_in_two_partitions_is_accepted_once(bootstrap: str, shop: Running) -> None:
    [awakeable_id] = await shop.pending()
    for partition in (0, 1):
        await produce(bootstrap, shop.app.completions_topic, [resolved(awakeable_id, 1)], partition=partition)
    await eventually(lambda: _told(shop, awakeable_id, {"accepted": 1, "duplicate": 1}))


async def test_fault_5_the_first_of_two_answers_wins_and_the_other_gets_conflict(
    bootstrap: str, shop: Running
) -> None:
    [awakeable_id] = await shop.pending()
    answers = [rejected(awakeable_id), resolved(awakeable_id, 1)]
    await produce(bootstrap, shop.app.completions_topic, answers)
    await eventually(lambda: _told(shop, awakeable_id, {"accepted": 1, "conflict": 1}))
    assert (await shop.row(awakeable_id)).state == "rejected"


@pytest.mark.parametrize("ahead", [timedelta(days=-20_000), timedelta(minutes=50)], ids=str)
async def test_fault_14_a_producer_s_clock_decides_nothing(
    bootstrap: str, shop: Running, ahead: timedelta
) -> None:
    """Deadlines are compared with the store's clock. (A broker refuses records from an hour ahead on.)"""
    made_ms = SystemClock().now_ms() + ahead // timedelta(milliseconds=1)
    in_time, late = await shop.pending(timeout_s=3600), await shop.pending(timeout_s=0.05)
    for (key,) in (in_time, late):
        if key in late:
            assert (await shop.settled(key)).state == "timed-out"
        async with producing(bootstrap) as producer:
            topic = shop.app.completions_topic
            await producer.send_and_wait(topic, resolved(key, 1), partition=0, timestamp_ms=made_ms)
    await eventually(lambda: _told(shop, in_time[0], {"accepted": 1}))
    await eventually(lambda: _told(shop, late[0], {"late": 1}))


async def test_offsets_that_were_reset_in_kafka_rewind_nothing(
    bootstrap: str, app: App, tmp_path: Path
) -> None:
    await create_app_topics(bootstrap, app, partitions=1)
    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        first, second = await shop.pending(count=2)
        await produce(bootstrap, app.completions_topic, [resolved(first)])
        await shop.settled(first)
    await _commit(bootstrap, app.name, TopicPartition(app.completions_topic, 0), 0)

    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        await produce(bootstrap, app.completions_topic, [resolved(second)])
        await shop.settled(second)
        assert await shop.counts(first) == {"accepted": 1}


@BOTH_STORES
async def test_a_second_reader_takes_over_and_the_first_takes_back(bootstrap: str, shop: Running) -> None:
    topic = shop.app.completions_topic
    first, second = await shop.pending(count=2)
    await produce(bootstrap, topic, [resolved(first)])
    await shop.settled(first)
    owner = "another process"
    other = TakePartitions(owner=owner, topic=topic, partitions=(0,))
    [held] = (await shop.engine.committer.commit(other, PartitionsTaken)).positions
    await produce(bootstrap, topic, [resolved(second)])
    await shop.settled(second)
    assert await shop.counts(first) == {"accepted": 1}
    late = PartitionFence(
        topic=topic, partition=0, epoch=held.epoch, first=held.next, next=held.next + 1, owner=owner
    )
    with pytest.raises(OwnershipLost):
        await shop.engine.settlement.commit(Settle(completions=(), fence=late))


async def test_offsets_are_committed_to_kafka_for_lag_dashboards(
    bootstrap: str, app: App, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "INTERVAL_S", 0.2)
    await create_app_topics(bootstrap, app)
    async with running(bootstrap, app, store) as shop:
        [awakeable_id] = await shop.pending()
        await produce(bootstrap, app.completions_topic, [resolved(awakeable_id)])
        await shop.settled(awakeable_id)
        place = TopicPartition(app.completions_topic, 0)
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=app.name) as consumer:
            assert await eventually(lambda: consumer.committed(place), timeout=30) == 1


# ── transactions and codecs ─────────────────────────────────────────────────────────────────


async def test_fault_25_an_aborted_transaction_is_never_seen_and_a_committed_one_is(
    bootstrap: str, shop: Running
) -> None:
    topic = shop.app.completions_topic
    aborted, committed = await shop.pending(count=2)
    async with producing(bootstrap, transactional_id=shop.app.name) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, resolved(aborted), partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, resolved(committed), partition=0)
    await shop.settled(committed)
    assert (await shop.row(aborted)).state == "pending"
    assert await shop.counts(aborted) == {}
    # The markers at the end count as read, or deadlines would wait for ever.
    await eventually(shop.deadlines_pass)


async def test_case_r3_w12_an_open_transaction_is_reported_and_answers_behind_it_are_in_time(
    bootstrap: str, app: App, store: Store
) -> None:
    await create_app_topics(bootstrap, app, partitions=1)
    topic = app.completions_topic
    settings = replace(READING, open_transaction=timedelta(seconds=1))
    async with running(bootstrap, app, store, settings=settings) as shop:
        [awakeable_id] = await shop.pending(timeout_s=2)
        deadline_ms = (await shop.row(awakeable_id)).deadline_ms or 0
        async with producing(bootstrap, transactional_id=app.name) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"{}", partition=0)
            await produce(bootstrap, topic, [resolved(awakeable_id)])
            assert "transaction" in await eventually(lambda: shop.problems.get("partition 0", ""))
            # Nothing was settled yet, but two records wait, and the deadline waits for them.
            [reading] = await shop.api.partitions()
            assert (reading.next, reading.end, reading.lag) == (0, 2, 2)
            await eventually(lambda: shop.engine.clock.now_ms() > deadline_ms + 1000)
            assert (await shop.row(awakeable_id)).state == "pending"
            await producer.abort_transaction()
        assert (await shop.settled(awakeable_id)).state == "resolved"
        await eventually(shop.deadlines_pass)
        [reading] = await shop.api.partitions()
        assert (reading.next, reading.end, reading.lag, reading.problem) == (2, 3, 0, None)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_that_a_worker_may_choose_is_read(
    bootstrap: str, shop: Running, codec: str
) -> None:
    ids = await shop.pending(count=5)
    answers = [resolved(awakeable_id, "x" * 500) for awakeable_id in ids]
    await produce(bootstrap, shop.app.completions_topic, answers, compression_type=codec)
    for awakeable_id in ids:
        assert (await shop.settled(awakeable_id)).state == "resolved"


# ── poison ──────────────────────────────────────────────────────────────────────────────────

POISON = {
    "no JSON": b"resolve it!",
    "no object": b"[]",
    "no awakeable_id": b'{"status":"resolved","value":1}',
    "a malformed ID": b'{"awakeable_id":"prom_1nonsense","status":"resolved","value":1}',
    "an unknown ID": resolved(UNKNOWN),
    "no value": None,
    "an empty value": b"",
    "invalid UTF-8": b'{"awakeable_id":"\xff\xfe","status":"resolved","value":1}',
    "deep nesting": b"[" * 100_000 + b"]" * 100_000,
    "a huge number for an ID": b'{"awakeable_id":' + b"9" * 5000 + b"}",
    "a null byte": b'{"awakeable_id":"prom_1\\u0000","status":"resolved","value":1}',
    "half a surrogate": b'{"awakeable_id":"prom_1\\ud800","status":"resolved","value":1}',
}


def addressed_poison(awakeable_id: str) -> dict[str, bytes]:
    """Invalid, but it can be told what it is about: the awakeable stays pending."""
    head = f'{{"awakeable_id":"{awakeable_id}","status":'.encode()
    return {
        "an unknown status": head + b'"done","value":1}',
        "no status": f'{{"awakeable_id":"{awakeable_id}"}}'.encode(),
        "resolved without a value": head + b'"resolved"}',
        "NaN": head + b'"resolved","value":NaN}',
        "a type that does not fit": head + b'"resolved","value":"three"}',
        "a value nested too deep": head + b'"resolved","value":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "bytes that are not base64": head + b'"resolved","value_base64":"%%"}',
        "an unknown version": head + b'"resolved","value":1,"v":99}',
        "invalid UTF-8 in its value": head + b'"resolved","value":"\xff"}',
        "half a surrogate in its value": head + b'"resolved","value":"\\ud800"}',
        "a code out of range": head + b'"rejected","reason":"no","code":1e999}',
    }


@BOTH_STORES
async def test_fault_6_poison_never_stops_a_partition_and_becomes_a_dead_letter_once(
    bootstrap: str, shop: Running
) -> None:
    [good] = await shop.pending("count")
    poison = [*POISON.values(), *addressed_poison(good).values()]
    await produce(bootstrap, shop.app.completions_topic, [*poison, resolved(good, 3)])

    assert (await shop.settled(good, timeout=20)).state == "resolved"
    letters = await eventually(lambda: _letters(shop, len(poison)))
    assert {letter.value for letter in letters} == set(poison)
    copies = await read_records(bootstrap, shop.app.dead_letter_topic, len(poison))
    assert sorted((copy.value or b"" for copy in copies), key=repr) == sorted(
        (value or b"" for value in poison), key=repr
    )
    for copy in copies:
        told = dict(copy.headers)
        assert copy.key == b"key"
        assert told["__connect.errors.topic"] == shop.app.completions_topic.encode()
        assert poison[int(told["__connect.errors.offset"])] == copy.value
        assert told["__connect.errors.exception.message"]
        assert told["awakeable-error-code"] in {b"unreadable", b"unknown", b"invalid"}
    assert shop.problems == {}


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_case_w11_a_batch_that_unpacks_to_forty_megabytes_is_left_out_and_the_next_is_read(
    bootstrap: str, shop: Running, codec: str
) -> None:
    before, after = await shop.pending(count=2)
    bomb = resolved(before, "a" * 40 * 1024 * 1024)
    topic = shop.app.completions_topic
    await produce(bootstrap, topic, [resolved(before, 1)])
    await produce(bootstrap, topic, [bomb], compression_type=codec, max_request_size=50 * 1024 * 1024)
    await produce(bootstrap, topic, [resolved(after, 2)])

    assert (await shop.settled(after, timeout=20)).state == "resolved"
    assert await shop.counts(before) == {"accepted": 1}
    [letter] = await eventually(lambda: _letters(shop, 1))
    assert (letter.code, letter.offset, letter.last_offset, letter.count) == ("invalid", 1, 1, 1)
    assert (letter.value, letter.reason) == (
        None,
        "the batch with the offsets 1 to 1 is left out: it unpacks to more than 16,777,216 bytes; "
        "the topic has it",
    )
    assert shop.problems == {}


async def test_a_dead_letter_keeps_the_headers_of_its_record(bootstrap: str, shop: Running) -> None:
    headers = (("a", b"1"), ("a", b"2"), ("empty", b""), ("null", None), ("bytes", b"\xff\x00"))
    async with producing(bootstrap) as producer:
        await producer.send_and_wait(
            shop.app.completions_topic, b"poison", partition=0, headers=list(headers)
        )
    [copy] = await read_records(bootstrap, shop.app.dead_letter_topic, 1)
    [letter] = await _letters(shop, 1)
    assert copy.headers[: len(headers)] == headers
    assert letter.headers == headers


async def test_fault_8_a_record_without_key_and_value_becomes_a_dead_letter_too(
    bootstrap: str, shop: Running
) -> None:
    async with producing(bootstrap) as producer:
        batch = producer.create_batch()
        batch.append(timestamp=None, key=None, value=None)
        await (await producer.send_batch(batch, shop.app.completions_topic, partition=0))
    [copy] = await read_records(bootstrap, shop.app.dead_letter_topic, 1)
    assert (copy.key, copy.value) == (None, None)


async def test_a_header_name_that_is_not_utf_8_stops_nothing(bootstrap: str, shop: Running) -> None:
    topic = shop.app.completions_topic
    odd, good = await shop.pending(count=2)
    async with raw_producing(bootstrap) as producer:
        await producer.write(topic, 0, [resolved(odd), b"poison"], header_name=b"\xff\xfe")
    await produce(bootstrap, topic, [resolved(good)])
    assert (await shop.settled(odd)).state == "resolved"
    assert (await shop.settled(good)).state == "resolved"
    [letter] = await eventually(lambda: _letters(shop, 1))
    assert (letter.value, letter.headers) == (b"poison", (("\\xff\\xfe", b"1"),))
    [copy] = await read_records(bootstrap, shop.app.dead_letter_topic, 1)
    assert copy.headers[0] == ("\\xff\\xfe", b"1")
    assert shop.problems == {}


async def test_fault_7_a_dead_letter_too_large_for_its_topic_arrives_without_its_value(
    bootstrap: str, app: App, store: Store
) -> None:
    connection = KafkaConnection(bootstrap=bootstrap)
    await create_topics(connection, {app.completions_topic: 1})
    await _create_sized(bootstrap, app.dead_letter_topic, max_bytes=2000)
    poison = b"x" * 5000
    async with running(bootstrap, app, store) as shop:
        await produce(bootstrap, app.completions_topic, [poison])
        [copy] = await read_records(bootstrap, app.dead_letter_topic, 1)
        [letter] = await _letters(shop, 1)
    assert copy.value is None
    assert copy.key == b"key"
    assert "awakeable-value-omitted" in dict(copy.headers)
    assert letter.value == poison


async def test_fault_7_ten_megabytes_are_read_where_the_topic_takes_them(
    bootstrap: str, app: App, store: Store
) -> None:
    """A good answer, one of the wrong type, and a small one that comes after both."""
    await _create_sized(bootstrap, app.completions_topic, max_bytes=12 * 1024 * 1024)
    await create_topics(KafkaConnection(bootstrap=bootstrap), {app.dead_letter_topic: 1})
    async with running(bootstrap, app, store) as shop:
        large, small = await shop.pending(count=2)
        [counted] = await shop.pending("count")
        text = "x" * 10 * 1024 * 1024
        answers = [resolved(large, text), resolved(counted, text), resolved(small, 1)]
        for answer in answers:
            await produce(bootstrap, app.completions_topic, [answer], max_request_size=len(answer) + 1000)
        await shop.settled(small, timeout=30)
        assert (await shop.settled(large)).outcome == Resolution.of_json(f'"{text}"'.encode())
        assert (await shop.row(counted)).state == "pending"
        assert await shop.counts(counted) == {"invalid": 1}
        [letter] = await eventually(lambda: _letters(shop, 1))
        assert letter.value == answers[1]
        [copy] = await read_records(bootstrap, app.dead_letter_topic, 1)
        assert (copy.value, "awakeable-value-omitted" in dict(copy.headers)) == (None, True)
        assert shop.problems == {}


async def test_fault_7_ten_megabytes_are_refused_to_their_producer_where_the_topic_does_not_take_them(
    bootstrap: str, shop: Running
) -> None:
    [awakeable_id] = await shop.pending()
    answer = resolved(awakeable_id, "x" * 10 * 1024 * 1024)
    with pytest.raises(MessageSizeTooLargeError):
        await produce(bootstrap, shop.app.completions_topic, [answer], max_request_size=len(answer) + 1000)
    await produce(bootstrap, shop.app.completions_topic, [rejected(awakeable_id, "too large")])
    assert (await shop.settled(awakeable_id)).state == "rejected"


async def test_fault_8_null_and_repeated_headers_and_null_keys_stop_no_completion(
    bootstrap: str, shop: Running
) -> None:
    ids = await shop.pending(count=3)
    odd: list[tuple[bytes | None, list[tuple[str, bytes | None]]]] = [
        (None, []),
        (b"", [("traceparent", None), ("content-type", None), ("a", b"1"), ("a", b"2")]),
        (b"\xff", [("ce_type", None), ("ce_specversion", b"1.0"), ("ce_specversion", None), ("", b"")]),
    ]
    async with producing(bootstrap) as producer:
        for awakeable_id, (key, headers) in zip(ids, odd, strict=True):
            await producer.send_and_wait(
                shop.app.completions_topic, resolved(awakeable_id, 1), key=key, headers=headers, partition=0
            )
    for awakeable_id in ids:
        assert (await shop.settled(awakeable_id)).state == "resolved"
    assert await shop.store.dead_letters(Page(limit=10)) == []


# ── topics that change ──────────────────────────────────────────────────────────────────────


async def test_fault_10_new_partitions_are_read_from_their_beginning(bootstrap: str, shop: Running) -> None:
    topic = shop.app.completions_topic
    old, new = await shop.pending(count=2)
    async with _admin(bootstrap) as admin:
        await admin.create_partitions({topic: NewPartitions(total_count=3)})
    await eventually(lambda: _partitions(bootstrap, topic, 3))
    await produce(bootstrap, topic, [resolved(new)], partition=2)
    await produce(bootstrap, topic, [resolved(old)], partition=0)
    await shop.settled(old)
    await shop.settled(new)
    assert shop.consumer.reading == {0, 1, 2}


async def test_fault_12_records_that_expired_unread_are_counted_and_the_rest_is_read(
    bootstrap: str, app: App, tmp_path: Path
) -> None:
    await create_app_topics(bootstrap, app, partitions=1)
    topic = app.completions_topic
    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        read, lost, kept = await shop.pending(count=3)
        await produce(bootstrap, topic, [resolved(read)])
        await shop.settled(read)
    await produce(bootstrap, topic, [resolved(lost), resolved(lost), resolved(kept)])
    async with _admin(bootstrap) as admin:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})

    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        await shop.settled(kept)
        assert (await shop.row(lost)).state == "pending"
        assert expired(shop) == 2
        assert shop.problems == {}


async def test_fault_13_records_that_are_deleted_under_the_reader_are_counted_too(
    bootstrap: str, shop: Running
) -> None:
    topic = shop.app.completions_topic
    lost, kept = await shop.pending(count=2)
    async with producing(bootstrap, transactional_id=shop.app.name) as producer, _admin(bootstrap) as admin:
        # An open transaction holds the reader back while what it waits for is deleted.
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"{}", partition=0)
        await produce(bootstrap, topic, [resolved(lost), resolved(lost), resolved(kept)])
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})
        await producer.abort_transaction()
    await shop.settled(kept)
    assert (await shop.row(lost)).state == "pending"
    assert expired(shop) == 3
    assert shop.problems == {}


async def test_case_r8_what_expired_before_the_first_record_was_read_is_counted_once(
    bootstrap: str, app: App, tmp_path: Path
) -> None:
    await create_app_topics(bootstrap, app, partitions=1)
    topic = app.completions_topic
    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        await eventually(shop.deadlines_pass)
    await produce(bootstrap, topic, [b"{}"] * 3)
    async with _admin(bootstrap) as admin:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})
    for count in (3, 0):
        async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
            await eventually(shop.deadlines_pass)
            assert expired(shop) == count
            [reading] = await shop.api.partitions()
            assert (reading.next, reading.end, reading.lag) == (3, 3, 0)


@BOTH_STORES
async def test_case_r5_a_healthy_partition_that_is_moved_back_is_read_at_once(
    bootstrap: str, app: App, store: Store
) -> None:
    await create_app_topics(bootstrap, app, partitions=1)
    async with running(bootstrap, app, store) as shop:
        [key] = await shop.pending("count")
        answers = [resolved(key, "three"), resolved(key, 3), resolved(key, 4), b"{"]
        await produce(bootstrap, app.completions_topic, answers)
        await eventually(lambda: _told(shop, key, {"invalid": 1, "accepted": 1, "conflict": 1}))
        letters = await eventually(lambda: _letters(shop, 2))
        await eventually(shop.deadlines_pass)
        assert (await shop.api.skip(0, 0)).next == 0
        await eventually(lambda: _stands_at(shop, 4))
        assert await shop.counts(key) == {"invalid": 1, "accepted": 1, "conflict": 1}
        skipped, *others = await _letters(shop, 3)
        assert (skipped.code, others) == ("skipped", letters)


async def test_fault_11_a_topic_that_was_recreated_is_not_read_and_its_other_partitions_are(
    bootstrap: str, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A broker without IDs of topics: only the end shows that it is another one, or has lost records.
    monkeypatch.setattr(TopicsRequest, "_CLASSES", TopicsRequest._CLASSES[:2])
    await create_app_topics(bootstrap, app)
    topic = app.completions_topic
    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        read, other = await shop.pending(count=2)
        await produce(bootstrap, topic, [resolved(read)] * 5)
        await shop.settled(read)
    await _recreate(bootstrap, topic, partitions=2)

    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        assert "recreated" in await eventually(lambda: shop.problems.get("partition 0", ""))
        await produce(bootstrap, topic, [resolved(other)], partition=1)
        await shop.settled(other)
        assert not shop.deadlines_pass()
        # Also when it has grown past the old position: what is before that was never read.
        [last] = await shop.pending()
        await asyncio.sleep(READING.ahead_retry.total_seconds() * (LOOKS_TO_BE_SURE + 2))
        await produce(bootstrap, topic, [resolved(last)] + [b"{}"] * 9)
        await eventually(lambda: "ended for a while" in shop.problems.get("partition 0", ""))
        assert (await shop.row(last)).state == "pending"
        await shop.api.skip(0, 0)
        await shop.settled(last)
        await eventually(lambda: shop.problems == {})


@pytest.mark.parametrize("running_meanwhile", [True, False])
async def test_fault_11_a_topic_that_was_recreated_and_has_grown_past_the_position_waits_for_an_operator(
    bootstrap: str, app: App, tmp_path: Path, running_meanwhile: bool
) -> None:
    await create_app_topics(bootstrap, app, partitions=1)
    topic = app.completions_topic

    async def recreate(first: str, behind: str) -> None:
        await _recreate(bootstrap, topic, partitions=1)
        await produce(bootstrap, topic, [resolved(first)] + [b"{}"] * 4 + [resolved(behind)])

    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        read, first, behind = await shop.pending(count=3)
        await produce(bootstrap, topic, [resolved(read)] * 3)
        await eventually(lambda: _stands_at(shop, 3))
        if running_meanwhile:
            await recreate(first, behind)
            await eventually(lambda: "recreated" in shop.problems.get("partition 0", ""))
    if not running_meanwhile:
        await recreate(first, behind)

    for _ in range(2):  # it waits after one more start, too
        async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
            await eventually(lambda: "an earlier topic" in shop.problems.get("partition 0", ""))
            assert await shop.positions() == {0: 3}
            assert (await shop.row(behind)).state == "pending"
            assert not shop.deadlines_pass()
    async with running(bootstrap, app, new_store("sqlite", tmp_path)) as shop:
        await eventually(lambda: "partition 0" in shop.problems)
        await shop.api.skip(0, 0)
        await shop.settled(first)
        await shop.settled(behind)
        await eventually(lambda: shop.problems == {})


async def test_lag_is_reported_while_the_store_is_down_too(
    bootstrap: str, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(_: object) -> list[Reply]:
        raise StoreUnavailable("its disk is full")

    monkeypatch.setattr(topicconsumer, "SLOW_S", 0.5)
    await create_app_topics(bootstrap, app)
    store = new_store("memory", tmp_path)
    async with running(bootstrap, app, store) as shop:
        [first] = await shop.pending()
        await eventually(lambda: lags(shop).keys() == {0, 1})
        with monkeypatch.context() as outage:
            outage.setattr(store, "commit", down)
            await produce(bootstrap, app.completions_topic, [resolved(first)])
            await eventually(lambda: lags(shop).get(0) == 1)
            await produce(bootstrap, app.completions_topic, [b"{}"] * 9)
            await eventually(lambda: lags(shop).get(0) == 10)
        await shop.settled(first)
        await eventually(lambda: lags(shop)[0] == 0)


async def test_a_missing_topic_is_waited_for_and_not_created(bootstrap: str, app: App, store: Store) -> None:
    async with running(bootstrap, app, store) as shop:
        [awakeable_id] = await shop.pending()
        await eventually(lambda: "completions topic" in shop.problems)
        names = [app.completions_topic]
        assert await missing_topics(KafkaConnection(bootstrap=bootstrap), names) == names
        await create_app_topics(bootstrap, app)
        await produce(bootstrap, app.completions_topic, [resolved(awakeable_id)])
        await shop.settled(awakeable_id)
        assert shop.problems == {}


async def test_a_topic_that_is_deleted_is_missed_and_read_again_once_it_is_back(
    bootstrap: str, shop: Running
) -> None:
    await _delete(bootstrap, shop.app.completions_topic)
    await eventually(lambda: "completions topic" in shop.problems, timeout=30)
    await create_app_topics(bootstrap, shop.app)
    [awakeable_id] = await shop.pending()
    await produce(bootstrap, shop.app.completions_topic, [resolved(awakeable_id)])
    await shop.settled(awakeable_id, timeout=30)
    await eventually(lambda: shop.problems == {})


async def test_a_broker_that_is_not_there_at_the_start_is_a_problem_and_no_end(
    app: App, store: Store
) -> None:
    async with running("127.0.0.1:1", app, store) as shop:
        assert "127.0.0.1:1" in await eventually(lambda: shop.problems.get("broker", ""))


@BOTH_STORES
async def test_a_backlog_of_many_batches_is_settled_in_order(bootstrap: str, app: App, store: Store) -> None:
    await create_app_topics(bootstrap, app, partitions=3)
    async with running(bootstrap, app, store) as shop:
        ids = await shop.pending(count=300)
    async with producing(bootstrap) as producer:
        futures = [
            await producer.send(app.completions_topic, resolved(key, n), partition=n % 3)
            for n, key in enumerate(ids)
        ]
        await asyncio.gather(*futures)
    if isinstance(store, type(new_store("memory", Path()))):
        return
    async with running(bootstrap, app, store) as shop:
        for key in ids:
            assert (await shop.settled(key)).state == "resolved"
        assert await shop.positions() == {0: 100, 1: 100, 2: 100}


# ── helpers ─────────────────────────────────────────────────────────────────────────────────


async def _told(shop: Running, awakeable_id: str, counts: dict[str, int]) -> bool:
    return await shop.counts(awakeable_id) == counts


async def _letters(shop: Running, count: int) -> list[DeadLetter]:
    listed = await shop.store.dead_letters(Page(limit=1000))
    letters = [await shop.store.dead_letter(letter.id) for letter in listed]
    return [letter for letter in letters if letter] if len(letters) == count else []


async def _stands_at(shop: Running, offset: int) -> bool:
    return await shop.positions() == {0: offset}


def lags(shop: Running) -> dict[int, int]:
    """How many records wait, of each partition that is being read."""
    readers = shop.engine.completions.readers.items()
    return {partition: seen.lag for partition, seen in readers if seen.lag is not None}


def expired(shop: Running) -> float:
    counted = shop.engine.metrics.registry.get_sample_value("awakeables_records_expired_total")
    assert counted is not None
    return counted


async def _commit(bootstrap: str, group: str, place: TopicPartition, offset: int) -> None:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group) as consumer:
        consumer.assign([place])
        await consumer.commit({place: offset})


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _create_sized(bootstrap: str, topic: str, *, max_bytes: int) -> None:
    async with _admin(bootstrap) as admin:
        await admin.create_topics(
            [NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": str(max_bytes)})]
        )
    await create_topics(KafkaConnection(bootstrap=bootstrap), {topic: 1})


async def _delete(bootstrap: str, topic: str) -> None:
    async with _admin(bootstrap) as admin:
        await admin.delete_topics([topic])
    await eventually(lambda: missing_topics(KafkaConnection(bootstrap=bootstrap), [topic]))


async def _recreate(bootstrap: str, topic: str, *, partitions: int) -> None:
    await _delete(bootstrap, topic)
    await create_topics(KafkaConnection(bootstrap=bootstrap), {topic: partitions})


async def _partitions(bootstrap: str, topic: str, count: int) -> bool:
    return len((await facts_of(KafkaConnection(bootstrap=bootstrap), topic)).partitions) == count
