"""A publisher that runs for a test, and what becomes of effects that are handed to one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from awakeables.core.effects import Effect
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.producer import Producer, ProducerSettings
from awakeables.kafka.publisher import KafkaPublisher
from awakeables.ports import Publisher
from awakeables.world import SystemClock


@asynccontextmanager
async def publishing(
    connection: KafkaConnection,
    *,
    timeout: timedelta = timedelta(seconds=10),
    settings: ProducerSettings | None = None,
) -> AsyncIterator[KafkaPublisher]:
    """A publisher and its producer, until the block is left."""
    async with Producer(connection, SystemClock(), settings=settings).running() as producer:
        yield KafkaPublisher(producer, connection, timeout=timeout)


async def outcomes(publisher: Publisher, effects: Sequence[Effect]) -> list[Exception | None]:
    """What each of these effects is reported with, in their order."""
    found: dict[str, Exception | None] = {}

    def report(reported: Sequence[Effect], outcome: Exception | None) -> None:
        assert not found.keys() & {effect.event_id for effect in reported}, "reported twice"
        found.update({effect.event_id: outcome for effect in reported})

    await publisher.publish(effects, report)
    return [found[effect.event_id] for effect in effects]


async def publish(publisher: Publisher, *effects: Effect) -> None:
    """Publish effects; raises the first error that one of them is reported with."""
    for outcome in await outcomes(publisher, effects):
        if outcome is not None:
            raise outcome
