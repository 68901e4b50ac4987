"""The clock of instances that share a store: whatever their machines say, they agree on the time."""

from __future__ import annotations

from awakeables.world import FollowingClock


class Machine:
    """Its wall clock can be set; its monotonic one began at some time."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.wrong_by_ms = 600_000

    def now_ms(self) -> int:
        return self.ms + self.wrong_by_ms

    def monotonic(self) -> float:
        return self.ms / 1000 - 300


def followed() -> tuple[Machine, FollowingClock]:
    machine = Machine()
    clock = FollowingClock(machine)
    assert clock.now_ms() == machine.now_ms()
    clock.follow(machine.ms, 0.002)
    return machine, clock


def test_the_time_is_the_store_s_from_its_first_answer_on() -> None:
    machine, clock = followed()
    assert clock.now_ms() == machine.ms
    machine.ms += 12_345
    assert clock.now_ms() == machine.ms


def test_setting_the_machine_s_clock_changes_nothing() -> None:
    machine, clock = followed()
    machine.wrong_by_ms += 3_600_000
    assert clock.now_ms() == machine.ms


def test_an_answer_that_is_read_late_does_not_set_the_clock_back() -> None:
    """The process was frozen, or its loop blocked, after the answer had come."""
    machine, clock = followed()
    answered_ms = machine.ms + 1
    machine.ms += 20_000
    clock.follow(answered_ms, 20.0)
    assert clock.now_ms() == machine.ms


def test_a_clock_that_is_ahead_or_behind_is_put_right() -> None:
    machine, clock = followed()
    clock.follow(machine.ms - 500, 0.004)  # the store's was set back
    assert clock.now_ms() == machine.ms - 500
    clock.follow(machine.ms + 500, 0.004)
    assert clock.now_ms() == machine.ms + 500
