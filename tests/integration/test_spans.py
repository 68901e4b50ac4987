"""One trace across a real broker: service, task, our worker, completion, and the service again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awakeables import App, Context, Service, Task, Worker
from awakeables.core.outcomes import Resolution
from awakeables.engine.engine import EngineSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.kafka.connection import KafkaConnection
from support.eventually import eventually
from support.service import create_app_topics, new_app, new_store, running
from support.spans import Recorder, check_vocabulary, facts, id_of, is_error, links_of, parent_of, trace_of
from support.tasks import working

if TYPE_CHECKING:
    from support.real_kafka import TopicFactory

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_one_trace_leads_across_the_broker_and_back(
    bootstrap: str, topic: TopicFactory, tmp_path: Path
) -> None:
    tasks = await topic("pack-requests", partitions=1)
    recorder = Recorder()
    orders, worker, suspended = Service("orders"), Worker(tasks), asyncio.Event()

    @orders.handler()
    async def charge(ctx: Context) -> int:
        return 1

    @orders.handler()
    async def fulfil(ctx: Context) -> int:
        packed = ctx.awakeable(int)
        ctx.publish(tasks, "box", awakeable=packed)
        return await packed + await ctx.run("weigh", weigh) + await ctx.call(charge)

    async def weigh() -> int:
        with recorder.tracer.start_as_current_span("GET /scales"):
            return 1

    @worker.task(tasks)
    async def pack(task: Task[Any]) -> int:
        await suspended.wait()
        with recorder.tracer.start_as_current_span("GET /stock"):
            return 40

    app = App(new_app().name, services=[orders])
    await create_app_topics(bootstrap, app)
    settings = EngineSettings(runner=RunnerSettings(linger=timedelta(milliseconds=50)))
    async with (
        working(worker, KafkaConnection(bootstrap=bootstrap), spans=recorder.spans),
        running(
            bootstrap,
            app,
            new_store("sqlite", tmp_path),
            engine_settings=settings,
            spans=recorder.spans,
        ) as shop,
    ):
        begun = await shop.api.begin(app.handler("orders", "fulfil"), None, headers={"traceparent": CALLER})
        await eventually(lambda: _ended(recorder, "orders/fulfil", "suspended"))
        suspended.set()
        outcome = await shop.result(begun.id)
        await eventually(lambda: _ended(recorder, "orders/fulfil", "succeeded"))
    assert isinstance(outcome, Resolution)
    assert outcome.content == b"42"
    assert recorder.open == []

    tree = "\n".join(recorder.tree())
    print(tree)
    first, again, *_ = recorder.named("orders/fulfil")
    sent = recorder.one(f"send {tasks}")
    created = recorder.one(f"create {tasks}")
    in_trace = [span for span in recorder.ended if span is not sent]
    assert {trace_of(span) for span in in_trace} == {CALLER.split("-")[1]}
    assert parent_of(first) == parent_of(again) == CALLER.split("-")[2]
    assert links_of(sent) == [id_of(created)]
    branch = f"""\
orders/fulfil
  create {tasks}
    process {tasks}
      GET /stock
      settle {app.completions_topic}
"""
    assert branch in tree
    assert "\n  run weigh\n    GET /scales" in tree
    assert "\n  orders/charge" in tree
    settled = recorder.one(f"settle {app.completions_topic}")
    assert facts(settled, "awakeables.verdict", "messaging.kafka.offset") == ["accepted", 0]
    assert not any(is_error(span) for span in recorder.ended)
    check_vocabulary(recorder.ended)


async def _ended(recorder: Recorder, name: str, end: str) -> bool:
    return any(facts(span, "awakeables.end") == [end] for span in recorder.named(name))
