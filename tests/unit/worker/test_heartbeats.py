"""Heartbeats of tasks: when they are sent, what they say, and how a task ends that nobody waits for."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from msgspec.structs import replace

from awakeables import Reject, RetryPolicy, Task, TaskOver, Worker
from awakeables.core.awakeables import MAX_PROGRESS_BYTES, Heartbeat
from awakeables.core.ids import parse_id
from awakeables.worker.heartbeats import Heart
from awakeables.worker.port import Incoming
from awakeables.worker.process import Answered, PastDeadline

from .fakes import FakePort, MovedClock, completion, process, task_record

TOPIC = "gpu-jobs"


def watched(heartbeat_ms: int | None = 300, *, revocations: str | None = "shop.revocations") -> Incoming:
    record = task_record({}, topic=TOPIC)
    headers = [*record.headers]
    if heartbeat_ms is not None:
        headers.append(("awakeable-heartbeat-ms", str(heartbeat_ms).encode()))
    if revocations is not None:
        headers.append(("awakeable-revocations", revocations.encode()))
    return replace(record, headers=tuple(headers))


def beats(port: FakePort) -> list[Any]:
    """The progress of what was sent, in order."""
    bodies = [completion(message).body for message in port.sent]
    return [bytes(body.progress) for body in bodies if isinstance(body, Heartbeat)]


def worker_of(function: Any, **options: Any) -> Worker:
    worker = Worker("trainer", retry=RetryPolicy(max_attempts=1))
    worker.task(TOPIC, **options)(function)
    return worker


async def test_taking_up_a_watched_task_is_its_first_heartbeat() -> None:
    async def train(task: Task[Any]) -> str:
        await asyncio.sleep(0.05)
        return "model"

    port = FakePort()
    fate = await process(worker_of(train), watched(), port=port)
    assert isinstance(fate, Answered)
    assert beats(port) == [b"null"]
    (message,) = port.sent
    assert message.topic.endswith(".completions")
    assert message.key == dict(watched().headers)["awakeable-id"]
    assert port.watched == {"shop.revocations": parse_id(str(completion(message).awakeable_id), "prom")}


@pytest.mark.parametrize("heartbeat_ms", ["0", "-1", "9" * 5000, "1e3", "", "٣", "soon"])
async def test_a_time_of_heartbeats_that_is_none_is_ignored(heartbeat_ms: str) -> None:
    """Anybody can publish a task: it must not end the worker."""

    async def train(task: Task[Any]) -> str:
        return "model"

    record = watched(None, revocations="payments")
    header = ("awakeable-heartbeat-ms", heartbeat_ms.encode())
    port = FakePort()
    fate = await process(
        worker_of(train, keepalive=True), replace(record, headers=(*record.headers, header)), port=port
    )
    assert isinstance(fate, Answered)
    assert beats(port) == []
    assert port.watched == {}, "only topics of revocations are read"


async def test_a_short_time_of_heartbeats_does_not_flood_the_broker() -> None:
    async def train(task: Task[Any]) -> None:
        await asyncio.sleep(0.25)

    port = FakePort()
    await process(worker_of(train, keepalive=True), watched(1), port=port)
    assert len(beats(port)) <= 4


async def test_heartbeats_after_the_end_are_for_nobody() -> None:
    sent: list[bytes] = []

    async def send(progress: bytes) -> None:
        sent.append(progress)

    heart = Heart(send, lambda: None, timeout_s=0.3, keepalive=False)
    await heart.close()
    heart.beat(1)  # of a thread that goes on
    await asyncio.sleep(0.01)
    assert sent == []


async def test_a_heartbeat_that_was_being_sent_at_the_end_is_sent_again() -> None:
    sent: list[bytes] = []
    begun = asyncio.Event()

    async def send(progress: bytes) -> None:
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(3600)
        sent.append(progress)

    heart = Heart(send, lambda: None, timeout_s=0.3, keepalive=False)
    heart.beat(1)
    await begun.wait()
    await heart.close()
    assert sent == [b"1"]


async def test_an_unwatched_task_sends_none_by_itself_but_its_progress() -> None:
    async def train(task: Task[Any]) -> None:
        await task.heartbeat({"epoch": 1})

    port = FakePort()
    await process(worker_of(train), watched(None, revocations=None), port=port)
    assert beats(port) == [b'{"epoch":1}']
    assert port.watched == {}


async def test_the_newest_of_many_heartbeats_is_sent_and_the_last_one_when_it_ends() -> None:
    async def train(task: Task[Any]) -> None:
        for epoch in range(100):
            await task.heartbeat({"epoch": epoch})
            await asyncio.sleep(0.002)

    port = FakePort()
    began = time.monotonic()
    await process(worker_of(train), watched(300), port=port)
    sent = beats(port)
    most = (time.monotonic() - began) / 0.1 + 2  # one per third of the timeout, and the last one
    assert 2 <= len(sent) <= most
    assert sent[-1] == b'{"epoch":99}'


async def test_a_heartbeat_without_progress_leaves_what_was_reported() -> None:
    async def train(task: Task[Any]) -> None:
        await task.heartbeat([1])
        await asyncio.sleep(0.15)
        await task.heartbeat()
        await asyncio.sleep(0.15)

    port = FakePort()
    await process(worker_of(train), watched(300), port=port)
    assert set(beats(port)[1:]) == {b"[1]"}


async def test_a_plain_function_makes_them_from_its_thread() -> None:
    def train(task: Task[Any]) -> str:
        for epoch in range(3):
            task.heartbeat(epoch)
            time.sleep(0.05)
        return "model"

    port = FakePort()
    fate = await process(worker_of(train), watched(300), port=port)
    assert isinstance(fate, Answered)
    assert beats(port)[-1] == b"2"


async def test_keepalive_sends_them_while_the_function_makes_none() -> None:
    async def train(task: Task[Any]) -> None:
        await asyncio.sleep(0.35)

    port, silent = FakePort(), FakePort()
    await process(worker_of(train, keepalive=True), watched(300), port=port)
    await process(worker_of(train), watched(300), port=silent)
    assert len(beats(port)) >= 3
    assert len(beats(silent)) == 1


@pytest.mark.parametrize("reason", ["cancelled", "timed-out"])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_task_that_nobody_waits_for_is_ended_without_an_answer(reason: Any, is_async: bool) -> None:
    seen: list[Any] = []
    port = FakePort()
    record = watched()
    awakeable_id = dict(record.headers)["awakeable-id"]
    assert awakeable_id is not None

    def revoke() -> None:
        port.over[awakeable_id.decode()] = reason

    async def train(task: Task[Any]) -> str:
        await task.heartbeat()
        revoke()
        try:
            await task.heartbeat()
        except TaskOver as over:
            seen.append(over.reason)
            raise
        return "model"

    def plainly(task: Task[Any]) -> str:
        task.heartbeat()
        revoke()
        task.heartbeat()
        return "model"

    fate = await process(worker_of(train if is_async else plainly), record, port=port)
    assert isinstance(fate, PastDeadline)
    assert all(isinstance(completion(message).body, Heartbeat) for message in port.sent)
    if is_async:
        assert seen == [reason]


async def test_a_task_that_was_revoked_before_it_began_is_not_done() -> None:
    async def train(task: Task[Any]) -> str:
        raise AssertionError("it was begun")

    port, record = FakePort(), watched()
    awakeable_id = dict(record.headers)["awakeable-id"] or b""
    port.over[awakeable_id.decode()] = "cancelled"
    assert isinstance(await process(worker_of(train), record, port=port), PastDeadline)


async def test_a_deadline_that_has_passed_ends_it_without_a_revocation() -> None:
    clock = MovedClock()

    async def train(task: Task[Any]) -> str:
        assert task.deadline is not None
        clock.ms = round(task.deadline.timestamp() * 1000)
        await task.heartbeat()
        return "model"

    record = task_record({}, topic=TOPIC, deadline_ms=clock.ms + 5)
    assert isinstance(await process(worker_of(train), record, clock), PastDeadline)


async def test_whoever_catches_it_may_answer_nevertheless() -> None:
    port, record = FakePort(), watched()
    awakeable_id = dict(record.headers)["awakeable-id"] or b""

    async def train(task: Task[Any]) -> str:
        port.over[awakeable_id.decode()] = "cancelled"
        try:
            await task.heartbeat()
        except TaskOver:
            raise Reject("cleaned up") from None
        return "model"

    assert isinstance(await process(worker_of(train), record, port=port), Answered)


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        (object(), "the progress can't be sent"),
        (b"bytes", "must be JSON, not bytes"),
        ("x" * MAX_PROGRESS_BYTES, "at most 65,536 can be sent"),
    ],
)
async def test_progress_that_can_not_be_sent_is_refused_at_the_call(progress: Any, message: str) -> None:
    seen: list[str] = []

    async def train(task: Task[Any]) -> None:
        try:
            await task.heartbeat(progress)
        except ValueError as error:
            seen.append(str(error))

    assert isinstance(await process(worker_of(train), watched()), Answered)
    assert len(seen) == 1
    assert message in seen[0]


async def test_a_heartbeat_is_sent_without_the_context_variables_of_the_function_that_makes_it() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send(progress: bytes) -> None:
        sent.set_result(user.get())

    heart = Heart(send, lambda: None, timeout_s=None, keepalive=False)
    variables = copy_context()
    variables.run(user.set, "ann")
    variables.run(heart.beat, 1)
    assert await sent == "nobody"
    await heart.close()


async def test_a_task_that_is_made_by_hand_has_no_heart() -> None:
    assert await Task(payload=1, awakeable_id="prom_1").heartbeat(5) is None  # type: ignore[func-returns-value]
