"""The floor: the same server, records and hops, with the futures in a dict and no store.

Whatever it promises is lost with the process. It is what the hops cost; the rest is the price
of durability, and of everything else that the service does for a call.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Mapping
from datetime import timedelta

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Raw
from starlette.types import Receive, Scope, Send

from awakeables.core.effects import Effect, TaskFacts
from awakeables.core.ids import Ids
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.topics import facts_of
from awakeables.web.server import WebServer
from awakeables.wire.tasks import encode_effect
from awakeables.world import SystemClock, SystemEntropy
from benchmarks.cycle import NAME, TASKS, TIMEOUT

REPLY_TO = f"{NAME}.floor"
PATH = "/bench/cycle"
POLL_MS = 150
TIMEOUT_MS = round(TIMEOUT / timedelta(milliseconds=1))


class Completion(msgspec.Struct):
    """The fields of a completion record."""

    awakeable_id: str
    status: str
    value: Raw = Raw(b"null")
    event_id: str | None = None
    worker: str | None = None
    attempt: int | None = None


_decode = msgspec.json.Decoder(Completion).decode


class Floor:
    """An ASGI application: a task out, its completion in (over Kafka or HTTP), the value back."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._clock = SystemClock()
        self._ids = Ids(self._clock.now_ms, SystemEntropy().bytes)
        self._waiting: dict[str, asyncio.Future[bytes]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read_body(receive)
        if body is None:
            return
        if scope["path"] == PATH:
            await _answer(send, 200, await self._cycle(body))
            return
        _, first, *rest = scope["path"].split("/")
        if first == "awakeables" and rest[1:] == ["resolve"]:
            self._settle(rest[0], body)
            await _answer(send, 200, b"{}")
        else:
            await _answer(send, 404, b"")

    def drain(self) -> None:
        """As `Served` asks; a benchmark has nothing to drain."""

    async def _cycle(self, order: bytes) -> bytes:
        awakeable_id = self._ids.new("prom")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[awakeable_id] = future
        now_ms = self._clock.now_ms()
        effect = Effect(
            event_id=self._ids.new("evt"),
            stream=awakeable_id,
            topic=TASKS,
            key=awakeable_id.encode(),
            value=order,
            task=TaskFacts(awakeable_id=awakeable_id, reply_to=REPLY_TO, deadline_ms=now_ms + TIMEOUT_MS),
            created_ms=now_ms,
        )
        value, headers = encode_effect(effect)
        await self._producer.send(effect.topic, value, effect.key, headers=headers)
        return await future

    def take(self, records: Mapping[TopicPartition, list[object]]) -> None:
        """Hand completions to those who wait."""
        for batch in records.values():
            for record in batch:
                completion = _decode(record.value)  # type: ignore[attr-defined]
                if completion.status == "resolved":
                    self._settle(completion.awakeable_id, bytes(completion.value))

    def _settle(self, awakeable_id: str, value: bytes) -> None:
        future = self._waiting.pop(awakeable_id, None)
        if future is not None and not future.done():
            future.set_result(value)


async def _read_body(receive: Receive) -> bytes | None:
    """The body of a request; None if the client has gone."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve(bootstrap: str, port: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = KafkaConnection(bootstrap=bootstrap, client_id="floor")
    producer = AIOKafkaProducer(**connection.producer_options())
    consumer = AIOKafkaConsumer(**connection.consumer_options(), auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    try:
        consumer.assign(
            [TopicPartition(REPLY_TO, n) for n in (await facts_of(connection, REPLY_TO)).partitions]
        )
        floor = Floor(producer)
        server = WebServer(floor, port=port, grace=timedelta(seconds=1))
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(_read(consumer, floor))
            web = tasks.create_task(server.run())
            await stop.wait()
            server.stop()
            await web
            reading.cancel()
    finally:
        await consumer.stop()
        await producer.stop()


async def _read(consumer: AIOKafkaConsumer, floor: Floor) -> None:
    while True:
        floor.take(await consumer.getmany(timeout_ms=POLL_MS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(given.kafka, given.port))


if __name__ == "__main__":
    main()
