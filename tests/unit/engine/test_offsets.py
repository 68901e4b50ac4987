"""How far partitions are read, and moving one past what can't be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from awakeables import Context
from awakeables.engine.horizon import Moment
from awakeables.engine.offsets import PartitionProgress
from awakeables.engine.readerstate import ReaderState, StuckBatch
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.sinks import CompletionSink
from awakeables.errors import NotFound, NotPossible, OwnershipLost
from awakeables.testing.bench import Bench
from support.ids import new_id
from unit.engine.harness import TOPIC, resolution


async def wait(ctx: Context) -> Any:
    return await ctx.awakeable()


async def test_a_partition_shows_where_it_is_and_what_waits() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        await bench.records(process, b"{", b"{")
        process.engine.completions.readers[0] = ReaderState(end=5)
        process.engine.problems["partition 0"] = "it is stuck"
        [reading] = await process.api.partitions()
        assert reading == PartitionProgress(
            topic=TOPIC, partition=0, next=2, epoch=1, end=5, lag=3, problem="it is stuck"
        )


async def test_case_w12_markers_of_transactions_at_the_end_are_not_lag() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        await bench.records(process, b"{", b"{")
        process.engine.completions.readers[0] = ReaderState(end=3, lag=0)
        [reading] = await process.api.partitions()
        assert (reading.next, reading.end, reading.lag) == (2, 3, 0)


async def test_case_r1_what_is_read_again_adds_no_dead_letters_and_counts_none() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        counted = process.engine.metrics.registry.get_sample_value
        unknown = [
            resolution(new_id("prom", at_ms=bench.clock.now_ms(), entropy=bytes([n]) * 10)) for n in range(3)
        ]
        await bench.records(process, *unknown, first=0)
        process.engine.completions.readers[0] = ReaderState(end=3)
        await process.api.skip(0, 0)
        await bench.records(process, *unknown, b"{", first=0)
        for code, count in {"unknown": 3, "unreadable": 1, "skipped": 1}.items():
            assert counted("awakeables_dead_letters_total", {"code": code}) == count
        told = {"kind": "unknown", "origin": "kafka"}
        assert counted("awakeables_verdicts_total", told) == 3


async def test_case_r5_a_recreated_topic_is_recognised_by_its_reader() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        await bench.records(process, b"{", b"{", b"{")
        process.engine.completions.readers[0] = ReaderState(end=9, ahead=True)
        await process.api.skip(0, 0)
        assert bench.store.tables.positions["", TOPIC, 0].again_before == 0
        process.engine.completions.readers[0] = ReaderState(end=9)
        await bench.records(process, b"{", b"{", b"{")
        await process.api.skip(0, 1)
        assert bench.store.tables.positions["", TOPIC, 0].again_before == 3


async def test_fault_11_a_topic_that_was_recreated_is_known_by_its_id_where_another_instance_reads_it() -> (
    None
):
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        topic = process.engine.completions
        topic.note_topic_id("first")
        await bench.records(process, b"{", b"{", b"{")
        with pytest.raises(NotPossible, match="is at offset 3 already"):
            await process.api.skip(0, 3)
        topic.note_topic_id("second")
        sink = CompletionSink(topic, 0)
        assert await sink.open() == 3
        assert sink.is_topic_recreated
        # Also to the same offset: the operator says that the new topic goes on where the old one has ended.
        await process.api.skip(0, 3)
        assert await sink.open() == 3
        assert not sink.is_topic_recreated
        assert bench.store.tables.positions["", TOPIC, 0].topic_id == "second"


async def test_fault_11_a_broker_that_knows_no_topic_ids_makes_none_unknown() -> None:
    """In a cluster that is being upgraded, some brokers tell the ID and some don't."""
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        topic = process.engine.completions
        topic.note_topic_id("first")
        topic.note_topic_id(None)
        assert not topic.is_recreated_since("first")
        assert topic.is_recreated_since("second")


