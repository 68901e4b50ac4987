"""Guards of an attempt taken away, one at a time: the contract suite must miss each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import pytest

from awakeables.handlers.attempt import News
from awakeables.handlers.local import LocalAttempt, LocalAttempts
from contract import test_attempt

Check = Callable[[test_attempt.Opened], Awaitable[None]]


@contextmanager
def two_outcomes_for_one_call() -> Iterator[None]:
    hand_out = LocalAttempt._hand_out

    def careless(attempt: LocalAttempt, news: News) -> bool:
        if news.cancel:
            return hand_out(attempt, news)
        execution = attempt._execution
        taken = [(index, outcome) for index, outcome in news.arrived if index in execution.waiting]
        for index, outcome in taken:
            execution.replay.deliver(index, outcome)
        return bool(taken)

    with mock.patch.object(LocalAttempt, "_hand_out", careless):
        yield


@contextmanager
def a_cancellation_after_an_outcome() -> Iterator[None]:
    hand_out = LocalAttempt._hand_out

    def careless(attempt: LocalAttempt, news: News) -> bool:
        news_without: Any = News(now_ms=news.now_ms, arrived=news.arrived)
        return hand_out(attempt, news_without) or hand_out(attempt, news)

    with mock.patch.object(LocalAttempt, "_hand_out", careless):
        yield


@contextmanager
def an_action_before_its_entry_is_durable() -> Iterator[None]:
    start = LocalAttempt._start

    def careless(attempt: LocalAttempt, index: int, news: News) -> bool:
        return start(attempt, index, News(now_ms=news.now_ms, durable=index + 1))

    with mock.patch.object(LocalAttempt, "_start", careless):
        yield


@contextmanager
def an_outcome_of_an_action_handed_out_before_it_is_journaled() -> Iterator[None]:
    take_in = LocalAttempt._take_in

    def careless(attempt: LocalAttempt, index: int, acted: Any, *, stop: bool) -> Any:
        take_in(attempt, index, acted, stop=stop)
        attempt._owes = False
        return attempt._step(attempt._coroutine.send, None)

    with mock.patch.object(LocalAttempt, "_take_in", careless):
        yield


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        (
            two_outcomes_for_one_call,
            test_attempt.test_one_outcome_is_handed_out_for_each_call_the_first_that_arrived,
        ),
        (
            a_cancellation_after_an_outcome,
            test_attempt.TestCancellation().test_it_is_raised_once_before_any_outcome,
        ),
        (
            an_action_before_its_entry_is_durable,
            test_attempt.TestActions().test_one_starts_once_its_entry_is_durable,
        ),
        (
            an_outcome_of_an_action_handed_out_before_it_is_journaled,
            test_attempt.TestActions().test_its_outcome_is_journaled_before_the_handler_goes_on,
        ),
    ],
)
async def test_a_guard_that_is_taken_away_is_missed(
    mutation: Callable[[], AbstractContextManager[None]], check: Check
) -> None:
    def opened(function: test_attempt.Function, history: Any = ()) -> test_attempt.Owner:
        return test_attempt.opened_by(LocalAttempts, function, history)

    await check(opened)
    with mutation(), pytest.raises(AssertionError):
        await check(opened)
