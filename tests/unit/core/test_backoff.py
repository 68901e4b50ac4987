"""Pauses between tries."""

from __future__ import annotations

from awakeables.core.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.2, 5.0)
    assert [backoff.next_s() for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_after_a_success_they_begin_again() -> None:
    backoff = Backoff(0.2, 5.0)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.2


def test_jitter_changes_a_pause_and_not_those_after_it() -> None:
    factors = iter([0.5, 1.0, 0.75])
    backoff = Backoff(1.0, 4.0, jitter=lambda: next(factors))
    assert [backoff.next_s() for _ in range(3)] == [0.5, 2.0, 3.0]