async def test_a_partition_that_was_moved_elsewhere_is_known_though_nothing_is_read_of_it() -> None:
    """Another instance skips it while its reader waits for records: it must claim it again."""
    bench = Bench(shared=True)
    async with bench.serving(wait=wait) as one, bench.serving(wait=wait) as two:
        await bench.records(one, b"{", b"{")
        topic, sink = one.engine.completions, CompletionSink(one.engine.completions, 0)
        await sink.open()
        topic.horizon.expect([0], Moment.now(bench.clock))
        sink.read_up_to(Moment.now(bench.clock))
        assert await topic.moved() == []
        await two.api.skip(0, 0)
        assert await topic.moved() == [0]
        assert await two.engine.completions.moved() == []
        await sink.open()
        assert await topic.moved() == [], "its reader has noticed"
        sink.read_up_to(Moment.now(bench.clock))
        assert await topic.moved() == []
        # Another reader's claim is no move.
        await CompletionSink(two.engine.completions, 0).open()
        assert await topic.moved() == []


async def test_a_stuck_partition_is_read_on_behind_the_batch_and_its_reader_is_called() -> None:
    bench = Bench()
    called: list[int] = []
    async with bench.serving(wait=wait) as process:
        sink = CompletionSink(process.engine.completions, 0)
        await sink.open()
        await sink.take([ConsumedRecord(offset=0, timestamp_ms=0, key=None, value=b"{")])
        stuck = StuckBatch(offset=1, next=4)
        process.engine.completions.readers[0] = ReaderState(end=9, lag=8, stuck=stuck)
        stale = ConsumedRecord(offset=4, timestamp_ms=0, key=None, value=b"{")
        with process.engine.completions.listening(called.append):
            reading = await process.api.skip(0, None)
        assert (reading.next, reading.lag, called) == (4, 5, [0])
        assert process.engine.completions.readers[0].stuck is None
        with pytest.raises(OwnershipLost):
            await sink.take([stale])
        letters = list(bench.store.tables.dead_letters.values())
        assert [(x.code, x.offset) for x in letters] == [("unreadable", 0), ("skipped", 1)]
        assert letters[1].reason == "an operator has moved the partition from offset 1 to 4"


@pytest.mark.parametrize(
    ("to", "why"),
    [(None, "is not stuck"), (1, "is at offset 1 already"), (6, "ends at 5")],
)
async def test_a_skip_that_makes_no_sense_is_refused(to: int | None, why: str) -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        await bench.records(process, b"{")
        process.engine.completions.readers[0] = ReaderState(end=5)
        with pytest.raises(NotPossible, match=why):
            await process.api.skip(0, to)


async def test_where_the_batch_ends_must_be_said_if_it_can_t_be_told() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        await bench.records(process, b"{")
        process.engine.completions.readers[0] = ReaderState(stuck=StuckBatch(offset=1, next=None))
        with pytest.raises(NotPossible, match="give the offset to move to"):
            await process.api.skip(0, None)
        assert (await process.api.skip(0, 3)).next == 3


@pytest.mark.parametrize("end", [1, 5], ids=["shorter", "grown past"])
async def test_a_recreated_topic_is_read_from_where_it_has_records(end: int) -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        await bench.records(process, b"{", b"{", b"{")
        process.engine.completions.readers[0] = ReaderState(end=end)
        assert (await process.api.skip(0, 0)).next == 0


async def test_bad_records_at_the_same_offsets_of_a_recreated_topic_are_dead_letters_too() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        for made_ms in (1, 2):
            sink = CompletionSink(process.engine.completions, 0)
            await sink.open()
            poison = [ConsumedRecord(offset=n, timestamp_ms=made_ms, key=None, value=b"{") for n in range(2)]
            await sink.take(poison)
            process.engine.completions.readers[0] = ReaderState(end=1)
            await process.api.skip(0, 0)
            await asyncio.sleep(1)
        letters = list(bench.store.tables.dead_letters.values())
        assert [(x.code, x.offset, x.timestamp_ms < 3) for x in letters] == [
            ("unreadable", 0, True),
            ("unreadable", 1, True),
            ("skipped", 2, False),
        ] * 2


async def test_a_partition_that_was_never_read_is_not_found() -> None:
    bench = Bench()
    async with bench.serving(wait=wait) as process:
        with pytest.raises(NotFound, match="has never been read"):
            await process.api.skip(7, None)
