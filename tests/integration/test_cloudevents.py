"""CloudEvents over a real Kafka: answers in both modes, tasks in every form."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from awakeables.core.outcomes import Resolution
from awakeables.handlers.context import Context
from awakeables.handlers.publishing import ENVELOPES
from awakeables.handlers.service import App, Service
from awakeables.kafka.connection import KafkaConnection
from awakeables.store.memory import MemoryStore
from awakeables.wire.traces import known_traceparent
from awakeables.worker.task import Task
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock
from support.service import create_app_topics, new_app, producing, read_records, running
from support.tasks import working

if TYPE_CHECKING:
    from awakeables.core.effects import Header
    from support.real_kafka import TopicFactory

RETENTION_MS = 86_400_000
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RESOLVED = "awakeables.completion.resolved.v1"


def binary(awakeable_id: str, data: bytes) -> tuple[bytes, list[Header]]:
    headers: list[Header] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"/packer"),
        ("ce_type", RESOLVED.encode()),
        ("ce_subject", awakeable_id.encode()),
        ("content-type", b"application/json"),
        ("traceparent", TRACEPARENT.encode()),
    ]
    return data, headers


def structured(awakeable_id: str, data: bytes) -> tuple[bytes, list[Header]]:
    event = {"specversion": "1.0", "id": "1", "source": "/packer", "type": RESOLVED, "subject": awakeable_id}
    value = json.dumps(event | {"data": "@"}).encode().replace(b'"@"', data)
    content_type = b"application/cloudevents+json; charset=UTF-8"
    return value, [("content-type", content_type), ("traceparent", TRACEPARENT.encode())]


async def test_events_in_both_modes_resolve_their_awakeables_to_the_letter(bootstrap: str) -> None:
    app = new_app()
    await create_app_topics(bootstrap, app)
    store = MemoryStore(clock=SystemClock(), retention_ms=RETENTION_MS)
    exact = b"[18446744073709551616, 0.1000]"
    async with running(bootstrap, app, store) as shop:
        ids = await shop.pending(count=2)
        async with producing(bootstrap) as producer:
            for awakeable_id, form in zip(ids, (binary, structured), strict=True):
                value, headers = form(awakeable_id, exact)
                await producer.send_and_wait(app.completions_topic, value, headers=headers)
        rows = [await shop.settled(awakeable_id) for awakeable_id in ids]
    for row in rows:
        assert row.outcome == Resolution.of_json(exact)
        (told,) = row.verdicts.first
        assert (told.event_id, told.trace) == ("/packer 1", TRACEPARENT)


async def test_a_worker_does_tasks_in_every_form_and_their_trace_comes_back(
    bootstrap: str, topic: TopicFactory
) -> None:
    service = Service("orders")

    @service.handler()
    async def fulfil(ctx: Context, order: dict[str, Any]) -> Any:
        packed = ctx.awakeable(str)
        ctx.publish(order["topic"], order, awakeable=packed, envelope=order["envelope"])
        return [await packed, ctx.request.traceparent]

    app = App(f"shop-{secrets.token_hex(4)}", services=[service])
    await create_app_topics(bootstrap, app)
    tasks = await topic("pack-requests", partitions=1)
    worker = Worker(f"packer-{tasks}")

    @worker.task(tasks)
    async def pack(task: Task[dict[str, Any]]) -> str:
        return f"{task.payload['envelope']} {task.traceparent}"

    store = MemoryStore(clock=SystemClock(), retention_ms=RETENTION_MS)
    async with running(bootstrap, app, store) as shop, working(worker, KafkaConnection(bootstrap=bootstrap)):
        calls = {form: await shop.call("fulfil", topic=tasks, envelope=form) for form in ENVELOPES}
        for form, invocation_id in calls.items():
            outcome = await shop.result(invocation_id, timeout=30)
            assert isinstance(outcome, Resolution)
            answer, own = json.loads(outcome.content)
            done, trace = answer.split(" ")
            assert (done, trace[:35]) == (form, own[:35])
            assert known_traceparent(trace) == trace
        records = await read_records(bootstrap, tasks, len(ENVELOPES))
    events = [dict(record.headers).get("ce_type") for record in records]
    assert events.count(b"awakeables.task.requested.v1") == 1
    contents = [dict(record.headers).get("content-type", b"").decode() for record in records]
    assert sum(content.startswith("application/cloudevents+json") for content in contents) == 1
