"""The consumer of a topic: reads all partitions, or those that its group gives it.

Positions and epochs come from the store (K1); offsets are committed to Kafka for lag dashboards alone. The
only instance assigns itself all partitions by hand: a group of one member would only cost seconds to join.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, MutableMapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from awakeables.core.backoff import Backoff
from awakeables.engine.horizon import Moment
from awakeables.engine.readtopic import ReadTopic
from awakeables.errors import BrokerRefused, BrokerUnavailable, StoreUnavailable, TopicMissing
from awakeables.kafka.assignment import AllPartitions, Assignment, GroupMember, GroupShared
from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.diagnosis import error_text
from awakeables.kafka.limiter import BatchLimiter
from awakeables.kafka.partitions import PartitionReader, ReaderContext, ReadingSettings
from awakeables.kafka.problemboard import ProblemBoard
from awakeables.kafka.readers import Readers
from awakeables.kafka.topics import describe, facts_of
from awakeables.ports import Clock
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0

METADATA_MS = 3000
"""Metadata is refreshed this often, so that a partition's new leader is found."""

TOPIC_CHECK_S = 0.1
"""How often the broker is asked for the partitions of the completions; deadlines wait for the answer."""

SUBSCRIBED_CHECK_S = 1.0
"""The same of a subscription's topic."""

MOVES_CHECK_S = 2.0
"""How soon at the latest a member notices that a partition of its own was moved at another instance."""

CONSUMER_CHECK_S = 0.5
"""How often the consumer is checked for silence, which costs no request."""

SILENT_S = 3.0
"""A broker answers a fetch within 0.1 s, with or without records; after this long without one, it is down."""

STUCK_S = 30.0
"""A consumer that has read nothing for this long, although it should have, is replaced."""

SLOW_S = 5.0
"""When storing a batch takes longer than this, its reader waits; the partition's end is queried instead."""


class _ReplaceConsumer(Exception):
    """This consumer can't go on; the message says why."""


