"""The way out to Kafka: one idempotent producer, built anew when it is of no more use."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.partitioner import DefaultPartitioner

from awakeables.core.orders import Effect, Header
from awakeables.errors import BrokerUnavailable, PublishRefused
from awakeables.kafka.closing import close_producer
from awakeables.kafka.connection import NO_CONNECTION, Connection
from awakeables.kafka.diagnosis import denied
from awakeables.kafka.topics import describe, no_topic
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.wire.tasks import encode_effect

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0

REFUSED = (kafka.InvalidTopicError, kafka.PolicyViolationError)
"""Never: whoever else is in the batch."""

REFUSED_BATCH = (
    kafka.MessageSizeTooLargeError,
    kafka.RecordListTooLargeError,
    kafka.RecordTooLargeError,
    kafka.CorruptRecordException,
    kafka.InvalidTimestampError,
    kafka.UnsupportedForMessageFormatError,
    kafka.UnknownError,
)
"""Said of a whole batch, although one record of it may be to blame: each is sent again alone.

UnknownError is also what aiokafka makes of codes that it does not know, INVALID_RECORD among
them (a record without a key for a compacted topic).
"""

SEQUENCE_LOST = (
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.ProducerFenced,
    kafka.ProducerClosed,
)
"""The producer is of no more use, the record was not written: on with a new one (aiokafka #1017)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """How records are published.

    Attributes:
        timeout: The end of one wait for the brokers' acknowledgement. The record may still be
            written later; publishing the same effect again waits for the same record.
        max_in_flight: Records on their way at once.
        max_request_bytes: Larger records are refused here; the topic may allow less.
    """

    timeout: timedelta = timedelta(seconds=10)
    max_in_flight: int = 1000
    max_request_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outgoing:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[Header]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    producer: AIOKafkaProducer
    future: asyncio.Future[object]


class KafkaPublisher:
    """Publishes effects; also while the broker is away at start, and after it was away.

    `start` begins to connect and returns. `publish` waits for the connection, no longer than
    for the acknowledgement.
    """

    def __init__(
        self, connection: Connection, clock: Clock, *, settings: PublisherSettings | None = None
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._settings = settings or PublisherSettings()
        self._partition_of = DefaultPartitioner()
        self._slots = asyncio.Semaphore(self._settings.max_in_flight)
        self._producer: AIOKafkaProducer | None = None
        self._ready = asyncio.Event()
        self._worn = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._unanswered: dict[str, _Sent] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Begin to connect; never fails."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="kafka-producer")

    async def stop(self) -> None:
        """Send what is on its way, for two seconds at most, and close."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
        self._producer = None
        self._ready.clear()
        if self._closing:
            await asyncio.wait(self._closing)
        self._unanswered.clear()

    async def publish(self, effect: Effect) -> None:
        """Publish one record; returns when every in-sync replica has it.

        Raises:
            PublishRefused: It can never be published as it is.
            TopicMissing: There is no such topic; it was not created by asking.
            BrokerUnavailable: It may or may not have been published; try again.
        """
        value, headers = encode_effect(effect)
        size = sum(map(len, (effect.key or b"", value or b"", *(content or b"" for _, content in headers))))
        if size > self._settings.max_request_bytes:
            raise PublishRefused(
                f"a record of {size} bytes is not sent; the most is {self._settings.max_request_bytes}"
            )
        record = _Outgoing(topic=effect.topic, key=effect.key, value=value, headers=headers)
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()), self._slots:
                await self._publish(effect.event_id, record)
        except TimeoutError:
            await self._raise_if_missing(effect.topic)
            raise BrokerUnavailable(
                f"no acknowledgement from {self._connection.bootstrap} within {self._settings.timeout}"
            ) from None

    async def _publish(self, event_id: str, record: _Outgoing) -> None:
        alone = False
        while True:
            # What was sent before and not answered yet may still arrive: it is not sent twice.
            sent = self._unanswered.pop(event_id, None)
            producer = sent.producer if sent else await self._connected()
            try:
                if sent is None:
                    future = await self._send(producer, record, alone=alone)
                    sent = _Sent(producer=producer, future=future)
                await self._answered(event_id, sent)
            except SEQUENCE_LOST as error:
                self._wear_out(producer, record.topic, error)
            except kafka.TopicAuthorizationFailedError as error:
                told = denied(self._connection.security, f"topic {record.topic!r}")
                raise PublishRefused(str(told)) from error
            except REFUSED as error:
                raise PublishRefused(f"topic {record.topic!r}: {_told(error)}") from error
            except REFUSED_BATCH as error:
                # The sequence has a gap now where the batch was: aiokafka has no way to close it.
                self._wear_out(producer, record.topic, error)
                if alone:
                    raise PublishRefused(f"topic {record.topic!r}: {_told(error)}") from error
                alone = True
            except kafka.KafkaError as error:
                raise BrokerUnavailable(f"topic {record.topic!r}: {_told(error)}") from error
            else:
                return

    async def _answered(self, event_id: str, sent: _Sent) -> None:
        try:
            await asyncio.shield(sent.future)
        except asyncio.CancelledError:
            if not sent.future.done():
                self._unanswered[event_id] = sent
                sent.future.add_done_callback(_noticed)
            raise

    async def _send(
        self, producer: AIOKafkaProducer, record: _Outgoing, *, alone: bool
    ) -> asyncio.Future[object]:
        if producer.client.cluster.partitions_for_topic(record.topic) is None:
            await self._look_up(producer, record.topic)
        if alone or (record.key is None and record.value is None):
            # `send` fills batches, and asserts that there is a key or a value; Kafka needs neither.
            return await self._send_alone(producer, record)
        future: asyncio.Future[object] = await producer.send(
            record.topic, record.value, record.key, headers=record.headers
        )
        return future

    async def _send_alone(self, producer: AIOKafkaProducer, record: _Outgoing) -> asyncio.Future[object]:
        partitions = sorted(await producer.partitions_for(record.topic))
        available = producer.client.cluster.available_partitions_for_topic(record.topic)
        batch = producer.create_batch()
        batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers)
        batch.close()
        future: asyncio.Future[object] = await producer.send_batch(
            batch, record.topic, partition=self._partition_of(record.key, partitions, sorted(available))
        )
        return future

    async def _look_up(self, producer: AIOKafkaProducer, topic: str) -> None:
        """Make sure of a topic before aiokafka waits for it, and lets the broker create it."""
        task = self._looking.get(topic)
        if task is None:
            task = asyncio.create_task(self._refuse_missing(producer, topic))
            self._looking[topic] = task
            task.add_done_callback(lambda _: self._looking.pop(topic, None))
            task.add_done_callback(_noticed)
        await asyncio.shield(task)

    async def _refuse_missing(self, producer: AIOKafkaProducer, topic: str) -> None:
        facts = (await describe(producer.client, [topic]))[topic]
        if facts.missing:
            raise no_topic(topic, self._connection)
        if facts.problem is not None:
            raise facts.problem(topic)

    async def _raise_if_missing(self, topic: str) -> None:
        """Tell a topic that was deleted under way from a broker that is away."""
        producer = self._producer
        if producer is None:
            return
        try:
            async with asyncio.timeout(1):
                facts = (await describe(producer.client, [topic]))[topic]
        except (kafka.KafkaError, TimeoutError):
            return
        if facts.missing:
            raise no_topic(topic, self._connection)

    async def _connected(self) -> AIOKafkaProducer:
        while self._producer is None:
            await self._ready.wait()
        return self._producer

    def _wear_out(self, producer: AIOKafkaProducer, topic: str, error: BaseException) -> None:
        if self._producer is producer:
            log.info(events.PRODUCER_RENEWED, topic=topic, reason=_told(error))
            self._producer = None
            self._ready.clear()
            self._worn.set()

    async def _keep(self) -> None:
        """Have a producer at hand, always."""
        while True:
            self._worn.clear()
            producer = await self._connect()
            self._producer = producer
            self._ready.set()
            try:
                await self._worn.wait()
            finally:
                # Others may still have records in it, so it is closed beside the next one's start.
                closing = asyncio.create_task(close_producer(producer), name="kafka-producer-closing")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def _connect(self) -> AIOKafkaProducer:
        pause_s = FIRST_PAUSE_S
        while True:
            producer = AIOKafkaProducer(
                **self._connection.producer_options()
                | {"max_request_size": 2 * self._settings.max_request_bytes}
            )
            try:
                async with asyncio.timeout(self._settings.timeout.total_seconds()):
                    await producer.start()
            except NO_CONNECTION as error:
                # The consumer finds the same, and says why.
                await producer.stop()
                log.debug(events.BROKER_DOWN, bootstrap=self._connection.bootstrap, error=_told(error))
            except BaseException:
                await producer.stop()
                raise
            else:
                return producer
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _noticed(future: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear of its failure."""
    if not future.cancelled():
        future.exception()


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
