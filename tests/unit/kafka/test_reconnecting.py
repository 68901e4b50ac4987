"""When a producer that was replaced is followed by a pause."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from aiokafka import TopicPartition

from awakeables.core.backoff import Backoff
from awakeables.kafka import reconnecting
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.reconnecting import ReconnectingProducer
from awakeables.world import SystemClock

PLACE = TopicPartition("t", 0)


class Producer:
    """One that writes whatever it is given."""

    async def send_batch(self, *_args: Any, **_kwargs: Any) -> asyncio.Future[None]:
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        acknowledged.set_result(None)
        return acknowledged


@pytest.mark.parametrize(("writes", "pauses"), [(True, 0), (False, 8)])
async def test_a_pause_follows_a_producer_that_has_written_nothing(
    monkeypatch: pytest.MonkeyPatch, writes: bool, pauses: int
) -> None:
    """However many records Kafka refuses: each of them costs a producer, and must not stop all publishing."""
    paused: list[float] = []
    next_s = Backoff.next_s

    def at_once(backoff: Backoff) -> float:
        paused.append(next_s(backoff))
        return 0.0

    async def connect(_self: Any) -> Any:
        return Producer()

    async def close(_producer: Any) -> None:
        pass

    monkeypatch.setattr(Backoff, "next_s", at_once)
    monkeypatch.setattr(ReconnectingProducer, "_connect", connect)
    monkeypatch.setattr(reconnecting, "close_producer", close)
    client = ReconnectingProducer(
        KafkaConnection(bootstrap="?"), SystemClock(), stall=timedelta(minutes=1), errors=None
    )
    keeping = asyncio.ensure_future(client.keep())
    batch: Any = None
    for _ in range(8):
        producer = await client.connected()
        if writes:
            await client.send_batch(producer, PLACE, batch)
        client.replace(producer, topic="t", reason="it has refused a record")
    await client.connected()
    keeping.cancel()
    assert len(paused) == pauses
    assert paused == sorted(paused)
