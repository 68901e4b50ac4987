"""The worker's port on Kafka, without one."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition

from awakeables.errors import BrokerUnavailable
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.tolerant import OversizedBatch
from awakeables.kafka.unpacking import BatchTooLarge
from awakeables.kafka.worker import KafkaTasks, WorkerSettings
from awakeables.worker.port import Outgoing
from awakeables.worker.worker import Worker
from awakeables.world import SystemClock


@pytest.mark.parametrize("drains", [False, True])
async def test_case_w11_a_batch_that_can_not_be_reported_is_left_to_the_next_worker(
    monkeypatch: pytest.MonkeyPatch, drains: bool
) -> None:
    sent: list[Outgoing] = []

    async def send(record: Outgoing) -> None:
        if drains:
            raise BrokerUnavailable("there is no topic 'tasks.dlq'")
        sent.append(record)

    settings = WorkerSettings()
    tasks = KafkaTasks(
        Worker("w"), KafkaConnection(bootstrap="127.0.0.1:1"), clock=SystemClock(), settings=settings
    )
    monkeypatch.setattr(tasks, "send", send)
    await tasks._leave_out(TopicPartition("tasks", 0), OversizedBatch(3, 9, BatchTooLarge(1)))
    assert tasks._offsets.committable() == ({} if drains else {("tasks", 0): 9})
    if not drains:
        said = dict(sent[0].headers)["__connect.errors.exception.message"] or b""
        assert b"the batch with the offsets 3 to 8 is left out: it unpacks to more than 1 bytes" in said
