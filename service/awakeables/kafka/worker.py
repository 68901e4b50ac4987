"""A worker on Kafka: a member of the consumer group with the worker's name."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from awakeables.core.backoff import Backoff
from awakeables.core.bounds import MAX_UNPACKED_BYTES
from awakeables.errors import BrokerUnavailable, DeclarationError
from awakeables.kafka.answers import AnswerSender
from awakeables.kafka.closing import close_consumer
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.connectionerrors import ConnectionErrorLog
from awakeables.kafka.diagnosis import DENIED, error_text
from awakeables.kafka.groupreader import POLL_MS, GroupReader
from awakeables.kafka.producer import Producer
from awakeables.kafka.revocations import Revocations
from awakeables.kafka.tolerant import OversizedBatch
from awakeables.kafka.topics import missing_topics
from awakeables.ports import Clock
from awakeables.telemetry import events
from awakeables.telemetry.metrics import WorkerMetrics
from awakeables.telemetry.outages import Outages
from awakeables.worker.deadletters import dead_letter, dead_letter_topic
from awakeables.worker.heartbeats import OverReason
from awakeables.worker.loop import LoopSettings, WorkerLoop
from awakeables.worker.offsets import OffsetTracker
from awakeables.worker.port import Incoming, Outgoing
from awakeables.worker.worker import Worker

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

COMMIT_TIMEOUT_S = 2.0
"""aiokafka's `commit` waits without a limit while the broker is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker behaves on Kafka.

    Attributes:
        commit_interval: How often offsets are committed; tasks done since the last commit are repeated
            after a crash.
        topic_check_interval: How often to check for missing topics.
        most_open: How far a partition is read past its first unfinished task.
        stuck_retry_interval: How often a partition with an unreadable batch is retried.
        max_unpacked_bytes: The size to which a batch may unpack; a larger one is skipped.
        loop: How long to drain.
    """

    commit_interval: timedelta = timedelta(seconds=1)
    topic_check_interval: timedelta = timedelta(seconds=5)
    most_open: int = 10_000
    stuck_retry_interval: timedelta = timedelta(minutes=1)
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES
    loop: LoopSettings = field(default_factory=LoopSettings)


class WorkerRunner:
    """Runs a worker on Kafka."""

    def __init__(
        self,
        worker: Worker,
        connection: KafkaConnection,
        *,
        clock: Clock,
        settings: WorkerSettings | None = None,
        metrics: WorkerMetrics | None = None,
        spans: Spans | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Raises:
            DeclarationError: The worker has no functions.
        """
        if not worker.topics:
            raise DeclarationError(f"worker {worker.name!r} has no functions: declare one with @worker.task")
        self._worker = worker
        self._connection = connection
        self._clock = clock
        self._settings = settings or WorkerSettings()
        self._metrics = metrics
        self._spans = spans
        self._port: KafkaTasks | None = None
        self._stop: asyncio.Event | None = None

    def problems(self) -> dict[str, str]:
        """The problems that keep it from doing tasks now, by name; empty if it is ready."""
        if self._port is None or self._stop is None:
            return {"worker": "not running"}
        return {"worker": "draining"} if self._stop.is_set() else self._port.problems()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then drain: finish and answer running tasks, commit, leave the group.

        It waits for a broker that can't be reached, at the start and later.
        """
        port = KafkaTasks(self._worker, self._connection, clock=self._clock, settings=self._settings)
        self._port, self._stop = port, stop
        loop = WorkerLoop(
            self._worker,
            port,
            clock=self._clock,
            settings=self._settings.loop,
            metrics=self._metrics,
            spans=self._spans,
        )
        log.info(events.WORKER_STARTED, worker=self._worker.name, topics=sorted(self._worker.topics))
        try:
            async with port.producer.running(), asyncio.TaskGroup() as children:
                committing = children.create_task(port.keep_offsets())
                await loop.run(stop)
                committing.cancel()
        finally:
            await port.close()
            log.info(events.WORKER_STOPPED, worker=self._worker.name)


class KafkaTasks:
    """The worker's port, on aiokafka.

    Attributes:
        producer: Sends the answers; the caller runs it.
    """

    def __init__(
        self, worker: Worker, connection: KafkaConnection, *, clock: Clock, settings: WorkerSettings
    ) -> None:
        self._worker = worker
        self._connection = connection
        self._clock = clock
        self._settings = settings
        self.producer = Producer(connection, clock, errors=ConnectionErrorLog(connection, client="producer"))
        self._answers = AnswerSender(self.producer, connection, clock=clock)
        self._revocations = Revocations(connection)
        self._offsets = OffsetTracker()
        self._letter_topics = {dead_letter_topic(topic) for topic in worker.topics}
        self._consumer: AIOKafkaConsumer | None = None
        self._reader: GroupReader | None = None
        self._subscribed: frozenset[str] = frozenset()
        self._missing: frozenset[str] = frozenset()
        self._outages = Outages(clock.monotonic)
        self._has_assignment = False
        self._topics_checked_at = float("-inf")
        self._denial = ConnectionErrorLog(connection, client="consumer")

    async def receive(self, limit: int) -> Sequence[Incoming]:
        """As `TaskPort.receive`."""
        reader = self._reader or await self._join()
        try:
            await self._look_for_topics()
            if not self._subscribed:
                await asyncio.sleep(POLL_MS / 1000)
                return []
            records = await reader.poll(limit)
        except KafkaError as error:
            await self._leave(error)
            return []
        for record in records:
            self._offsets.start((record.topic, record.partition), record.offset)
        return [_incoming(record) for record in records]

    async def send(self, record: Outgoing) -> None:
        """As `TaskPort.send`."""
        if record.topic in self._letter_topics:
            await self._answers.send_dead_letter(record)
        else:
            await self._answers.send(record)

    def watch(self, topic: str, since_ms: int) -> None:
        """As `TaskPort.watch`."""
        self._revocations.watch(topic, since_ms)

    def why_over(self, awakeable_id: str) -> OverReason | None:
        """As `TaskPort.why_over`."""
        return self._revocations.why_over(awakeable_id)

    def drain(self) -> None:
        """As `TaskPort.drain`."""
        self._answers.drain()

    def acknowledge(self, record: Incoming) -> None:
        """As `TaskPort.acknowledge`."""
        self._offsets.finish((record.topic, record.partition), record.offset)

    def problems(self) -> dict[str, str]:
        """The problems that keep tasks from being read and answered, by name.

        A member to which the group assigns no partition is ready: it is on standby.
        """
        problems = {f"topic {topic}": "there is no such topic" for topic in sorted(self._missing)}
        if self._consumer is None:
            problems["consumer"] = "not connected to Kafka; the log says why"
        elif not self._has_assignment and self._worker.topics != self._missing:
            problems["consumer"] = "no partitions are assigned yet"
        if not self.producer.connected:
            problems["producer"] = "not connected to Kafka; the log says why"
        for partition in self._reader.stuck if self._reader else ():
            name = f"partition {partition.topic}:{partition.partition}"
            problems[name] = "is stopped at a batch that can't be opened"
        return problems

    async def keep_offsets(self) -> None:
        """Commit at intervals until cancelled."""
        while True:
            await asyncio.sleep(self._settings.commit_interval.total_seconds())
            await self.commit()

    async def commit(self) -> None:
        """Commit finished tasks; after a failure, a crash would only repeat some of them."""
        consumer = self._consumer
        if consumer is None:
            return
        mine = consumer.assignment()
        offsets = {
            place: offset
            for place, offset in self._offsets.committable().items()
            if TopicPartition(*place) in mine
        }
        if not offsets:
            return
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await consumer.commit({TopicPartition(*place): offset for place, offset in offsets.items()})
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            failures = self._outages.failed(events.OFFSETS_NOT_COMMITTED)
            if failures is not None:
                log.info(
                    events.OFFSETS_NOT_COMMITTED,
                    worker=self._worker.name,
                    failures=failures,
                    error=error_text(error),
                )
        else:
            self._outages.succeeded(events.OFFSETS_NOT_COMMITTED)
            self._offsets.commit(offsets)

    async def close(self) -> None:
        """Commit, leave the group, release the clients."""
        await self.commit()
        await self._revocations.close()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await close_consumer(consumer)

    async def _join(self) -> GroupReader:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        errors = ConnectionErrorLog(self._connection, client="consumer")
        while True:
            consumer = AIOKafkaConsumer(
                **self._connection.consumer_options(),
                **self._connection.group_options(),
                group_id=self._worker.name,
                auto_offset_reset="earliest",
            )
            try:
                async with asyncio.timeout(self._connection.request_timeout.total_seconds()):
                    await consumer.start()
            except NO_CONNECTION as error:
                await close_consumer(consumer)
                await errors.explain(error)
                await asyncio.sleep(backoff.next_s())
            except BaseException:
                await close_consumer(consumer)
                raise
            else:
                errors.recovered()
                self._consumer = consumer
                self._subscribed = frozenset()
                self._topics_checked_at = float("-inf")
                self._reader = GroupReader(
                    consumer,
                    self._connection,
                    self._clock,
                    group=self._worker.name,
                    stuck_retry_s=self._settings.stuck_retry_interval.total_seconds(),
                    max_unpacked_bytes=self._settings.max_unpacked_bytes,
                    is_full=self._is_full,
                    leave_out=self._leave_out,
                )
                return self._reader

    async def _leave(self, error: Exception) -> None:
        """Close a consumer whose group has failed; the next call joins with a new one."""
        if isinstance(error, DENIED):
            await self._denial.explain(error)
        else:
            log.warning(
                events.CLIENT_REPLACED, client="consumer", worker=self._worker.name, error=error_text(error)
            )
        consumer, self._consumer, self._reader = self._consumer, None, None
        self._has_assignment = False
        self._forget_partitions(consumer.assignment() if consumer else ())
        if consumer is not None:
            await close_consumer(consumer)
        # Fixed: asking more often gains nothing until an operator grants access; and after other errors
        # `_join` backs off by itself while the broker is out of reach.
        await asyncio.sleep(LONGEST_PAUSE_S if isinstance(error, DENIED) else FIRST_PAUSE_S)

    async def _look_for_topics(self) -> None:
        """Subscribe to the topics that exist.

        Subscribing to a missing one would create it on many brokers, with the wrong number of partitions,
        and blocks aiokafka's start on the others.
        """
        if self._subscribed == self._worker.topics:
            return
        now = self._clock.monotonic()
        if now - self._topics_checked_at < self._settings.topic_check_interval.total_seconds():
            return
        self._topics_checked_at = now
        try:
            missing = frozenset(await missing_topics(self._connection, self._worker.topics))
        except BrokerUnavailable as error:
            failures = self._outages.failed(events.BROKER_DOWN)
            if failures is not None:
                log.warning(events.BROKER_DOWN, client="consumer", failures=failures, error=str(error))
            return
        self._outages.succeeded(events.BROKER_DOWN)
        there = self._worker.topics - missing
        if missing - self._missing:
            log.error(
                events.TOPIC_MISSING,
                worker=self._worker.name,
                topics=sorted(missing),
                error="`awakeables topics create` with --worker creates them; if it is the broker of "
                "`awakeables dev`, start that with --worker or --task-topic",
            )
        self._missing = missing
        if there != self._subscribed and self._consumer is not None:
            self._consumer.subscribe(sorted(there), listener=_Listener(self))
            self._subscribed = there

    async def assigned(self, partitions: Collection[TopicPartition]) -> None:
        """Begin with partitions, none of which is paused in a new assignment."""
        self._has_assignment = True
        if self._reader is not None:
            self._reader.forget()
        self._denial.recovered()
        log.info(events.PARTITIONS_ASSIGNED, worker=self._worker.name, partitions=_shown(partitions))

    async def revoked(self, partitions: Collection[TopicPartition]) -> None:
        """Commit what is possible, and forget the partitions: other members may read them from now on."""
        if self._reader is not None:
            self._reader.forget()
        await self.commit()
        self._forget_partitions(partitions)

    def _forget_partitions(self, partitions: Iterable[TopicPartition]) -> None:
        self._offsets.forget([(partition.topic, partition.partition) for partition in partitions])

    async def _leave_out(self, partition: TopicPartition, batch: OversizedBatch) -> None:
        """Report a batch that is too large to be unpacked as one dead letter."""
        place, last = (partition.topic, partition.partition), batch.next - 1
        lost = Incoming(topic=partition.topic, partition=partition.partition, offset=batch.first)
        log.error(
            events.TASK_UNREADABLE,
            worker=self._worker.name,
            topic=partition.topic,
            offset=batch.first,
            reason=batch.reason,
        )
        self._offsets.start(place, last)
        with suppress(BrokerUnavailable):  # the port drains: the batch comes again, to the next worker
            await self.send(dead_letter(lost, "unreadable", batch.reason))
            self._offsets.finish(place, last)

    def _is_full(self, partition: TopicPartition) -> bool:
        return self._offsets.unfinished((partition.topic, partition.partition)) >= self._settings.most_open


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """Notifies the port of rebalances. aiokafka logs and swallows what these methods raise."""

    def __init__(self, tasks: KafkaTasks) -> None:
        self._tasks = tasks

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._tasks.revoked(revoked)

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        await self._tasks.assigned(assigned)


def _incoming(record: ConsumerRecord[Any, Any]) -> Incoming:
    return Incoming(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )


def _shown(partitions: Iterable[TopicPartition]) -> list[str]:
    return sorted(f"{partition.topic}:{partition.partition}" for partition in partitions)
