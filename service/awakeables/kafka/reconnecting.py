"""An aiokafka producer that is replaced when it can't go on: after a sequence gap, or a long silence."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder

from awakeables.core.backoff import Backoff
from awakeables.kafka.closing import close_producer
from awakeables.kafka.connection import NO_CONNECTION, KafkaConnection
from awakeables.kafka.connectionerrors import ConnectionErrorLog
from awakeables.ports import Clock
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0


class ReconnectingProducer:
    """Keeps a producer connected.

    An idempotent producer numbers its batches per partition, and the broker accepts them only in that
    order. aiokafka can't close the gap that a refused batch leaves, so a new producer is needed then
    (aiokafka #1017). It is also the only way out of some states in which aiokafka hangs.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        clock: Clock,
        *,
        stall: timedelta,
        errors: ConnectionErrorLog | None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._stall_s = stall.total_seconds()
        self._errors = errors
        self._producer: AIOKafkaProducer | None = None
        self._ready = asyncio.Event()
        self._worn_out = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._batches_under_way = 0
        self._heard_s = 0.0
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._was_useful = False

    @property
    def current(self) -> AIOKafkaProducer | None:
        """The producer, while it is connected."""
        return self._producer

    async def connected(self) -> AIOKafkaProducer:
        """The producer, as soon as it is connected."""
        while self._producer is None:
            await self._ready.wait()
        return self._producer

    async def send_batch(
        self, producer: AIOKafkaProducer, place: TopicPartition, batch: BatchBuilder
    ) -> None:
        """Send a batch; returns once every in-sync replica has it.

        Raises:
            KafkaError: As aiokafka raises it.
        """
        if not self._batches_under_way:
            self._heard_s = self._clock.monotonic()
        self._batches_under_way += 1
        try:
            await (await producer.send_batch(batch, place.topic, partition=place.partition))
        finally:
            self._batches_under_way -= 1
        self._heard_s = self._clock.monotonic()
        if producer is self._producer and not self._was_useful:
            self._was_useful = True
            self._backoff.reset()

    def replace(self, producer: AIOKafkaProducer, *, topic: str, reason: str) -> None:
        """Give up this producer, if it is not replaced already."""
        if self._producer is producer:
            log.info(events.CLIENT_REPLACED, client="producer", topic=topic, reason=reason)
            self._forget()

    async def keep(self) -> None:
        """Connect and reconnect until cancelled."""
        while True:
            self._worn_out.clear()
            producer = await self._connect()
            self._was_useful = False
            self._producer = producer
            self._ready.set()
            try:
                await self._until_worn_out()
            finally:
                self._forget()
                # It may still deliver its records, so it is closed while the next one connects.
                closing = asyncio.create_task(close_producer(producer), name="kafka-producer-closing")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            if not self._was_useful:
                await asyncio.sleep(self._backoff.next_s())

    async def closed(self) -> None:
        """Wait until all producers are closed, which takes a few seconds at most."""
        if self._closing:
            await asyncio.wait(self._closing)

    def _forget(self) -> None:
        self._producer = None
        self._ready.clear()
        self._worn_out.set()

    async def _until_worn_out(self) -> None:
        while not self._worn_out.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._stall_s / 10):
                    await self._worn_out.wait()
            silent_s = self._clock.monotonic() - self._heard_s
            if self._batches_under_way and silent_s > self._stall_s:
                reason = f"no acknowledgement for {silent_s:.0f} s"
                log.warning(events.CLIENT_REPLACED, client="producer", reason=reason)
                return

    async def _connect(self) -> AIOKafkaProducer:
        while True:
            producer = AIOKafkaProducer(**self._connection.producer_options())
            try:
                async with asyncio.timeout(self._connection.request_timeout.total_seconds()):
                    await producer.start()
            except NO_CONNECTION as error:
                await close_producer(producer)
                if self._errors is not None:
                    await self._errors.explain(error)
                else:
                    log.debug(events.BROKER_DOWN, bootstrap=self._connection.bootstrap, error=repr(error))
            except BaseException:
                await close_producer(producer)
                raise
            else:
                if self._errors is not None:
                    self._errors.recovered()
                return producer
            await asyncio.sleep(self._backoff.next_s())
