"""The loop: how much at once, what is acknowledged when, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from awakeables.core.awakeables import DeadTask
from awakeables.core.outcomes import Rejection
from awakeables.errors import (
    BrokerRefused,
    BrokerUnavailable,
    OperatorError,
    PublishRefused,
    TopicMissing,
)
from awakeables.handlers.retry import RetryPolicy
from awakeables.telemetry import events
from awakeables.worker.loop import LoopSettings, WorkerLoop
from awakeables.worker.port import Incoming, Outgoing
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker
from support.eventually import eventually
from support.logs import heard
from unit.worker.fakes import FakePort, MovedClock, awakeable_id, completion, task_record


def tasks(count: int) -> list[Incoming]:
    return [task_record(number, number=number, offset=number) for number in range(count)]


@asynccontextmanager
async def working(
    worker: Worker, port: FakePort, *, drain_timeout: timedelta = timedelta(seconds=5)
) -> AsyncIterator[asyncio.Event]:
    """The loop, until the block is left; the event is the order to stop."""
    stop = asyncio.Event()
    settings = LoopSettings(drain_timeout=drain_timeout)
    async with asyncio.timeout(20), asyncio.TaskGroup() as children:
        children.create_task(WorkerLoop(worker, port, clock=MovedClock(), settings=settings).run(stop))
        yield stop
        stop.set()


class Gate:
    """A function that holds its tasks until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0
        self.begun = 0

    async def __call__(self, task: Task[Any]) -> None:
        self.begun += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1


def gated(concurrency: int = 16) -> tuple[Worker, Gate]:
    worker, gate = Worker("packer", concurrency=concurrency), Gate()
    worker.task("tasks")(gate)
    return worker, gate


def quick(**options: Any) -> Worker:
    worker = Worker("packer", **options)

    @worker.task("tasks")
    async def answer(task: Task[Any]) -> Any:
        return task.payload

    return worker


async def test_a_record_is_acknowledged_after_its_answer_is_produced() -> None:
    port = FakePort(tasks(1))
    async with working(quick(), port):
        await eventually(lambda: port.acknowledged)
    assert port.did == ["sent to shop.completions", "acknowledged 0"]


async def test_nothing_is_acknowledged_while_the_answer_is_not_produced() -> None:
    port = FakePort(tasks(3))
    port.open.clear()
    async with working(quick(), port):
        await eventually(lambda: not port.waiting)
        await eventually(lambda: len(port.limits) > 20)
        assert port.did == []
        port.open.set()
        await eventually(lambda: len(port.acknowledged) == 3)


async def test_a_skipped_task_is_acknowledged_without_an_answer() -> None:
    port = FakePort([task_record(deadline_ms=1)])
    async with working(quick(), port):
        await eventually(lambda: port.acknowledged)
    assert port.did == ["acknowledged 0"]


async def test_a_dead_letter_is_produced_before_its_record_is_acknowledged() -> None:
    port = FakePort([Incoming(topic="tasks", partition=0, offset=4, value=b"?")])
    async with working(quick(), port):
        await eventually(lambda: port.acknowledged)
    assert port.did == ["sent to tasks.dlq", "acknowledged 4"]


async def test_one_bad_record_does_not_stop_the_others() -> None:
    bad = Incoming(topic="tasks", partition=0, offset=99, value=b"?")
    port = FakePort([bad, *tasks(2)])
    async with working(quick(concurrency=1), port):
        await eventually(lambda: port.acknowledged == [99, 0, 1])


async def test_no_more_tasks_run_at_once_than_the_worker_allows() -> None:
    worker, gate = gated(concurrency=3)
    port = FakePort(tasks(10))
    async with working(worker, port):
        await eventually(lambda: gate.inside == 3)
        assert len(port.waiting) == 7
        gate.open.set()
        await eventually(lambda: len(port.acknowledged) == 10)
    assert gate.most == 3
    assert max(port.limits) == 3


async def test_while_all_slots_are_taken_the_group_still_sees_the_member() -> None:
    worker, gate = gated(concurrency=1)
    port = FakePort(tasks(2))
    async with working(worker, port):
        await eventually(lambda: 0 in port.limits)
        assert len(port.waiting) == 1
        gate.open.set()


