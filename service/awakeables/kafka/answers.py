"""How a worker's answers get to Kafka: produced until they are there, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from awakeables.errors import BrokerRefused, BrokerUnavailable, PublishRefused, TopicMissing
from awakeables.kafka.closing import close_producer
from awakeables.kafka.connection import NO_CONNECTION, Connection
from awakeables.kafka.diagnosis import DENIED, denied
from awakeables.kafka.outage import Outage
from awakeables.kafka.topics import create_topics, describe, no_topic
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.telemetry.outages import Outages
from awakeables.worker.port import Outgoing

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

TOPIC_TIMEOUT_S = 60.0
"""A topic that is missing, or not ours to write to, for this long is taken for one that stays so."""

STALL_TIMEOUT_S = 60.0
"""No acknowledgement for this long, and the producer is replaced: some of aiokafka's ways to hang
end only so (#1017). What it held may land later all the same, and then counts as a duplicate."""

MAX_REQUEST_BYTES = 32 * 1024 * 1024
"""Far above what topics allow, so that the topic's own limit decides."""

TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)


class AnswerProducer:
    """Sends records through an idempotent producer, and replaces that when it is broken.

    An answer has no time-out: the work is done, and nobody else will tell of it. It waits in its
    task's slot, so a broker that is away stops the worker from taking more.
    """

    def __init__(self, connection: Connection, *, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._outages = Outages(clock.monotonic)
        self._producer: AIOKafkaProducer | None = None
        self._ready = asyncio.Event()
        self._broken = asyncio.Event()
        self._unacknowledged = 0
        self._heard_at = 0.0
        self._known_topics: set[str] = set()
        self._draining = False

    @property
    def connected(self) -> bool:
        """Is there a producer?"""
        return self._producer is not None

    async def keep(self) -> None:
        """Have a producer ready, always; runs until it is cancelled, then closes it."""
        async with asyncio.TaskGroup() as closing:
            while True:
                producer = await self._started()
                try:
                    self._heard_at = self._clock.monotonic()
                    self._broken.clear()
                    self._producer = producer
                    self._ready.set()
                    await self._until_broken()
                    log.warning(events.CLIENT_REPLACED, client="producer", waiting=self._unacknowledged)
                except asyncio.CancelledError:
                    await close_producer(producer)
                    raise
                finally:
                    self._producer = None
                    self._ready.clear()
                # It may yet deliver some of what it holds, so it is closed beside the next one's start.
                closing.create_task(close_producer(producer))

    def drain(self) -> None:
        """As `TaskPort.drain`."""
        self._draining = True

    async def send(self, record: Outgoing) -> None:
        """As `TaskPort.send`."""
        if record.topic not in self._known_topics:
            await self._find(record.topic)
        await self._send_until_acknowledged(record)

    async def send_letter(self, letter: Outgoing) -> None:
        """Send a dead letter; its topic is made if there is none, and waited for without end."""
        while True:
            try:
                if letter.topic not in self._known_topics:
                    await self._create(letter.topic)
                    await self._find(letter.topic)
                return await self._send_until_acknowledged(letter)
            except (TopicMissing, BrokerRefused) as error:
                missing = isinstance(error, TopicMissing)
                event = events.TOPIC_MISSING if missing else events.BROKER_REFUSED
                self._log_failure(event, letter.topic, str(error))

    def _log_failure(self, event: str, topic: str, told: str) -> None:
        failures = self._outages.failed(topic)
        if failures is not None:
            log.error(event, topic=topic, failures=failures, error=told)

    def _log_end(self, topic: str) -> None:
        failures = self._outages.succeeded(topic)
        if failures is not None:
            log.info(events.EFFECT_SENT_AGAIN, topic=topic, failures=failures)

    async def _send_until_acknowledged(self, record: Outgoing) -> None:
        pause_s, denied_since = FIRST_PAUSE_S, None
        alone = record.key is None and record.value is None  # `send` of aiokafka asserts one of them
        while True:
            producer = self._producer
            if producer is None:
                await self._ready.wait()
                continue
            try:
                await self._send_once(producer, record, alone=alone)
            except TOO_LARGE as error:
                # A batch that the broker refused leaves a gap in the sequence that it expects.
                self._break(producer)
                if alone:
                    raise PublishRefused(f"too large for topic {record.topic}") from error
                alone = True  # the batch may have been too large, not this record
            except kafka.InvalidTopicError as error:
                raise PublishRefused(f"{record.topic!r} is no topic's name") from error
            except kafka.UnknownTopicOrPartitionError:
                self._known_topics.discard(record.topic)
                await self._find(record.topic)
            except kafka.TopicAuthorizationFailedError:
                # Nothing was written, and the producer is as good for other topics as before.
                refusal = denied(self._connection.security, f"topic {record.topic!r}")
                if denied_since is None:
                    denied_since = self._clock.monotonic()
                    log.error(events.BROKER_REFUSED, error=str(refusal))
                self._give_up_if_due(refusal, denied_since)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except kafka.KafkaError as error:
                if producer is self._producer:
                    self._log_failure(events.EFFECT_FAILED, record.topic, self._told_of(record.topic, error))
                    self._break(producer)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._log_end(record.topic)
                return

    async def _send_once(self, producer: AIOKafkaProducer, record: Outgoing, *, alone: bool) -> None:
        if not self._unacknowledged:
            self._heard_at = self._clock.monotonic()
        self._unacknowledged += 1
        try:
            if alone:
                future = await _batch_of_one(producer, record)
            else:
                future = await producer.send(record.topic, record.value, record.key, headers=_headers(record))
            await future
        finally:
            self._unacknowledged -= 1
        self._heard_at = self._clock.monotonic()

    def _break(self, producer: AIOKafkaProducer) -> None:
        if producer is self._producer:
            self._producer = None
            self._ready.clear()
            self._broken.set()

    async def _until_broken(self) -> None:
        while not self._broken.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STALL_TIMEOUT_S / 10):
                    await self._broken.wait()
            silent_s = self._clock.monotonic() - self._heard_at
            if self._unacknowledged and silent_s > STALL_TIMEOUT_S:
                return

    async def _started(self) -> AIOKafkaProducer:
        pause_s, outage = FIRST_PAUSE_S, Outage(self._connection, client="producer")
        options = self._connection.producer_options() | {"max_request_size": MAX_REQUEST_BYTES}
        while True:
            producer = AIOKafkaProducer(**options)
            try:
                async with asyncio.timeout(self._connection.request_timeout.total_seconds()):
                    await producer.start()
            except NO_CONNECTION as error:
                await close_producer(producer)
                await outage.explain(error)
            except BaseException:
                await close_producer(producer)
                raise
            else:
                outage.end()
                return producer
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _find(self, topic: str) -> None:
        """Return once the topic is there, for us; asking for it does not create it."""
        began = self._clock.monotonic()
        told = False
        while True:
            await self._ready.wait()
            producer = self._producer
            absence: TopicMissing | BrokerRefused | None = None
            if producer is not None:
                with contextlib.suppress(kafka.KafkaError):
                    facts = (await describe(producer.client, [topic]))[topic]
                    if facts.problem is None:
                        self._known_topics.add(topic)
                        return
                    if facts.missing:
                        absence = no_topic(topic, self._connection)
                    elif facts.problem in DENIED:
                        absence = denied(self._connection.security, f"topic {topic!r}")
            if absence is not None:
                if not told:
                    missing = isinstance(absence, TopicMissing)
                    event = events.TOPIC_MISSING if missing else events.BROKER_REFUSED
                    log.error(event, topic=topic, error=str(absence))
                    told = True
                self._give_up_if_due(absence, began)
            await asyncio.sleep(FIRST_PAUSE_S if told else FIRST_PAUSE_S / 4)

    def _give_up_if_due(self, absence: TopicMissing | BrokerRefused, since: float) -> None:
        """Raise what keeps us from a topic, if it has done so for long, or the worker drains."""
        if self._draining:
            raise BrokerUnavailable(str(absence))
        if self._clock.monotonic() - since > TOPIC_TIMEOUT_S:
            raise absence

    def _told_of(self, topic: str, error: kafka.KafkaError) -> str:
        if isinstance(error, DENIED):
            return str(denied(self._connection.security, f"topic {topic!r}"))
        return _told(error)

    async def _create(self, topic: str) -> None:
        """See to a dead-letter topic; one partition is enough, and one that exists stays as it is."""
        try:
            await create_topics(self._connection, {topic: 1})
        except (BrokerUnavailable, AttributeError, TimeoutError) as error:
            # The embedded broker knows no such request (an AttributeError within aiokafka). There, as
            # on every broker that makes topics up, it is enough to name it.
            log.info(events.TOPIC_MISSING, topic=topic, error=_told(error))
            producer = self._producer
            if producer is not None:
                await producer.client.add_topic(topic)


async def _batch_of_one(producer: AIOKafkaProducer, record: Outgoing) -> asyncio.Future[Any]:
    partitions = sorted(await producer.partitions_for(record.topic))
    batch = producer.create_batch()
    batch.append(timestamp=None, key=record.key, value=record.value, headers=_headers(record))
    batch.close()
    future: asyncio.Future[Any] = await producer.send_batch(batch, record.topic, partition=partitions[0])
    return future


def _headers(record: Outgoing) -> list[tuple[str, bytes | None]]:
    return list(record.headers)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
