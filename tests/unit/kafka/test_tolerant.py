"""Reading a partition past what aiokafka can't read, with a consumer that stands in for aiokafka's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka

from awakeables.kafka import tolerant
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.tolerant import NOWHERE, OversizedBatch, TolerantReader, UnreadableBatch
from awakeables.kafka.unpacking import BatchTooLarge

PLACE = TopicPartition("completions", 0)
BAD_NAME = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


@dataclass(frozen=True)
class Found:
    offset: int
    value: bytes | None = b"{}"
    key: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    topic: str = PLACE.topic
    partition: int = PLACE.partition


class Consumer:
    """A partition of ten records; what a call takes before one that raises is lost with it.

    Attributes:
        found: Records that are not as the others, by their offsets.
        bad: What reading a record raises, by its offset.
        group_error: What any call raises, once.
        calls: How many records each call asked for.
        sought: Where it was sent.
    """

    def __init__(self) -> None:
        self.bad: dict[int, Exception] = {}
        self.found: dict[int, Found] = {}
        self.group_error: Exception | None = None
        self.calls: list[int] = []
        self.sought: list[int] = []
        self._at = 0

    async def getmany(
        self, place: TopicPartition, *, timeout_ms: int = 0, max_records: int = 0
    ) -> dict[TopicPartition, list[Any]]:
        if self.group_error is not None:
            raise self.group_error
        if place == NOWHERE:
            return {}
        self.calls.append(max_records)
        wanted = range(self._at, min(self._at + max_records, 10))
        for offset in wanted:
            if offset in self.bad:
                raise self.bad[offset]
        self._at = wanted.stop
        return {place: [self.found.get(offset, Found(offset)) for offset in wanted]} if wanted else {}

    def seek(self, _place: TopicPartition, offset: int) -> None:
        self.sought.append(offset)
        self._at = offset


def reading(consumer: Any) -> TolerantReader:
    return TolerantReader(
        consumer, PLACE, KafkaConnection(bootstrap="127.0.0.1:1"), position=0, max_unpacked_bytes=1000
    )


async def offsets(reader: TolerantReader, limit: int = 100) -> list[int]:
    return [record.offset for record in await reader.read(limit, timeout_ms=0)]


async def to_the_bad_one(reader: TolerantReader, at: int) -> None:
    """Read what lies before it."""
    assert await offsets(reader) == [], "what was taken went down with it"
    assert await offsets(reader) == list(range(at))


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads of batches say that the one at an offset has three records."""

    async def next_batch(_connection: KafkaConnection, _place: TopicPartition, offset: int) -> int | None:
        return offset + 3

    monkeypatch.setattr(tolerant, "next_batch", next_batch)


async def test_what_can_be_read_is_read_in_batches() -> None:
    consumer = Consumer()
    reader = reading(consumer)
    assert await offsets(reader, 6) == [0, 1, 2, 3, 4, 5]
    assert await offsets(reader, 6) == [6, 7, 8, 9]
    assert (reader.position, consumer.calls) == (10, [6, 6])


async def test_the_records_before_a_batch_that_can_not_be_opened_are_read(heads: None) -> None:
    consumer = Consumer()
    consumer.bad[4] = kafka.CorruptRecordException("checksum")
    reader = reading(consumer)
    await to_the_bad_one(reader, 4)
    for _ in range(2):
        with pytest.raises(UnreadableBatch, match=r"at or after offset 4 can't be opened: .*checksum") as bad:
            await offsets(reader)
        assert (bad.value.offset, bad.value.next) == (4, 7)


async def test_once_it_can_be_opened_reading_goes_on_and_in_batches_again(heads: None) -> None:
    consumer = Consumer()
    consumer.bad[4] = OSError("gzip")
    reader = reading(consumer)
    await to_the_bad_one(reader, 4)
    consumer.bad.clear()
    assert await offsets(reader) == [4, 5, 6, 7, 8, 9]
    assert reader.is_careful
    assert await offsets(reader) == []
    assert not reader.is_careful


async def test_a_header_that_is_not_utf_8_is_read_leniently(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(
        _connection: KafkaConnection, _place: TopicPartition, offset: int, limit: int, most_bytes: int
    ) -> Sequence[Any]:
        assert most_bytes == 1000
        return [Found(offset), Found(offset + 1), Found(offset + 2)][:limit]

    monkeypatch.setattr(tolerant, "fetch_leniently", fetch)
    consumer = Consumer()
    consumer.bad[4] = BAD_NAME
    reader = reading(consumer)
    await to_the_bad_one(reader, 4)
    assert await offsets(reader, 2) == [4, 5], "no more than is wanted"
    assert await offsets(reader) == [6, 7, 8, 9]


async def test_case_w11_record_by_record_no_more_is_read_than_the_limit(
    heads: None,
) -> None:
    consumer = Consumer()
    consumer.bad[8] = OSError("gzip")
    for offset, found in enumerate(
        [
            Found(0, value=None, key=bytes(1000)),
            Found(1, value=None, headers=(("a" * 500, bytes(500)),)),
            Found(2, value=bytes(1000)),
        ]
    ):
        consumer.found[offset] = found
    reader = reading(consumer)
    assert await offsets(reader, 10) == []
    for offset in range(3):
        assert await offsets(reader, 10) == [offset]
    assert await offsets(reader, 10) == [3, 4, 5, 6, 7]


async def test_case_w11_a_batch_that_would_unpack_to_too_much_is_to_be_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def oversized(_connection: KafkaConnection, _place: TopicPartition, offset: int, most: int) -> Any:
        assert most == 1000
        return offset, offset + 2

    monkeypatch.setattr(tolerant, "oversized_batch", oversized)
    consumer = Consumer()
    consumer.bad[4] = BatchTooLarge(1000)
    reader = reading(consumer)
    await to_the_bad_one(reader, 4)
    with pytest.raises(OversizedBatch, match="offsets 4 to 5 is left out: it unpacks to more than") as bad:
        await offsets(reader)
    assert (bad.value.first, bad.value.next) == (4, 6)
    reader.go_to(bad.value.next)
    assert await offsets(reader) == [6, 7, 8, 9]


@pytest.mark.parametrize("cause", [BAD_NAME, BatchTooLarge(1)])
async def test_while_the_broker_is_away_it_is_looked_at_again_by_the_next_read(cause: Exception) -> None:
    consumer = Consumer()
    consumer.bad[0] = cause
    reader = reading(consumer)
    for _ in range(3):
        assert await offsets(reader) == []
    assert reader.position == 0


async def test_an_error_of_the_group_is_not_one_of_the_partition() -> None:
    consumer = Consumer()
    consumer.group_error = kafka.GroupAuthorizationFailedError("group")
    reader = reading(consumer)
    with pytest.raises(kafka.GroupAuthorizationFailedError):
        await offsets(reader)
    assert not reader.is_careful


@pytest.mark.parametrize(
    "error", [kafka.OffsetOutOfRangeError({PLACE: 3}), kafka.ConsumerStoppedError("stopped")]
)
async def test_an_error_that_no_batch_caused_is_raised_unchanged(error: Exception) -> None:
    consumer = Consumer()
    consumer.bad[0] = error
    reader = reading(consumer)
    with pytest.raises(type(error)):
        await offsets(reader)
    assert not reader.is_careful


async def test_after_a_rebalance_a_reader_moves_the_consumer_no_more() -> None:
    consumer = Consumer()
    reader = reading(consumer)
    await offsets(reader, 4)
    reader.detach()
    reader.be_careful()
    assert consumer.sought == []
