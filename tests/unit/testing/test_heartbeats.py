"""Heartbeats in tests: a worker's keep it alive, its progress is seen, and its silence is a time-out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from awakeables import App, Context, Service, Task, TaskOver, TimedOut, Worker
from awakeables.testing import Answer, AsyncHarness, Harness, run

MINUTE = timedelta(minutes=1)


class Epoch(BaseModel):
    number: int


gpus = Service("gpus")


@gpus.handler()
async def train(ctx: Context) -> list[Any]:
    job = ctx.awakeable(str, timeout=timedelta(hours=1), heartbeat_timeout=2 * MINUTE)
    ctx.publish("jobs", {}, awakeable=job)
    try:
        return ["trained", await job]
    except TimedOut as late:
        reached = late.progress(Epoch)
        return [late.kind, None if reached is None else reached.number, late.progress()]


@gpus.handler()
async def look(ctx: Context) -> list[Any]:
    job = ctx.awakeable(str, heartbeat_timeout=2 * MINUTE)
    ctx.publish("jobs", {}, awakeable=job)
    seen: list[Any] = []
    while await ctx.race(job, ctx.sleep(MINUTE)) is None:
        reached = await job.progress(Epoch)
        seen.append(None if reached is None else reached.number)
    return [*seen, await job]


@gpus.handler()
async def give_up(ctx: Context) -> str:
    job = ctx.awakeable(str, heartbeat_timeout=2 * MINUTE)
    ctx.publish("jobs", {}, awakeable=job)
    await ctx.sleep(MINUTE)
    job.cancel()
    await ctx.sleep(timedelta(hours=1))
    return "gave up"


app = App("shop", services=[gpus])


@pytest.fixture(params=["replayed", "live", "thorough"])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with Harness(app, suspend=request.param != "live", thorough=request.param == "thorough") as made:
        yield made


def test_a_worker_that_beats_is_waited_for_until_it_answers(harness: Harness) -> None:
    training = harness.send(train)
    task = harness.next_task("jobs")
    for number in range(10):
        task.heartbeat(Epoch(number=number))
        harness.advance(timedelta(seconds=119))
        assert training.status in ("suspended", "running")
    assert task.resolve("model").kind == "accepted"
    assert training.result() == ["trained", "model"]


def test_a_worker_that_falls_silent_is_timed_out_with_its_last_progress(harness: Harness) -> None:
    training = harness.send(train)
    task = harness.next_task("jobs")
    task.heartbeat({"number": 1})
    harness.advance(MINUTE)
    task.heartbeat({"number": 2})
    harness.advance(timedelta(seconds=119))
    assert training.status in ("suspended", "running")
    harness.advance(timedelta(seconds=2))
    assert training.result() == ["heartbeat", 2, {"number": 2}]
    with pytest.raises(TaskOver, match="timed-out") as over:
        task.heartbeat({"number": 3})
    assert over.value.reason == "timed-out"
    assert task.resolve("model").kind == "late"


def test_a_heartbeat_without_progress_leaves_that_of_the_one_before(harness: Harness) -> None:
    training = harness.send(train)
    task = harness.next_task("jobs")
    task.heartbeat({"number": 1})
    harness.advance(MINUTE)
    task.heartbeat()
    harness.advance(timedelta(seconds=119))
    assert training.status in ("suspended", "running")
    assert training.result() == ["heartbeat", 1, {"number": 1}]


def test_a_worker_that_has_not_begun_is_not_silent(harness: Harness) -> None:
    training = harness.send(train)
    harness.advance(59 * MINUTE)
    assert training.status in ("suspended", "running")
    assert training.result() == ["deadline", None, None]


def test_heartbeats_don_t_put_off_the_time_out(harness: Harness) -> None:
    training = harness.send(train)
    task = harness.next_task("jobs")
    for number in range(60):
        task.heartbeat({"number": number})
        harness.advance(MINUTE)
    assert training.result() == ["deadline", 59, {"number": 59}]


def test_a_handler_sees_the_progress_of_its_worker(harness: Harness) -> None:
    looking = harness.send(look)
    task = harness.next_task("jobs")
    for number in (3, 5):
        harness.advance(timedelta(seconds=40))
        task.heartbeat(Epoch(number=number))
        harness.advance(timedelta(seconds=20))
    task.resolve("model")
    assert looking.result() == [3, 5, "model"]


def test_a_worker_hears_that_its_task_was_cancelled(harness: Harness) -> None:
    giving_up = harness.send(give_up)
    task = harness.next_task("jobs")
    task.heartbeat()
    harness.advance(MINUTE)
    with pytest.raises(TaskOver, match="cancelled"):
        task.heartbeat()
    assert giving_up.result() == "gave up"


def test_progress_that_can_t_be_sent_is_refused_and_counts_as_silence(harness: Harness) -> None:
    training = harness.send(train)
    task = harness.next_task("jobs")
    task.heartbeat({"number": 1})
    harness.advance(MINUTE)
    with pytest.raises(ValueError, match="the progress can't be sent"):
        task.heartbeat(object())
    with pytest.raises(ValueError, match="at most 65,536 can be sent"):
        task.heartbeat("x" * 65_536)
    harness.advance(timedelta(seconds=61))
    assert training.result() == ["heartbeat", 1, {"number": 1}]


async def test_an_async_test_beats_and_waits_for_silence() -> None:
    async with AsyncHarness(app) as harness:
        training = await harness.send(train)
        task = harness.next_task("jobs")
        for number in range(3):
            await task.heartbeat({"number": number})
            await harness.advance(timedelta(seconds=119))
        assert await training.result() == ["heartbeat", 2, {"number": 2}]
        with pytest.raises(TaskOver, match="timed-out"):
            await task.heartbeat()


# The kit, in which functions of workers do the tasks.

packer = Worker("packer")
MODES = pytest.mark.parametrize(
    ("suspend", "thorough"),
    [(True, False), (False, False), (True, True)],
    ids=["replayed", "live", "thorough"],
)


@packer.task("jobs")
async def work(task: Task[Any]) -> str:
    for number in range(5):
        await task.heartbeat({"number": number})
    return "model"


@MODES
def test_a_function_of_a_worker_beats_and_answers(suspend: bool, thorough: bool) -> None:
    assert run(train, workers=[packer], suspend=suspend, thorough=thorough).value == ["trained", "model"]


@MODES
def test_an_answer_that_comes_in_time_after_a_heartbeat_counts(suspend: bool, thorough: bool) -> None:
    def answer(task: Task[Any]) -> Answer:
        task.heartbeat({"number": 7})
        return Answer("model", after=timedelta(seconds=119))

    done = run(train, answers={"jobs": answer}, suspend=suspend, thorough=thorough)
    assert done.value == ["trained", "model"]
    assert done.duration == timedelta(seconds=119)


@MODES
def test_an_answer_that_comes_after_too_long_a_silence_is_late(suspend: bool, thorough: bool) -> None:
    def answer(task: Task[Any]) -> Answer:
        task.heartbeat({"number": 7})
        return Answer("model", after=timedelta(seconds=121))

    done = run(train, answers={"jobs": answer}, suspend=suspend, thorough=thorough)
    assert done.value == ["heartbeat", 7, {"number": 7}]
    assert done.duration == timedelta(seconds=120)


@MODES
def test_an_answer_without_a_heartbeat_may_take_as_long_as_the_time_out_allows(
    suspend: bool, thorough: bool
) -> None:
    done = run(
        train,
        answers={"jobs": Answer("model", after=timedelta(minutes=59))},
        suspend=suspend,
        thorough=thorough,
    )
    assert done.value == ["trained", "model"]


@MODES
def test_what_a_function_has_reported_is_seen_by_the_handler(suspend: bool, thorough: bool) -> None:
    def answer(task: Task[Any]) -> Answer:
        task.heartbeat({"number": 7})
        return Answer("model", after=timedelta(seconds=90))

    assert run(look, answers={"jobs": answer}, suspend=suspend, thorough=thorough).value == [7, "model"]
