"""Closes consumers, producers and clients within seconds, also while the broker is down.

aiokafka's own `close` and `stop` swallow a cancellation that comes while they wait, so that the task that has
called them would go on as if it had not been cancelled. So they get tasks of their own here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

CLOSE_S = 3.0

FLUSH_S = 2.0
"""How long a producer may take to send what it holds, before it is closed."""


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Close a consumer.

    aiokafka's `stop` cancels its own requests; one that is in its back-off after a failure
    raises the cancellation in the caller, and the connections stay open. So `stop` gets a task of
    its own, and the connections are closed afterwards if it has failed to.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait({stopping}, timeout=CLOSE_S)
    if not stopping.done():
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=CLOSE_S)
    if stopping.cancelled() or not stopping.done() or stopping.exception() is not None:
        await close_client(consumer._client)


async def close_client(client: AIOKafkaClient | AIOKafkaAdminClient) -> None:
    """Close a client; one that is cancelled meanwhile closes in the background."""
    closing = asyncio.ensure_future(client.close())
    # Nobody can do anything about a failure, which must not be logged.
    closing.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait({closing}, timeout=CLOSE_S)


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Flush for a moment, then close a producer; records that are not sent by then fail.

    aiokafka's `stop` waits for as long as the broker is down. With its sender closed, and nothing
    left to send, it returns at once.
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
    """Fail the batches that will not be sent; if nobody awaits them, that must not be logged."""
    kept = producer._message_accumulator
    batches = {batch for queue in kept._batches.values() for batch in queue} | kept._pending_batches
    # A batch that waits to be sent again is removed from the pending ones when it is done, but is
    # not among them: without this, that would raise.
    kept._pending_batches |= batches
    kept.fail_all(kafka.ProducerClosed())
    for batch in batches:
        for future in (batch.future, batch._drain_waiter):
            if future.done() and not future.cancelled():
                future.exception()
