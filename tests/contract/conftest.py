"""One suite over all stores: what a store promises, every store keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from awakeables.ports import Store
from awakeables.store.memory import MemoryStore
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, Driver, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    opened: Store
    if request.param == "memory":
        opened = MemoryStore(clock=clock, retention_ms=RETENTION_MS)
    else:
        opened = SqliteStore(tmp_path / "shop.db", clock=clock, retention_ms=RETENTION_MS)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def driver(store: Store, clock: FakeClock) -> Driver:
    return Driver(store, clock)
