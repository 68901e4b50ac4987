"""One trace: caller → handler → task → worker → completion → handler."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from awakeables import Context, Task
from awakeables.testing import run as run_once
from awakeables.wire.traces import known_traceparent
from unit.handlers.conftest import Runs


def trace_id(traceparent: str | None) -> str:
    """The trace that a header names, which must be well-formed."""
    assert traceparent is not None
    assert known_traceparent(traceparent) == traceparent
    return traceparent.split("-")[1]


def test_handler_records_and_workers_are_in_one_trace_over_all_replays(run: Runs) -> None:
    own: list[str] = []
    tasks: list[Task[Any]] = []

    async def handler(ctx: Context) -> int:
        own.append(ctx.request.traceparent)
        awakeable = ctx.awakeable(int)
        ctx.publish("pack", 1, awakeable=awakeable)
        ctx.publish("notices", 2)
        await ctx.sleep(timedelta(days=1))
        return await awakeable

    def pack(task: Task[Any]) -> int:
        tasks.append(task)
        return 5

    result = run(handler, answers={"pack": pack})
    assert result.value == 5
    assert len(set(own)) == 1
    (task,) = tasks
    spans = {own[0], *(record.headers["traceparent"] for record in result.published)}
    assert len(spans) == 3
    assert task.traceparent in spans
    assert {trace_id(span) for span in spans} == {trace_id(own[0])}


def test_two_invocations_are_two_traces() -> None:
    async def handler(ctx: Context) -> str:
        return ctx.request.traceparent

    first, second = (trace_id(run_once_with(handler, seed)) for seed in (1, 2))
    assert first != second


def run_once_with(handler: Any, seed: int) -> str:
    value: str = run_once(handler, seed=seed).value
    return value


def test_a_trace_that_the_handler_names_for_a_record_wins(run: Runs) -> None:
    async def handler(ctx: Context) -> None:
        ctx.publish("notices", 1, headers={"Traceparent": "00-1"})

    (record,) = run(handler).published
    assert record.headers["Traceparent"] == "00-1"
    assert "traceparent" not in record.headers


def test_log_events_of_a_handler_have_its_trace(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        ctx.log.critical("packed")
        return ctx.request.traceparent

    with capture_logs() as logs:
        result = run(handler)
    (told,) = [line for line in logs if line["event"] == "packed"]
    assert told["trace_id"] == trace_id(result.value)
