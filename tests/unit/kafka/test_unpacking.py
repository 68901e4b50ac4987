"""What a batch unpacks to is bounded before it is unpacked, whatever its codec and however it lies."""

from __future__ import annotations

import gzip
import tracemalloc
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition, codec
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from awakeables.kafka import lenient
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.unpacking import BatchTooLarge, bounded

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PARTITION = TopicPartition("t", 0)
MIB = 1024 * 1024


def batch(codec_name: str, *values: bytes, first: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=CODECS[codec_name],
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=10**9,
    )
    for offset, value in enumerate(values):
        builder.append(offset, timestamp=1, key=None, value=value, headers=[])
    built = bytearray(builder.build())
    built[:8] = first.to_bytes(8, "big")  # outside what the checksum is over
    return bytes(built)


def read(data: bytes, offset: int = 0) -> Any:
    """The records of what was fetched, as aiokafka's consumer unpacks them."""
    return fetcher.PartitionRecords(
        PARTITION, MemoryRecords(data), None, offset, None, None, True, READ_COMMITTED
    )


@pytest.mark.parametrize("codec_name", CODECS)
def test_case_w11_what_fits_is_read_as_it_is(codec_name: str) -> None:
    values = [b"a" * 300_000, b"", bytes(range(256)) * 100]
    with bounded(MIB):
        assert [record.value for record in read(batch(codec_name, *values))] == values
    assert [record.value for record in read(batch(codec_name, *values))] == values


@pytest.mark.parametrize("codec_name", [name for name in CODECS if name != "none"])
def test_case_w11_a_small_batch_that_unpacks_to_a_large_one_is_not_unpacked(codec_name: str) -> None:
    data = batch(codec_name, b"a" * (40 * MIB))
    assert len(data) < 2 * MIB
    records = read(data)
    tracemalloc.start()
    try:
        with bounded(MIB), pytest.raises(BatchTooLarge, match="more than 1,048,576 bytes"):
            next(records)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


def test_case_w11_a_consumer_without_our_limit_is_unaffected() -> None:
    assert len(next(read(batch("gzip", b"a" * (40 * MIB)))).value) == 40 * MIB


def test_case_w11_many_batches_that_fit_are_handed_out_a_few_at_a_time() -> None:
    """A fetch of 1 MiB may hold sixty batches of which each unpacks to 16 MiB."""
    log = [batch("gzip", b"a" * MIB, first=n) for n in range(10)]
    offset, sizes = 0, []
    while offset < 10:
        records = read(b"".join(log[offset:]), offset)
        with bounded(2 * MIB):
            taken = [record.offset for record in records]
        sizes.append(len(taken))
        offset = records.next_fetch_offset
    assert sizes == [2] * 5


async def test_case_w11_batches_that_are_read_leniently_are_handed_out_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever writes an odd header may write batches behind it that unpack to a lot."""
    log = [batch("zstd", bytes(MIB), first=n) for n in range(10)]

    async def fetched(_connection: Any, _partition: Any, offset: int) -> tuple[bytes, Any]:
        return b"".join(log[offset:]), None

    monkeypatch.setattr(lenient, "_fetch", fetched)
    connection = KafkaConnection(bootstrap="127.0.0.1:1")
    for limit, most_bytes, expected in ((100, 2 * MIB, [3, 4]), (1, 2 * MIB, [3]), (100, MIB - 1, [])):
        tracemalloc.start()
        found = await lenient.fetch_leniently(connection, PARTITION, 3, limit, most_bytes)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert [record.offset for record in found] == expected
        assert peak < 12 * MIB


@pytest.mark.parametrize("codec_name", [name for name in CODECS if name != "none"])
def test_case_w11_a_damaged_batch_is_reported_as_damaged(codec_name: str) -> None:
    packed = {
        "gzip": gzip.compress(b"a" * 1000),
        "snappy": codec.snappy_encode(b"a" * 1000),
        "lz4": codec.lz4_encode(b"a" * 1000),
        "zstd": codec.zstd_encode(b"a" * 1000),
    }[codec_name]
    for damaged in (packed[: len(packed) // 2], packed[:-8] + b"\xff" * 8):
        with bounded(MIB), pytest.raises(Exception) as caught:  # noqa: PT011 - each codec has its own
            _decode(codec_name, damaged)
        assert not isinstance(caught.value, BatchTooLarge)


def test_case_w11_gzip_of_several_members_and_snappy_without_blocks_are_bounded_too() -> None:
    members = b"".join(gzip.compress(b"a" * MIB) for _ in range(3))
    raw = bytes(cramjam.snappy.compress_raw(b"a" * (3 * MIB)))
    for name, packed in (("gzip", members), ("snappy", raw)):
        with bounded(3 * MIB):
            assert _decode(name, packed + (b"\0\0" if name == "gzip" else b"")) == b"a" * (3 * MIB)
        with bounded(3 * MIB - 1), pytest.raises(BatchTooLarge):
            _decode(name, packed)


def _decode(codec_name: str, packed: bytes) -> bytes:
    from aiokafka.record import default_records

    decoded: bytes = getattr(default_records, f"{codec_name}_decode")(packed)
    return decoded


async def test_case_w11_a_batch_that_is_too_large_is_found_behind_those_that_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = [
        batch("gzip", b"a" * 100, b"b", first=0),
        batch("zstd", b"a" * 100, first=2),
        batch("gzip", b"a" * (2 * MIB), b"b", b"c", first=3),
        batch("none", b"c", first=6),
    ]

    async def fetched(_connection: Any, _partition: Any, offset: int) -> tuple[bytes, Any]:
        """One batch at a time, as a broker may answer."""
        ends = [2, 3, 6, 7]
        return next((piece for piece, end in zip(log, ends, strict=True) if end > offset), b""), None

    monkeypatch.setattr(lenient, "_fetch", fetched)
    connection = KafkaConnection(bootstrap="127.0.0.1:1")
    for offset, found in ((0, (3, 6)), (4, (4, 6)), (6, None)):
        assert await lenient.oversized_batch(connection, PARTITION, offset, MIB) == found
