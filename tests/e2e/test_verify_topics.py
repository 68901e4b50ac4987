"""`awakeables verify --topics`: the store held against what is in Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from awakeables import App
from awakeables.core.effects import Effect
from awakeables.core.invariants.findings import Findings
from awakeables.core.rows import PLACES, effect_row
from awakeables.devbroker import EmbeddedBroker
from awakeables.doctor.topicverification import TopicVerification
from awakeables.doctor.verification import verify
from awakeables.kafka.connection import KafkaConnection
from awakeables.store.memory import MemoryStore
from awakeables.store.memoryaudit import MemoryAudit
from awakeables.world import SystemClock
from support.eventually import eventually
from support.service import DAY_MS, Running, new_app, produce, rejected, resolved, running

TASKS = "packing"


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


def quick(broker: EmbeddedBroker) -> KafkaConnection:
    return KafkaConnection(
        bootstrap=broker.bootstrap, fetch_max_wait_ms=5, request_timeout=timedelta(seconds=5)
    )


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(clock=SystemClock(), retention_ms=DAY_MS)


@pytest.fixture
async def shop(broker: EmbeddedBroker, store: MemoryStore) -> AsyncIterator[Running]:
    app = new_app()
    for topic, partitions in ((app.completions_topic, 2), (app.dead_letter_topic, 1), (TASKS, 2)):
        await broker.create_topic(topic, partitions=partitions)
    async with running(broker.bootstrap, app, store, connection=quick(broker)) as shop:
        yield shop


async def compared(broker: EmbeddedBroker, app: App, store: MemoryStore) -> Findings:
    audit = MemoryAudit(store.tables, clock=SystemClock())
    findings = await verify(audit, retention_ms=DAY_MS)
    assert not findings.counts
    verification = TopicVerification(
        quick(broker), findings, completions=app.completions_topic, retention_ms=DAY_MS
    )
    await verification.check(audit, max_unpacked_bytes=1 << 20)
    return findings


async def answered(broker: EmbeddedBroker, shop: Running, store: MemoryStore) -> list[str]:
    """Three awakeables with tasks, two of them answered, one twice, among records of all kinds."""
    ids = await shop.pending("fulfil", count=3, topic=TASKS)
    records = [b"{", resolved(ids[0], 1), rejected(ids[0]), None, resolved(ids[1], 2)]
    await produce(broker.bootstrap, shop.app.completions_topic, records)
    for awakeable_id in ids[:2]:
        await shop.settled(awakeable_id)
    await eventually(lambda: not store.tables.effects)
    return ids


async def test_a_store_that_fits_its_topics_violates_nothing(
    broker: EmbeddedBroker, shop: Running, store: MemoryStore
) -> None:
    await answered(broker, shop, store)
    before = await verify(MemoryAudit(store.tables, clock=SystemClock()), retention_ms=DAY_MS)
    findings = await compared(broker, shop.app, store)
    assert [str(violation) for violation in findings.violations] == []
    assert findings.notes == []
    assert findings.looked_at["A2"] == before.looked_at["A2"] + 3
    assert findings.looked_at["A3"] == before.looked_at["A3"] + 3


async def test_a_completion_that_was_read_and_has_no_verdict_is_a_violation(
    broker: EmbeddedBroker, shop: Running, store: MemoryStore
) -> None:
    """As if the offset had been committed without the answer."""
    waiting = (await answered(broker, shop, store))[2]
    topic = shop.app.completions_topic
    position = store.tables.positions["", topic, 0]
    store.tables.positions["", topic, 0] = replace(position, epoch=position.epoch + 1)  # stops its reader
    await produce(broker.bootstrap, topic, [resolved(waiting, 3)])
    store.tables.positions["", topic, 0] = replace(position, epoch=position.epoch + 1, next=position.next + 1)
    findings = await compared(broker, shop.app, store)
    (violation,) = findings.violations
    assert (violation.invariant, violation.id) == ("A2", waiting)
    assert f"offset {position.next} of partition 0" in violation.text


async def test_a_task_whose_awakeable_is_gone_is_a_violation(
    broker: EmbeddedBroker, shop: Running, store: MemoryStore
) -> None:
    """As after an older store was restored."""
    await answered(broker, shop, store)
    (lost, *_) = await shop.pending("fulfil", topic=TASKS)
    await eventually(lambda: not store.tables.effects)
    invocation_id = store.tables.awakeables.pop(lost).invocation_id
    del store.tables.invocations[invocation_id], store.tables.journals[invocation_id]
    findings = await compared(broker, shop.app, store)
    assert [(violation.invariant, violation.id) for violation in findings.violations] == [("A3", lost)]


async def test_what_was_not_published_for_long_and_a_topic_that_is_missing_are_noted(
    broker: EmbeddedBroker, shop: Running, store: MemoryStore
) -> None:
    (waiting,) = await shop.pending("fulfil", topic=TASKS)
    await eventually(lambda: not store.tables.effects)
    row = store.tables.awakeables[waiting]
    late = Effect(event_id="evt_1", stream=row.invocation_id, topic=TASKS, key=None, value=None, created_ms=1)
    store.tables.effects["evt_1"] = effect_row(late, "nobody's relay", 1 << PLACES)
    findings = await compared(broker, new_app("other"), store)
    assert not findings.counts
    missing, waits = findings.notes
    assert missing.endswith(".completions is missing")
    assert waits == "1 record has not been published for more than a minute, evt_1 for the longest"
