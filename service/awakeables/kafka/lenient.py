r"""Reads what aiokafka refuses: records with a header name that is not UTF-8, headers of broken batches.

In Kafka a header's name can be any bytes, but aiokafka decodes it strictly: one such record makes its
whole batch unreadable, and K2 promises that one bad record never stops a partition. So that batch is
fetched once more and decoded here, with bad bytes as `\xff`. This takes another connection, and is rare.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, SupportsIndex

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import _DefaultRecordBatchPy

from awakeables.kafka.closing import close_client
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.unpacking import BatchTooLarge, bounded

BATCH_HEAD = struct.Struct(">qi")
"""A batch's first offset, and how many bytes follow."""

LAST_OFFSET = struct.Struct(">i")
LAST_OFFSET_AT = 23
"""Where a batch of version 2, which all brokers since 0.11 write, has its last offset, less the first."""

MAX_WAIT_MS = 1000
MAX_BYTES = 1024 * 1024
"""How much a fetch asks for; a larger first batch is sent completely anyway."""


async def fetch_leniently(
    connection: KafkaConnection, partition: TopicPartition, offset: int, limit: int, most_bytes: int
) -> Sequence[ConsumerRecord]:
    """The first records of one fetch from this offset on, up to one that can't be read at all.

    Args:
        connection: Where Kafka is.
        partition: The partition to read.
        offset: The first offset to read.
        limit: How many records at most.
        most_bytes: The size to which a batch may unpack; and no further record is read once those that were
            reach it together.

    Raises:
        KafkaError: The broker did not answer, or refused.
    """
    data, aborted = await _fetch(connection, partition, offset)
    return _decode(partition, data, aborted, offset, limit, most_bytes)


async def next_batch(connection: KafkaConnection, partition: TopicPartition, offset: int) -> int | None:
    """The offset after the batch at this one, from its header, which is never compressed.

    None if there is no such batch.

    Raises:
        KafkaError: The broker did not answer, or refused.
    """
    data, _ = await _fetch(connection, partition, offset)
    for batch in _slices(data):
        if len(batch) < LAST_OFFSET_AT + LAST_OFFSET.size:
            return None
        base, _ = BATCH_HEAD.unpack_from(batch)
        (last,) = LAST_OFFSET.unpack_from(batch, LAST_OFFSET_AT)
        if base + last >= offset:
            following: int = base + last + 1
            return following
    return None


async def oversized_batch(
    connection: KafkaConnection, partition: TopicPartition, offset: int, most_bytes: int
) -> tuple[int, int] | None:
    """The first batch from this offset on that unpacks to more: its first offset, and the one after it.

    None if the broker has none.

    Raises:
        KafkaError: The broker did not answer, or refused.
    """
    while True:
        data, _ = await _fetch(connection, partition, offset)
        behind = offset
        for batch in _batches(data):
            if batch.next_offset > offset and _unpacks_to_more(batch, most_bytes):
                return max(batch.base_offset, offset), batch.next_offset
            behind = max(behind, batch.next_offset)
        if behind == offset:
            return None
        offset = behind


def _batches(data: bytes) -> Iterator[_DefaultRecordBatchPy]:
    for batch in _slices(data):
        if len(batch) < _DefaultRecordBatchPy.HEADER_STRUCT.size:
            return
        yield _DefaultRecordBatchPy(batch)


def _unpacks_to_more(batch: _DefaultRecordBatchPy, most_bytes: int) -> bool:
    try:
        with bounded(most_bytes):
            batch._maybe_uncompress()
    except BatchTooLarge:
        return True
    except Exception:  # it is damaged in another way, not too large
        return False
    return False


async def _fetch(connection: KafkaConnection, partition: TopicPartition, offset: int) -> tuple[bytes, Any]:
    """The bytes of one fetch from this offset on, and the transactions in it that were aborted."""
    client = AIOKafkaClient(**connection.client_options())
    try:
        await client.bootstrap()
        await client.add_topic(partition.topic)
        leader = client.cluster.leader_for_partition(partition)
        if leader is None or leader < 0:
            raise kafka.LeaderNotAvailableError(partition)
        part = (partition.partition, offset, MAX_BYTES)
        request = FetchRequest(MAX_WAIT_MS, 1, MAX_BYTES, READ_COMMITTED, [(partition.topic, [part])])
        response = await client.send(leader, request)
    finally:
        await close_client(client)
    [(_, [(_, code, *_, data)])] = response.topics
    if code:
        raise kafka.for_code(code)(partition)
    [(_, [row])] = response.topics
    # From version 11 on, the preferred replica is between the aborted transactions and the data.
    aborted = row[-3] if response.API_VERSION >= 11 else row[-2]
    return data, aborted


def _decode(
    partition: TopicPartition, data: bytes, aborted: Any, offset: int, limit: int, most_bytes: int
) -> Sequence[ConsumerRecord]:
    records: list[ConsumerRecord] = []
    # Looked up now: `unpacking` has put its own class there, which keeps to the limit.
    decoding = fetcher.PartitionRecords(
        partition, _LenientBatches(data), aborted, offset, None, None, False, READ_COMMITTED
    )
    # Records that are unreadable for another reason are left to the next read, which reports them.
    with suppress(Exception), bounded(most_bytes):
        records.extend(islice(decoding, limit))
    return records


class _LenientBatches:
    """Replaces aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._slices = _slices(data)
        self._next = next(self._slices, None)

    def has_next(self) -> bool:
        return self._next is not None

    def next_batch(self) -> _DefaultRecordBatchPy:
        batch = _DefaultRecordBatchPy(self._next or b"")
        if not batch.validate_crc():
            raise kafka.CorruptRecordException(f"the checksum of a batch at {batch.base_offset} is wrong")
        batch._maybe_uncompress()
        batch._buffer = _LenientText(batch._buffer)
        self._next = next(self._slices, None)
        return batch


def _slices(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + BATCH_HEAD.size <= len(data):
        _, length = BATCH_HEAD.unpack_from(data, at)
        end = at + BATCH_HEAD.size + length
        if end > len(data):
            return
        yield data[at:end]
        at = end


class _LenientText(bytearray):
    """Bytes of which every slice can be decoded."""

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        got = super().__getitem__(place)
        return _LenientText(got) if isinstance(got, bytearray) else got

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")
