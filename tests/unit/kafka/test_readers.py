"""Readers that follow the assignments of a group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest
from aiokafka import TopicPartition

from awakeables.kafka.readers import Readers
from awakeables.world import SystemClock
from support.eventually import eventually

if TYPE_CHECKING:
    from awakeables.kafka.partitions import PartitionReader

DRAIN_S = 0.5


class Reader:
    """Polls until a test releases it, as aiokafka holds `getmany` during a rebalance."""

    def __init__(self, partition: TopicPartition) -> None:
        self.partition = partition
        self.next: int | None = None
        self.taking_since_s: float | None = None
        self.polling = True
        self.released = asyncio.Event()
        self.seen: list[str] = []

    async def run(self) -> None:
        self.seen.append("runs")
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        self.seen.append("ended")

    def leave(self) -> None:
        self.seen.append("leaves")

    def close(self) -> None:
        self.seen.append("closed")

    def notify_moved(self) -> None:
        self.seen.append("moved")


class Bench:
    """Readers, and every reader that they have made."""

    def __init__(self) -> None:
        self.made: list[Reader] = []
        self.readers = Readers(self._new, SystemClock(), drain=timedelta(seconds=DRAIN_S))

    def _new(self, partition: TopicPartition) -> PartitionReader:
        self.made.append(Reader(partition))
        return cast("PartitionReader", self.made[-1])

    def assign(self, *numbers: int) -> list[Reader]:
        self.readers.assign([TopicPartition("t", number) for number in numbers])
        return self.made[len(self.made) - len(numbers) :]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with _running(bench.readers):
        yield bench


async def test_the_readers_of_an_assignment_wait_until_all_earlier_ones_have_ended(bench: Bench) -> None:
    [first, second] = bench.assign(0, 1)
    await eventually(lambda: first.seen == second.seen == ["runs"])
    await bench.readers.revoke()
    [again] = bench.assign(0)
    second.released.set()
    await eventually(lambda: "ended" in second.seen)
    assert again.seen == []
    assert bench.readers.held_up_s > 0
    first.released.set()
    await eventually(lambda: again.seen == ["runs"])
    assert first.seen == ["runs", "leaves", "closed", "ended"]
    assert bench.readers.held_up_s == 0


async def test_a_reader_that_does_not_poll_is_cancelled_once_its_batch_had_its_time(bench: Bench) -> None:
    [slow, polling] = bench.assign(0, 1)
    await eventually(lambda: slow.seen == ["runs"])
    slow.polling, slow.taking_since_s = False, 1.0
    revoking = asyncio.create_task(bench.readers.revoke())
    await eventually(lambda: slow.seen == ["runs", "leaves"])
    assert bench.readers.partitions == frozenset()
    await revoking
    await eventually(lambda: slow.seen == ["runs", "leaves", "closed", "cancelled"])
    assert polling.seen == ["runs", "leaves", "closed"]


async def test_a_batch_that_is_committed_in_time_is_waited_for(bench: Bench) -> None:
    [reader] = bench.assign(0)
    await eventually(lambda: reader.seen == ["runs"])
    reader.polling, reader.taking_since_s = False, 1.0
    revoking = asyncio.create_task(bench.readers.revoke())
    await eventually(lambda: reader.seen == ["runs", "leaves"])
    reader.released.set()
    await eventually(lambda: "ended" in reader.seen)
    reader.taking_since_s = None
    await revoking
    assert reader.seen == ["runs", "leaves", "ended", "closed"]


async def test_an_assignment_that_is_revoked_before_it_was_begun_is_never_read(bench: Bench) -> None:
    [first] = bench.assign(0)
    await eventually(lambda: first.seen == ["runs"])
    await bench.readers.revoke()
    [skipped] = bench.assign(0)
    await bench.readers.revoke()
    [last] = bench.assign(0)
    first.released.set()
    await eventually(lambda: last.seen == ["runs"])
    assert skipped.seen == ["leaves", "closed"]


async def test_only_the_reader_of_a_partition_hears_that_it_was_moved(bench: Bench) -> None:
    [zero, one] = bench.assign(0, 1)
    await eventually(lambda: _all_run([zero, one]))
    bench.readers.notify_moved(1)
    bench.readers.notify_moved(7)
    assert (zero.seen, one.seen) == (["runs"], ["runs", "moved"])


def _all_run(readers: Collection[Reader]) -> bool:
    return all(reader.seen == ["runs"] for reader in readers)


@asynccontextmanager
async def _running(readers: Readers) -> AsyncIterator[None]:
    task = asyncio.create_task(readers.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
