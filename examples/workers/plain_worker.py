"""A worker without the SDK, in plain aiokafka: python plain_worker.py BROKERS TOPIC GROUP"""

import asyncio
import json
import sys
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition


async def pack(order):
    if order["order"] == "sold-out":
        return {"status": "rejected", "reason": "out of stock", "code": 409, "details": order}
    return {"status": "resolved", "value": {"parcel": f"parcel of {order['order']}"}}


async def do(record, producer):
    try:
        task = json.loads(record.value)
        awakeable_id, reply_to, order = task["awakeable_id"], task["reply_to"], task["payload"]
    except (TypeError, ValueError, KeyError) as error:  # no task: set it aside, and go on
        why = [("__connect.errors.exception.message", repr(error).encode())]
        await producer.send_and_wait(
            f"{record.topic}.dlq", record.value, key=record.key or b"", headers=[*record.headers, *why]
        )
        return
    if task.get("deadline") and datetime.fromisoformat(task["deadline"]) <= datetime.now(UTC):
        return  # nobody waits any more
    answer = {"awakeable_id": awakeable_id, "worker": "plain", "event_id": f"{awakeable_id}:1"}
    answer |= await pack(order)
    trace = [pair for pair in record.headers if pair[0] in {"traceparent", "tracestate"}]
    await producer.send_and_wait(
        reply_to, json.dumps(answer).encode(), key=awakeable_id.encode(), headers=trace
    )


async def main(brokers, topic, group):
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, group_id=group, auto_offset_reset="earliest",
        enable_auto_commit=False, isolation_level="read_committed",
    )  # fmt: skip
    async with consumer, AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True) as producer:
        async for record in consumer:
            await do(record, producer)
            # Only now: were it before, a crash in between would lose the task.
            await consumer.commit({TopicPartition(topic, record.partition): record.offset + 1})


asyncio.run(main(*sys.argv[1:4]))
