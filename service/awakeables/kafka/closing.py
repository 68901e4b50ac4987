"""Closing a consumer or a producer for good, also when its broker is away."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import errors as kafka

CLOSE_S = 3.0

FLUSH_S = 2.0
"""How long a producer that is let go of may take for what it holds."""


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Close it within a few seconds.

    aiokafka's `stop` cancels its own requests; one that is in its back-off after a failure
    throws the cancellation at the caller, and the connections stay open. So `stop` gets a task of
    its own, and the connections are closed afterwards if it did not get there.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait({stopping}, timeout=CLOSE_S)
    if not stopping.done():
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=CLOSE_S)
    if stopping.cancelled() or not stopping.done() or stopping.exception() is not None:
        await consumer._client.close()


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Flush for a moment, then close for good.

    aiokafka's `stop` goes on for as long as the broker is away. Without its sender, and with
    nothing left to send, it ends at once.
    """
    with suppress(TimeoutError, kafka.KafkaError):
        async with asyncio.timeout(FLUSH_S):
            await producer.flush()
    with suppress(TimeoutError, kafka.KafkaError):
        async with asyncio.timeout(FLUSH_S):
            await producer._sender.close()
    _fail_what_is_left(producer)
    with suppress(TimeoutError, kafka.KafkaError):
        async with asyncio.timeout(FLUSH_S):
            await producer.stop()


def _fail_what_is_left(producer: AIOKafkaProducer) -> None:
    """Tell those who wait that it will not be sent; a failure that nobody waits for is no complaint."""
    kept = producer._message_accumulator
    batches = {batch for queue in kept._batches.values() for batch in queue} | kept._pending_batches
    # One that was sent and is to be sent again is taken from among the pending ones when it is
    # done, where it is no more.
    kept._pending_batches |= batches
    kept.fail_all(kafka.ProducerClosed())
    for batch in batches:
        for future in (batch.future, batch._drain_waiter):
            if future.done() and not future.cancelled():
                future.exception()
