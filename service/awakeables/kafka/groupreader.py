"""Reads the partitions that a consumer group member is assigned, in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.tolerant import (
    NOWHERE,
    OversizedBatch,
    TolerantReader,
    UnreadableBatch,
    raise_group_error,
)
from awakeables.kafka.unpacking import bounded
from awakeables.ports import Clock
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

POLL_MS = 200
"""How long one poll waits; a request to stop is noticed after this long at the latest."""


class GroupReader:
    """Takes records from the partitions of one consumer, beginning with a different one each time.

    A partition with a batch that can't be opened is paused, and retried after a while.

    Attributes:
        stuck: Since when each of those partitions is paused, by the monotonic clock.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        connection: KafkaConnection,
        clock: Clock,
        *,
        group: str,
        stuck_retry_s: float,
        max_unpacked_bytes: int,
        is_full: Callable[[TopicPartition], bool],
        leave_out: Callable[[TopicPartition, OversizedBatch], Awaitable[None]],
    ) -> None:
        """Read from a consumer.

        Args:
            consumer: A started consumer.
            connection: Where Kafka is.
            clock: Time.
            group: The group's name, for the log.
            stuck_retry_s: How soon such a partition is retried.
            max_unpacked_bytes: The size to which a batch may unpack.
            is_full: Whether a partition must not be read further for now.
            leave_out: Called with a batch that is too large to be unpacked, before it is skipped.
        """
        self.stuck: dict[TopicPartition, float] = {}
        self._consumer = consumer
        self._connection = connection
        self._clock = clock
        self._group = group
        self._stuck_retry_s = stuck_retry_s
        self._max_unpacked_bytes = max_unpacked_bytes
        self._is_full = is_full
        self._leave_out = leave_out
        self._readers: dict[TopicPartition, TolerantReader] = {}
        self._turn = 0
        self._changes = 0

    def forget(self) -> None:
        """Forget positions and pauses, because the assignment has changed."""
        self._changes += 1
        for reader in self._readers.values():
            reader.detach()
        self._readers.clear()
        self.stuck.clear()

    async def poll(self, limit: int) -> Sequence[ConsumerRecord]:
        """Up to `limit` records; with 0 none, which only keeps the member in the group.

        Raises:
            KafkaError: The group can't be used.
        """
        readable = self._readable(limit)
        if not readable:
            await self._consumer.getmany(NOWHERE, timeout_ms=POLL_MS if limit else 0)
            return ()
        records: list[ConsumerRecord] = []
        changes = self._changes
        careful = any(reader.is_careful for reader in self._readers.values())
        if not careful:
            records += await self._poll_any()
        if records or careful:
            for partition in readable:
                if len(records) < limit:
                    timeout_ms = POLL_MS // 4 if careful and not records else 0
                    records += await self._read(partition, limit - len(records), timeout_ms)
        while changes != self._changes:
            changes = self._changes
            records = [record for record in records if await self._is_passed(record)]
        return records

    async def _is_passed(self, record: ConsumerRecord) -> bool:
        """Whether a record was read since the last rebalance.

        What was read before it is read again, from where its partition was committed, and with it what was
        not finished then.
        """
        place, position = TopicPartition(record.topic, record.partition), 0
        with suppress(TimeoutError, kafka.IllegalStateError):
            async with asyncio.timeout(POLL_MS / 1000):
                position = await self._consumer.position(place)
        return bool(position > record.offset)

    async def _poll_any(self) -> Sequence[ConsumerRecord]:
        """Wait for a record of any partition.

        Only one: if a partition makes the call raise, a larger poll would lose what it has taken from the
        others. The error doesn't say which partition it was, so each is then read by itself, carefully.
        """
        try:
            with bounded(self._max_unpacked_bytes):
                batches = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=1)
        except Exception as error:  # for a batch that can't be opened, any error of its codec
            await raise_group_error(self._consumer)
            log.warning(events.FETCH_FAILED, worker=self._group, error=repr(error))
            with suppress(kafka.IllegalStateError):  # a rebalance has taken a partition away
                for partition in self._consumer.assignment():
                    with suppress(TimeoutError):
                        (await self._reader(partition)).be_careful()
            return ()
        for partition, records in batches.items():
            (await self._reader(partition)).position = records[-1].offset + 1
        return [record for records in batches.values() for record in records]

    async def _read(self, partition: TopicPartition, limit: int, timeout_ms: int) -> Sequence[ConsumerRecord]:
        try:
            reader = await self._reader(partition)
            return await reader.read(limit, timeout_ms=timeout_ms)
        except OversizedBatch as batch:
            await self._leave_out(partition, batch)
            reader.go_to(batch.next)
        except (UnreadableBatch, kafka.TopicAuthorizationFailedError) as error:
            self._set_aside(partition, error)
        except kafka.IllegalStateError:
            pass  # a rebalance has taken the partition away
        except TimeoutError:
            pass  # the next turn asks for its position again
        return ()

    async def _reader(self, partition: TopicPartition) -> TolerantReader:
        """Its reader.

        Raises:
            TimeoutError: Its position is not known yet. aiokafka asks for it only while it has a leader.
        """
        reader = self._readers.get(partition)
        if reader is None:
            async with asyncio.timeout(POLL_MS / 1000):
                position = await self._consumer.position(partition)
            reader = self._readers[partition] = TolerantReader(
                self._consumer,
                partition,
                self._connection,
                position=position,
                max_unpacked_bytes=self._max_unpacked_bytes,
            )
        return reader

    def _set_aside(self, partition: TopicPartition, error: Exception) -> None:
        self._consumer.pause(partition)
        self.stuck[partition] = self._clock.monotonic()
        log.error(
            events.PARTITION_STUCK,
            worker=self._group,
            topic=partition.topic,
            partition=partition.partition,
            error=str(error),
        )

    def _readable(self, limit: int) -> list[TopicPartition]:
        """The partitions to read now, beginning with a different one each time; the others are paused."""
        now_s = self._clock.monotonic()
        self.stuck = {
            place: since_s for place, since_s in self.stuck.items() if now_s - since_s < self._stuck_retry_s
        }
        paused = self._consumer.paused()
        readable: list[TopicPartition] = []
        for partition in self._consumer.assignment():
            if limit and partition not in self.stuck and not self._is_full(partition):
                readable.append(partition)
                if partition in paused:
                    self._consumer.resume(partition)
            elif partition not in paused:
                self._consumer.pause(partition)
        self._turn += 1
        start = self._turn % len(readable) if readable else 0
        return readable[start:] + readable[:start]
