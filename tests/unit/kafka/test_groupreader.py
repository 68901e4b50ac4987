"""Reading the partitions of a group's member, with a consumer that stands in for aiokafka's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition

from awakeables.kafka import groupreader
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.groupreader import GroupReader
from awakeables.world import SystemClock
from unit.kafka.test_tolerant import Found

HERE = TopicPartition("tasks", 0)
THERE = TopicPartition("tasks", 1)


class Consumer:
    """Two partitions, each with records from offset 0 on.

    Attributes:
        unknown: Partitions whose position is not known: they have no leader.
        on_wait: Called when records of any partition are waited for.
        on_read: Called when a partition is read by itself.
    """

    def __init__(self) -> None:
        self.unknown: set[TopicPartition] = set()
        self.on_wait: Callable[[], None] = lambda: None
        self.on_read: Callable[[], None] = lambda: None
        self._next = {HERE: 0, THERE: 0}

    def assignment(self) -> list[TopicPartition]:
        return [HERE, THERE]

    def paused(self) -> set[TopicPartition]:
        return set()

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._next[place] = offset

    async def position(self, place: TopicPartition) -> int:
        if place in self.unknown:
            await asyncio.Event().wait()
        return self._next[place]

    async def getmany(self, *places: TopicPartition, timeout_ms: int, max_records: int) -> Any:
        del timeout_ms
        if places:
            self.on_read()
        else:
            self.on_wait()
        place = places[0] if places else HERE
        first = self._next[place]
        if place in self.unknown or first >= 10:
            return {}
        self._next[place] = min(10, first + max_records)
        taken = range(first, self._next[place])
        return {place: [Found(offset, topic=place.topic, partition=place.partition) for offset in taken]}


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


@pytest.fixture
def reader(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> GroupReader:
    monkeypatch.setattr(groupreader, "POLL_MS", 10)
    return GroupReader(
        consumer,
        KafkaConnection(bootstrap="127.0.0.1:1"),
        SystemClock(),
        group="workers",
        stuck_retry_s=60,
        max_unpacked_bytes=1000,
        is_full=lambda _: False,
        leave_out=lambda *_: asyncio.sleep(0),
    )


async def test_a_partition_without_a_leader_holds_up_no_other(
    consumer: Consumer, reader: GroupReader
) -> None:
    consumer.unknown = {THERE}
    async with asyncio.timeout(5):
        found = [record.offset for _ in range(3) for record in await reader.poll(4)]
    assert found == list(range(10))
    consumer.unknown.clear()
    assert [record.offset for record in await reader.poll(4)] == []  # nothing is left of the first
    consumer.seek(HERE, 9)
    assert len(await reader.poll(4)) == 4


@pytest.mark.parametrize(("during", "before"), [("on_read", 5), ("on_wait", 0)])
async def test_after_a_rebalance_all_is_begun_from_where_the_partition_was_committed(
    consumer: Consumer, reader: GroupReader, during: str, before: int
) -> None:
    """What was read before it is read again; what the poll that waited for it returns is not lost."""
    consumer.seek(HERE, before)

    def rebalance() -> None:
        setattr(consumer, during, lambda: None)
        reader.forget()
        consumer.seek(HERE, 3)

    setattr(consumer, during, rebalance)
    found = [record.offset for _ in range(4) for record in await reader.poll(4) if record.partition == 0]
    assert found == [3, 4, 5, 6, 7, 8, 9]
