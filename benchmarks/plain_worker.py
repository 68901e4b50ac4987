"""The lightest worker: a Kafka client without our SDK, so that the worker is not what is measured.

Reads tasks in batches, answers each to the topic that it names. It promises nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import suppress

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Raw

from awakeables.kafka.connection import Connection
from awakeables.kafka.topics import partitions_of
from benchmarks.cycle import TASKS


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


_decode = msgspec.json.Decoder(Assignment).decode
_encode = msgspec.json.Encoder().encode


async def work(bootstrap: str) -> None:
    """Answer tasks until SIGTERM."""
    loop = asyncio.get_running_loop()
    connection = Connection(bootstrap=bootstrap, client_id="plain-worker")
    producer = AIOKafkaProducer(**connection.producer_options())
    consumer = AIOKafkaConsumer(**connection.consumer_options(), auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    consumer.assign([TopicPartition(TASKS, number) for number in await partitions_of(connection, TASKS)])
    answering = loop.create_task(_answer_for_ever(consumer, producer))
    loop.add_signal_handler(signal.SIGTERM, answering.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await answering
    finally:
        await consumer.stop()
        await producer.stop()


async def _answer_for_ever(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
    while True:
        for batch in (await consumer.getmany(timeout_ms=150)).values():
            for record in batch:
                task = _decode(record.value)
                event_id = f"{task.awakeable_id}:1"
                answer = Answer(
                    awakeable_id=task.awakeable_id,
                    status="resolved",
                    value=Raw(b'{"tracking":"parcel-of-%b"}' % task.payload.id.encode()),
                    event_id=event_id,
                    worker="plain-worker",
                )
                headers = [
                    ("awakeable-event-id", event_id.encode()),
                    ("content-type", b"application/json"),
                ]
                key = task.awakeable_id.encode()
                await producer.send(task.reply_to, _encode(answer), key, headers=headers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(given.kafka))


if __name__ == "__main__":
    main()
