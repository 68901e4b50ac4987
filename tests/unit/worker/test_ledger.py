"""The watermark: an offset is committed only when everything below it is done with."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from awakeables.worker.ledger import Ledger

HERE = ("tasks", 0)
THERE = ("tasks", 1)


def begun(ledger: Ledger, *offsets: int) -> Ledger:
    for offset in offsets:
        assert ledger.begin(HERE, offset)
    return ledger


def test_nothing_is_committed_before_anything_is_done() -> None:
    assert begun(Ledger(), 5, 6).committable() == {}


def test_the_offset_waits_for_the_slowest_task() -> None:
    ledger = begun(Ledger(), 5, 6, 7)
    ledger.settle(HERE, 6)
    ledger.settle(HERE, 7)
    assert ledger.committable() == {}
    ledger.settle(HERE, 5)
    assert ledger.committable() == {HERE: 8}


def test_offsets_that_no_record_has_are_passed() -> None:
    ledger = begun(Ledger(), 5, 9)
    ledger.settle(HERE, 5)
    assert ledger.committable() == {HERE: 9}
    ledger.settle(HERE, 9)
    assert ledger.committable() == {HERE: 10}


def test_what_is_committed_is_not_committed_again() -> None:
    ledger = begun(Ledger(), 5, 6)
    ledger.settle(HERE, 5)
    ledger.commit(ledger.committable())
    assert ledger.committable() == {}
    ledger.settle(HERE, 6)
    assert ledger.committable() == {HERE: 7}


def test_a_record_that_comes_again_is_known() -> None:
    ledger = begun(Ledger(), 5, 6)
    assert not ledger.begin(HERE, 5)
    assert not ledger.begin(HERE, 6)


def test_a_lost_partition_moves_no_more() -> None:
    ledger = begun(Ledger(), 5)
    ledger.begin(THERE, 1)
    ledger.lose([HERE])
    ledger.settle(HERE, 5)
    ledger.settle(THERE, 1)
    assert ledger.committable() == {THERE: 2}


def test_a_partition_that_comes_back_begins_where_it_is_read() -> None:
    ledger = begun(Ledger(), 5, 6)
    ledger.lose([HERE])
    assert ledger.begin(HERE, 5)
    ledger.settle(HERE, 6)  # by the run that was begun before, whose record was not yet read again
    assert ledger.committable() == {}
    assert ledger.begin(HERE, 6)
    ledger.settle(HERE, 5)
    assert ledger.committable() == {HERE: 6}


@given(st.permutations(range(12)), st.integers(0, 12))
def test_any_order_of_ends_gives_the_longest_run_of_done_ones(order: list[int], count: int) -> None:
    ledger = begun(Ledger(), *range(12))
    for offset in order[:count]:
        ledger.settle(HERE, offset)
    done = set(order[:count])
    expected = next((offset for offset in range(12) if offset not in done), 12)
    assert ledger.committable() == ({HERE: expected} if expected else {})
    assert ledger.open_count(HERE) == 12 - expected


class ReadingAPartition(RuleBasedStateMachine):
    """A partition that is read, done out of order, committed, lost and read again from its commit."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.next = 0
        self.committed = 0
        self.running: list[int] = []
        self.done: set[int] = set()

    @rule(gap=st.integers(0, 2))
    def receive(self, gap: int) -> None:
        self.done.update(range(self.next, self.next + gap))  # no record lies there: nothing to do
        offset = self.next + gap
        self.next = offset + 1
        assert self.ledger.begin(HERE, offset)
        self.running.append(offset)
        self.done.discard(offset)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.ledger.settle(HERE, offset)
        self.done.add(offset)

    @rule()
    def commit(self) -> None:
        offsets = self.ledger.committable()
        self.ledger.commit(offsets)
        self.committed = max(self.committed, offsets.get(HERE, 0))

    @rule()
    def rebalance(self) -> None:
        self.ledger.lose([HERE])
        self.next = self.committed
        self.running = []
        self.done = {offset for offset in self.done if offset < self.committed}

    @invariant()
    def nothing_below_the_offset_is_left_undone(self) -> None:
        offset = max(self.committed, self.ledger.committable().get(HERE, 0))
        assert set(range(offset)) <= self.done
        assert not [running for running in self.running if running < offset]


TestReadingAPartition = ReadingAPartition.TestCase
