"""The cycle as a handler of Restate's Python SDK; served by hypercorn, which Restate's pages name."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from typing import Any

import restate  # type: ignore[import-not-found] # in a folder of its own, never in the lock
from aiokafka import AIOKafkaProducer

from awakeables.kafka.connection import KafkaConnection
from benchmarks.cycle import TASKS
from benchmarks.restate import REPLY_TO

KAFKA = os.environ["BENCH_KAFKA"]  # noqa: TID251 - hypercorn imports this, without arguments

bench = restate.Service("bench")


@bench.handler()  # type: ignore[untyped-decorator]
async def cycle(ctx: restate.Context, order: dict[str, Any]) -> dict[str, Any]:
    awakeable_id, packed = ctx.awakeable(type_hint=dict)
    await ctx.run_typed("publish", _publish, awakeable_id=awakeable_id, order=order)
    parcel: dict[str, Any] = await packed
    return parcel


async def _publish(awakeable_id: str, order: dict[str, Any]) -> None:
    task = {"awakeable_id": awakeable_id, "reply_to": REPLY_TO, "payload": order}
    producer = await _producer()
    await producer.send_and_wait(TASKS, json.dumps(task).encode(), awakeable_id.encode())


@functools.cache
def _producer() -> asyncio.Task[AIOKafkaProducer]:
    """The one producer, started by the first call; who awaits it gets it started."""
    return asyncio.ensure_future(_started())


async def _started() -> AIOKafkaProducer:
    producer = AIOKafkaProducer(**KafkaConnection(bootstrap=KAFKA).producer_options())
    await producer.start()
    return producer


app = restate.app([bench])