async def test_a_record_that_comes_again_while_it_is_done_is_not_done_twice() -> None:
    worker, gate = gated()
    port = FakePort(tasks(1) * 3)
    async with working(worker, port):
        await eventually(lambda: not port.waiting)
        gate.open.set()
        await eventually(lambda: port.acknowledged)
    assert (gate.begun, port.acknowledged) == (1, [0])


async def test_another_record_in_the_same_place_is_done() -> None:
    """A topic that was deleted and made again begins with the same offsets."""
    worker, gate = gated()
    (first,) = tasks(1)
    again = Incoming(topic="tasks", partition=0, offset=0, timestamp_ms=7, value=first.value)
    port = FakePort([first, again])
    async with working(worker, port):
        await eventually(lambda: gate.begun == 2)
        gate.open.set()


async def test_stopping_finishes_what_runs_and_takes_nothing_new() -> None:
    worker, gate = gated(concurrency=2)
    port = FakePort(tasks(5))
    async with working(worker, port) as stop:
        await eventually(lambda: gate.inside == 2)
        stop.set()
        gate.open.set()
    assert sorted(port.acknowledged) == [0, 1]
    assert len(port.sent) == 2


async def test_what_does_not_finish_in_time_is_left_to_the_next_worker() -> None:
    worker, gate = gated()
    port = FakePort(tasks(2))
    with heard() as logs:
        async with working(worker, port, drain_timeout=timedelta(milliseconds=10)):
            await eventually(lambda: gate.inside == 2)
    assert port.did == []
    assert gate.inside == 0
    incomplete = [entry for entry in logs if entry["event"] == events.DRAIN_INCOMPLETE]
    assert [entry["tasks"] for entry in incomplete] == [2]


async def test_a_task_in_its_back_off_does_not_hold_up_the_drain() -> None:
    worker, tried = Worker("packer"), asyncio.Event()

    @worker.task(
        "tasks", retry=RetryPolicy(initial_interval=timedelta(hours=1), max_interval=timedelta(hours=1))
    )
    async def fail(task: Task[Any]) -> None:
        tried.set()
        raise ValueError

    port = FakePort(tasks(1))
    async with working(worker, port):
        await tried.wait()
    assert port.did == []


async def test_case_u2_an_answer_to_a_missing_topic_does_not_hold_up_the_drain() -> None:
    class Draining(FakePort):
        def __init__(self) -> None:
            super().__init__(tasks(1))
            self.drains = asyncio.Event()
            self.asked = asyncio.Event()

        async def send(self, record: Outgoing) -> None:
            self.asked.set()
            await self.drains.wait()
            raise BrokerUnavailable("there is no topic 'shop.completions'")

        def drain(self) -> None:
            self.drains.set()

    port = Draining()
    with heard() as logs:
        async with working(quick(), port, drain_timeout=timedelta(hours=1)):
            await port.asked.wait()
    assert port.acknowledged == []
    assert events.TASK_LEFT in [entry["event"] for entry in logs]
    assert events.DRAIN_INCOMPLETE not in [entry["event"] for entry in logs]


async def test_a_task_is_tried_again_after_its_back_off() -> None:
    worker, attempts = Worker("packer"), list[int]()

    @worker.task("tasks", retry=RetryPolicy(initial_interval=timedelta(milliseconds=1)))
    async def fail_once(task: Task[Any]) -> None:
        attempts.append(task.attempt)
        if task.attempt == 1:
            raise ValueError

    port = FakePort(tasks(1))
    async with working(worker, port):
        await eventually(lambda: port.acknowledged)
    assert attempts == [1, 2]


async def test_a_stop_before_anything_came_ends_at_once() -> None:
    async with working(quick(), FakePort()):
        pass


async def test_an_answer_that_kafka_finds_too_large_becomes_a_rejection_that_names_its_size() -> None:
    worker = Worker("packer")

    @worker.task("tasks")
    async def big(task: Task[Any]) -> str:
        return "x" * 1000

    port = FakePort(tasks(1))
    port.refuse = lambda record: (
        PublishRefused("too large for topic shop.completions") if len(record.value or b"") > 400 else None
    )
    async with working(worker, port):
        await eventually(lambda: port.acknowledged)
    (sent,) = port.sent
    rejection = completion(sent).body
    assert isinstance(rejection, Rejection)
    assert rejection.code == 500
    assert rejection.reason == (
        "the result can't be sent: too large for topic shop.completions (a completion of 1174 bytes)"
    )


