"""The watermark: an offset is committed only when everything below it is done with."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from awakeables.worker.offsets import OffsetTracker

HERE = ("tasks", 0)
THERE = ("tasks", 1)


def started(tracker: OffsetTracker, *offsets: int) -> OffsetTracker:
    for offset in offsets:
        tracker.start(HERE, offset)
    return tracker


def test_nothing_is_committed_before_anything_is_done() -> None:
    assert started(OffsetTracker(), 5, 6).committable() == {}


def test_the_offset_waits_for_the_slowest_task() -> None:
    tracker = started(OffsetTracker(), 5, 6, 7)
    tracker.finish(HERE, 6)
    tracker.finish(HERE, 7)
    assert tracker.committable() == {}
    tracker.finish(HERE, 5)
    assert tracker.committable() == {HERE: 8}


def test_offsets_that_no_record_has_are_passed() -> None:
    tracker = started(OffsetTracker(), 5, 9)
    tracker.finish(HERE, 5)
    assert tracker.committable() == {HERE: 9}
    tracker.finish(HERE, 9)
    assert tracker.committable() == {HERE: 10}


def test_what_is_committed_is_not_committed_again() -> None:
    tracker = started(OffsetTracker(), 5, 6)
    tracker.finish(HERE, 5)
    tracker.commit(tracker.committable())
    assert tracker.committable() == {}
    tracker.finish(HERE, 6)
    assert tracker.committable() == {HERE: 7}


def test_a_partition_that_goes_back_begins_there() -> None:
    """Its topic was recreated: what was read of the one before commits nothing any more."""
    tracker = started(OffsetTracker(), 500, 501)
    started(tracker, 0, 1)
    tracker.finish(HERE, 500)
    tracker.finish(HERE, 501)
    assert tracker.committable() == {}
    tracker.finish(HERE, 0)
    assert tracker.committable() == {HERE: 1}


def test_a_lost_partition_moves_no_more() -> None:
    tracker = started(OffsetTracker(), 5)
    tracker.start(THERE, 1)
    tracker.forget([HERE])
    tracker.finish(HERE, 5)
    tracker.finish(THERE, 1)
    assert tracker.committable() == {THERE: 2}


def test_a_partition_that_comes_back_begins_where_it_is_read() -> None:
    tracker = started(OffsetTracker(), 5, 6)
    tracker.forget([HERE])
    tracker.start(HERE, 5)
    tracker.finish(HERE, 6)  # by the run that was begun before, whose record was not yet read again
    assert tracker.committable() == {}
    tracker.start(HERE, 6)
    tracker.finish(HERE, 5)
    assert tracker.committable() == {HERE: 6}


@given(st.permutations(range(12)), st.integers(0, 12))
def test_any_order_of_ends_gives_the_longest_run_of_done_ones(order: list[int], count: int) -> None:
    tracker = started(OffsetTracker(), *range(12))
    for offset in order[:count]:
        tracker.finish(HERE, offset)
    done = set(order[:count])
    expected = next((offset for offset in range(12) if offset not in done), 12)
    assert tracker.committable() == ({HERE: expected} if expected else {})
    assert tracker.unfinished(HERE) == 12 - expected


class ReadingAPartition(RuleBasedStateMachine):
    """A partition that is read, done out of order, committed, lost and read again from its commit."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.next = 0
        self.committed = 0
        self.running: list[int] = []
        self.done: set[int] = set()

    @rule(gap=st.integers(0, 2))
    def receive(self, gap: int) -> None:
        self.done.update(range(self.next, self.next + gap))  # no record lies there: nothing to do
        offset = self.next + gap
        self.next = offset + 1
        self.tracker.start(HERE, offset)
        self.running.append(offset)
        self.done.discard(offset)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.tracker.finish(HERE, offset)
        self.done.add(offset)

    @rule()
    def commit(self) -> None:
        offsets = self.tracker.committable()
        self.tracker.commit(offsets)
        self.committed = max(self.committed, offsets.get(HERE, 0))

    @rule()
    def rebalance(self) -> None:
        self.tracker.forget([HERE])
        self.next = self.committed
        self.running = []
        self.done = {offset for offset in self.done if offset < self.committed}

    @invariant()
    def nothing_below_the_offset_is_left_undone(self) -> None:
        offset = max(self.committed, self.tracker.committable().get(HERE, 0))
        assert set(range(offset)) <= self.done
        assert not [running for running in self.running if running < offset]


TestReadingAPartition = ReadingAPartition.TestCase
