"""The consumer of the completions topic: one instance reads all partitions, assigned by hand.

Positions and epochs come from the store (K1). A consumer group of one member would only cost seconds
to join; offsets are committed to Kafka for lag dashboards alone.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from awakeables.core.backoff import Backoff
from awakeables.engine.completionsink import CompletionSink
from awakeables.engine.completionstopic import CompletionsTopic
from awakeables.engine.horizon import Moment
from awakeables.engine.offsets import PARTITION
from awakeables.errors import BrokerRefused, BrokerUnavailable, TopicMissing
from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.diagnosis import error_text
from awakeables.kafka.lag import report_lag
from awakeables.kafka.limiter import BatchLimiter
from awakeables.kafka.partitions import PartitionReader, ReaderContext, ReadingSettings
from awakeables.kafka.problemboard import ProblemBoard
from awakeables.kafka.topics import describe, facts_of
from awakeables.ports import Clock
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

BROKER = "broker"
TOPIC = "completions topic"
"""Names of problems on the board."""

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0

METADATA_MS = 3000
"""Metadata is refreshed this often, so that a partition's new leader is found."""

TOPIC_CHECK_S = 0.1
"""How often the broker is asked for the topic's partitions; deadlines wait for the answer."""

CONSUMER_CHECK_S = 0.5
"""How often the consumer is checked for silence, which costs no request."""

SILENT_S = 3.0
"""A broker answers a fetch within 0.1 s, with or without records; after this long without one, it is down."""

STUCK_S = 30.0
"""A consumer that has read nothing for this long, although it should have, is replaced."""

SLOW_S = 5.0
"""When storing a batch takes longer than this, its reader waits; the partition's end is queried instead."""

DRAIN_S = 2.0
"""How long batches may take to be stored before the consumer is replaced."""


class _ReplaceConsumer(Exception):
    """This consumer can't go on; the message says why."""


