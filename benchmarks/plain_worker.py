"""The lightest worker: a Kafka client without our SDK, so that the worker is not what is measured.

Reads tasks in batches, answers each to the topic that it names, or over HTTP to the server that
stands for that topic. It promises nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TypeAlias

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Raw

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import facts_of
from benchmarks.cycle import TASKS
from benchmarks.http_answers import Lines


class Order(msgspec.Struct):
    id: str


class Assignment(msgspec.Struct):
    """The fields of a task record that this worker needs."""

    awakeable_id: str
    reply_to: str
    payload: Order


class Answer(msgspec.Struct):
    """A completion record, with the fields that the SDK sends."""

    awakeable_id: str
    status: str
    value: Raw
    event_id: str
    worker: str
    attempt: int = 1


Respond: TypeAlias = Callable[[Assignment], Awaitable[object]]

_decode = msgspec.json.Decoder(Assignment).decode
_encode = msgspec.json.Encoder().encode


async def work(bootstrap: str, urls: dict[str, str]) -> None:
    """Answer tasks until SIGTERM; over HTTP if there are URLs, by the `reply_to` of their tasks."""
    loop = asyncio.get_running_loop()
    connection = KafkaConnection(bootstrap=bootstrap, client_id="plain-worker")
    consumer = AIOKafkaConsumer(**connection.consumer_options(), auto_offset_reset="earliest")
    async with AsyncExitStack() as stack:
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        consumer.assign(
            [TopicPartition(TASKS, number) for number in (await facts_of(connection, TASKS)).partitions]
        )
        if urls:
            respond = over_http(urls)
        else:
            producer = AIOKafkaProducer(**connection.producer_options())
            await producer.start()
            stack.push_async_callback(producer.stop)
            respond = over_kafka(producer)
        answering = loop.create_task(_answer_for_ever(consumer, respond))
        loop.add_signal_handler(signal.SIGTERM, answering.cancel)
        with suppress(asyncio.CancelledError):
            await answering


async def _answer_for_ever(consumer: AIOKafkaConsumer, respond: Respond) -> None:
    while True:
        for batch in (await consumer.getmany(timeout_ms=150)).values():
            for record in batch:
                await respond(_decode(record.value))


def over_kafka(producer: AIOKafkaProducer) -> Respond:
    """Answer to the topic that the task names."""

    async def respond(task: Assignment) -> None:
        value, key, headers = completion_of(task.awakeable_id, task.payload.id)
        await producer.send(task.reply_to, value, key, headers=headers)

    return respond


def over_http(urls: dict[str, str]) -> Respond:
    """Answer with a POST to `<url>/<awakeable>/resolve`."""
    lines = {reply_to: Lines(url) for reply_to, url in urls.items()}

    async def respond(task: Assignment) -> None:
        await lines[task.reply_to].post(f"/{task.awakeable_id}/resolve", parcel_of(task.payload.id))

    return respond


def completion_of(awakeable_id: str, order_id: str) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Value, key and headers of the record that resolves an awakeable."""
    event_id = f"{awakeable_id}:1"
    answer = Answer(
        awakeable_id=awakeable_id,
        status="resolved",
        value=Raw(parcel_of(order_id)),
        event_id=event_id,
        worker="plain-worker",
    )
    headers = [("awakeable-event-id", event_id.encode()), ("content-type", b"application/json")]
    return _encode(answer), awakeable_id.encode(), headers


def parcel_of(order_id: str) -> bytes:
    return b'{"tracking":"parcel-of-%b"}' % order_id.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--answer", nargs=2, action="append", default=[], metavar=("REPLY_TO", "URL"))
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(given.kafka, dict(given.answer)))


if __name__ == "__main__":
    main()
