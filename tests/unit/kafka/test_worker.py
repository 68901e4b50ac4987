"""The worker's port on Kafka, without one."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import TopicPartition

from awakeables.errors import BrokerUnavailable
from awakeables.kafka import worker as module
from awakeables.kafka.connection import Connection
from awakeables.kafka.unpacking import BatchTooLarge
from awakeables.kafka.worker import KafkaTasks, WorkerSettings
from awakeables.worker.port import Outgoing
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock

PLACE = TopicPartition("tasks", 0)


class Consumer:
    """Stands before offset 3, and notes where it is sent."""

    def __init__(self) -> None:
        self.sought: list[int] = []

    async def position(self, _partition: TopicPartition) -> int:
        return 3

    def seek(self, _partition: TopicPartition, offset: int) -> None:
        self.sought.append(offset)


@pytest.mark.parametrize("drains", [False, True])
async def test_case_w11_a_batch_that_can_not_be_told_of_is_left_to_the_next_worker(
    monkeypatch: pytest.MonkeyPatch, drains: bool
) -> None:
    async def found(*_: Any) -> tuple[int, int]:
        return 3, 9

    async def send(_record: Outgoing) -> None:
        if drains:
            raise BrokerUnavailable("there is no topic 'tasks.dlq'")

    settings = WorkerSettings()
    tasks = KafkaTasks(
        Worker("w"), Connection(bootstrap="127.0.0.1:1"), clock=SystemClock(), settings=settings
    )
    monkeypatch.setattr(module, "oversized_batch", found)
    monkeypatch.setattr(tasks, "send", send)
    consumer: Any = Consumer()
    assert await tasks._leave_out(consumer, PLACE, BatchTooLarge(1))
    assert consumer.sought == [9]
    assert tasks._ledger.committable() == ({} if drains else {("tasks", 0): 9})
