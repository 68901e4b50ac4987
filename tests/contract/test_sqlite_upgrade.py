"""A file that an older release has written: what stands in it is read, listed, and purged in its time."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import astuple, replace

from awakeables.core.commands import Ended, Idempotency, Resend
from awakeables.core.deadletters import DeadLetter
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import Resent
from awakeables.core.rows import effect_row
from awakeables.errors import StoreOfAnotherApp
from awakeables.store.rows import dead_letter_row
from awakeables.store.sqlite import schema
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, TOPIC, Driver, FakeClock

WRITTEN_MS = 1_700_000_000_000
KEY = Idempotency(scope="orders/fulfil", key="k", fingerprint="f")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of schema 1."""
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as connection:
        schema.apply_migration(connection, schema.migrations()[0])
    return tmp_path / "shop.db"


def insert(path: Path, table: str, row: tuple[object, ...]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)


def invocation(driver: Driver, result: bytes | None) -> tuple[object, ...]:
    """A row as schema 1 has it."""
    status, due_ms = ("suspended", None) if result is None else ("completed", None)
    head = (driver.id("inv"), "orders", "fulfil", WRITTEN_MS, WRITTEN_MS, None, status, None)
    return (*head, 1, 1, 0, 0, 0, due_ms, "evt:1:1", "b1", None, result)


async def test_rows_of_schema_1_are_read_and_what_had_ended_is_purged_in_its_time(
    path: Path, clock: FakeClock
) -> None:
    store = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS)
    driver = Driver(store, clock)
    ended, waits = invocation(driver, b'{"status":"resolved","value":1}'), invocation(driver, None)
    for row in (ended, waits):
        insert(path, "invocations", row)
    insert(path, "idempotency", (b"orders/fulfil", b"k", "f", ended[0]))
    letter = driver.a_letter(offset=3)
    insert(path, "dead_letters", dead_letter_row(letter)[:-4])
    effect = driver.an_effect(str(waits[0]), task_for=driver.id("prom"))
    insert(path, "outbox", astuple(effect_row(effect, "dead process", 0))[:11])
    await store.open()
    try:
        found = await driver.invocation(str(ended[0]))
        assert (found.result, found.cancelled_ms) == (Resolution.of_json(b"1"), None)
        assert await store.ended(WRITTEN_MS - 1, 100) == []
        assert await store.ended(WRITTEN_MS, 100) == [Ended(id=str(ended[0]))]
        assert await store.effects("dead process", 10) == [effect]
        assert await store.dead_letter(letter.id) == letter == replace(letter, resent=0)
        resent = await driver.do(Resent, Resend(dead_letter_id=letter.id, event_id=driver.id("evt")))
        assert isinstance(resent.dead_letter, DeadLetter)
        assert resent.dead_letter.resent == 1
        counts = await store.counts()
        assert (counts["invocations_open"], counts["invocations_suspended"]) == (1, 1)
    finally:
        await store.close()


async def test_a_position_of_schema_7_takes_the_id_of_the_topic_that_it_is_read_of_next(
    path: Path, clock: FakeClock
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for migration in schema.migrations()[1:7]:
            schema.apply_migration(connection, migration)
    insert(path, "offsets", (TOPIC, 0, 7, 3, "dead process", 2))
    store = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS)
    driver = Driver(store, clock)
    await store.open()
    try:
        [position] = await store.positions(TOPIC)
        assert (position.next, position.epoch, position.again_before, position.topic_id) == (7, 3, 2, None)
        assert await driver.take(0, topic_id="an ID") == [4]
        [position] = await store.positions(TOPIC)
        assert (position.again_before, position.topic_id) == (2, "an ID")
    finally:
        await store.close()


async def test_a_file_of_schema_2_gets_the_name_of_the_app_that_opens_it_and_keeps_its_rows(
    path: Path, clock: FakeClock
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.apply_migration(connection, schema.migrations()[1])
    store = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS, app="shop")
    driver = Driver(store, clock)
    waits = (*invocation(driver, None), None, None)
    insert(path, "invocations", waits)
    await store.open()
    try:
        assert (await driver.invocation(str(waits[0]))).status == "suspended"
    finally:
        await store.close()
    with pytest.raises(StoreOfAnotherApp, match="'shop'"):
        await SqliteStore(path, clock=clock, retention_ms=RETENTION_MS, app="bank").open()
