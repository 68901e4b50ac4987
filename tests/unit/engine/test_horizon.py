"""Hard case 5: an outage must not turn finished work into time-outs."""

from __future__ import annotations

import pytest

from awakeables.engine.horizon import Horizon, Moment

LONGEST_MS = 900_000


class Clock:
    """A wall clock that can be set, and a monotonic one that can't."""

    def __init__(self) -> None:
        self.ms = 10_000_000
        self.set_by_ms = 0

    def now_ms(self) -> int:
        return self.ms + self.set_by_ms

    def monotonic(self) -> float:
        return self.ms / 1000


def make(*partitions: int) -> tuple[Horizon, Clock]:
    clock = Clock()
    horizon = Horizon(clock, longest_ms=LONGEST_MS)
    horizon.expect(partitions, Moment.now(clock))
    return horizon, clock


def test_case_r2_the_moment_that_was_read_up_to_counts_and_not_the_moment_of_looking() -> None:
    horizon, clock = make(0)
    horizon.read_to_end(0, Moment.now(clock), 1)
    for frozen_ms in (1, 400, 900, 10_000):
        clock.ms = 10_000_000 + frozen_ms
        assert horizon.held_back_to_ms() == 10_000_000


def test_case_r2_a_partition_may_have_been_added_since_the_topic_was_asked_for_them() -> None:
    horizon, clock = make(0)
    clock.ms += 300
    horizon.read_to_end(0, Moment.now(clock), 1)
    assert horizon.held_back_to_ms() == clock.ms - 300
    horizon.expect((0,), Moment.now(clock))
    assert horizon.held_back_to_ms() == clock.ms


@pytest.mark.parametrize("set_by_ms", [-25_000, 3_600_000])
def test_case_r2_a_wall_clock_that_is_set_expires_nothing_that_is_not_read_yet(set_by_ms: int) -> None:
    horizon, clock = make(0)
    horizon.read_to_end(0, Moment.now(clock), 1)
    clock.ms += 100
    clock.set_by_ms = set_by_ms
    expected = max(10_000_000 + min(set_by_ms, 0), clock.now_ms() - LONGEST_MS)
    assert horizon.held_back_to_ms() == expected


def test_partitions_that_were_all_read_to_the_end_just_now_hold_nothing_back() -> None:
    horizon, clock = make(0, 1)
    for partition in (0, 1):
        horizon.read_to_end(partition, Moment.now(clock), 1)
    assert horizon.held_back_to_ms() == clock.ms


def test_the_partition_that_was_read_longest_ago_decides() -> None:
    horizon, clock = make(0, 1)
    then = Moment.now(clock)
    clock.ms += 5
    horizon.read_to_end(0, Moment.now(clock), 1)
    horizon.read_to_end(1, then, 1)
    horizon.expect((0, 1), Moment.now(clock))
    assert horizon.held_back_to_ms() == then.ms


def test_a_partition_that_was_never_read_holds_back_as_long_as_is_allowed() -> None:
    horizon, clock = make(0, 1)
    horizon.read_to_end(0, Moment.now(clock), 1)
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_before_the_partitions_are_known_deadlines_wait_too() -> None:
    horizon, clock = make()
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_deadlines_are_held_back_no_longer_than_is_allowed() -> None:
    horizon, clock = make(0)
    horizon.read_to_end(0, Moment.now(clock), 1)
    clock.ms += 10 * LONGEST_MS
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_a_partition_that_is_read_again_is_fresh_again() -> None:
    horizon, clock = make(0)
    clock.ms += 60_000
    horizon.expect((0,), Moment.now(clock))
    horizon.read_to_end(0, Moment.now(clock), 1)
    assert horizon.held_back_to_ms() == clock.ms


def test_partitions_that_are_no_longer_read_here_hold_nothing_back_and_known_ones_keep_their_moment() -> None:
    horizon, clock = make(0, 1)
    now = Moment.now(clock)
    horizon.read_to_end(0, now, 1)
    horizon.expect((0,), now)
    assert horizon.held_back_to_ms() == clock.ms
    horizon.expect((0, 2), now)
    assert horizon.held_back_to_ms() == clock.ms - LONGEST_MS


def test_without_a_topic_to_wait_for_nothing_is_held_back() -> None:
    clock = Clock()
    assert Horizon(clock, longest_ms=0).held_back_to_ms() == clock.ms
