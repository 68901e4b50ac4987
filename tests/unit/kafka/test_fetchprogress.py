"""What the broker's answers say about time, and what they don't."""

from __future__ import annotations

import pytest

from awakeables.kafka.fetchprogress import FetchProgress, OpenTransactionTimer


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
def progress(clock: Clock) -> FetchProgress:
    progress = FetchProgress(clock)
    progress.begin(None)
    return progress


def look(
    progress: FetchProgress, clock: Clock, at_ms: int, stamp: int | None, *, position: int = 0, end: int = 0
) -> int | None:
    clock.ms = at_ms
    read = progress.look(stamp, position, end=end, stable=end)
    return None if read is None else read.ms


def test_one_answer_says_nothing_because_it_may_have_been_made_long_ago(
    progress: FetchProgress, clock: Clock
) -> None:
    assert look(progress, clock, 100, 90) is None


def test_the_second_answer_covers_the_moment_before_the_first(progress: FetchProgress, clock: Clock) -> None:
    look(progress, clock, 100, 90)
    assert look(progress, clock, 200, 190) == 0
    assert look(progress, clock, 300, 290) == 100


def test_a_look_without_a_new_answer_covers_nothing_new(progress: FetchProgress, clock: Clock) -> None:
    look(progress, clock, 100, 90)
    assert look(progress, clock, 200, 90) is None
    assert look(progress, clock, 300, 290) == 0
    # The answer of 290 came after the look of 200: what was asked for then covers that.
    assert look(progress, clock, 400, 390) == 200


def test_a_stalled_loop_makes_no_later_moment_out_of_an_old_answer(
    progress: FetchProgress, clock: Clock
) -> None:
    look(progress, clock, 100, 90)
    # The answer lay in the socket while the loop was busy; its stamp is of when it was read.
    assert look(progress, clock, 60_000, 60_000) == 0


def test_case_r2_after_a_freeze_the_moment_before_it_counts_until_answers_from_after_it_are_read(
    progress: FetchProgress, clock: Clock
) -> None:
    look(progress, clock, 100, 90)
    look(progress, clock, 200, 190)
    # Frozen until 900. What lay in the socket tells of the time before; the next answer has the
    # records that came meanwhile, and is read last.
    assert look(progress, clock, 900, 900) == 100
    assert look(progress, clock, 1000, 990, position=0, end=5) is None
    assert look(progress, clock, 1100, 1090, position=0, end=5) is None
    assert look(progress, clock, 1200, 1190, position=5, end=5) == 1000


def test_case_r2_under_load_an_end_that_is_reached_counts_although_there_is_a_further_one(
    progress: FetchProgress, clock: Clock
) -> None:
    look(progress, clock, 100, 90, position=0, end=10)
    reached = [
        look(progress, clock, 100 * n, 100 * n - 10, position=10 * n - 15, end=10 * n) for n in range(2, 8)
    ]
    assert reached == [None, None, 0, None, 200, None]


def test_reading_from_a_new_place_starts_over(progress: FetchProgress, clock: Clock) -> None:
    look(progress, clock, 100, 90)
    look(progress, clock, 200, 190, end=5)
    progress.begin(190)
    assert look(progress, clock, 300, 290, position=9, end=5) is None


def test_silence_counts_only_while_an_answer_is_waited_for(progress: FetchProgress, clock: Clock) -> None:
    look(progress, clock, 100, 90)
    look(progress, clock, 4100, 90)
    assert progress.silent_s() == pytest.approx(4.0)
    progress.pause()
    assert progress.silent_s() == pytest.approx(0.0)
    clock.ms = 9000
    progress.resume()
    clock.ms = 9500
    assert progress.silent_s() == pytest.approx(0.5)


def test_standing_still_before_the_end_is_noticed(progress: FetchProgress, clock: Clock) -> None:
    for at_ms in (100, 200, 1200):
        look(progress, clock, at_ms, at_ms - 10, end=1)
    assert progress.behind_s() == pytest.approx(1.0)
    look(progress, clock, 1300, 1290, position=1, end=1)
    assert progress.behind_s() == pytest.approx(0.0)


def test_case_r3_what_an_open_transaction_holds_back_is_not_read_and_the_reader_is_not_stuck(
    progress: FetchProgress, clock: Clock
) -> None:
    for at_ms in range(100, 60_000, 100):
        clock.ms = at_ms
        assert progress.look(at_ms - 10, 3, end=5, stable=3) is None
    assert progress.behind_s() == pytest.approx(0.0)


def test_case_r3_a_stable_offset_that_does_not_move_below_the_end_is_timed(clock: Clock) -> None:
    standstill = OpenTransactionTimer(clock)
    assert standstill.seconds(end=5, stable=5) == pytest.approx(0.0)
    clock.ms = 1000
    assert standstill.seconds(end=6, stable=5) == pytest.approx(0.0)
    clock.ms = 11_000
    assert standstill.seconds(end=9, stable=5) == pytest.approx(10.0)
    clock.ms = 12_000
    # One transaction after the other: it moves.
    assert standstill.seconds(end=9, stable=7) == pytest.approx(0.0)
    assert standstill.seconds(end=9, stable=9) == pytest.approx(0.0)
    assert standstill.seconds(end=None, stable=None) == pytest.approx(0.0)
