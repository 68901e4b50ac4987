"""Spans of our worker: one for each record, current while the function runs, and the parent of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracerProvider, get_current_span

from awakeables import Reject, RetryPolicy, Task, Worker
from awakeables.core.effects import Header
from awakeables.telemetry.spans import Spans
from awakeables.worker.process import Answered, Fate
from support.spans import Recorder, check_vocabulary, events_of, facts, id_of, is_error, parent_of, trace_of
from unit.worker import fakes

STATE: Header = ("tracestate", b"vendor=1")


async def done(function: Callable[[Task[Any]], Any], recorder: Recorder, **record: Any) -> Fate:
    """What becomes of a task that is done by this function."""
    worker = Worker("packer")
    worker.task("tasks", retry=RetryPolicy(max_attempts=2))(function)
    task = fakes.task_record(3, headers=[fakes.TRACEPARENT, STATE], **record)
    fate = await fakes.process(worker, task, spans=recorder.spans)
    assert recorder.open == []
    check_vocabulary(recorder.ended)
    return fate


async def test_the_span_is_below_the_task_s_and_the_completion_below_it() -> None:
    recorder = Recorder()
    await done(lambda task: 1, recorder, offset=5)
    span = recorder.one("process tasks")
    _, trace_id, span_id, _ = (fakes.TRACEPARENT[1] or b"").decode().split("-")
    assert (trace_of(span), parent_of(span)) == (trace_id, span_id)
    assert facts(span, "messaging.system", "messaging.consumer.group.name", "messaging.message.id") == [
        "kafka",
        "packer",
        "evt_1",
    ]
    assert facts(span, "messaging.destination.partition.id", "messaging.kafka.offset") == ["0", 5]
    assert facts(span, "awakeables.awakeable.id", "awakeables.task") == [fakes.awakeable_id(), None]


@pytest.mark.parametrize("is_async", [True, False])
async def test_it_is_current_while_the_function_runs_and_not_afterwards(is_async: bool) -> None:
    recorder = Recorder()
    seen: list[int] = []

    def function(task: Task[Any]) -> int:
        with recorder.tracer.start_as_current_span("GET /stock"):
            seen.append(get_current_span().get_span_context().span_id)
        return 1

    async def coroutine(task: Task[Any]) -> int:
        return function(task)

    fate = await done(coroutine if is_async else function, recorder)
    span = recorder.one("process tasks")
    assert parent_of(recorder.one("GET /stock")) == id_of(span)
    assert not get_current_span().get_span_context().is_valid
    assert isinstance(fate, Answered)
    headers = dict(fate.message.headers)
    assert headers["traceparent"] == f"00-{trace_of(span)}-{id_of(span)}-01".encode()
    assert headers["tracestate"] == STATE[1]
    assert facts(span, "awakeables.end") == ["resolved"]
    assert not is_error(span)


async def test_a_try_that_fails_is_an_event_and_the_last_one_an_error() -> None:
    recorder = Recorder()
    errors = iter([ValueError("first"), None])

    def flaky(task: Task[Any]) -> None:
        if error := next(errors):
            raise error

    await done(flaky, recorder)
    span = recorder.one("process tasks")
    assert events_of(span) == ["exception"]
    assert not is_error(span)

    def fail(task: Task[Any]) -> None:
        raise ValueError("again")

    recorder = Recorder()
    await done(fail, recorder)
    span = recorder.one("process tasks")
    assert events_of(span) == ["exception", "exception"]
    assert span.status.description == "ValueError: again"
    assert facts(span, "awakeables.end", "error.type") == ["rejected", "ValueError"]


async def test_without_a_tracer_provider_the_completion_has_the_task_s_headers() -> None:
    worker = Worker("packer")
    worker.task("tasks")(lambda task: 1)
    for headers in ([fakes.TRACEPARENT, STATE], []):
        fate = await fakes.process(
            worker, fakes.task_record(3, headers=headers), spans=Spans(NoOpTracerProvider())
        )
        assert isinstance(fate, Answered)
        assert [header for header in fate.message.headers if header[0].startswith("trace")] == headers


async def test_a_rejection_is_an_answer_and_no_error() -> None:
    def reject(task: Task[Any]) -> None:
        raise Reject("no stock")

    recorder = Recorder()
    await done(reject, recorder)
    span = recorder.one("process tasks")
    assert facts(span, "awakeables.end") == ["rejected"]
    assert not is_error(span)


async def test_a_record_that_is_no_task_is_an_error() -> None:
    recorder = Recorder()
    await done(lambda task: 1, recorder, reply_to="no topic!")
    span = recorder.one("process tasks")
    assert facts(span, "awakeables.end", "error.type") == ["dead-letter", "dead-letter"]
    assert is_error(span)


async def test_a_task_that_is_cancelled_ends_its_span() -> None:
    recorder = Recorder()
    began = asyncio.Event()

    async def hang(task: Task[Any]) -> None:
        began.set()
        await asyncio.Event().wait()

    doing = asyncio.ensure_future(done(hang, recorder))
    await began.wait()
    assert recorder.open == ["process tasks"]
    doing.cancel()
    await asyncio.gather(doing, return_exceptions=True)
    assert facts(recorder.one("process tasks"), "awakeables.end") == ["left"]
