"""Spans of the service: of attempts and what handlers do in them, of publishes and completions."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from opentelemetry.trace import get_current_span
from pydantic import BaseModel

from awakeables import Context, RetryPolicy, Task, TerminalError, Worker
from awakeables.core.awakeables import Completion
from awakeables.core.outcomes import Rejection
from awakeables.core.sources import source_of
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.sinks import CompletionSink
from awakeables.errors import BrokerUnavailable, PublishRefused
from awakeables.handlers.stateless import StatelessAttempts
from awakeables.testing.bench import Bench, Process, quick, until
from awakeables.wire.tasks import encode_effect
from awakeables.worker.port import Incoming
from awakeables.worker.process import Answered
from support.spans import (
    Recorder,
    check_vocabulary,
    events_of,
    facts,
    id_of,
    is_error,
    links_of,
    parent_of,
    trace_of,
)
from unit.engine.harness import BOTH, LIVE, value
from unit.worker import fakes

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CALLER[:-1] + "0"


def context_of(traceparent: str) -> tuple[str, str]:
    """The IDs of the trace and of the span."""
    _, trace_id, span_id, _ = traceparent.split("-")
    return trace_id, span_id


def published_header(bench: Bench, name: str = "traceparent", *, at: int = 0) -> str:
    content = dict(bench.broker.published[at].headers)[name]
    assert content is not None
    return content.decode()


def current() -> str:
    """The ID of the span that is current in the code that calls this."""
    return f"{get_current_span().get_span_context().span_id:016x}"


async def wait(ctx: Context) -> int:
    return await ctx.awakeable(int)


async def answer(process: Process, bench: Bench, worker: Worker, recorder: Recorder) -> None:
    """Have our worker do the task that was published, and let the service read its answer."""
    content, headers = encode_effect(bench.broker.published[0])
    task = Incoming(topic="pack", partition=0, offset=0, value=content, headers=tuple(headers))
    fate = await fakes.process(worker, task, spans=recorder.spans)
    assert isinstance(fate, Answered)
    record = ConsumedRecord(
        offset=0, timestamp_ms=0, key=None, value=fate.message.value, headers=fate.message.headers
    )
    sink = CompletionSink(process.engine.completions, 0)
    await sink.open()
    await sink.take([record])


async def fulfil(ctx: Context) -> int:
    packed = ctx.awakeable(int)
    ctx.publish("pack", 1, awakeable=packed)
    return await packed + await ctx.run("charge", charge)


def charge() -> int:
    return 1


def packer() -> Worker:
    worker = Worker("packer")

    @worker.task("pack")
    async def pack(task: Task[int]) -> int:
        return 41

    return worker


async def test_one_trace_leads_from_the_caller_over_the_worker_to_the_handler_that_goes_on() -> None:
    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(fulfil=fulfil) as process:
        invocation_id = await bench.begin(process, "fulfil", headers={"traceparent": CALLER})
        await bench.status(invocation_id, "suspended")
        await until(lambda: bench.broker.published)
        assert recorder.open == []
    # Another process goes on: the trace is in the rows.
    async with bench.serving(fulfil=fulfil) as process:
        await answer(process, bench, packer(), recorder)
        assert value(await bench.status(invocation_id, "completed")) == 42
        await until(lambda: not recorder.open)

    first, again = recorder.named("orders/fulfil")
    assert recorder.tree() == [
        "orders/fulfil",
        "  create pack",
        "    process pack",
        "      settle shop.completions",
        "send pack",
        "orders/fulfil",
        "  run charge",
    ]
    in_trace = [span for span in recorder.ended if span.name != "send pack"]
    assert {trace_of(span) for span in in_trace} == {context_of(CALLER)[0]}
    assert parent_of(first) == parent_of(again) == context_of(CALLER)[1]
    assert facts(first, "awakeables.invocation.id", "awakeables.resumed", "awakeables.end") == [
        invocation_id,
        False,
        "suspended",
    ]
    assert facts(again, "awakeables.resumed", "awakeables.end") == [True, "succeeded"]
    settled = recorder.one("settle shop.completions")
    assert facts(settled, "awakeables.verdict", "messaging.kafka.offset") == ["accepted", 0]
    assert not any(is_error(span) for span in recorder.ended)
    check_vocabulary(recorder.ended)


async def test_without_a_caller_s_trace_all_attempts_are_in_the_invocation_s_own() -> None:
    own: set[str] = set()

    async def handler(ctx: Context) -> int:
        own.add(ctx.request.traceparent)
        return await ctx.awakeable(int)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        await bench.status(invocation_id, "suspended")
        await bench.settle(process, (await bench.awakeable(invocation_id)).id, 7)
        await bench.status(invocation_id, "completed")
        await until(lambda: not recorder.open)
    [traceparent] = own
    assert [(trace_of(span), parent_of(span)) for span in recorder.named("orders/handler")] == [
        context_of(traceparent)
    ] * 2


async def test_an_outcome_for_a_handler_in_memory_is_an_event_of_its_span() -> None:
    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(LIVE, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        awakeable = await bench.awakeable(invocation_id)
        await bench.settle(process, awakeable.id, 7)
        await bench.status(invocation_id, "completed")
        await until(lambda: not recorder.open)
    span = recorder.one("orders/wait")
    assert events_of(span) == ["resumed"]
    assert dict(span.events[0].attributes or {}) == {"awakeables.awakeable.id": awakeable.id}


async def test_a_replay_repeats_no_span() -> None:
    async def handler(ctx: Context) -> int:
        first, second = ctx.awakeable(int), ctx.awakeable(int)
        ctx.publish("pack", 1, awakeable=first)
        await ctx.run("charge", charge)
        await first
        return await second

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        await bench.status(invocation_id, "suspended")
        for awakeable in sorted(bench.awakeables(invocation_id), key=lambda row: row.id):
            await bench.settle(process, awakeable.id, 7)
            await bench.status(invocation_id, "suspended", "completed")
        await bench.status(invocation_id, "completed")
        await until(lambda: not recorder.open)
    assert len(recorder.named("orders/handler")) > 1
    assert recorder.one("create pack")
    assert recorder.one("run charge")


async def test_the_record_s_traceparent_is_its_create_span_also_when_it_is_sent_again() -> None:
    async def notify(ctx: Context) -> None:
        ctx.publish("notices", 1)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    lost = iter([BrokerUnavailable("the acknowledgement was lost")])
    bench.broker.fail = lambda _effect: next(lost, None)
    async with bench.serving(notify=notify) as process:
        await bench.begin(process, "notify", headers={"traceparent": CALLER, "tracestate": "vendor=1"})
        await until(lambda: bench.broker.published and not recorder.open)
    created = recorder.one("create notices")
    first, again = bench.broker.tries
    assert first.headers == again.headers
    assert context_of(published_header(bench)) == (trace_of(created), id_of(created))
    assert published_header(bench, "tracestate") == "vendor=1"
    assert parent_of(created) == id_of(recorder.one("orders/notify"))
    assert facts(created, "messaging.message.id", "messaging.operation.type") == [first.event_id, "create"]
    failed, sent = recorder.named("send notices")
    assert links_of(failed) == links_of(sent) == [id_of(created)]
    assert (is_error(failed), is_error(sent)) == (True, False)


async def test_a_batch_is_one_span_per_topic_and_a_refusal_is_its_error() -> None:
    async def notify(ctx: Context) -> None:
        ctx.publish("refused" if ctx.request.headers else "notices", 1)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    bench.broker.fail = lambda each: PublishRefused("no") if each.topic == "refused" else None
    async with bench.serving(notify=notify) as process:
        for headers in ({}, {}, {"x": "1"}):
            process.api.call(process.api.app.handler("orders", "notify"), b"null", headers=headers)
        await until(lambda: len(bench.broker.tries) == 3 and not recorder.open)
    assert bench.broker.batches == [3]
    sent, refused = recorder.one("send notices"), recorder.one("send refused")
    assert facts(sent, "messaging.batch.message_count", "messaging.message.id") == [2, None]
    assert len(links_of(sent)) == 2
    assert facts(refused, "messaging.batch.message_count", "error.type") == [None, "PublishRefused"]
    assert (is_error(sent), is_error(refused)) == (False, True)


async def test_a_traceparent_of_the_handler_s_own_wins_and_no_span_is_created() -> None:
    async def notify(ctx: Context) -> None:
        ctx.publish("notices", 1, headers={"Traceparent": CALLER})

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(notify=notify) as process:
        await bench.begin(process, "notify")
        await until(lambda: bench.broker.published and not recorder.open)
    assert published_header(bench, "Traceparent") == CALLER
    assert recorder.named("create notices") == []
    assert links_of(recorder.one("send notices")) == [context_of(CALLER)[1]]


async def test_the_span_of_a_run_is_current_in_its_action_and_that_of_the_attempt_in_the_handler() -> None:
    seen: dict[str, str] = {}
    threads: set[int] = set()
    recorder = Recorder()

    async def coroutine() -> None:
        seen["run coroutine"] = current()
        with recorder.tracer.start_as_current_span("GET /stock"):
            await asyncio.sleep(0)

    def function() -> None:
        threads.add(threading.get_ident())
        seen["run function"] = current()

    async def handler(ctx: Context) -> None:
        seen["orders/handler"] = current()
        await ctx.run("coroutine", coroutine)
        await ctx.run("function", function)
        seen["afterwards"] = current()

    bench = Bench(spans=recorder.spans)
    async with bench.serving(LIVE, handler=handler) as process:
        await bench.status(await bench.begin(process, "handler"), "completed")
        await until(lambda: not recorder.open)
    assert seen.pop("afterwards") == seen["orders/handler"]
    assert {name: id_of(recorder.one(name)) for name in seen} == seen
    assert parent_of(recorder.one("GET /stock")) == id_of(recorder.one("run coroutine"))
    assert current() == "0" * 16


async def test_what_actions_and_handlers_raise_is_recorded() -> None:
    tries = iter([RuntimeError("busy"), None])

    async def flaky() -> None:
        if error := next(tries):
            raise error

    async def refuse() -> None:
        raise TerminalError("no stock", code=409)

    async def handler(ctx: Context) -> None:
        await ctx.run("flaky", flaky, retry=RetryPolicy(initial_interval=timedelta(0)))
        await ctx.run("refuse", refuse)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(LIVE, handler=handler) as process:
        row = await bench.status(await bench.begin(process, "handler"), "completed")
        assert isinstance(row.result, Rejection)
        await until(lambda: not recorder.open)
    failed, succeeded = recorder.named("run flaky")
    refused, attempt = recorder.one("run refuse"), recorder.one("orders/handler")
    assert [is_error(span) for span in (failed, succeeded, refused, attempt)] == [True, False, True, True]
    assert failed.status.description == "RuntimeError: busy"
    assert facts(attempt, "awakeables.end", "error.type") == ["failed", "TerminalError"]
    [raised] = [event for event in attempt.events if event.name == "exception"]
    assert (raised.attributes or {})["exception.message"] == "no stock"
    assert "TerminalError" in str((raised.attributes or {})["exception.stacktrace"])


async def test_each_attempt_that_fails_has_a_span_with_its_number() -> None:
    errors = iter([ValueError("first"), None])

    async def handler(ctx: Context) -> None:
        if error := next(errors):
            raise error

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(handler=handler) as process:
        await bench.status(await bench.begin(process, "handler"), "completed")
        await until(lambda: not recorder.open)
    first, second = recorder.named("orders/handler")
    names = "awakeables.attempt", "awakeables.resumed", "awakeables.end", "error.type"
    assert facts(first, *names) == [1, False, "backing-off", "ValueError"]
    assert facts(second, *names) == [2, True, "succeeded", None]
    assert (is_error(first), is_error(second)) == (True, False)


class Hostile(TerminalError):
    """Formatting it with its stack asks for its notes, and raises."""

    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise KeyError("no")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise KeyError("no")


@pytest.mark.parametrize("error", [Hostile("?"), Unreadable()], ids=["notes", "message"])
async def test_an_error_that_can_not_be_shown_is_recorded_nevertheless(error: Exception) -> None:
    async def handler(ctx: Context) -> None:
        raise error

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(quick(retry=RetryPolicy(max_attempts=1)), handler=handler) as process:
        await bench.status(await bench.begin(process, "handler"), "paused", "completed")
        await until(lambda: not recorder.open)
    assert events_of(recorder.one("orders/handler")) == ["exception"]


async def test_what_is_being_sent_when_the_process_stops_ends_its_span() -> None:
    async def notify(ctx: Context) -> None:
        ctx.publish("notices", 1)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    bench.broker.gate.clear()
    async with bench.serving(notify=notify) as process:
        await bench.begin(process, "notify")
        await until(lambda: recorder.open == ["send notices"])
    assert recorder.open == []


async def test_an_action_that_failed_unawaited_is_not_an_error_of_the_attempt() -> None:
    async def fail() -> None:
        raise RuntimeError("too late to matter")

    async def handler(ctx: Context) -> int:
        await ctx.race(ctx.run("fast", charge), ctx.run("slow", fail))
        return await ctx.awakeable(int)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(LIVE, handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        awakeable = await bench.awakeable(invocation_id)
        await until(lambda: recorder.named("run slow"))
        await bench.settle(process, awakeable.id, 7)
        await bench.status(invocation_id, "completed")
        await until(lambda: not recorder.open)
    assert is_error(recorder.one("run slow"))
    assert not is_error(recorder.one("orders/handler"))


@pytest.mark.parametrize("how", ["stopped", "killed", "lost"])
async def test_a_handler_that_is_dropped_ends_its_spans(how: str) -> None:
    never = asyncio.Event()

    async def action() -> None:
        await never.wait()

    async def handler(ctx: Context) -> None:
        await ctx.run("action", action)

    async def asyncio_handler(ctx: Context) -> None:
        await never.wait()

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(LIVE, wait=wait, handler=handler, asyncio_handler=asyncio_handler) as process:
        ids = [await bench.begin(process, name) for name in ("wait", "handler", "asyncio_handler")]
        await until(lambda: len(recorder.open) == 4)
        if how == "killed":
            for invocation_id in ids:
                await process.api.kill(invocation_id)
        elif how == "lost":
            process.engine.pool.lose_all("declared dead")
    assert recorder.open == []
    attempts = [span for span in recorder.ended if span.name.startswith("orders/")]
    assert [facts(span, "awakeables.end") for span in attempts] == [["left"]] * 3
    assert is_error(recorder.one("run action"))


async def test_a_called_handler_s_attempt_is_below_its_caller_s() -> None:
    async def callee(ctx: Context) -> int:
        return 7

    async def caller(ctx: Context) -> int:
        return await ctx.call(callee)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(caller=caller, callee=callee) as process:
        row = await bench.status(await bench.begin(process, "caller"), "completed")
        await until(lambda: not recorder.open)
    assert value(row) == 7
    assert parent_of(recorder.one("orders/callee")) == id_of(recorder.named("orders/caller")[0])


async def test_a_handler_s_own_completion_is_below_its_attempt() -> None:
    async def answer_it(ctx: Context, awakeable_id: str) -> None:
        await ctx.resolve_awakeable(awakeable_id, 7)

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(LIVE, wait=wait, answer_it=answer_it) as process:
        awakeable = await bench.awakeable(await bench.begin(process, "wait"))
        answering = await bench.begin(process, "answer_it", f'"{awakeable.id}"'.encode())
        await bench.status(answering, "completed")
        await until(lambda: not recorder.open)
    settled = recorder.one("settle by handler")
    assert parent_of(settled) == id_of(recorder.one("orders/answer_it"))
    assert facts(settled, "awakeables.awakeable.id", "awakeables.verdict") == [awakeable.id, "accepted"]


async def test_a_completion_over_http_is_below_its_caller_s_span() -> None:
    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    unknown = fakes.awakeable_id()
    async with bench.serving(wait=wait) as process:
        await process.api.settle(
            Completion(
                awakeable_id=unknown, body=Rejection("no"), source=source_of("http", "1"), trace=CALLER
            )
        )
    settled = recorder.one("settle by HTTP")
    assert (trace_of(settled), parent_of(settled)) == context_of(CALLER)
    assert facts(settled, "awakeables.verdict") == ["unknown"]
    check_vocabulary(recorder.ended)


@BOTH
async def test_each_completion_of_a_batch_has_a_span_of_its_own(settings: Any) -> None:
    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(settings, wait=wait) as process:
        invocation_id = await bench.begin(process, "wait")
        awakeable = await bench.awakeable(invocation_id)

        def said(status: str, **more: Any) -> bytes:
            return msgspec.json.encode({"awakeable_id": awakeable.id, "status": status, **more})

        beat, junk = said("heartbeat"), b"?"
        await bench.records(
            process, beat, junk, said("resolved", value="x"), said("resolved", value=7), said("rejected")
        )
        await bench.status(invocation_id, "completed")
        await until(lambda: not recorder.open)
    spans = recorder.named("settle shop.completions")
    assert sorted(facts(span, "messaging.kafka.offset", "awakeables.verdict") for span in spans) == [
        [2, "invalid"],
        [3, "accepted"],
        [4, "conflict"],
    ]


async def test_a_batch_that_is_not_committed_ends_its_spans_with_the_error() -> None:
    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(wait=wait) as process:
        sink = CompletionSink(process.engine.completions, 0)
        await sink.open()
        await CompletionSink(process.engine.completions, 0).open()
        content = msgspec.json.encode({"awakeable_id": fakes.awakeable_id(), "status": "rejected"})
        with contextlib.suppress(Exception):
            await sink.take([ConsumedRecord(offset=0, timestamp_ms=0, key=None, value=content)])
    assert facts(recorder.one("settle shop.completions"), "error.type") == ["OwnershipLost"]


async def test_a_trace_that_its_caller_does_not_sample_is_handed_on_unsampled() -> None:
    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(fulfil=fulfil) as process:
        await bench.begin(process, "fulfil", headers={"traceparent": UNSAMPLED})
        await until(lambda: bench.broker.published)
    assert [span.name for span in recorder.ended] == ["send pack"]
    trace_id, span_id = context_of(published_header(bench))
    assert trace_id == context_of(CALLER)[0]
    assert span_id != context_of(CALLER)[1]
    assert published_header(bench).endswith("-00")


async def test_handlers_elsewhere_have_no_spans_and_work() -> None:
    recorder = Recorder()
    bench = Bench(spans=recorder.spans, handlers=StatelessAttempts)
    async with bench.serving(fulfil=fulfil) as process:
        invocation_id = await bench.begin(process, "fulfil")
        await bench.settle(process, (await bench.awakeable(invocation_id)).id, 7)
        await bench.status(invocation_id, "completed")
    assert {span.name for span in recorder.ended} == {"send pack", "settle by HTTP"}


async def test_a_dry_replay_has_no_span() -> None:
    """A restarted process replays to find out a type; nothing of that is an attempt."""

    class Parcel(BaseModel):
        weight: int

    async def handler(ctx: Context) -> int:
        return (await ctx.awakeable(Parcel)).weight

    recorder = Recorder()
    bench = Bench(spans=recorder.spans)
    async with bench.serving(handler=handler) as process:
        invocation_id = await bench.begin(process, "handler")
        await bench.status(invocation_id, "suspended")
    before = len(recorder.named("orders/handler"))
    async with bench.serving(handler=handler) as process:
        verdict = await bench.settle(process, (await bench.awakeable(invocation_id)).id, {"weight": "x"})
        assert verdict.kind == "invalid"
    assert len(recorder.named("orders/handler")) == before
