"""One trace all the way: caller → handler → task → worker → completion → book → handler."""

from __future__ import annotations

from typing import Any

from awakeables.core.awakeables import VerdictEntry
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.sinks import CompletionSink
from awakeables.errors import BrokerUnavailable
from awakeables.handlers.context import Context
from awakeables.testing.bench import Bench, until
from awakeables.wire.tasks import encode_effect
from awakeables.worker.port import Incoming
from awakeables.worker.process import Answered
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker
from unit.engine.harness import value
from unit.worker import fakes

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
STATE = "vendor=1"


async def test_a_caller_s_trace_goes_to_the_worker_and_comes_back_with_the_completion() -> None:
    async def fulfil(ctx: Context) -> list[Any]:
        packed = ctx.awakeable(str)
        ctx.publish("pack", None, awakeable=packed, envelope="cloudevents")
        return [await packed, ctx.request.traceparent]

    seen: list[Task[Any]] = []
    worker = Worker("packer")

    @worker.task("pack")
    async def pack(task: Task[Any]) -> str:
        seen.append(task)
        return "parcel"

    bench = Bench()
    async with bench.serving(fulfil=fulfil) as process:
        invocation_id = await bench.begin(
            process, "fulfil", headers={"traceparent": CALLER, "tracestate": STATE}
        )
        await until(lambda: bench.broker.published)
    # Another process goes on: the trace is in the rows.
    async with bench.serving(fulfil=fulfil) as process:
        content, headers = encode_effect(bench.broker.published[0])
        fate = await fakes.process(
            worker, Incoming(topic="pack", partition=0, offset=0, value=content, headers=tuple(headers))
        )
        assert isinstance(fate, Answered)
        answer = fate.message
        sink = CompletionSink(process.engine.completions, 0)
        await sink.open()
        record = ConsumedRecord(
            offset=0, timestamp_ms=0, key=answer.key, value=answer.value, headers=answer.headers
        )
        await sink.take([record])
        parcel, own = value(await bench.status(invocation_id, "completed"))

    (task,) = seen
    (told,) = bench.awakeables(invocation_id)[0].verdicts.first
    assert parcel == "parcel"
    assert told.trace == task.traceparent
    assert task.headers["tracestate"] == dict(answer.headers)["tracestate"].decode() == STATE  # type: ignore[union-attr]
    in_trace = [CALLER, own, task.traceparent]
    assert len(set(in_trace)) == 3
    assert {text[:36] + text[52:] for text in in_trace if text} == {CALLER[:36] + "-00"}


async def test_a_record_that_is_sent_again_says_the_same() -> None:
    """K3: the relay sends what is stored."""

    async def notify(ctx: Context) -> None:
        ctx.publish("notices", 1)

    bench = Bench()
    lost = iter([BrokerUnavailable("the acknowledgement was lost")])
    bench.broker.fail = lambda _effect: next(lost, None)
    async with bench.serving(notify=notify) as process:
        await bench.begin(process, "notify")
        await until(lambda: bench.broker.published)
    first, again = bench.broker.tries
    assert first.headers == again.headers
    assert dict(first.headers)["traceparent"]


async def test_a_handler_s_own_completion_is_in_its_trace() -> None:
    async def wait(ctx: Context) -> int:
        return await ctx.awakeable(int)

    async def answer(ctx: Context, awakeable_id: str) -> str:
        await ctx.resolve_awakeable(awakeable_id, 7)
        return ctx.request.traceparent

    bench = Bench()
    async with bench.serving(wait=wait, answer=answer) as process:
        awakeable = await bench.awakeable(await bench.begin(process, "wait"))
        answering = await bench.begin(process, "answer", f'"{awakeable.id}"'.encode())
        trace = value(await bench.status(answering, "completed"))
        (told,) = bench.store.tables.awakeables[awakeable.id].verdicts.first
    assert isinstance(told, VerdictEntry)
    assert told.trace == trace
