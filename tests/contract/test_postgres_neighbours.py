"""What others do to the same database meanwhile: hold old snapshots, or migrate it to the next release."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from awakeables.core.commands import Claim, Command, Expire
from awakeables.core.invocations import End, Suspend
from awakeables.core.outcomes import Resolution
from awakeables.store.postgres.store import PostgresStore
from contract.driver import RETENTION_MS, Driver, FakeClock, resolved

pytestmark = pytest.mark.real_postgres

MOVED = 3000
FEW_PAGES = 60
"""An index of this many dead entries has some 25 pages, and their rows some 300."""

WATCHED = """
LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
SET auto_explain.log_buffers = on; SET auto_explain.log_format = 'json'; SET client_min_messages = log
"""

TABLES = ("invocations", "journal", "awakeables", "outbox", "dead_letters", "offsets", "idempotency")


@pytest.fixture
async def store(postgres_url: str, clock: FakeClock) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url, clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[Any]:
    """A connection of somebody else."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def pages_read(store: PostgresStore, command: Command) -> int:
    """How many pages the statements of a command have looked at."""
    connection = store._writer._connection
    assert connection is not None
    plans: list[str] = []
    await connection.execute(WATCHED)
    listener = lambda _connection, message: plans.append(message.message)  # noqa: E731
    connection.add_log_listener(listener)
    await store.commit([command])
    await asyncio.sleep(0)  # listeners are called by the loop
    connection.remove_log_listener(listener)
    explained = [json.loads(told[told.index("{") :]) for told in plans if "plan:" in told]
    assert explained
    return sum(each["Plan"]["Shared Hit Blocks"] + each["Plan"]["Shared Read Blocks"] for each in explained)


async def test_pg17_a_search_passes_over_what_an_old_snapshot_keeps(
    store: PostgresStore, driver: Driver, clock: FakeClock, other: Any
) -> None:
    begins = [driver.a_begin(owner="me", first=True) for _ in range(MOVED)]
    await store.commit(begins)
    keys = [begin.first.awakeables[0].id for begin in begins if begin.first is not None]
    async with other.transaction(isolation="repeatable_read", readonly=True):
        await other.fetchval("SELECT count(*) FROM awakeables.meta")
        await driver.settle(*(resolved(key, checked="h1") for key in keys))
        rows = await driver.claim(limit=MOVED)
        assert len(rows) == MOVED
        await store.commit([driver.an_advance(row, Suspend(wake=row.wake)) for row in rows])
        clock.ms += 60_000
        await driver.begin()
        assert len(await driver.claim()) == 1  # which is how far it has seen
        for nothing in (Claim(owner="me", limit=100, suspect=True), Expire(limit=1000)):
            # Every two seconds a search begins with the smallest; the others begin where one has ended.
            read = [await pages_read(store, nothing) for _ in range(5)]
            assert min(read) < FEW_PAGES


async def test_pg19_columns_that_a_newer_release_adds_under_load_disturb_nobody(
    store: PostgresStore, driver: Driver, other: Any
) -> None:
    migrated = asyncio.Event()

    async def work() -> int:
        cycles = 0
        while not migrated.is_set() or not cycles:
            begin = driver.a_begin(owner="me", first=True)
            await driver.store.commit([begin])
            assert begin.first is not None
            await driver.settle(resolved(begin.first.awakeables[0].id, checked="h1"))
            for row in await driver.claim():
                await driver.advance(row, End(result=Resolution.of_json(b"1")))
            cycles += 1
        return cycles

    async def migrate() -> None:
        try:
            for number in range(3):
                for table in TABLES:
                    await other.execute(f"ALTER TABLE awakeables.{table} ADD COLUMN later_{number} text")
        finally:
            migrated.set()

    try:
        _, cycles = await asyncio.gather(migrate(), work())
        assert cycles
    finally:
        for number in range(3):
            for table in TABLES:
                await other.execute(f"ALTER TABLE awakeables.{table} DROP COLUMN IF EXISTS later_{number}")
