"""A worker without the SDK, in plain aiokafka: python plain_worker.py BROKERS TOPIC GROUP"""

import asyncio
import json
import sys
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

FACTS = {"awakeable_id": "awakeable-id", "event_id": "awakeable-event-id", "reply_to": "awakeable-reply-to"}
NOT_TAKEN = (UnknownTopicOrPartitionError, TopicAuthorizationFailedError, MessageSizeTooLargeError)


def read(record):
    """The task in a record, with `order` and `late`; raises if there is none that we can do."""
    headers = {name: (value or b"").decode() for name, value in record.headers}
    value = json.loads(record.value) if record.value else None
    task = value if isinstance(value, dict) else {}
    if "awakeable-id" in headers:  # the headers say what the task is; the value may be the bare payload
        facts = {field: headers.get(name) for field, name in FACTS.items()}
        enveloped = all(task.get(field) == fact for field, fact in facts.items())
        payload = task.get("payload") if enveloped else value
        task = facts | {"deadline": headers.get("awakeable-deadline"), "payload": payload}
    elif "awakeable-event-id" in headers:
        task = {}  # published without an awakeable, even if it looks like a task
    if not (isinstance(task.get("awakeable_id"), str) and isinstance(task.get("reply_to"), str)):
        raise TypeError("not a task: no awakeable_id and reply_to in headers or value")
    order = task["payload"]["order"]
    if not isinstance(order, str):
        raise TypeError("the payload's order is not a string")
    deadline = task.get("deadline")
    late = bool(deadline) and datetime.fromisoformat(deadline) <= datetime.now(UTC)
    return task | {"order": order, "late": late}


async def pack(order):
    if order == "sold-out":
        return {"status": "rejected", "reason": "out of stock", "code": 409, "details": {"order": order}}
    return {"status": "resolved", "value": {"parcel": f"parcel of {order}"}}


async def do(record, producer):
    try:
        task = read(record)
    except Exception as error:  # one record that we can't read must not stop its partition
        return await set_aside(record, producer, "unreadable", repr(error))
    if task["late"]:
        return None  # nobody waits any more
    awakeable_id = task["awakeable_id"]
    answer = {"awakeable_id": awakeable_id, "worker": "plain", "event_id": f"{awakeable_id}:1"}
    try:
        answer |= await pack(task["order"])
    except Exception as error:  # retry here what may succeed the second time
        answer |= {"status": "rejected", "reason": repr(error), "code": 500}
    trace = [pair for pair in record.headers if pair[0] in {"traceparent", "tracestate"}]
    value, key = json.dumps(answer).encode(), awakeable_id.encode()
    try:
        await producer.send_and_wait(task["reply_to"], value, key=key, headers=trace)
    except NOT_TAKEN as error:
        await set_aside(record, producer, "unanswerable", repr(error))


async def set_aside(record, producer, code, reason):
    """Send the record to the dead-letter topic; the task topic has it as well, until its retention."""
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    say(f"{code}: {place}: {reason}")
    why = place | {"class.name": code, "exception.message": reason}
    headers = [(f"__connect.errors.{name}", str(text).encode()) for name, text in why.items()]
    headers = [*record.headers, *headers, ("awakeable-error-code", code.encode())]
    topic, key = f"{record.topic}.dlq", record.key
    if key is None and record.value is None:
        key = b""  # aiokafka sends no record without both
    try:
        await producer.send_and_wait(topic, record.value, key=key, headers=headers)
    except NOT_TAKEN as error:
        say(f"{topic} does not accept it, so it is only in the task topic: {error!r}")


def say(text):
    print(f"plain_worker: {text}", file=sys.stderr, flush=True)


async def main(brokers, topic, group):
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, group_id=group, auto_offset_reset="earliest",
        enable_auto_commit=False, isolation_level="read_committed",
    )  # fmt: skip
    # A topic that is missing for ten seconds is given up.
    producer = AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True, request_timeout_ms=10_000)
    async with consumer, producer:
        async for record in consumer:
            await do(record, producer)
            # Not earlier: a crash in between would lose the task.
            await consumer.commit({TopicPartition(topic, record.partition): record.offset + 1})


asyncio.run(main(*sys.argv[1:4]))
