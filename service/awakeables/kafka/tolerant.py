"""Reads a partition despite batches that aiokafka can't read (K2).

A batch that aiokafka can't open makes `getmany` raise, and the good records before it are lost with it.
Then the partition is read record by record up to the bad batch, which is examined: records whose header
names are not UTF-8 are decoded leniently, a batch that would unpack to more than the limit must be
skipped, and any other can't be opened at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka

from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.lenient import fetch_leniently, next_batch, oversized_batch
from awakeables.kafka.unpacking import BatchTooLarge, bounded, unpacked_size

Records: TypeAlias = Sequence[ConsumerRecord]

AS_THEY_ARE = (
    kafka.OffsetOutOfRangeError,
    kafka.ConsumerStoppedError,
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.IllegalStateError,
)
"""Errors of `getmany` that say nothing of a batch."""

NOWHERE = TopicPartition("", -1)
"""Not a real partition: polling it returns no records, but raises errors of the consumer's group."""


class UnreadableBatch(Exception):
    """A batch can't be opened; everything before it was returned.

    Attributes:
        offset: The reader's position: at the batch, or, if compacted records are in between, before it.
        next: The offset after the batch; None if it is unknown.
    """

    def __init__(self, partition: TopicPartition, offset: int, next_: int | None, cause: Exception) -> None:
        super().__init__(
            f"partition {partition.partition} of {partition.topic}: the batch at or after offset {offset} "
            f"can't be opened: {cause!r}"
        )
        self.offset = offset
        self.next = next_


class OversizedBatch(Exception):
    """A batch would unpack to more than the limit; everything before it was returned.

    Such a batch is probably an attack, and must not stop the partition: report it, and continue with
    `go_to(next)`.

    Attributes:
        first: Its first offset, or the reader's position, if that is within it.
        next: The offset after it.
        reason: The reason for its dead letter.
    """

    def __init__(self, first: int, next_: int, cause: Exception) -> None:
        reason = f"the batch with the offsets {first} to {next_ - 1} is left out: {cause}; the topic has it"
        super().__init__(reason)
        self.first = first
        self.next = next_
        self.reason = reason


class TolerantReader:
    """Reads one partition of a consumer, which may have others.

    Attributes:
        position: The next offset to read.
        polling: Whether `getmany` is under way. To cancel that breaks the consumer, which then no longer
            notices that it is not polled: its bookkeeping has no `finally`.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partition: TopicPartition,
        connection: KafkaConnection,
        *,
        position: int,
        max_unpacked_bytes: int,
    ) -> None:
        """Begin at `position`, which must also be the consumer's position.

        Args:
            consumer: A consumer that is assigned the partition.
            partition: The partition to read.
            connection: Where Kafka is, for batches that the consumer can't read.
            position: The first offset to read.
            max_unpacked_bytes: Maximum size of an unpacked batch, and of one read.
        """
        self.position = position
        self.polling = False
        self._consumer = consumer
        self._partition = partition
        self._connection = connection
        self._max_unpacked_bytes = max_unpacked_bytes
        self._one_by_one = False
        self._detached = False

    @property
    def is_careful(self) -> bool:
        """Whether it reads record by record, because of a batch ahead that can't be read."""
        return self._one_by_one

    def detach(self) -> None:
        """Stop moving the consumer: it may have been assigned the partition again, at another position."""
        self._detached = True

    def go_to(self, offset: int) -> None:
        """Continue from this offset."""
        self.position = offset
        if not self._detached:
            self._consumer.seek(self._partition, offset)

    def be_careful(self) -> None:
        """Read from the position again, record by record."""
        self._one_by_one = True
        self.go_to(self.position)

    async def read(self, limit: int, *, timeout_ms: int) -> Records:
        """Up to `limit` records; none if none came in time, or after a failure that the next read examines.

        Raises:
            UnreadableBatch: The next batch can't be opened; the next read tries again.
            OversizedBatch: The next batch is too large to be unpacked.
            KafkaError: The consumer itself, or its group, has failed; or the next records were deleted
                (`OffsetOutOfRangeError`).
        """
        try:
            if self._one_by_one:
                return await self._read_one_by_one(limit, timeout_ms)
            return await self._poll(limit, timeout_ms)
        except _Unreadable as failed:
            if not self._one_by_one:
                self.be_careful()
                return ()
            self.go_to(self.position)
            return await self._look_closer(failed.cause, limit)

    async def _read_one_by_one(self, limit: int, timeout_ms: int) -> Records:
        """Read up to the batch that can't be read; return to normal if the end is reached without one."""
        records: list[ConsumerRecord] = []
        room = self._max_unpacked_bytes
        try:
            while len(records) < limit and room > 0:
                found = await self._poll(1, 0 if records else timeout_ms)
                if not found:
                    self._one_by_one = bool(records)
                    break
                records += found
                room -= unpacked_size(found[0])
        except _Unreadable:
            if not records:
                raise
            self.go_to(self.position)
        return records

    async def _look_closer(self, cause: Exception, limit: int) -> Records:
        try:
            if isinstance(cause, UnicodeDecodeError):
                records = await fetch_leniently(
                    self._connection, self._partition, self.position, limit, self._max_unpacked_bytes
                )
                if records:
                    self.go_to(records[-1].offset + 1)
                    return records
            if isinstance(cause, BatchTooLarge):
                place = await oversized_batch(
                    self._connection, self._partition, self.position, self._max_unpacked_bytes
                )
                if place is not None:
                    raise OversizedBatch(*place, cause)
        except NO_CONNECTION:
            return ()  # the next read tries again
        try:
            following = await next_batch(self._connection, self._partition, self.position)
        except NO_CONNECTION:
            following = None
        raise UnreadableBatch(self._partition, self.position, following, cause) from cause

    async def _poll(self, limit: int, timeout_ms: int) -> Records:
        self.polling = True
        try:
            with bounded(self._max_unpacked_bytes):
                batches = await self._consumer.getmany(
                    self._partition, timeout_ms=timeout_ms, max_records=limit
                )
        except AS_THEY_ARE:
            raise
        except Exception as error:
            # Codecs raise different errors: gzip an OSError, cramjam its own.
            await raise_group_error(self._consumer)
            raise _Unreadable(error) from error
        finally:
            self.polling = False
        records: Records = batches.get(self._partition, ())
        if records:
            self.position = records[-1].offset + 1
        return records


class _Unreadable(Exception):
    """`getmany` failed because of something in the partition."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


async def raise_group_error(consumer: AIOKafkaConsumer) -> None:
    """Raise an error of the consumer's group, if there is one; `getmany` raises those of partitions as well.

    Raises:
        KafkaError: The group's.
    """
    await consumer.getmany(NOWHERE)