REFUSALS = pytest.mark.parametrize("refusal", [TopicMissing, PublishRefused, BrokerRefused])
"""No such topic, no such record there, or not ours to write to."""


def refusing(refusal: type[OperatorError]) -> Callable[[Outgoing], Exception | None]:
    return lambda record: refusal("no") if record.topic != "tasks.dlq" else None


@REFUSALS
async def test_a_task_that_can_not_be_answered_is_a_dead_letter(refusal: type[OperatorError]) -> None:
    port = FakePort(tasks(1))
    port.refuse = refusing(refusal)
    async with working(quick(), port):
        await eventually(lambda: port.acknowledged)
    (letter,) = port.sent
    assert letter.topic == "tasks.dlq"
    assert ("awakeable-error-code", b"unanswerable") in letter.headers


async def test_a_dead_letter_that_is_too_large_is_sent_without_its_value() -> None:
    port = FakePort([Incoming(topic="tasks", partition=0, offset=0, key=b"k", value=b"?" * 100)])
    port.refuse = lambda record: PublishRefused("too large") if record.value else None
    async with working(quick(), port):
        await eventually(lambda: port.acknowledged)
    (letter,) = port.sent
    assert (letter.key, letter.value) == (b"k", None)
    assert ("awakeable-value-omitted", b"too large") in letter.headers


async def test_a_dead_letter_that_kafka_refuses_altogether_is_logged_and_passed() -> None:
    port = FakePort([Incoming(topic="tasks", partition=0, offset=0, value=b"?")])
    port.refuse = lambda record: PublishRefused("headers too large")
    with heard() as logs:
        async with working(quick(), port):
            await eventually(lambda: port.acknowledged)
    assert events.EFFECT_REFUSED in [entry["event"] for entry in logs]


def misfits(count: int) -> list[Incoming]:
    return [task_record(number, number=number, offset=number, name="nobody-s") for number in range(count)]


def named() -> Worker:
    worker = Worker("packer")

    @worker.task("tasks", "pack")
    async def pack(task: Task[Any]) -> None: ...

    return worker


async def test_case_w14_a_dead_letter_is_reported_after_its_copy_and_before_its_offset_moves() -> None:
    port = FakePort(misfits(1))
    async with working(named(), port):
        await eventually(lambda: port.acknowledged)
    assert port.did == ["sent to tasks.dlq", "sent to shop.completions", "acknowledged 0"]


async def test_case_w14_a_report_that_is_too_large_goes_without_the_task() -> None:
    port = FakePort(misfits(1))
    port.refuse = lambda record: PublishRefused("too large") if b"content" in (record.value or b"") else None
    async with working(named(), port):
        await eventually(lambda: port.acknowledged)
    [_, report] = port.sent
    body = completion(report).body
    assert isinstance(body, DeadTask)
    assert not body.whole


@REFUSALS
async def test_case_w14_a_report_that_can_not_be_sent_is_logged_and_passed(
    refusal: type[OperatorError],
) -> None:
    port = FakePort(misfits(1))
    port.refuse = refusing(refusal)
    with heard() as logs:
        async with working(named(), port):
            await eventually(lambda: port.acknowledged)
    assert [letter.topic for letter in port.sent] == ["tasks.dlq"]
    [entry] = [entry for entry in logs if entry["event"] == events.EFFECT_REFUSED]
    assert (entry["awakeable_id"], entry["topic"]) == (awakeable_id(), "shop.completions")
    assert "dead letter tasks:0:0 is not reported" in entry["reason"]


async def test_an_error_of_the_port_ends_the_worker_loudly() -> None:
    class Broken(FakePort):
        async def receive(self, limit: int) -> list[Incoming]:
            raise AssertionError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        async with working(quick(), Broken()):
            await asyncio.Event().wait()
    assert caught.group_contains(AssertionError, match="a bug")
