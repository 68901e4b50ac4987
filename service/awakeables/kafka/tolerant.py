"""Reads a partition past what aiokafka alone can't read (K2).

A batch that aiokafka can't open makes `getmany` raise, and the good records before it go down with
it. Then the partition is read record by record up to the bad batch, and that is looked at closer:
records whose header names are not UTF-8 are decoded leniently, a batch that would unpack to more
than the limit is to be left out, and any other can't be opened at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka

from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.lenient import fetch_leniently, next_batch, oversized_batch
from awakeables.kafka.unpacking import BatchTooLarge, bounded

Records: TypeAlias = Sequence[ConsumerRecord]

NOWHERE = TopicPartition("", -1)
"""No partition: to poll it brings no records, only the errors of the consumer's group."""


class UnreadableBatch(Exception):
    """A batch can't be opened; everything before it was handed out.

    Attributes:
        offset: Where the reader stands: at the batch, or, behind compacted records, before it.
        next: The offset behind the batch; None if that can't be found out.
    """

    def __init__(self, partition: TopicPartition, offset: int, next_: int | None, cause: Exception) -> None:
        super().__init__(
            f"partition {partition.partition} of {partition.topic}: the batch at or after offset {offset} "
            f"can't be opened: {cause!r}"
        )
        self.offset = offset
        self.next = next_


class OversizedBatch(Exception):
    """A batch would unpack to more than the limit; everything before it was handed out.

    Only an attacker writes such a batch, and must not stop the partition with it: report it, and
    read on with `go_to(next)`.

    Attributes:
        first: Its first offset, or where the reader stands, if that is within it.
        next: The offset behind it.
        reason: What a dead letter says of it.
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
        position: The offset to be read next.
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
        """Stand at `position`; the consumer must stand there, too.

        Args:
            consumer: It is assigned the partition.
            partition: What is read.
            connection: Where Kafka is, for what the consumer can't read.
            position: The offset to begin with.
            max_unpacked_bytes: Bound of what a batch may unpack to, and of what one read returns.
        """
        self.position = position
        self._consumer = consumer
        self._partition = partition
        self._connection = connection
        self._max_unpacked_bytes = max_unpacked_bytes
        self._one_by_one = False
        self._detached = False

    @property
    def is_careful(self) -> bool:
        """Whether it reads record by record, because something before the end can't be read."""
        return self._one_by_one

    def detach(self) -> None:
        """Move the consumer no more: the partition may have been assigned to it again, to begin elsewhere."""
        self._detached = True

    def go_to(self, offset: int) -> None:
        """Read on from here."""
        self.position = offset
        if not self._detached:
            self._consumer.seek(self._partition, offset)

    def be_careful(self) -> None:
        """Read from the position again, record by record."""
        self._one_by_one = True
        self.go_to(self.position)

    async def read(self, limit: int, *, timeout_ms: int) -> Records:
        """Up to `limit` records; none if none came in time, or after a failure that `read` looks into.

        Raises:
            UnreadableBatch: It stands before a batch that can't be opened; the next read tries again.
            OversizedBatch: It stands before one that is too large to be unpacked.
            KafkaError: The consumer itself, or its group, has failed; or records that are to be read
                were deleted (`OffsetOutOfRangeError`).
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
        """Read up to what can't be read; and as usual again once the end was reached without it."""
        records: list[ConsumerRecord] = []
        room = self._max_unpacked_bytes
        try:
            while len(records) < limit and room > 0:
                found = await self._poll(1, 0 if records else timeout_ms)
                if not found:
                    self._one_by_one = bool(records)
                    break
                records += found
                room -= len(found[0].value or b"")
        except _Unreadable:
            if not records:
                raise
            self.go_to(self.position)
        return records

    async def _look_closer(self, cause: Exception, limit: int) -> Records:
        try:
            if isinstance(cause, UnicodeDecodeError):
                records = (await fetch_leniently(self._connection, self._partition, self.position))[:limit]
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
            return ()  # the next read looks again
        try:
            following = await next_batch(self._connection, self._partition, self.position)
        except NO_CONNECTION:
            following = None
        raise UnreadableBatch(self._partition, self.position, following, cause) from cause

    async def _poll(self, limit: int, timeout_ms: int) -> Records:
        try:
            with bounded(self._max_unpacked_bytes):
                batches = await self._consumer.getmany(
                    self._partition, timeout_ms=timeout_ms, max_records=limit
                )
        except (kafka.OffsetOutOfRangeError, kafka.ConsumerStoppedError, kafka.TopicAuthorizationFailedError):
            raise
        except Exception as error:
            # A codec raises what it likes: gzip an OSError, cramjam an error of its own.
            await raise_group_error(self._consumer)
            raise _Unreadable(error) from error
        records: Records = batches.get(self._partition, ())
        if records:
            self.position = records[-1].offset + 1
        return records


class _Unreadable(Exception):
    """`getmany` has failed at something in the partition."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


async def raise_group_error(consumer: AIOKafkaConsumer) -> None:
    """Tell an error of the consumer's group from one of a partition, which `getmany` raises alike.

    Raises:
        KafkaError: The group's.
    """
    await consumer.getmany(NOWHERE)
