"""One suite over all stores: what a store promises, every store keeps."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

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
from support.keys import ring
from support.loading import LOADED_LATE
from support.pooler import behind, pooler, reason_pooler_is_missing
from support.real_postgres import EmptyDatabase
from support.sqlite_file import empty_store


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def pooler_port(shared_database: str) -> Iterator[int]:
    """The port of a pooler in front of the run's server; skipped, or failed, without one."""
    if reason := reason_pooler_is_missing():
        if os.environ.get("REQUIRE_REAL_POSTGRES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with pooler(urlsplit(shared_database).port or 5432) as port:
        yield port


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        "sealed",
        pytest.param("postgres", marks=pytest.mark.real_postgres),
        pytest.param("pgbouncer", marks=pytest.mark.real_postgres),
    ],
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    """A store; `awakeables verify` finds nothing wrong with what a test leaves in it."""
    opened: Store
    codec = ring("2026-11") if request.param in ("sealed", "pgbouncer") else None
    match request.param:
        case "memory":
            opened = MemoryStore(clock=clock, retention_ms=RETENTION_MS)
        case "sqlite" | "sealed":
            file = empty_store(tmp_path)
            opened = SqliteStore(file, clock=clock, retention_ms=RETENTION_MS, codec=codec)
        case kind:
            emptied: EmptyDatabase = request.getfixturevalue("empty_database")
            url = await emptied()
            if kind == "pgbouncer":
                url = behind(url, request.getfixturevalue("pooler_port"))
            opened = PostgresStore(url, clock=clock, retention_ms=RETENTION_MS, codec=codec)
    await opened.open()
    try:
        yield opened
        if request.node.get_closest_marker("impossible_rows") is None:
            findings = await verify(audit_of(opened, clock), retention_ms=RETENTION_MS)
            assert [str(violation) for violation in findings.violations] == []
    finally:
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
