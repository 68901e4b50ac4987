"""J2: a replay asks for the same in the same order; a difference is shown so that people can read it."""

from __future__ import annotations

from typing import Any

import pytest

from awakeables.core.journal import (
    AwakeableAsked,
    Delivered,
    Entry,
    Input,
    NowRead,
    Operation,
    PublishAsked,
    RunAsked,
    SettleAsked,
    SleepAsked,
    Tried,
)
from awakeables.core.outcomes import Resolution
from awakeables.core.replay import Replay, describe
from awakeables.errors import ReplayMismatch

INPUT = Input(service="shop", handler="fulfil", seed="s", at_ms=1)
DONE = Resolution.of_json(b"1")
HISTORY: tuple[Entry, ...] = (
    INPUT,
    AwakeableAsked(id="prom_1a", timeout_ms=5),
    PublishAsked(topic="pack", of=1, task="box"),
    RunAsked(name="refund"),
    Tried(of=3, attempt=1, began_ms=1, error="E: x", retry_at_ms=9),
    Delivered(of=3, outcome=DONE),
    SleepAsked(until_ms=100),
    Delivered(of=6, outcome=DONE),
    SettleAsked(id="prom_1b", status="resolved"),
    Delivered(of=8, outcome=DONE),
    NowRead(at_ms=7),
    Delivered(of=1, outcome=DONE),
)


def walk(replay: Replay) -> None:
    """Does what HISTORY tells."""
    replay.ask(AwakeableAsked(id="", timeout_ms=99))
    replay.ask(PublishAsked(topic="pack", of=1, task="box"))
    replay.ask(RunAsked(name="refund"))
    replay.recall((3,))
    replay.ask(SleepAsked(until_ms=5))
    replay.recall((6,))
    replay.ask(SettleAsked(id="prom_1b", status="resolved"))
    replay.recall((8,))
    replay.ask(NowRead(at_ms=99))
    replay.recall((1,))


def test_a_walk_that_repeats_its_history_asks_for_nothing_new() -> None:
    replay = Replay(HISTORY)
    walk(replay)
    assert not replay.replaying
    assert replay.take_new() == []
    replay.finish()
    assert replay.outcomes == {3: DONE, 6: DONE, 8: DONE, 1: DONE}


def test_an_operation_comes_back_as_it_was_first_asked_for() -> None:
    """The first ID, the first instant: what the handler computes anew is not used."""
    replay = Replay(HISTORY)
    assert replay.ask(AwakeableAsked(id="another")) == (1, HISTORY[1])


def test_past_the_end_of_history_everything_is_new_and_is_taken_once() -> None:
    replay = Replay([INPUT])
    assert not replay.replaying
    assert replay.ask(RunAsked(name="a")) == (1, RunAsked(name="a"))
    replay.deliver(1, DONE)
    assert replay.take_new() == [RunAsked(name="a"), Delivered(of=1, outcome=DONE)]
    assert replay.take_new() == []
    replay.retry(Tried(of=1, attempt=1, began_ms=1, error="x", retry_at_ms=2))
    assert len(replay.take_new()) == 1


def test_what_was_new_replays() -> None:
    first = Replay([INPUT])
    first.ask(AwakeableAsked(id="prom_1a"))
    first.ask(NowRead(at_ms=3))
    first.deliver(1, DONE)
    second = Replay([INPUT, *first.take_new()])
    second.ask(AwakeableAsked(id=""))
    second.ask(NowRead(at_ms=0))
    assert second.recall((1,)) == 1
    second.finish()


def test_outcomes_are_handed_out_in_the_order_of_the_journal() -> None:
    """Hard case 1: the journal is one sequence, replay delivers in that order."""
    two = [AwakeableAsked(id="a"), AwakeableAsked(id="b")]
    replay = Replay([INPUT, *two, Delivered(of=2, outcome=DONE), Delivered(of=1, outcome=DONE)])
    replay.ask(AwakeableAsked(id=""))
    replay.ask(AwakeableAsked(id=""))
    assert replay.recall((1, 2)) == 2
    assert replay.recall((1, 2)) == 1
    assert replay.recall((1, 2)) is None


def test_a_failed_try_is_remembered_until_the_run_ends() -> None:
    tried = Tried(of=1, attempt=3, began_ms=1, error="E: x", retry_at_ms=9)
    replay = Replay([INPUT, RunAsked(name="a"), tried])
    replay.ask(RunAsked(name="a"))
    assert replay.recall((1,)) is None
    assert replay.tried == {1: tried}


