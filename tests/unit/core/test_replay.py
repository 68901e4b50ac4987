"""J2: a replay asks for the same in the same order; a difference is shown so that people can read it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from awakeables.core.journal import (
    AwakeableCreated,
    ClockRead,
    Entry,
    Input,
    Operation,
    OutcomeDelivered,
    PublishRequested,
    RunAttemptFailed,
    RunRequested,
    SettleRequested,
    SleepRequested,
    VersionChosen,
)
from awakeables.core.outcomes import Resolution
from awakeables.core.replay import Replay, cut_problem, describe
from awakeables.errors import ReplayMismatch

INPUT = Input(service="shop", handler="fulfil", seed="s", at_ms=1)
DONE = Resolution.of_json(b"1")
HISTORY: tuple[Entry, ...] = (
    INPUT,
    AwakeableCreated(id="prom_1a", timeout_ms=5),
    PublishRequested(topic="pack", of=1, task="box"),
    RunRequested(name="refund"),
    RunAttemptFailed(of=3, attempt=1, began_ms=1, error="E: x", retry_at_ms=9),
    OutcomeDelivered(of=3, outcome=DONE),
    SleepRequested(until_ms=100),
    OutcomeDelivered(of=6, outcome=DONE),
    SettleRequested(id="prom_1b", status="resolved"),
    OutcomeDelivered(of=8, outcome=DONE),
    ClockRead(at_ms=7),
    OutcomeDelivered(of=1, outcome=DONE),
)


def walk(replay: Replay, place: int = len(HISTORY)) -> None:
    """Does what HISTORY tells, with another entry before the one at `place`."""

    def at(index: int) -> int:
        return index + (index >= place)

    replay.ask(AwakeableCreated(id="", timeout_ms=99))
    replay.ask(PublishRequested(topic="pack", of=at(1), task="box"))
    replay.ask(RunRequested(name="refund"))
    replay.recall((at(3),))
    replay.ask(SleepRequested(until_ms=5))
    replay.recall((at(6),))
    replay.ask(SettleRequested(id="prom_1b", status="resolved"))
    replay.recall((at(8),))
    replay.ask(ClockRead(at_ms=99))
    replay.recall((at(1),))


def test_a_walk_that_repeats_its_history_asks_for_nothing_new() -> None:
    replay = Replay(HISTORY)
    walk(replay)
    assert not replay.replaying
    assert replay.entries == list(HISTORY)
    replay.finish()
    assert replay.outcomes == {3: DONE, 6: DONE, 8: DONE, 1: DONE}


def test_an_operation_comes_back_as_it_was_first_asked_for() -> None:
    """The first ID, the first instant: what the handler computes anew is not used."""
    replay = Replay(HISTORY)
    assert replay.ask(AwakeableCreated(id="another")) == (1, HISTORY[1])


def test_past_the_end_of_history_everything_is_new_and_is_appended() -> None:
    replay = Replay([INPUT])
    assert not replay.replaying
    assert replay.ask(RunRequested(name="a")) == (1, RunRequested(name="a"))
    replay.deliver(1, DONE)
    failed = RunAttemptFailed(of=1, attempt=1, began_ms=1, error="x", retry_at_ms=2)
    replay.retry(failed)
    assert replay.entries == [INPUT, RunRequested(name="a"), OutcomeDelivered(of=1, outcome=DONE), failed]


def test_what_was_new_replays() -> None:
    first = Replay([INPUT])
    first.ask(AwakeableCreated(id="prom_1a"))
    first.ask(ClockRead(at_ms=3))
    first.deliver(1, DONE)
    second = Replay(first.entries)
    second.ask(AwakeableCreated(id=""))
    second.ask(ClockRead(at_ms=0))
    assert second.recall((1,)) == 1
    second.finish()


def test_outcomes_are_handed_out_in_the_order_of_the_journal() -> None:
    """Hard case 1: the journal is one sequence, replay delivers in that order."""
    two = [AwakeableCreated(id="a"), AwakeableCreated(id="b")]
    replay = Replay([INPUT, *two, OutcomeDelivered(of=2, outcome=DONE), OutcomeDelivered(of=1, outcome=DONE)])
    replay.ask(AwakeableCreated(id=""))
    replay.ask(AwakeableCreated(id=""))
    assert replay.recall((1, 2)) == 2
    assert replay.recall((1, 2)) == 1
    assert replay.recall((1, 2)) is None


def test_a_failed_try_is_remembered_until_the_run_ends() -> None:
    tried = RunAttemptFailed(of=1, attempt=3, began_ms=1, error="E: x", retry_at_ms=9)
    replay = Replay([INPUT, RunRequested(name="a"), tried])
    replay.ask(RunRequested(name="a"))
    assert replay.recall((1,)) is None
    assert replay.failed_attempts == {1: tried}


OTHERS: tuple[Operation, ...] = (
    AwakeableCreated(id="x"),
    PublishRequested(topic="pack", of=1, task="box"),
    PublishRequested(topic="pack", of=1),
    PublishRequested(topic="pack", task="box"),
    PublishRequested(topic="other", of=1, task="box"),
    RunRequested(name="refund"),
    RunRequested(name="other"),
    SleepRequested(until_ms=0),
    SettleRequested(id="prom_1b", status="resolved"),
    SettleRequested(id="prom_1b", status="rejected"),
    SettleRequested(id="prom_1c", status="resolved"),
    ClockRead(at_ms=0),
)


@pytest.mark.parametrize("recorded", OTHERS, ids=describe)
@pytest.mark.parametrize("asked", OTHERS, ids=describe)
def test_an_operation_that_differs_from_the_history_is_a_mismatch(recorded: Operation, asked: Any) -> None:
    replay = Replay([INPUT, recorded])
    if recorded == asked:
        assert replay.ask(asked) == (1, recorded)
        return
    with pytest.raises(ReplayMismatch) as caught:
        replay.ask(asked)
    assert describe(recorded) in str(caught.value)
    assert f"the handler asks for: {describe(asked)}" in str(caught.value)
    assert replay.replaying, "nothing was consumed"


def test_an_operation_where_the_history_has_an_outcome_is_a_mismatch() -> None:
    replay = Replay([INPUT, AwakeableCreated(id="a"), OutcomeDelivered(of=1, outcome=DONE)])
    replay.ask(AwakeableCreated(id=""))
    with pytest.raises(ReplayMismatch, match="outcome of entry 1"):
        replay.ask(RunRequested(name="new"))


def test_a_wait_that_differs_from_the_history_is_a_mismatch() -> None:
    replay = Replay(
        [INPUT, AwakeableCreated(id="a"), AwakeableCreated(id="b"), OutcomeDelivered(of=2, outcome=DONE)]
    )
    replay.ask(AwakeableCreated(id=""))
    replay.ask(AwakeableCreated(id=""))
    with pytest.raises(ReplayMismatch, match="the handler awaits: awakeable a"):
        replay.recall((1,))


def test_a_wait_where_the_history_has_an_operation_is_a_mismatch() -> None:
    replay = Replay([INPUT, AwakeableCreated(id="a"), RunRequested(name="gone")])
    replay.ask(AwakeableCreated(id=""))
    with pytest.raises(ReplayMismatch, match="run 'gone'"):
        replay.recall((1,))


def test_ending_before_the_history_does_is_a_mismatch() -> None:
    replay = Replay([INPUT, RunRequested(name="gone")])
    with pytest.raises(ReplayMismatch, match="the handler ends"):
        replay.finish()


def test_a_difference_can_be_read() -> None:
    replay = Replay(HISTORY)
    replay.ask(AwakeableCreated(id=""))
    replay.ask(PublishRequested(topic="pack", of=1, task="box"))
    with pytest.raises(ReplayMismatch) as caught:
        replay.ask(RunRequested(name="charge"))
    assert str(caught.value).splitlines() == [
        "the handler no longer does what its journal says: its code has changed, "
        "or it takes the time, randomness or an iteration order from elsewhere than ctx.",
        "       0  input of shop/fulfil",
        "       1  awakeable prom_1a",
        "       2  publish to 'pack' with the awakeable of entry 1, task 'box'",
        "  -    3  run 'refund'",
        "  +       the handler asks for: run 'charge'",
        "Deploy code that repeats the journal (the line marked -), then resume the invocation.",
    ]


def test_the_diff_shows_a_new_awakeable_without_an_id() -> None:
    with pytest.raises(ReplayMismatch) as caught:
        Replay([INPUT, RunRequested(name="charge")]).ask(AwakeableCreated(id=""))
    assert "  +       the handler asks for: awakeable" in str(caught.value).splitlines()


def test_every_entry_has_its_words() -> None:
    assert [describe(entry) for entry in HISTORY] == [
        "input of shop/fulfil",
        "awakeable prom_1a",
        "publish to 'pack' with the awakeable of entry 1, task 'box'",
        "run 'refund'",
        "attempt 1 of entry 3 failed: E: x",
        "outcome of entry 3",
        "sleep",
        "outcome of entry 6",
        "settle prom_1b: resolved",
        "outcome of entry 8",
        "now",
        "outcome of entry 1",
    ]
    assert describe(PublishRequested(topic="t")) == "publish to 't'"


def test_open_awakeables_are_those_whose_outcome_was_not_handed_out() -> None:
    """Hard case 4: these an ended invocation cancels."""
    two = [AwakeableCreated(id="a"), AwakeableCreated(id="b")]
    replay = Replay([INPUT, *two, OutcomeDelivered(of=2, outcome=DONE)])
    assert replay.open_awakeables() == ("a", "b")
    replay.ask(AwakeableCreated(id=""))
    replay.ask(AwakeableCreated(id=""))
    replay.recall((2,))
    assert replay.open_awakeables() == ("a",)


# ── versions ────────────────────────────────────────────────────────────────────────────────


def chosen(version: int, name: str = "discount") -> VersionChosen:
    return VersionChosen(name=name, version=version)


def test_at_the_end_of_the_history_the_current_version_is_chosen() -> None:
    replay = Replay([INPUT])
    assert [replay.version("discount", 3), replay.version("discount", 4)] == [3, 3]
    assert replay.entries == [INPUT, chosen(3)]


def test_h11_1_within_a_history_that_has_no_marker_the_version_is_1_and_is_appended() -> None:
    """Later code may ask at another place, at the end of the history: it must get the same."""
    replay = Replay(HISTORY)
    assert replay.version("discount", 2) == 1
    walk(replay)
    assert not replay.replaying
    assert replay.version("discount", 2) == 1
    assert replay.entries == [*HISTORY, chosen(1)]


def test_each_name_has_a_version_of_its_own() -> None:
    replay = Replay([INPUT])
    assert [replay.version(name, number) for number, name in enumerate("abc", 1)] == [1, 2, 3]


@pytest.mark.parametrize("place", range(1, len(HISTORY) + 1))
def test_a_marker_is_found_wherever_it_stands_and_passed_over_by_code_that_does_not_ask(place: int) -> None:
    shifted = [*HISTORY[:place], *(moved(entry, place) for entry in HISTORY[place:])]
    history = [*shifted[:place], chosen(2), *shifted[place:]]
    replay = Replay(history)
    walk(replay, place)
    replay.finish()
    assert replay.entries == history
    asking = Replay(history)
    assert asking.version("discount", 3) == 2
    walk(asking, place)
    assert asking.entries == history


def moved(entry: Entry, place: int) -> Entry:
    """An entry behind a new one: what it refers to may have another index."""
    of = getattr(entry, "of", None)
    return entry if of is None or of < place else replace(entry, of=of + 1)


def test_a_new_name_behind_the_last_operation_is_at_the_end_though_a_marker_follows() -> None:
    replay = Replay([INPUT, chosen(2)])
    assert not replay.replaying
    assert replay.version("refund", 5) == 5
    assert replay.version("discount", 3) == 2


def test_a_marker_is_described() -> None:
    assert describe(chosen(2)) == "version of 'discount': 2"
    assert describe(INPUT) == "input of shop/fulfil"
    assert describe(replace(INPUT, version=2)) == "input of shop/fulfil, version 2"


def test_a_journal_can_be_cut_before_and_behind_a_marker() -> None:
    entries: list[Entry] = [INPUT, ClockRead(at_ms=1), chosen(2), ClockRead(at_ms=2)]
    assert [cut_problem(entries, last) for last in range(4)] == [None] * 4
