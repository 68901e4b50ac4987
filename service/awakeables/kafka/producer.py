"""The only producer: a queue per partition, sent in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Self, TypeAlias

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

from awakeables.core.effects import Header
from awakeables.errors import BrokerUnavailable, OperatorError, PublishRefused
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.connectionerrors import ConnectionErrorLog
from awakeables.kafka.diagnosis import DENIED, denied, error_text
from awakeables.kafka.reconnecting import ReconnectingProducer
from awakeables.kafka.topics import describe, no_topic
from awakeables.ports import Clock

TOO_LARGE = (
    kafka.MessageSizeTooLargeError,
    kafka.RecordListTooLargeError,
    kafka.RecordTooLargeError,
)


class _InvalidRecord(kafka.BrokerResponseError):  # type: ignore[misc]  # aiokafka is not typed
    """A record without a key for a compacted topic, for example."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The broker has refused the record as invalid"


# aiokafka 0.14 has no error for it and would raise UnknownError, which says nothing about the record.
INVALID_RECORD = kafka.kafka_errors.setdefault(_InvalidRecord.errno, _InvalidRecord)

REFUSED_RECORD = (
    *TOO_LARGE,
    INVALID_RECORD,
    kafka.CorruptRecordException,
    kafka.InvalidTimestampError,
    kafka.UnsupportedForMessageFormatError,
)
"""Errors of a whole batch that a single record has caused: its records are sent again one by one."""

REFUSED_BATCH = (*REFUSED_RECORD, kafka.UnknownError)
"""Those, and one that a fault of the server causes as well: a record of its own is then tried again."""

SEQUENCE_LOST = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.ProducerFenced,
    kafka.ProducerClosed,
)
"""The batch was not written, and this producer can't write any more; a new one can (aiokafka #1017)."""

Report: TypeAlias = "Callable[[Sequence[ProducerRecord], Exception | None], None]"
"""Called with records whose outcome is known: None once every in-sync replica has them, or an error.

`PublishRefused`: Kafka will never accept the record. `TopicMissing`, `BrokerRefused` (the topic is
forbidden), `BrokerUnavailable`: a later attempt may succeed. Any other error: it can't be encoded as a
record.
"""