class TopicConsumer:
    """Reads the completions topic, or that of a subscription.

    It does so through outages, and through changes of the topic and of the group.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topic: ReadTopic,
        *,
        group: str,
        clock: Clock,
        problems: MutableMapping[str, str],
        grouped: bool = False,
        settings: ReadingSettings | None = None,
        stuck: timedelta = timedelta(seconds=STUCK_S),
    ) -> None:
        """Prepare; `run` does the rest.

        Args:
            connection: Where Kafka is.
            topic: The topic, for the sinks of its partitions.
            group: The consumer group of the app, or of the subscription.
            clock: The store's clock.
            problems: The current problems by name, for readiness.
            grouped: Join the group and read what it gives this instance, because others have the same store.
                Otherwise this one reads all partitions, and reports lag under the group's name.
            settings: How partitions are read.
            stuck: After this long without an answer the consumer is replaced.
        """
        self._readers: Readers | None = None
        self._connection = connection
        self._topic = topic
        self._name = topic.name
        self._problems = topic.problems
        self._group = group
        self._grouped = grouped
        self._clock = clock
        self._board = ProblemBoard(problems)
        self._settings = settings or ReadingSettings()
        self._stuck = stuck
        self._stuck_s = stuck.total_seconds()
        self._measured_s = 0.0
        self._answered_s = 0.0

    @property
    def reading(self) -> frozenset[int]:
        """The partitions that are being read now."""
        return frozenset() if self._readers is None else self._readers.partitions

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
                    topic=self._name,
                    reason=str(_first(group)),
                )
                backoff.reset()
            except* GroupShared as group:
                self._board.report(
                    self._problems.group, events.GROUP_SHARED, str(_first(group)), group=self._group
                )
            except* TopicMissing as group:
                self._board.report(
                    self._problems.topic, events.TOPIC_MISSING, str(_first(group)), topic=self._name
                )
            except* BrokerRefused as group:
                self._board.report(self._problems.broker, events.BROKER_REFUSED, str(_first(group)))
            except* (kafka.KafkaError, OSError, TimeoutError, BrokerUnavailable) as group:
                self._board.report(self._problems.broker, events.BROKER_DOWN, error_text(_first(group)))
            except* Exception as group:
                # The supervisor of the whole consumer: completions wait, the service goes on.
                self._board.report(self._problems.topic, events.BACKGROUND_ERROR, repr(group), exc_info=group)
            await asyncio.sleep(backoff.next_s())

    async def _serve(self) -> None:
        """Read with one consumer until it must be replaced."""
        asked = Moment.now(self._clock)
        facts = await facts_of(self._connection, self._name, ours=not self._topic.subscription)
        self._topic.note_topic(facts.partitions, asked, facts.topic_id)
        await self._topic.prepare(facts.partitions)
        self._answered_s = self._clock.monotonic()
        async with self._consumer() as consumer:
            self._board.clear(self._problems.broker, events.BROKER_BACK)
            self._board.clear(self._problems.topic)
            readers = self._readers = self._new_readers(consumer)
            assignment = self._new_assignment(consumer, readers)
            assignment.begin(facts.partitions)
            try:
                with self._topic.listening(readers.notify_moved):
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(readers.run(), name=f"{self._name}-readers")
                        tasks.create_task(assignment.run(), name=f"{self._name}-assignment")
                        tasks.create_task(
                            self._watch(consumer, readers, assignment), name=f"{self._name}-watch"
                        )
                        if self._grouped:
                            tasks.create_task(self._watch_moves(readers), name=f"{self._name}-moves")
                        tasks.create_task(
                            self._watch_topic(consumer, readers, assignment, facts.partitions),
                            name=f"{self._name}-topic",
                        )
            finally:
                self._readers = None
                self._board.clear_all(self._problems.partition)
                if self._grouped:
                    # Until it has joined again, others may be given the partitions.
                    for reader in readers.current:
                        reader.close()

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        options = self._connection.consumer_options() | {
            "metadata_max_age_ms": METADATA_MS,
            "auto_offset_reset": "none",
        }
        if self._grouped:
            options |= GroupMember.consumer_options(self._connection, self._group)
        consumer = AIOKafkaConsumer(**options)
        try:
            async with asyncio.timeout(self._connection.request_timeout.total_seconds()):
                await consumer.start()
            yield consumer
        finally:
            await close_consumer(consumer)

    def _new_assignment(self, consumer: AIOKafkaConsumer, readers: Readers) -> Assignment:
        if not self._grouped:
            return AllPartitions(self._connection, self._name, consumer, readers, group=self._group)
        return GroupMember(
            self._connection,
            self._name,
            consumer,
            readers,
            group=self._group,
            problem=self._problems.group,
            clock=self._clock,
            board=self._board,
            stuck=self._stuck,
        )

    def _new_readers(self, consumer: AIOKafkaConsumer) -> Readers:
        context = ReaderContext(
            connection=self._connection,
            clock=self._clock,
            board=self._board,
            settings=self._settings,
            problems=self._problems,
            limiter=BatchLimiter(self._settings.max_settling),
            fenced_pause=self._connection.heartbeat_interval if self._grouped else timedelta(0),
        )

        def new_reader(partition: TopicPartition) -> PartitionReader:
            sink = self._topic.sink(partition.partition)
            return PartitionReader(consumer, partition, sink, context)

        return Readers(new_reader, self._clock, drain=self._connection.session_timeout / 5)

    async def _watch(self, consumer: AIOKafkaConsumer, readers: Readers, assignment: Assignment) -> None:
        """Watch for a silent broker and a stuck consumer."""
        while True:
            await asyncio.sleep(CONSUMER_CHECK_S)
            await self._measure_what_waits(consumer, readers)
            reason = self._reason_to_replace(readers) or assignment.reason_to_replace()
            if reason is not None:
                await readers.drain()
                raise _ReplaceConsumer(reason)

    async def _watch_moves(self, readers: Readers) -> None:
        """Watch for partitions that an operator has moved at another instance.

        A reader with records is fenced by the store. One without would notice nothing, and hold up all
        deadlines, since what it has read counts no more.
        """
        while True:
            await asyncio.sleep(MOVES_CHECK_S)
            with suppress(StoreUnavailable):
                for partition in await self._topic.moved():
                    readers.notify_moved(partition)

    async def _watch_topic(
        self,
        consumer: AIOKafkaConsumer,
        readers: Readers,
        assignment: Assignment,
        known: Collection[int],
    ) -> None:
        """Watch for new partitions, and for a topic that was deleted or recreated.

        Completions in a partition that is not known yet are unread, so the broker is asked often, and
        the horizon never passes the moment of the last question.
        """
        known = frozenset(known)
        seen = self._clock.monotonic()
        while True:
            await asyncio.sleep(SUBSCRIBED_CHECK_S if self._topic.subscription else TOPIC_CHECK_S)
            asked = Moment.now(self._clock)
            # Ask a leader of this topic: another broker may be down without harm.
            places = [reader.partition for reader in readers.current]
            leaders = map(consumer._client.cluster.leader_for_partition, places)
            leader = next((broker for broker in leaders if broker is not None and broker >= 0), None)
            try:
                facts = (await describe(consumer._client, [self._name], node=leader))[self._name]
            except NO_CONNECTION:
                # The partitions' readers notice whether the broker is there.
                seen = self._clock.monotonic()
                continue
            self._answered_s = self._clock.monotonic()
            if facts.problem is None and self._topic.is_recreated_since(facts.topic_id):
                # What is in flight may be records of the new topic at offsets of the old one.
                raise _ReplaceConsumer("the topic was deleted and created again")
            if facts.problem is None:
                self._topic.note_topic_id(facts.topic_id)
            added = facts.problem is None and facts.partitions > known
            if added and assignment.follows_topic:
                known, added = facts.partitions, False
                assignment.expect(known)
            if facts.problem is None and facts.partitions == known:
                self._topic.note_topic(known, asked, facts.topic_id)
            if not facts.missing and not facts.partitions < known:
                seen = self._clock.monotonic()
            # Sometimes a broker doesn't know its topics and partitions for a moment.
            gone = self._clock.monotonic() - seen > SILENT_S
            if added or gone:
                await readers.drain()
                raise _ReplaceConsumer(f"its partitions are {sorted(facts.partitions)} now")

    async def _measure_what_waits(self, consumer: AIOKafkaConsumer, readers: Readers) -> None:
        """Measure the lag of partitions that wait for the store: alarms on it matter most then."""
        now_s = self._clock.monotonic()
        waiting = [r for r in readers.current if now_s - (r.waiting_since_s or now_s) > SLOW_S]
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

    def _reason_to_replace(self, readers: Readers) -> str | None:
        """Report a silent broker; return why the consumer must be replaced, or None."""
        # Without a partition nothing is fetched, but the broker is still asked for the topic.
        idle_s = self._clock.monotonic() - self._answered_s
        silent_s = max((reader.silent_s for reader in readers.current), default=idle_s)
        if silent_s > SILENT_S:
            self._board.report(
                self._problems.broker,
                events.BROKER_DOWN,
                f"no answer from {self._connection.bootstrap} any more",
            )
        else:
            self._board.clear(self._problems.broker, events.BROKER_BACK)
        behind_s = max((reader.behind_s for reader in readers.current), default=0.0)
        if max(silent_s, behind_s) > self._stuck_s:
            return f"it has read nothing for {self._stuck_s:.0f} s"
        return None


def _first(error: BaseException) -> BaseException:
    """One of the errors that ended a group of tasks, which may be a group in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
