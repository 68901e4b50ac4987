"""Closing a consumer for good, also when its broker is away."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer

CLOSE_S = 3.0


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
