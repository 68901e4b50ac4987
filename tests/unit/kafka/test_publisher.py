"""What the publisher keeps while Kafka does not answer, and for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from awakeables.core.effects import Effect
from awakeables.errors import BrokerUnavailable
from awakeables.kafka import publisher as module
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.producer import ProducerRecord
from awakeables.kafka.publisher import KafkaPublisher


class SilentProducer:
    """Answers only when a test says so."""

    def __init__(self) -> None:
        self.records: list[ProducerRecord] = []

    def send(self, records: Sequence[ProducerRecord]) -> None:
        self.records += records

    async def is_missing(self, _topic: str) -> bool:
        return False

    def answer(self) -> None:
        records, self.records = self.records, []
        for record in records:
            record.report([record], None)


@pytest.fixture
def producer() -> SilentProducer:
    return SilentProducer()


def a_publisher(producer: Any, timeout: timedelta = timedelta(seconds=10)) -> KafkaPublisher:
    return KafkaPublisher(producer, KafkaConnection(bootstrap="?"), timeout=timeout)


def effect(number: int) -> Effect:
    return Effect(event_id=f"evt_{number}", stream="inv_1", topic="t", key=b"k", value=b"{}")


async def published(publisher: KafkaPublisher, *effects: Effect) -> list[tuple[Effect, Exception | None]]:
    told: list[tuple[Effect, Exception | None]] = []
    await publisher.publish(effects, lambda some, outcome: told.extend([(each, outcome) for each in some]))
    return told


async def test_who_hands_an_effect_over_again_is_told_of_that_one(producer: SilentProducer) -> None:
    """The relay reads its effects again after it has lost them, and tells them apart by identity."""
    publisher = a_publisher(producer)
    before, after = effect(1), effect(1)
    first = asyncio.ensure_future(published(publisher, before))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(published(publisher, after))
    await asyncio.sleep(0)
    assert len(producer.records) == 1, "it is not sent twice"
    producer.answer()
    [(told, outcome)] = await second
    assert told is after
    assert outcome is None
    first.cancel()


async def test_outcomes_that_come_late_are_kept_for_the_next_call_and_are_bounded(
    producer: SilentProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LATE", 3)
    publisher = a_publisher(producer, timeout=timedelta(0))
    for number in range(5):
        [(_, outcome)] = await published(publisher, effect(number))
        assert isinstance(outcome, BrokerUnavailable)
    producer.answer()
    assert await published(publisher, effect(4)) == [(effect(4), None)]
    assert producer.records == []
    # The oldest were forgotten, since nobody has asked; they are sent again.
    await published(publisher, effect(0))
    assert len(producer.records) == 1
