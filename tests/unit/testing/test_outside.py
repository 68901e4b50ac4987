"""Whoever has an awakeable's ID can answer it: by task, by hand, later, from an async test."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field

from awakeables import Context, Reject, Rejected, Task, TaskOver, TimedOut, Worker
from awakeables.errors import InvalidInput
from awakeables.testing import Answer, PendingAwakeable, Stuck, WrongAnswer, run


class Decision(BaseModel):
    verdict: str
    cents: Decimal = Field(default=Decimal(0), alias="amount")


mails: list[str] = []


@pytest.fixture(autouse=True)
def no_mails() -> None:
    mails.clear()


async def asks_by_mail(ctx: Context) -> str:
    decision = ctx.awakeable(Decision, timeout=timedelta(days=3))
    await ctx.run("mail", mails.append, decision.id)
    try:
        return (await decision).verdict
    except TimedOut:
        return "nobody"


async def asks_by_task(ctx: Context) -> str:
    decision = ctx.awakeable(Decision)
    ctx.publish("approvals", {"order": 1}, awakeable=decision, task="approve")
    return (await decision).verdict


PAY = Decision(verdict="pay", amount=Decimal("0.10"))


def test_case_u6_an_id_that_left_by_mail_is_answered_by_on_wait(suspend: bool) -> None:
    def click(wait: PendingAwakeable) -> None:
        assert (wait.id, wait.topic) == (mails[0], None)
        assert wait.deadline == datetime(2026, 1, 4, tzinfo=UTC) or not suspend
        wait.resolve(PAY)

    told = run(asks_by_mail, on_wait=click, suspend=suspend)
    assert told.value == "pay"
    assert told.duration < timedelta(seconds=2)


def test_case_u6_it_is_answered_later_or_not_at_all(suspend: bool) -> None:
    later = timedelta(days=2)
    told = run(asks_by_mail, on_wait=lambda wait: wait.resolve(PAY, after=later), suspend=suspend)
    assert (told.value, later <= told.duration < later + timedelta(minutes=1)) == ("pay", True)
    told = run(asks_by_mail, on_wait=lambda _wait: None, suspend=suspend)
    assert (told.value, told.duration >= timedelta(days=3)) == ("nobody", True)


def test_case_u6_a_rejection_by_hand_says_what_it_says() -> None:
    async def handler(ctx: Context) -> Any:
        try:
            await ctx.awakeable()
        except Rejected as error:
            return [error.reason, error.code, error.details]

    def refuse(wait: PendingAwakeable) -> None:
        wait.reject("no", code=409, details={"by": "Ann"})

    assert run(handler, on_wait=refuse).value == ["no", 409, {"by": "Ann"}]


async def test_case_u6_on_wait_may_be_a_coroutine_function() -> None:
    async def click(wait: PendingAwakeable) -> None:
        await asyncio.sleep(3600)
        wait.resolve(PAY)

    assert run(asks_by_mail, on_wait=click).value == "pay"


@pytest.mark.parametrize("key", ["approvals", "approve"])
def test_case_u6_a_task_is_answered_by_its_name_or_its_topic(key: str) -> None:
    assert run(asks_by_task, answers={key: PAY}).value == "pay"
    assert run(asks_by_task, answers={key: lambda _task: PAY}).value == "pay"


def test_case_u6_the_task_s_name_goes_before_its_topic() -> None:
    topic = Decision(verdict="topic")
    with pytest.raises(WrongAnswer, match="no task has asked for the answers to 'approvals'"):
        run(asks_by_task, answers={"approvals": topic, "approve": PAY})


@pytest.mark.parametrize("answer", [PAY, {"verdict": "pay", "amount": "0.1"}], ids=["model", "json"])
def test_case_u6_an_answer_may_be_late(answer: Any) -> None:
    for late in (
        Answer(answer, after=timedelta(hours=5)),
        lambda _: Answer(answer, after=timedelta(hours=5)),
    ):
        told = run(asks_by_task, answers={"approve": late})
        assert (told.value, told.duration) == ("pay", timedelta(hours=5))


def test_case_u6_a_refusal_may_be_late() -> None:
    told = run(asks_by_task, answers={"approve": Answer(Reject("no"), after=timedelta(hours=5))})
    with pytest.raises(Exception, match=r"^no$"):
        _ = told.value
    assert told.duration == timedelta(hours=5)


def test_an_answer_can_t_come_before_its_question() -> None:
    with pytest.raises(ValueError, match="after can't be negative"):
        Answer(1, after=timedelta(seconds=-1))


def test_on_wait_is_asked_only_for_what_nobody_answers() -> None:
    async def handler(ctx: Context) -> list[Any]:
        several = [ctx.awakeable(int, timeout=timedelta(days=1)) for _ in range(3)]
        ctx.publish("slow", 1, awakeable=several[0])
        ctx.publish("late", 1, awakeable=several[1])
        return [await one for one in several]

    async def slow(_task: Task[Any]) -> int:
        await asyncio.sleep(60)
        return 1

    asked: list[str | None] = []

    def answer(wait: PendingAwakeable) -> None:
        asked.append(wait.topic)
        wait.resolve(3)

    late = Answer(2, after=timedelta(hours=1))
    assert run(handler, answers={"slow": slow, "late": late}, on_wait=answer).value == [1, 2, 3]
    assert asked == [None]


def test_what_on_wait_returns_is_ignored_and_what_it_raises_reaches_the_test() -> None:
    with pytest.raises(WrongAnswer, match=r"on_wait returned .*wait\.resolve\(value\)"):
        run(asks_by_mail, on_wait=lambda _wait: PAY)
    with pytest.raises(LookupError):
        run(asks_by_mail, on_wait=lambda wait: [][0])
    with pytest.raises(WrongAnswer, match=r"the answer that on_wait gave to awakeable prom_1.* is invalid"):
        run(asks_by_mail, on_wait=lambda wait: wait.resolve(5))


def test_the_error_for_an_unanswered_wait_names_every_way() -> None:
    with pytest.raises(Stuck, match=r"prom_1\w+ \(published to 'approvals'\) and nobody answers.*on_wait"):
        _ = run(asks_by_task).value


# ── within a loop ───────────────────────────────────────────────────────────────────────────

caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def test_case_u6_it_runs_within_a_loop_with_the_caller_s_context_variables() -> None:
    async def handler(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=30))
        return caller.get()

    caller.set("the test")
    assert run(handler).value == "the test"


async def test_case_u6_errors_come_out_of_the_thread_as_they_are() -> None:
    with pytest.raises(InvalidInput):
        run(asks_by_task, 1)
    with pytest.raises(WrongAnswer):
        run(asks_by_task, answers={"typo": 1})


def test_a_plain_action_and_a_worker_s_function_run_in_a_thread_and_answers_here() -> None:
    threads: dict[str, Any] = {}

    def note(name: str, value: Any = None) -> Any:
        threads[name] = threading.current_thread()
        return value

    async def handler(ctx: Context) -> None:
        await ctx.run("action", note, "action")
        for topic in ("own", "worker"):
            answer = ctx.awakeable()
            ctx.publish(topic, 1, awakeable=answer)
            await answer

    worker = Worker("w")
    worker.task("worker")(lambda _task: note("worker", 1))
    run(handler, workers=[worker], answers={"own": lambda _task: note("own", 1)})
    here = threading.current_thread()
    assert {name: thread is here for name, thread in threads.items()} == {
        "action": False,
        "worker": False,
        "own": True,
    }


def test_an_action_may_run_a_loop_of_its_own() -> None:
    async def handler(ctx: Context) -> int:
        return await ctx.run("act", lambda: asyncio.run(asyncio.sleep(0, 5)))

    assert run(handler).value == 5


def test_time_stands_still_while_a_thread_is_at_work() -> None:
    released = threading.Event()

    async def handler(ctx: Context) -> bool:
        async def act() -> bool:
            asyncio.get_running_loop().call_later(60, released.set)
            async with asyncio.timeout(30):
                return await asyncio.to_thread(released.wait, 0.05)

        return await ctx.run("act", act)

    assert run(handler).value is False


def test_time_stands_still_while_a_socket_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(connection.recv(5)[::-1])

        async def act() -> bytes:
            async with asyncio.timeout(60):
                reader, writer = await asyncio.open_connection(*listening.getsockname())
                writer.write(b"hello")
                answer = await reader.read()
                writer.close()
                return answer

        async def handler(ctx: Context) -> bytes:
            return await ctx.run("act", act)

        server = threading.Thread(target=serve)
        server.start()
        told = run(handler)
        server.join()
    assert (told.value, told.duration) == (b"olleh", timedelta(0))


@pytest.fixture(params=[True, False], ids=["always-suspend", "live"])
def suspend(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("is_worker", [True, False], ids=["worker", "answer"])
def test_a_function_that_nobody_waits_for_any_more_gives_no_answer(is_worker: bool) -> None:
    over: list[str] = []

    async def train(task: Task[Any]) -> str:
        await task.heartbeat()
        await asyncio.sleep(180)
        try:
            await task.heartbeat()
        except TaskOver as error:
            over.append(error.reason)
            raise
        return "too late"

    async def trains(ctx: Context) -> str:
        trained = ctx.awakeable(str, heartbeat_timeout=timedelta(minutes=2))
        ctx.publish("jobs", None, awakeable=trained)
        try:
            return await trained
        except TimedOut as error:
            await ctx.sleep(timedelta(minutes=5))
            return error.kind

    worker = Worker("trainer")
    worker.task("jobs")(train)
    told = run(trains, workers=[worker]) if is_worker else run(trains, answers={"jobs": train})
    assert (told.value, over) == ("heartbeat", ["timed-out"])
