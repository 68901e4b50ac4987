"""One suite over all stores: what a store promises, every store keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from awakeables.core.rows import NotLoaded
from awakeables.doctor.verification import verify
from awakeables.ports import Store
from awakeables.store.memory import MemoryStore
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.group import Group
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, Driver, FakeClock
from contract.vandal import audit_of
from support.loading import LOADED_LATE
from support.real_postgres import EmptyDatabase


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(
    params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.real_postgres)],
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    """A store; `awakeables verify` finds nothing wrong with what a test leaves in it."""
    opened: Store
    match request.param:
        case "memory":
            opened = MemoryStore(clock=clock, retention_ms=RETENTION_MS)
        case "sqlite":
            opened = SqliteStore(tmp_path / "shop.db", clock=clock, retention_ms=RETENTION_MS)
        case _:
            emptied: EmptyDatabase = request.getfixturevalue("empty_database")
            opened = PostgresStore(await emptied(), clock=clock, retention_ms=RETENTION_MS)
    await opened.open()
    yield opened
    if request.node.get_closest_marker("impossible_rows") is None:
        findings = await verify(audit_of(opened, clock), retention_ms=RETENTION_MS)
        assert [str(violation) for violation in findings.violations] == []
    await opened.close()


@pytest.fixture(autouse=True)
def loads_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No commit of a test reads a table for a decision after it has loaded for the whole group."""
    missed: set[str] = set()
    load_missed = Group.load_missed

    def noting(group: Group, unknown: NotLoaded) -> None:
        missed.add(unknown.table)
        load_missed(group, unknown)

    monkeypatch.setattr(Group, "load_missed", noting)
    yield
    assert missed <= {table for _, table in LOADED_LATE}


@pytest.fixture
def driver(store: Store, clock: FakeClock) -> Driver:
    return Driver(store, clock)
