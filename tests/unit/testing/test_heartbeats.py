"""Heartbeats in tests: a worker's keep it alive, its progress is seen, and its silence is a time-out."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
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


@gpus.handler()
async def leave(ctx: Context) -> str:
    job = ctx.awakeable(str, heartbeat_timeout=2 * MINUTE)
    ctx.publish("jobs", {}, awakeable=job)
    await ctx.sleep(MINUTE / 4)
    return "left"


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
def test_the_last_heartbeat_of_a_function_is_sent_when_it_ends(suspend: bool, thorough: bool) -> None:
    async def answer(task: Task[Any]) -> Answer:
        await task.heartbeat({"number": 1})
        await asyncio.sleep(10)
        await task.heartbeat({"number": 2})
        return Answer("model", after=timedelta(seconds=121))

    done = run(train, answers={"jobs": answer}, suspend=suspend, thorough=thorough)
    assert (done.value, done.duration) == (["heartbeat", 2, {"number": 2}], timedelta(seconds=130))


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


def worker_of(function: Callable[[Task[Any]], Any], **options: Any) -> Worker:
    worker = Worker("trainer")
    worker.task("jobs", **options)(function)
    return worker


async def sleep(task: Task[Any]) -> str:
    await asyncio.sleep(300)
    return "model"


@MODES
def test_a_worker_that_has_taken_a_task_up_and_makes_no_heartbeat_is_silent(
    suspend: bool, thorough: bool
) -> None:
    done = run(train, workers=[worker_of(sleep)], suspend=suspend, thorough=thorough)
    assert (done.value, done.duration) == (["heartbeat", None, None], 2 * MINUTE)


@MODES
def test_a_worker_that_keeps_a_task_alive_is_waited_for(suspend: bool, thorough: bool) -> None:
    done = run(train, workers=[worker_of(sleep, keepalive=True)], suspend=suspend, thorough=thorough)
    assert (done.value, done.duration) == (["trained", "model"], 5 * MINUTE)


def test_a_worker_without_heartbeats_may_take_long_if_none_are_expected() -> None:
    async def trains(ctx: Context) -> str:
        job = ctx.awakeable(str, timeout=timedelta(hours=1))
        ctx.publish("jobs", {}, awakeable=job)
        return await job

    assert run(trains, workers=[worker_of(sleep)]).value == "model"
    assert run(trains, workers=[worker_of(sleep, keepalive=True)]).value == "model"


def test_what_keeps_a_task_alive_repeats_its_progress_and_does_not_put_off_the_time_out() -> None:
    async def work(task: Task[Any]) -> str:
        await task.heartbeat({"number": 7})
        await asyncio.sleep(2 * 3600)
        return "model"

    done = run(train, workers=[worker_of(work, keepalive=True)])
    assert (done.value, done.duration) == (["deadline", 7, {"number": 7}], timedelta(hours=1))


def test_the_newest_heartbeat_of_a_worker_is_sent_three_times_in_the_time_allowed() -> None:
    async def work(task: Task[Any]) -> str:
        for number in range(12):
            await asyncio.sleep(7)
            await task.heartbeat({"number": number})
        return "model"

    # After a minute: what was sent after 40 seconds, and made after 35.
    assert run(look, workers=[worker_of(work)]).value == [4, "model"]


@pytest.mark.parametrize("keepalive", [False, True])
def test_a_plain_function_of_a_worker_takes_no_virtual_time(keepalive: bool) -> None:
    def work(task: Task[Any]) -> str:
        task.heartbeat({"number": 7})
        return "model"

    done = run(train, workers=[worker_of(work, keepalive=keepalive)])
    assert (done.value, done.duration) == (["trained", "model"], timedelta(0))


def test_the_workers_of_a_harness_fall_silent(harness: Harness) -> None:
    harness.add_worker(worker_of(sleep))
    training = harness.send(train)
    harness.advance(timedelta(seconds=119))
    assert training.status in ("suspended", "running")
    harness.advance(timedelta(seconds=1))
    assert training.result() == ["heartbeat", None, None]


def test_the_workers_of_a_harness_keep_their_tasks_alive(harness: Harness) -> None:
    harness.add_worker(worker_of(sleep, keepalive=True))
    training = harness.send(train)
    harness.advance(timedelta(seconds=299))
    assert training.status in ("suspended", "running")
    harness.advance(timedelta(seconds=1))
    assert training.result() == ["trained", "model"]


def test_a_worker_that_is_slow_holds_up_no_other_one_of_its_topic() -> None:
    async def answer(task: Task[Any]) -> str:
        return "model"

    quick = Worker("quick")
    quick.task("jobs")(answer)
    done = run(train, workers=[worker_of(sleep), quick])
    assert (done.value, done.duration) == (["trained", "model"], timedelta(0))


def test_a_worker_at_work_ends_with_the_test(caplog: pytest.LogCaptureFixture) -> None:
    async def work(task: Task[Any]) -> str:
        while True:
            await task.heartbeat()  # the second one is not sent yet when the handler ends
            await asyncio.sleep(10)

    for keepalive in (False, True):
        done = run(leave, workers=[worker_of(work, keepalive=keepalive)])
        assert (done.value, done.duration) == ("left", timedelta(seconds=15))
    gc.collect()
    assert "was destroyed" not in caplog.text


def test_what_a_worker_raises_while_it_keeps_its_task_alive_fails_the_test() -> None:
    async def work(task: Task[Any]) -> str:
        await asyncio.sleep(300)
        raise LookupError("no such dataset")

    with pytest.raises(LookupError, match="no such dataset"):
        run(train, workers=[worker_of(work, keepalive=True)])


# What a worker learns of its task's end.


def cancelling(**options: Any) -> Callable[[Context], Awaitable[str]]:
    """A handler that cancels its job after a minute."""

    async def cancels(ctx: Context) -> str:
        job: Any = ctx.awakeable(str, **options)
        ctx.publish("jobs", {}, awakeable=job)
        await ctx.sleep(MINUTE)
        job.cancel()
        await ctx.sleep(timedelta(hours=1))
        return "gave up"

    return cancels


@pytest.mark.parametrize("is_worker", [True, False], ids=["worker", "answer"])
@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({}, []),
        ({"timeout": 3 * MINUTE}, [("timed-out", 5)]),
        ({"timeout": 3 * MINUTE, "revocable": True}, [("cancelled", 2)]),
        ({"heartbeat_timeout": 2 * MINUTE}, [("cancelled", 2)]),
    ],
    ids=["nothing", "its-deadline", "its-revocation", "its-heartbeats"],
)
def test_a_function_learns_no_more_of_the_end_of_its_task_than_in_a_worker(
    options: dict[str, Any], known: list[tuple[str, int]], is_worker: bool
) -> None:
    over: list[tuple[str, int]] = []

    async def work(task: Task[Any]) -> str:
        await asyncio.sleep(10)
        for number in range(10):
            try:
                await task.heartbeat()
            except TaskOver as error:
                over.append((error.reason, number))
                raise
            await asyncio.sleep(35)
        return "model"

    if is_worker:
        done = run(cancelling(**options), workers=[worker_of(work)])
    else:
        done = run(cancelling(**options), answers={"jobs": work})
    assert (done.value, over) == ("gave up", known)


@pytest.mark.parametrize("revocable", [True, False])
def test_a_test_learns_no_more_of_the_end_of_a_task_than_its_worker(revocable: bool) -> None:
    service = Service("jobs")
    handler = service.handler("cancels")(cancelling(timeout=3 * MINUTE, revocable=revocable))
    with Harness(App("shop", services=[service])) as harness:
        harness.send(handler)
        task = harness.next_task("jobs")
        harness.advance(2 * MINUTE)
        if revocable:
            with pytest.raises(TaskOver, match="cancelled"):
                task.heartbeat()
        else:
            task.heartbeat()
        harness.advance(MINUTE)
        with pytest.raises(TaskOver, match="timed-out"):  # by its clock
            task.heartbeat()


@pytest.mark.parametrize("revocable", [True, False])
def test_a_worker_is_not_called_for_a_task_that_is_known_to_be_over(revocable: bool) -> None:
    called: list[str] = []

    async def work(task: Task[Any]) -> str:
        called.append(task.awakeable_id)
        return "model"

    async def changes_its_mind(ctx: Context) -> str:
        job = ctx.awakeable(str, revocable=revocable)
        ctx.publish("jobs", {}, awakeable=job)
        job.cancel()
        await ctx.sleep(MINUTE)
        return "gave up"

    assert run(changes_its_mind, workers=[worker_of(work)]).value == "gave up"
    assert len(called) == (0 if revocable else 1)
