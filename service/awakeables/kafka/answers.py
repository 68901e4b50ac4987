"""Sends a worker's answers to Kafka, and retries until they are acknowledged."""

from __future__ import annotations

import asyncio

import structlog

from awakeables.core.backoff import Backoff
from awakeables.errors import BrokerRefused, BrokerUnavailable, TopicMissing
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.producer import Producer
from awakeables.kafka.topics import create_topics
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.telemetry.outages import Outages
from awakeables.worker.port import Outgoing

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_TOPIC_PAUSE_S = 1.0

TOPIC_TIMEOUT_S = 60.0
"""A topic that is missing or forbidden for this long is given up."""


class AnswerSender:
    """Sends answers and dead letters through a producer until Kafka has them.

    An answer has no time-out: the work is done, and no other worker will report it. It occupies its
    task's slot, so the worker takes no further tasks while the broker is down.
    """

    def __init__(self, producer: Producer, connection: KafkaConnection, *, clock: Clock) -> None:
        """Send through a producer, which the caller runs."""
        self._producer = producer
        self._connection = connection
        self._clock = clock
        self._outages = Outages(clock.monotonic)
        self._created: set[str] = set()
        self._draining = False

    def drain(self) -> None:
        """As `TaskPort.drain`."""
        self._draining = True

    async def send(self, record: Outgoing) -> None:
        """As `TaskPort.send`."""
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        topic_backoff = Backoff(FIRST_PAUSE_S, LONGEST_TOPIC_PAUSE_S)
        since_s: float | None = None
        while True:
            try:
                await self._producer.deliver(
                    record.topic, key=record.key, value=record.value, headers=record.headers
                )
            except (TopicMissing, BrokerRefused) as error:
                if since_s is None:
                    since_s = self._clock.monotonic()
                    log.error(_event_of(error), topic=record.topic, error=str(error))
                if self._draining:
                    raise BrokerUnavailable(str(error)) from error
                if self._clock.monotonic() - since_s > TOPIC_TIMEOUT_S:
                    raise
                await asyncio.sleep(topic_backoff.next_s())
            except BrokerUnavailable as error:
                since_s = None
                self._log_failure(events.EFFECT_FAILED, record.topic, error)
                await asyncio.sleep(backoff.next_s())
            else:
                self._log_success(record.topic)
                return

    async def send_dead_letter(self, letter: Outgoing) -> None:
        """Send a dead letter; its topic is created if it is missing, and waited for without a time-out."""
        while True:
            try:
                if letter.topic not in self._created:
                    await self._create(letter.topic)
                return await self.send(letter)
            except (TopicMissing, BrokerRefused) as error:
                self._created.discard(letter.topic)
                self._log_failure(_event_of(error), letter.topic, error)

    async def _create(self, topic: str) -> None:
        """Create a dead-letter topic; one partition is enough, and one that exists stays as it is."""
        try:
            await create_topics(self._connection, {topic: 1})
        except (BrokerUnavailable, AttributeError, TimeoutError) as error:
            # The embedded broker does not support this request (an AttributeError within aiokafka). There,
            # as on every broker that creates topics on demand, it is enough to name the topic.
            log.info(events.TOPIC_MISSING, topic=topic, error=f"{type(error).__name__}: {error}")
            await self._producer.name_topic(topic)
        self._created.add(topic)

    def _log_failure(self, event: str, topic: str, error: Exception) -> None:
        failures = self._outages.failed(topic)
        if failures is not None:
            log.error(event, topic=topic, failures=failures, error=str(error))

    def _log_success(self, topic: str) -> None:
        failures = self._outages.succeeded(topic)
        if failures is not None:
            log.info(events.EFFECT_SENT_AGAIN, topic=topic, failures=failures)


def _event_of(error: TopicMissing | BrokerRefused) -> str:
    return events.TOPIC_MISSING if isinstance(error, TopicMissing) else events.BROKER_REFUSED
