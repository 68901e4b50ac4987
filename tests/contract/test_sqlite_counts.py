"""SQLite's counts are kept up to date commit by commit; they are right after whatever happened."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from awakeables.core.commands import NewAwakeable, PurgeDeadLetters, Settle
from awakeables.errors import StoreUnavailable
from awakeables.store.sqlite import store as module
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import DLQ, RETENTION_MS, Driver, FakeClock, resolved
from contract.test_inspection import in_every_status


@pytest.fixture
async def sqlite(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "shop.db", clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    yield store
    await store.close()


async def test_counts_are_the_same_after_opening_the_file_again(
    sqlite: SqliteStore, clock: FakeClock
) -> None:
    driver = Driver(sqlite, clock)
    await in_every_status(driver)
    _, (settled, _) = await driver.running_with(*(NewAwakeable(id=driver.id("prom")) for _ in range(2)))
    await driver.settle(resolved(settled))
    before = await sqlite.counts()
    await sqlite.close()
    await sqlite.open()
    assert await sqlite.counts() == before


async def test_case_o2_reporting_the_gauges_counts_no_rows(sqlite: SqliteStore, clock: FakeClock) -> None:
    driver = Driver(sqlite, clock)
    letters = tuple(driver.a_letter(offset=offset) for offset in range(3))
    await sqlite.commit([Settle(completions=(), dead_letters=letters, relay_to=DLQ)])
    asked: list[str] = []
    await sqlite._reader.run(sqlite3.Connection.set_trace_callback, asked.append)
    counts = await sqlite.counts()
    assert (counts["dead_letters"], counts["effects_unsent"], counts["effects_failed"]) == (3, 3, 0)
    assert len(asked) == 3
    assert not any("count(" in query for query in asked)
    await sqlite.commit([PurgeDeadLetters(before_ms=clock.ms + 60_000, limit=100)])
    assert (await sqlite.counts())["dead_letters"] == 0


async def test_a_commit_that_fails_at_its_end_is_not_counted(
    sqlite: SqliteStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(sqlite, clock)
    await driver.begin()
    with monkeypatch.context() as patch:
        patch.setattr(module, "QUERIES", dict(QUERIES) | {"commit": "COMMIT to nothing"})
        with pytest.raises(StoreUnavailable):
            await driver.begin()
    await driver.begin()
    assert (await sqlite.counts())["invocations_open"] == 2


async def test_a_commit_that_happened_although_it_failed_is_counted(
    sqlite: SqliteStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(sqlite, clock)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_note", _fails)
        with pytest.raises(StoreUnavailable):
            await driver.begin()
    await driver.begin()
    assert (await sqlite.counts())["invocations_open"] == 2


def _fails(changes: object) -> None:
    raise OSError("the answer was lost")
