"""What the broker's answers tell about time, and what they don't."""

from __future__ import annotations

import pytest

from awakeables.kafka.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    pulse = Pulse(clock)
    pulse.begin(None)
    return pulse


def look(pulse: Pulse, clock: Clock, at_ms: int, stamp: int | None, *, end: bool = True) -> int | None:
    clock.ms = at_ms
    return pulse.beat(stamp, 0, at_end=end)


def test_one_answer_tells_nothing_because_it_may_have_been_made_long_ago(pulse: Pulse, clock: Clock) -> None:
    assert look(pulse, clock, 100, 90) is None


def test_the_second_answer_covers_the_moment_before_the_first(pulse: Pulse, clock: Clock) -> None:
    look(pulse, clock, 100, 90)
    assert look(pulse, clock, 200, 190) == 0
    assert look(pulse, clock, 300, 290) == 100


def test_a_look_without_a_new_answer_covers_nothing_new(pulse: Pulse, clock: Clock) -> None:
    look(pulse, clock, 100, 90)
    assert look(pulse, clock, 200, 90) is None
    assert look(pulse, clock, 300, 290) == 0
    # The answer of 290 came after the look of 200: what was asked for then covers that.
    assert look(pulse, clock, 400, 390) == 200


def test_a_stalled_loop_makes_no_later_moment_out_of_an_old_answer(pulse: Pulse, clock: Clock) -> None:
    look(pulse, clock, 100, 90)
    # The answer lay in the socket while the loop was busy; its stamp is of when it was read.
    assert look(pulse, clock, 60_000, 60_000) == 0


def test_reading_from_a_new_place_starts_over(pulse: Pulse, clock: Clock) -> None:
    look(pulse, clock, 100, 90)
    pulse.begin(90)
    assert look(pulse, clock, 200, 190) is None


def test_silence_counts_only_while_an_answer_is_waited_for(pulse: Pulse, clock: Clock) -> None:
    look(pulse, clock, 100, 90)
    look(pulse, clock, 4100, 90)
    assert pulse.silent_s() == pytest.approx(4.0)
    pulse.end()
    assert pulse.silent_s() == pytest.approx(0.0)
    clock.ms = 9000
    pulse.resume()
    clock.ms = 9500
    assert pulse.silent_s() == pytest.approx(0.5)


def test_standing_still_before_the_end_is_noticed(pulse: Pulse, clock: Clock) -> None:
    look(pulse, clock, 100, 90, end=False)
    look(pulse, clock, 200, 190, end=False)
    look(pulse, clock, 1200, 1190, end=False)
    assert pulse.behind_s() == pytest.approx(1.0)
    look(pulse, clock, 1300, 1290)
    assert pulse.behind_s() == pytest.approx(0.0)