@dataclass(slots=True, eq=False, kw_only=True)
class ProducerRecord:
    """A record to be produced.

    Attributes:
        report: Called once with its outcome, together with others that have the same `report`.
        partitioned: Records with the same key go to the same partition (murmur2, as Java's clients
            do). Otherwise, or without a key, all waiting records share a partition, which makes larger
            batches and saves the hash.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[Header]
    report: Report
    partitioned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """How records are produced.

    Attributes:
        max_record_bytes: Larger records are refused here; the topic may allow less.
        stall: The producer is replaced when it has waited this long without any acknowledgement,
            because aiokafka can hang in ways that only this ends (#1017). Its records are then sent
            again, so the topic may have them twice.
    """

    max_record_bytes: int = 32 * 1024 * 1024
    stall: timedelta = timedelta(seconds=60)


class Producer:
    """Keeps records until their outcome is known, through outages of any length.

    Each partition has a queue and one batch in flight. Records that arrive meanwhile form the next batch:
    the busier a partition, the larger its batches; and a batch costs one future, however many records it
    has. There is no order between partitions, nor between records that are queued together.

    When a batch is refused because of one of its records, all of them are sent again one by one,
    so that only the bad one fails. A refused batch leaves a gap in the idempotent sequence that
    aiokafka can't close, therefore the producer is replaced then, too.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        clock: Clock,
        *,
        settings: ProducerSettings | None = None,
        errors: ConnectionErrorLog | None = None,
    ) -> None:
        """Prepare; nothing is connected before `running`.

        Args:
            connection: Where Kafka is.
            clock: Time.
            settings: How records are produced.
            errors: Logs why Kafka can't be reached; None if the process's consumer does that.
        """
        self._connection = connection
        self._settings = settings or ProducerSettings()
        self._client = ReconnectingProducer(connection, clock, stall=self._settings.stall, errors=errors)
        self._partition_of = DefaultPartitioner()
        self._queues: dict[TopicPartition, deque[ProducerRecord]] = {}
        self._unplaced: dict[str, list[ProducerRecord]] = {}
        self._turn = 0
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def connected(self) -> bool:
        """Whether records can be sent now."""
        return self._client.current is not None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Connect in the background; at the end of the block, send for at most two seconds, then close."""
        running = asyncio.create_task(self._run(), name="kafka-producer")
        try:
            await asyncio.sleep(0)
            yield self
        finally:
            running.cancel()
            await asyncio.wait({running})
            if not running.cancelled():
                running.result()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._client.keep()
        finally:
            self._tasks = None
            left = [record for queue in self._queues.values() for record in queue]
            left += [record for records in self._unplaced.values() for record in records]
            _report(left, BrokerUnavailable("the producer is closed"))
            await self._client.closed()

    # Records: accepted, assigned to a partition, sent in batches, reported.

    def send(self, records: Iterable[ProducerRecord]) -> None:
        """Accept records; each is reported, perhaps before this returns."""
        if self._tasks is None:
            return _report(list(records), BrokerUnavailable("the producer is closed"))
        by_topic: dict[str, list[ProducerRecord]] = {}
        for record in records:
            size = len(record.key or b"") + len(record.value or b"")
            for name, content in record.headers:
                size += len(name) + len(content or b"")
            if size > self._settings.max_record_bytes:
                most = self._settings.max_record_bytes
                error = PublishRefused(f"a record of {size} bytes is too large; the maximum is {most}")
                record.report([record], error)
            else:
                by_topic.setdefault(record.topic, []).append(record)
        producer = self._client.current
        for topic, found in by_topic.items():
            unplaced = self._unplaced.get(topic)
            if unplaced is not None:
                unplaced += found
            elif producer is not None and _knows(producer, topic):
                self._place(producer, topic, found)
            else:
                self._unplaced[topic] = found
                self._tasks.create_task(self._place_later(topic))

    async def deliver(
        self, topic: str, *, key: bytes | None, value: bytes | None, headers: Sequence[Header]
    ) -> None:
        """Send one record; returns once every in-sync replica has it, however long that takes.

        Raises:
            Exception: As it is reported (`Report`).
        """
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def report(_: Sequence[ProducerRecord], error: Exception | None) -> None:
            if outcome.done():
                return
            if error is None:
                outcome.set_result(None)
            else:
                outcome.set_exception(error)

        self.send([ProducerRecord(topic=topic, key=key, value=value, headers=list(headers), report=report)])
        await outcome

    async def _place_later(self, topic: str) -> None:
        """Assign the records that wait for a topic once it is known, without creating it."""
        problem: Exception | None = None
        try:
            producer = await self._client.connected()
            await self._look_up(producer, topic)
        except Exception as error:
            # The supervisor of this topic's records: other topics are not affected.
            problem = self._explained(topic, error)
        records = self._unplaced.pop(topic)
        if problem is None:
            self._place(producer, topic, records)
        else:
            _report(records, problem)

    def _place(self, producer: AIOKafkaProducer, topic: str, records: Iterable[ProducerRecord]) -> None:
        cluster = producer.client.cluster
        partitions = sorted(cluster.partitions_for_topic(topic))
        available = sorted(cluster.available_partitions_for_topic(topic))
        anywhere: list[ProducerRecord] = []
        by_partition: dict[int, list[ProducerRecord]] = {}
        for record in records:
            if record.partitioned and record.key is not None:
                partition = self._partition_of(record.key, partitions, available)
                by_partition.setdefault(partition, []).append(record)
            else:
                anywhere.append(record)
        if anywhere:
            by_partition.setdefault(self._next_partition(topic, available or partitions), []).extend(anywhere)
        for partition, placed in by_partition.items():
            self._enqueue(TopicPartition(topic, partition), placed)

    def _next_partition(self, topic: str, partitions: Sequence[int]) -> int:
        """Take turns, skipping partitions that still have a batch in flight."""
        self._turn += 1
        start = self._turn % len(partitions)
        in_turn = (*partitions[start:], *partitions[:start])
        idle = (number for number in in_turn if TopicPartition(topic, number) not in self._queues)
        return next(idle, in_turn[0])

    def _enqueue(self, place: TopicPartition, records: Sequence[ProducerRecord]) -> None:
        queue = self._queues.get(place)
        if queue is not None:
            queue.extend(records)
        elif self._tasks is not None:
            self._queues[place] = queue = deque(records)
            self._tasks.create_task(self._send_queue(place, queue))

    async def _send_queue(self, place: TopicPartition, queue: deque[ProducerRecord]) -> None:
        """Send the records that wait for a partition, batch after batch, until there are none.

        Records leave the queue once their outcome is known, so a cancellation loses none.
        """
        alone = 0  # how many of the first records are sent one by one, because their batch was refused
        while queue:
            producer = await self._client.connected()
            batch, records = _fill(producer.create_batch(), queue, most=1 if alone else None)
            outcome: Exception | None = None
            try:
                await self._send_batch(producer, place, batch)
            except SEQUENCE_LOST as error:
                self._client.replace(producer, topic=place.topic, reason=error_text(error))
                continue
            except REFUSED_BATCH as error:
                self._client.replace(producer, topic=place.topic, reason=error_text(error))
                if len(records) > 1:
                    alone = len(records)
                    continue
                outcome = self._explained(place.topic, error)
            except Exception as error:
                # The supervisor of this partition: the others go on, and so will this one.
                outcome = self._explained(place.topic, error)
            alone = max(0, alone - len(records))
            for _ in records:
                queue.popleft()
            _report(records, outcome)
        del self._queues[place]

    async def _send_batch(
        self, producer: AIOKafkaProducer, place: TopicPartition, batch: BatchBuilder
    ) -> None:
        if not batch.record_count():
            return  # none of the records could be written
        if not _knows(producer, place.topic):
            await self._look_up(producer, place.topic)
        if place.partition not in producer.client.cluster.partitions_for_topic(place.topic):
            raise BrokerUnavailable(f"topic {place.topic!r} has no partition {place.partition} any more")
        await self._client.send_batch(producer, place, batch)

    # Topics, which must exist: a broker may create a topic that aiokafka asks for.

    async def _look_up(self, producer: AIOKafkaProducer, topic: str) -> None:
        facts = (await describe(producer.client, [topic]))[topic]
        if facts.problem is not None:
            raise facts.problem(topic)
        await producer.partitions_for(topic)

    async def is_missing(self, topic: str) -> bool:
        """Whether the broker says, within a second, that there is no such topic."""
        producer = self._client.current
        if producer is None:
            return False
        with suppress(kafka.KafkaError, TimeoutError):
            async with asyncio.timeout(1):
                return (await describe(producer.client, [topic]))[topic].missing
        return False

    async def name_topic(self, topic: str) -> None:
        """Ask for a topic so that a broker that creates topics on demand creates it."""
        producer = await self._client.connected()
        await producer.client.add_topic(topic)

    def _explained(self, topic: str, error: Exception) -> Exception:
        match error:
            case OperatorError():
                return error
            case kafka.UnknownTopicOrPartitionError():
                return no_topic(topic, self._connection)
            case kafka.InvalidTopicError() | kafka.PolicyViolationError():
                return _refusal(topic, error)
            case _ if isinstance(error, REFUSED_RECORD):
                return _refusal(topic, error)
            case _ if isinstance(error, DENIED):
                return denied(self._connection.security, f"topic {topic!r}")
            case _:
                return BrokerUnavailable(f"topic {topic!r}: {error_text(error)}")


def _knows(producer: AIOKafkaProducer, topic: str) -> bool:
    return producer.client.cluster.partitions_for_topic(topic) is not None


def _fill(
    batch: BatchBuilder, queue: deque[ProducerRecord], *, most: int | None
) -> tuple[BatchBuilder, list[ProducerRecord]]:
    """Put the first records of a queue into a batch, as many as fit, or `most`.

    A record with a key, value or header that can't be encoded is reported, and removed from the queue.
    """
    records: list[ProducerRecord] = []
    unwritable: list[tuple[ProducerRecord, Exception]] = []
    for record in queue:
        if len(records) == most:
            break
        try:
            fits = batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
        except Exception as error:
            unwritable.append((record, error))
            continue
        if fits is None:
            break
        records.append(record)
    batch.close()
    for record, problem in unwritable:
        queue.remove(record)
        record.report([record], problem)
    return batch, records


def _report(records: Sequence[ProducerRecord], outcome: Exception | None) -> None:
    groups: dict[Report, list[ProducerRecord]] = {}
    for record in records:
        groups.setdefault(record.report, []).append(record)
    for report, group in groups.items():
        report(group, outcome)


def _refusal(topic: str, error: Exception) -> PublishRefused:
    if isinstance(error, TOO_LARGE):
        return PublishRefused(f"too large for topic {topic}")
    return PublishRefused(f"topic {topic!r}: {error_text(error)}")
