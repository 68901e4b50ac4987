"""What is wrong with a test's answers is what the test fails with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from awakeables import Context, Reject, Service, Task, TerminalError, TimedOut, Worker
from awakeables.errors import DeclarationError
from awakeables.testing import Answer, WrongAnswer, run


class Order(BaseModel):
    id: str


class Parcel(BaseModel):
    weight: int


async def weigh(ctx: Context) -> int:
    weight = ctx.awakeable(int, timeout=timedelta(days=1))
    ctx.publish("scales", {"id": "o-1"}, awakeable=weight, task="weigh")
    return await weight


MISFITS: dict[str, Any] = {
    "a value": {"x": 1},
    "a function": lambda _task: {"x": 1},
    "bytes": b"1",
    "a late one": Answer({"x": 1}, after=timedelta(hours=1)),
}


@pytest.mark.parametrize("answer", MISFITS.values(), ids=MISFITS)
def test_case_u4_an_answer_that_does_not_fit_is_what_the_test_fails_with(answer: Any) -> None:
    with pytest.raises(WrongAnswer, match=r"answer to the task on 'scales' .* is invalid: .*it was b'"):
        run(weigh, answers={"scales": answer})


@pytest.mark.parametrize("key", ["typo", "Weigh", "scale"])
def test_case_u4_an_answer_that_no_task_has_asked_for_is_an_error_that_lists_what_was_published(
    key: str,
) -> None:
    with pytest.raises(WrongAnswer, match=rf"to '{key}'; published to: 'scales' \(task 'weigh'\)") as told:
        run(weigh, answers={key: 5})
    assert isinstance(told.value.__cause__, TerminalError)


def test_case_u4_an_answer_to_a_record_without_an_awakeable_is_for_nobody() -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", 1)

    with pytest.raises(WrongAnswer, match=r"published to: 'notices' \(without an awakeable\)$"):
        run(handler, answers={"notices": 1})
    with pytest.raises(WrongAnswer, match=r"published to: nothing$"):
        run(_nothing, answers={"notices": 1})


def test_case_u4_what_an_answering_function_raises_reaches_the_test() -> None:
    def broken(_task: Task[Any]) -> int:
        raise LookupError("no such order")

    for answers, workers in (({"scales": broken}, []), ({}, [_worker(broken)])):
        with pytest.raises(LookupError, match="no such order") as told:
            run(weigh, answers=answers, workers=workers)
        assert "answer to the task on 'scales'" in told.value.__notes__[0]


def test_case_u4_a_test_may_fail_in_an_answer() -> None:
    def refuse(_task: Task[Any]) -> int:
        pytest.fail("the handler should not have asked")

    with pytest.raises(pytest.fail.Exception, match="should not have asked"):
        run(weigh, answers={"scales": refuse})


def test_case_u4_a_second_answer_that_contradicts_the_first_is_an_error() -> None:
    async def handler(ctx: Context) -> int:
        weight = ctx.awakeable(int)
        ctx.publish("scales", 1, awakeable=weight)
        ctx.publish("other-scales", 1, awakeable=weight)
        told = await weight
        await ctx.sleep(timedelta(hours=2))
        return told

    again = Answer(5, after=timedelta(hours=1))
    assert run(handler, answers={"scales": 5, "other-scales": again}).value == 5
    with pytest.raises(WrongAnswer, match="is conflict: the awakeable is resolved with another answer"):
        run(handler, answers={"scales": 5, "other-scales": Answer(6, after=timedelta(hours=1))})


def test_case_u4_a_payload_that_its_worker_would_not_accept_is_an_error() -> None:
    def parcels(task: Task[Parcel]) -> int:
        return task.payload.weight

    with pytest.raises(
        WrongAnswer, match=r"payload of a task on 'scales' does not fit its function parcels: w"
    ):
        run(weigh, workers=[_worker(parcels)])


def test_case_u4_a_task_that_its_worker_has_no_function_for_is_an_error() -> None:
    worker = Worker("scales")
    worker.task("scales", "tare")(lambda _task: 1)
    with pytest.raises(
        WrongAnswer, match="worker 'scales' reads 'scales' and has no function for task 'weigh'"
    ):
        run(weigh, workers=[worker])


def test_case_u4_an_answer_that_json_can_t_represent_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        run(weigh, answers={"scales": float("nan")})


def test_case_u4_a_function_that_takes_no_task_is_refused_before_anything_runs() -> None:
    with pytest.raises(DeclarationError, match="must take exactly one parameter, a Task"):
        run(weigh, answers={"scales": lambda: 5})


def test_an_answer_that_comes_after_the_deadline_is_late_and_no_mistake() -> None:
    async def handler(ctx: Context) -> str:
        try:
            return str(await weigh(ctx))
        except TimedOut:
            await ctx.sleep(timedelta(days=3))
            return "timed out"

    told = run(handler, answers={"scales": Answer(5, after=timedelta(days=2))})
    assert (told.value, told.duration) == ("timed out", timedelta(days=4))


def test_the_test_s_own_answer_replaces_the_worker() -> None:
    worker = _worker(lambda _task: 1)
    assert run(weigh, workers=[worker]).value == 1
    assert run(weigh, workers=[worker], answers={"scales": 2}).value == 2


@pytest.mark.parametrize("refusal", [Reject("no", code=409), TerminalError("no", code=409)])
def test_a_worker_s_refusals_reach_the_handler(refusal: Exception) -> None:
    def refuse(_task: Task[Any]) -> int:
        raise refusal

    for told in (run(weigh, workers=[_worker(refuse)]), run(weigh, answers={"scales": refuse})):
        with pytest.raises(TerminalError, match=r"^no$") as caught:
            _ = told.value
        assert caught.value.code == 409


async def _nothing(ctx: Context) -> None: ...


def _worker(function: Callable[[Task[Any]], Any]) -> Worker:
    worker = Worker("scales")
    worker.task("scales")(function)
    return worker


@pytest.mark.parametrize("suspend", [True, False])
def test_on_wait_is_asked_before_any_time_passes(suspend: bool) -> None:
    """Also while the handler is in memory, so that the shortest time-out is not over before."""
    service = Service("quick")

    @service.handler()
    async def pay(ctx: Context) -> int:
        return await ctx.awakeable(int, timeout=timedelta(milliseconds=1))

    assert run(pay, on_wait=lambda wait: wait.resolve(7), suspend=suspend).value == 7


def test_a_function_that_answers_may_be_declared_to_return_an_answer() -> None:
    async def handler(ctx: Context) -> int:
        awakeable = ctx.awakeable(int)
        ctx.publish("scales", 1, awakeable=awakeable)
        return await awakeable

    def later(task: Task[int]) -> Answer:
        return Answer(task.payload + 1, after=timedelta(hours=1))

    told = run(handler, answers={"scales": later})
    assert (told.value, told.duration) == (2, timedelta(hours=1))