class CompletionsConsumer:
    """Reads the completions topic, through outages and changes of the topic.

    Attributes:
        reading: The partitions that are being read now.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: CompletionsTopic,
        *,
        group: str,
        clock: Clock,
        problems: MutableMapping[str, str],
        settings: ReadingSettings | None = None,
        stuck: timedelta = timedelta(seconds=STUCK_S),
    ) -> None:
        """Prepare; `run` does the rest.

        Args:
            connection: Where Kafka is.
            topic: The app's completions topic, for the sinks of its partitions.
            group: The consumer group that lag is reported for.
            clock: The store's clock.
            problems: The current problems by name, for readiness.
            settings: How partitions are read.
            stuck: After this long without an answer the consumer is replaced.
        """
        self.reading: frozenset[int] = frozenset()
        self._connection = connection
        self._completions = topic
        self._topic = topic.name
        self._group = group
        self._clock = clock
        self._board = ProblemBoard(problems)
        self._settings = settings or ReadingSettings()
        self._stuck_s = stuck.total_seconds()
        self._measured_s = 0.0

    async def run(self) -> None:
        """Read until cancelled."""
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                await self._serve()
            except* _ReplaceConsumer as group:
                log.info(
                    events.CLIENT_REPLACED,
                    client="consumer",
                    topic=self._topic,
                    reason=str(group.exceptions[0]),
                )
                backoff.reset()
            except* TopicMissing as group:
                self._board.report(TOPIC, events.TOPIC_MISSING, str(group.exceptions[0]), topic=self._topic)
            except* BrokerRefused as group:
                self._board.report(BROKER, events.BROKER_REFUSED, str(group.exceptions[0]))
            except* (kafka.KafkaError, OSError, TimeoutError, BrokerUnavailable) as group:
                self._board.report(BROKER, events.BROKER_DOWN, error_text(group.exceptions[0]))
            except* Exception as group:
                # The supervisor of the whole consumer: completions wait, the service goes on.
                self._board.report(TOPIC, events.BACKGROUND_ERROR, repr(group), exc_info=group)
            await asyncio.sleep(backoff.next_s())

    async def _serve(self) -> None:
        """Read with one consumer until it must be replaced."""
        asked = Moment.now(self._clock)
        facts = await facts_of(self._connection, self._topic)
        numbers = facts.partitions
        self._completions.topic_id = facts.topic_id
        self._completions.horizon.expect(numbers, asked)
        async with self._consumer() as consumer:
            self._board.clear(BROKER, events.BROKER_BACK)
            self._board.clear(TOPIC)
            readers = self._assign(consumer, numbers)
            try:
                with self._completions.listening(functools.partial(_notify_moved, readers)):
                    async with asyncio.TaskGroup() as tasks:
                        for reader in readers:
                            tasks.create_task(reader.run(), name=f"completions-{reader.partition.partition}")
                        tasks.create_task(self._watch(consumer, readers), name="completions-watch")
                        tasks.create_task(self._watch_topic(consumer, readers), name="completions-topic")
                        tasks.create_task(
                            report_lag(
                                self._connection,
                                self._group,
                                functools.partial(_offsets, readers),
                            ),
                            name="completions-lag",
                        )
            finally:
                self.reading = frozenset()
                self._board.clear_all(PARTITION)

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **self._connection.consumer_options()
            | {"metadata_max_age_ms": METADATA_MS, "auto_offset_reset": "none"}
        )
        try:
            async with asyncio.timeout(self._connection.request_timeout.total_seconds()):
                await consumer.start()
            yield consumer
        finally:
            await close_consumer(consumer)

    def _assign(self, consumer: AIOKafkaConsumer, numbers: Iterable[int]) -> Sequence[PartitionReader]:
        """Assign all partitions, paused at a placeholder until their readers know where to begin."""
        partitions = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        consumer.pause(*partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        self.reading = frozenset(numbers)
        context = ReaderContext(
            connection=self._connection,
            clock=self._clock,
            board=self._board,
            settings=self._settings,
            limiter=BatchLimiter(self._settings.max_settling),
        )
        return [
            PartitionReader(
                consumer, partition, CompletionSink(self._completions, partition.partition), context
            )
            for partition in partitions
        ]

    async def _watch(self, consumer: AIOKafkaConsumer, readers: Sequence[PartitionReader]) -> None:
        """Watch for a silent broker and a stuck consumer."""
        while True:
            await asyncio.sleep(CONSUMER_CHECK_S)
            await self._measure_what_waits(consumer, readers)
            reason = self._reason_to_replace(readers)
            if reason is not None:
                await _drain(readers)
                raise _ReplaceConsumer(reason)

    async def _watch_topic(self, consumer: AIOKafkaConsumer, readers: Sequence[PartitionReader]) -> None:
        """Watch for new partitions, and for a topic that was deleted or recreated.

        Completions in a partition that is not known yet are unread, so the broker is asked often, and
        the horizon never passes the moment of the last question.
        """
        seen = self._clock.monotonic()
        while True:
            await asyncio.sleep(TOPIC_CHECK_S)
            asked = Moment.now(self._clock)
            # Ask a leader of this topic: another broker may be down without harm.
            leader = consumer._client.cluster.leader_for_partition(readers[0].partition)
            try:
                facts = (await describe(consumer._client, [self._topic], node=leader))[self._topic]
            except NO_CONNECTION:
                # The partitions' readers notice whether the broker is there.
                seen = self._clock.monotonic()
                continue
            if facts.problem is None and facts.partitions == self.reading:
                self._completions.horizon.expect(self.reading, asked)
            if facts.problem is None and facts.topic_id not in (None, self._completions.topic_id):
                # What is in flight may be records of the new topic at offsets of the old one.
                raise _ReplaceConsumer("the topic was deleted and created again")
            added = facts.problem is None and facts.partitions > self.reading
            if not facts.missing and not facts.partitions < self.reading:
                seen = self._clock.monotonic()
            # Sometimes a broker doesn't know its topics and partitions for a moment.
            gone = self._clock.monotonic() - seen > SILENT_S
            if added or gone:
                await _drain(readers)
                raise _ReplaceConsumer(f"its partitions are {sorted(facts.partitions)} now")

    async def _measure_what_waits(
        self, consumer: AIOKafkaConsumer, readers: Sequence[PartitionReader]
    ) -> None:
        """Measure the lag of partitions that wait for the store: alarms on it matter most then."""
        now_s = self._clock.monotonic()
        waiting = [r for r in readers if now_s - (r.taking_since_s or now_s) > SLOW_S]
        if not waiting or now_s - self._measured_s < SLOW_S:
            return
        self._measured_s = now_s
        try:
            async with asyncio.timeout(SLOW_S):
                ends = await consumer.end_offsets([reader.partition for reader in waiting])
        except (kafka.KafkaError, TimeoutError):
            return
        for reader in waiting:
            reader.note_end(ends[reader.partition])

    def _reason_to_replace(self, readers: Sequence[PartitionReader]) -> str | None:
        """Report a silent broker; return why the consumer must be replaced, or None."""
        silent_s = max((reader.silent_s for reader in readers), default=0.0)
        if silent_s > SILENT_S:
            self._board.report(
                BROKER, events.BROKER_DOWN, f"no answer from {self._connection.bootstrap} any more"
            )
        else:
            self._board.clear(BROKER, events.BROKER_BACK)
        behind_s = max((reader.behind_s for reader in readers), default=0.0)
        if max(silent_s, behind_s) > self._stuck_s:
            return f"it has read nothing for {self._stuck_s:.0f} s"
        return None


def _notify_moved(readers: Sequence[PartitionReader], number: int) -> None:
    for reader in readers:
        if reader.partition.partition == number:
            reader.notify_moved()


def _offsets(readers: Sequence[PartitionReader]) -> dict[TopicPartition, int]:
    return {reader.partition: reader.next for reader in readers if reader.next}


async def _drain(readers: Sequence[PartitionReader]) -> None:
    for reader in readers:
        reader.leaving = True
    waited_s = 0.0
    while waited_s < DRAIN_S and any(reader.taking_since_s is not None for reader in readers):
        await asyncio.sleep(0.01)
        waited_s += 0.01
