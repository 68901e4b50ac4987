"""A back-up that is restored to an earlier point in time runs on, and what is missing since then is told."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from awakeables.core.awakeables import Completion
from awakeables.core.outcomes import Resolution
from awakeables.devbroker import EmbeddedBroker
from awakeables.doctor.topicverification import TopicVerification
from awakeables.doctor.verification import verify
from awakeables.kafka.connection import KafkaConnection
from awakeables.ports import Audit, Page, Store
from awakeables.store.postgres.audit import PostgresAudit
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.audit import SqliteAudit
from awakeables.store.sqlite.backup import back_up
from awakeables.store.sqlite.store import SqliteStore
from awakeables.world import SystemClock
from support.eventually import eventually
from support.real_postgres import binaries
from support.service import DAY_MS, Running, new_app, produce, resolved, running

TASKS = "packing"


@dataclass(kw_only=True)
class Original:
    """A store, and how it is backed up and restored.

    Attributes:
        restored: Restores the back-up that `back_up` made, and returns what was restored, and its audit.
    """

    store: Store
    back_up: Callable[[], object]
    restored: Callable[[], tuple[Store, Audit]]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_postgres)])
def original(request: pytest.FixtureRequest, tmp_path: Path) -> Original:
    return _sqlite(tmp_path) if request.param == "sqlite" else _postgres(request, tmp_path)


def _sqlite(folder: Path) -> Original:
    file, copy = folder / "shop.db", folder / "copy.db"
    clock = SystemClock()
    return Original(
        store=SqliteStore(file, clock=clock, retention_ms=DAY_MS),
        back_up=lambda: back_up(file, copy),
        restored=lambda: (
            SqliteStore(copy, clock=clock, retention_ms=DAY_MS),
            SqliteAudit(copy, clock=clock),
        ),
    )


def _postgres(request: pytest.FixtureRequest, folder: Path) -> Original:
    """As the guide says: `pg_dump`, and `pg_restore` into an empty database."""
    from support.shared_postgres import shared_postgres

    request.getfixturevalue("shared_database")
    databases = [shared_postgres().database(migrated=False) for _ in range(2)]
    url, other = [each.__enter__() for each in databases]
    request.addfinalizer(lambda: [each.__exit__(None, None, None) for each in databases])
    dump = folder / "dump"

    def run(program: str, *arguments: str) -> None:
        folder_of_programs = binaries()
        assert folder_of_programs is not None
        subprocess.run([folder_of_programs / program, *arguments], check=True)

    def restored() -> tuple[Store, Audit]:
        run("pg_restore", "--no-owner", "--exit-on-error", "--dbname", other, str(dump))
        return PostgresStore(other, retention_ms=DAY_MS), PostgresAudit(other)

    return Original(
        store=PostgresStore(url, retention_ms=DAY_MS),
        back_up=lambda: run("pg_dump", "--format=custom", "--file", str(dump), url),
        restored=restored,
    )


@asynccontextmanager
async def shop_on(broker: EmbeddedBroker, app: Any, store: Store) -> AsyncIterator[Running]:
    connection = KafkaConnection(bootstrap=broker.bootstrap, fetch_max_wait_ms=5)
    async with running(broker.bootstrap, app, store, connection=connection) as shop:
        yield shop


async def test_a_restored_store_reads_on_from_its_own_offsets_and_what_it_lacks_is_told(
    original: Original,
) -> None:
    app = new_app()
    async with EmbeddedBroker() as broker:
        for topic in (app.completions_topic, app.dead_letter_topic, TASKS):
            await broker.create_topic(topic, partitions=1)
        async with shop_on(broker, app, original.store) as shop:
            over_kafka, over_http = await shop.pending("fulfil", count=2, topic=TASKS)
            await eventually(lambda: _all_sent(shop))
            original.back_up()
            (later,) = await shop.pending("fulfil", topic=TASKS)
            await eventually(lambda: _all_sent(shop))
            answers = [resolved(over_kafka, 1), resolved(later, 3)]
            await produce(broker.bootstrap, app.completions_topic, answers)
            await shop.api.settle(_answer(over_http, b"2"))
            for awakeable_id in (over_kafka, over_http, later):
                await shop.result((await shop.settled(awakeable_id)).invocation_id)

        store, audit = original.restored()
        async with shop_on(broker, app, store) as shop:
            # What came over Kafka comes again, by the offsets that were restored.
            again = await shop.settled(over_kafka)
            assert again.outcome == Resolution.of_json(b"1")
            await shop.result(again.invocation_id)
            # What came over HTTP is lost, and can be sent again.
            assert (await shop.row(over_http)).state == "pending"
            await shop.api.settle(_answer(over_http, b"2"))
            await shop.result((await shop.settled(over_http)).invocation_id)
            # The answer to what is not there any more is a dead letter.
            letters = await eventually(lambda: shop.store.dead_letters(Page(limit=10)))
            assert [(letter.code, letter.awakeable_id) for letter in letters] == [("unknown", later)]
            await eventually(lambda: _all_sent(shop))

        findings = await verify(audit, retention_ms=DAY_MS)
        assert [str(violation) for violation in findings.violations] == []
        topics = TopicVerification(
            KafkaConnection(bootstrap=broker.bootstrap),
            findings,
            completions=app.completions_topic,
            retention_ms=DAY_MS,
        )
        await topics.check(audit, max_unpacked_bytes=1 << 20)
        assert [(violation.invariant, violation.id) for violation in findings.violations] == [("A3", later)]


def _answer(awakeable_id: str, content: bytes) -> Completion:
    return Completion(awakeable_id=awakeable_id, body=Resolution.of_json(content), source="http:test")


async def _all_sent(shop: Running) -> bool:
    return not await shop.store.queued_effects(Page(limit=1), state="unsent")
