"""The two ways that docs/operations.md names to copy a store while it is being written."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from awakeables.core.invocations import Invocation
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, Driver, FakeClock, resolved
from support.eventually import eventually


def by_backup(source: Path, copy: Path) -> None:
    """What `sqlite3 FILE ".backup COPY"` does."""
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(copy)) as target:
        connection.backup(target)


def by_vacuum(source: Path, copy: Path) -> None:
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))


@pytest.mark.parametrize("back_up", [by_backup, by_vacuum])
async def test_a_copy_made_under_load_has_what_was_acknowledged_before_and_goes_on(
    back_up: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    clock = FakeClock()
    store = SqliteStore(tmp_path / "shop.db", clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    driver = Driver(store, clock)
    acknowledged: list[tuple[Invocation, str]] = []

    async def load() -> None:
        while True:
            acknowledged.append(await driver.waiting())

    loading = asyncio.create_task(load())
    await eventually(lambda: len(acknowledged) >= 50)
    before = list(acknowledged)
    await asyncio.to_thread(back_up, tmp_path / "shop.db", tmp_path / "copy.db")
    await eventually(lambda: len(acknowledged) > len(before))
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    await store.close()

    restored = SqliteStore(tmp_path / "copy.db", clock=clock, retention_ms=RETENTION_MS)
    await restored.open()
    driver.store = restored
    for row, awakeable_id in before:
        assert (await driver.verdict(resolved(awakeable_id))).kind == "accepted"
        assert (await driver.invocation(row.id)).status == "pending"
    assert (await driver.begin()).status == "pending"
    await restored.close()
