"""The floor of a backlog: `getmany` and nothing else, with the options of the service's client."""

from __future__ import annotations

import argparse
import asyncio
import json
import time

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import facts_of


async def read(bootstrap: str, topic: str, count: int) -> float:
    """Records a second, from the assignment on."""
    connection = KafkaConnection(bootstrap=bootstrap, client_id="bare-reader")
    consumer = AIOKafkaConsumer(**connection.consumer_options(), auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign(
            [TopicPartition(topic, number) for number in (await facts_of(connection, topic)).partitions]
        )
        seen, began = 0, time.perf_counter()
        while seen < count:
            seen += sum(len(batch) for batch in (await consumer.getmany(timeout_ms=150)).values())
        return seen / (time.perf_counter() - began)
    finally:
        await consumer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps({"per_second": runner.run(read(given.kafka, given.topic, given.count))}))


if __name__ == "__main__":
    main()
