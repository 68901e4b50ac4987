"""Hard case 5: an outage must not turn finished work into time-outs."""

from __future__ import annotations

from awakeables.engine.horizon import FRESH_MS, Horizon

LONGEST_MS = 900_000


class Clock:
    def __init__(self) -> None:
        self.ms = 10_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


def make(*partitions: int) -> tuple[Horizon, Clock]:
    clock = Clock()
    horizon = Horizon(clock, longest_ms=LONGEST_MS)
    horizon.expect(partitions)
    return horizon, clock


def test_partitions_that_were_all_read_to_the_end_just_now_hold_nothing_back() -> None:
    horizon, clock = make(0, 1)
    for partition in (0, 1):
        horizon.read_to_end(partition, clock.ms - FRESH_MS)
    assert horizon.held_back_to_ms() is None


def test_the_partition_that_was_read_longest_ago_decides() -> None:
    horizon, clock = make(0, 1)
    horizon.read_to_end(0, clock.ms)
    horizon.read_to_end(1, clock.ms - FRESH_MS - 1)
    assert horizon.held_back_to_ms() == clock.ms - FRESH_MS - 1


def test_a_partition_that_was_never_read_holds_back_as_long_as_is_allowed() -> None:
    horizon, clock = make(0, 1)
    horizon.read_to_end(0, clock.ms)
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_before_the_partitions_are_known_deadlines_wait_too() -> None:
    horizon, clock = make()
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_deadlines_are_held_back_no_longer_than_is_allowed() -> None:
    horizon, clock = make(0)
    horizon.read_to_end(0, clock.ms)
    clock.ms += 10 * LONGEST_MS
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_a_partition_that_is_read_again_is_fresh_again() -> None:
    horizon, clock = make(0)
    clock.ms += 60_000
    horizon.read_to_end(0, clock.ms)
    assert horizon.held_back_to_ms() is None


def test_partitions_that_are_no_longer_read_here_hold_nothing_back_and_known_ones_keep_their_moment() -> None:
    horizon, clock = make(0, 1)
    horizon.read_to_end(0, clock.ms)
    horizon.expect((0,))
    assert horizon.held_back_to_ms() is None
    horizon.expect((0, 2))
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_without_a_topic_to_wait_for_nothing_is_held_back() -> None:
    clock = Clock()
    assert Horizon(clock, longest_ms=0).held_back_to_ms() is None
