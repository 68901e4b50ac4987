"""A pooler in transaction mode; the contract suite runs behind it as a fourth store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from awakeables.core.commands import Cancel, Claim
from awakeables.core.invocations import End
from awakeables.core.outcomes import Resolution
from awakeables.core.replies import CancelMarked
from awakeables.doctor.verification import verify
from awakeables.errors import StoreUnavailable
from awakeables.store.postgres.audit import PostgresAudit
from awakeables.store.postgres.checkup import inspect_database
from awakeables.store.postgres.store import PostgresStore
from contract.driver import RETENTION_MS, Driver, FakeClock, resolved
from support.pooler import POOL_SIZE, behind

pytestmark = pytest.mark.real_postgres

STORES = 4
CYCLES = 15


@pytest.fixture
def pooled_url(postgres_url: str, pooler_port: int) -> str:
    return behind(postgres_url, pooler_port)


async def ended(driver: Driver, owner: str) -> int:
    """How many runnable invocations an owner has claimed and ended."""
    rows = await driver.claim(owner)
    for row in rows:
        await driver.advance(row, End(result=Resolution.of_json(b"1")))
    return len(rows)


async def cycles(driver: Driver, owner: str) -> int:
    """Begin and settle invocations, and end what is runnable, whoever has begun it; how many that were."""
    count = 0
    for _ in range(CYCLES):
        begin = driver.a_begin(owner=owner, first=True)
        await driver.store.commit([begin])
        assert begin.first is not None
        await driver.settle(resolved(begin.first.awakeables[0].id, checked="h1"))
        count += await ended(driver, owner)
    return count


async def test_pg18_stores_behind_a_pooler_share_its_sessions_and_leave_nothing_in_them(
    pooled_url: str,
) -> None:
    async with AsyncExitStack() as stack:
        drivers = {}
        for number in range(STORES):
            clock = FakeClock()
            clock.ms += number  # which makes the IDs of each driver its own
            store = PostgresStore(pooled_url, clock=clock, retention_ms=RETENTION_MS)
            await store.open()
            stack.push_async_callback(store.close)
            drivers[f"owner-{number}"] = Driver(store, clock)
        counts = await asyncio.gather(*(cycles(driver, owner) for owner, driver in drivers.items()))
        # What others were just looking at was left to them, and they may have had no further turn.
        left = await ended(drivers["owner-0"], "owner-0")
        assert sum(counts) + left == STORES * CYCLES
    findings = await verify(PostgresAudit(pooled_url), retention_ms=RETENTION_MS)
    assert findings.violations == []
    async with AsyncExitStack() as stack:
        processes = set()
        for _ in range(POOL_SIZE):  # each in a session of its own
            connection = await asyncpg.connect(pooled_url, statement_cache_size=0)
            stack.push_async_callback(connection.close)
            await stack.enter_async_context(connection.transaction())
            processes.add(await connection.fetchval("SELECT pg_backend_pid()"))
            assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
            changed = "SELECT name FROM pg_settings WHERE source = 'session' AND name LIKE '%timeout'"
            assert await connection.fetch(changed) == []
        assert len(processes) == POOL_SIZE


async def test_pg18_who_is_frozen_behind_a_pooler_lets_go_of_its_locks(
    pooled_url: str, clock: FakeClock
) -> None:
    frozen, thawed = asyncio.Event(), asyncio.Event()

    async def freeze(step: str) -> None:
        """Before the claim is written: its transaction has locked what it has found."""
        if step == "write" and claiming:
            frozen.set()
            await thawed.wait()

    claiming: list[Any] = []
    async with AsyncExitStack() as stack:
        stores = []
        for between in (freeze, None):
            store = PostgresStore(pooled_url, clock=clock, retention_ms=RETENTION_MS, between=between)
            await store.open()
            stack.push_async_callback(store.close)
            stores.append(store)
        row = await Driver(stores[1], clock).begin()
        claiming.append(asyncio.ensure_future(stores[0].commit([Claim(owner="me", limit=9)])))
        await frozen.wait()
        async with asyncio.timeout(9):  # less than a client waits for an answer
            await Driver(stores[1], clock).do(CancelMarked, Cancel(invocation_id=row.id))
        thawed.set()
        with pytest.raises(StoreUnavailable):
            await claiming[0]


async def test_pg18_who_examines_a_database_is_told_of_a_pooler_and_of_what_to_set(
    postgres_url: str, pooled_url: str
) -> None:
    beside = set((await inspect_database(postgres_url)).risks)
    pooler, unset = set((await inspect_database(pooled_url)).risks) - beside
    told = sorted([pooler, unset])
    assert told[0].startswith("there is a pooler")
    assert "statement_timeout" in told[1]