OTHERS: tuple[Operation, ...] = (
    AwakeableAsked(id="x"),
    PublishAsked(topic="pack", of=1, task="box"),
    PublishAsked(topic="pack", of=1),
    PublishAsked(topic="pack", task="box"),
    PublishAsked(topic="other", of=1, task="box"),
    RunAsked(name="refund"),
    RunAsked(name="other"),
    SleepAsked(until_ms=0),
    SettleAsked(id="prom_1b", status="resolved"),
    SettleAsked(id="prom_1b", status="rejected"),
    SettleAsked(id="prom_1c", status="resolved"),
    NowRead(at_ms=0),
)


@pytest.mark.parametrize("recorded", OTHERS, ids=describe)
@pytest.mark.parametrize("asked", OTHERS, ids=describe)
def test_asking_for_something_else_than_history_tells_is_a_mismatch(recorded: Operation, asked: Any) -> None:
    replay = Replay([INPUT, recorded])
    if recorded == asked:
        assert replay.ask(asked) == (1, recorded)
        return
    with pytest.raises(ReplayMismatch) as caught:
        replay.ask(asked)
    assert describe(recorded) in str(caught.value)
    assert f"the handler asks for: {describe(asked)}" in str(caught.value)
    assert replay.replaying, "nothing was consumed"


def test_asking_where_history_tells_of_an_outcome_is_a_mismatch() -> None:
    replay = Replay([INPUT, AwakeableAsked(id="a"), Delivered(of=1, outcome=DONE)])
    replay.ask(AwakeableAsked(id=""))
    with pytest.raises(ReplayMismatch, match="outcome of entry 1"):
        replay.ask(RunAsked(name="new"))


def test_waiting_for_something_else_than_history_tells_is_a_mismatch() -> None:
    replay = Replay([INPUT, AwakeableAsked(id="a"), AwakeableAsked(id="b"), Delivered(of=2, outcome=DONE)])
    replay.ask(AwakeableAsked(id=""))
    replay.ask(AwakeableAsked(id=""))
    with pytest.raises(ReplayMismatch, match="the handler awaits: awakeable a"):
        replay.recall((1,))


def test_waiting_where_history_asks_is_a_mismatch() -> None:
    replay = Replay([INPUT, AwakeableAsked(id="a"), RunAsked(name="gone")])
    replay.ask(AwakeableAsked(id=""))
    with pytest.raises(ReplayMismatch, match="run 'gone'"):
        replay.recall((1,))


def test_ending_while_history_tells_of_more_is_a_mismatch() -> None:
    replay = Replay([INPUT, RunAsked(name="gone")])
    with pytest.raises(ReplayMismatch, match="the handler ends"):
        replay.finish()


def test_a_difference_can_be_read() -> None:
    replay = Replay(HISTORY)
    replay.ask(AwakeableAsked(id=""))
    replay.ask(PublishAsked(topic="pack", of=1, task="box"))
    with pytest.raises(ReplayMismatch) as caught:
        replay.ask(RunAsked(name="charge"))
    assert str(caught.value).splitlines() == [
        "the handler no longer does what its journal tells: its code has changed, "
        "or time, chance or an order is not from ctx.",
        "       0  input of shop/fulfil",
        "       1  awakeable prom_1a",
        "       2  publish to 'pack' with the awakeable of entry 1, task 'box'",
        "  -    3  run 'refund'",
        "  +       the handler asks for: run 'charge'",
        "Deploy code that repeats the journal (the line marked -) and resume the invocation.",
    ]


def test_an_awakeable_that_is_asked_for_in_replay_has_no_id_to_tell() -> None:
    with pytest.raises(ReplayMismatch) as caught:
        Replay([INPUT, RunAsked(name="charge")]).ask(AwakeableAsked(id=""))
    assert "  +       the handler asks for: awakeable" in str(caught.value).splitlines()


def test_every_entry_has_its_words() -> None:
    assert [describe(entry) for entry in HISTORY] == [
        "input of shop/fulfil",
        "awakeable prom_1a",
        "publish to 'pack' with the awakeable of entry 1, task 'box'",
        "run 'refund'",
        "try 1 of entry 3 failed: E: x",
        "outcome of entry 3",
        "sleep",
        "outcome of entry 6",
        "settle prom_1b: resolved",
        "outcome of entry 8",
        "now",
        "outcome of entry 1",
    ]
    assert describe(PublishAsked(topic="t")) == "publish to 't'"


def test_open_awakeables_are_those_whose_outcome_was_not_handed_out() -> None:
    """Hard case 4: these an ended invocation cancels."""
    two = [AwakeableAsked(id="a"), AwakeableAsked(id="b")]
    replay = Replay([INPUT, *two, Delivered(of=2, outcome=DONE)])
    assert replay.open_awakeables() == ("a", "b")
    replay.ask(AwakeableAsked(id=""))
    replay.ask(AwakeableAsked(id=""))
    replay.recall((2,))
    assert replay.open_awakeables() == ("a",)
