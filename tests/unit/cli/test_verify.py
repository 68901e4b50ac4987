"""What `verify` prints, and when it exits with 1."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from awakeables.core.invariants.findings import INVARIANTS
from awakeables.store.sqlite.schema import apply_migration, migrations
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, Driver, FakeClock
from unit.cli.conftest import Run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A file with a suspended invocation, closed."""
    path, clock = tmp_path / "shop.db", FakeClock()

    async def fill() -> None:
        opened = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS)
        await opened.open()
        await Driver(opened, clock).waiting()
        await opened.close()

    asyncio.run(fill())
    return path


def damage(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE awakeables SET state = 'resolved'")


def test_a_healthy_store_exits_with_0_and_a_line_for_each_invariant(run: Run, store: Path) -> None:
    told = run("verify", "--store", str(store))
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[-1] == "verified: 5 rows, 0 violations"
    assert [line.split("  ")[0] for line in lines[1:-1]] == [each.number for each in INVARIANTS]


def test_a_violation_is_named_and_exits_with_1(run: Run, store: Path) -> None:
    damage(store)
    told = run("verify", "--store", str(store))
    assert told.exit_code == 1
    assert "A1: prom_" in told.stdout
    assert "is resolved without an outcome" in told.stdout
    document = json.loads(run("verify", "--store", str(store), "--json").stdout)
    assert {row["number"] for row in document["violations"]} >= {"A1", "A2", "O3"}
    assert document["rows"] == {"invocations": 1, "journal chunks": 3, "awakeables": 1}
    (one,) = [row for row in document["invariants"] if row["number"] == "A1"]
    assert one["looked_at"] == 1
    assert one["violations"] == 3


def test_a_store_that_a_service_has_open_is_verified_and_not_locked(
    run: Run, store: Path, tmp_path: Path
) -> None:
    async def beside() -> int:
        opened = SqliteStore(store, clock=FakeClock(), retention_ms=RETENTION_MS)
        await opened.open()
        try:
            return (await asyncio.to_thread(run, "verify", "--store", str(store))).exit_code
        finally:
            await opened.close()

    assert asyncio.run(beside()) == 0


def test_what_is_no_store_of_this_release_is_refused_and_left_as_it_is(run: Run, tmp_path: Path) -> None:
    missing = run("verify", "--store", str(tmp_path / "none.db"))
    assert missing.exit_code == 1
    assert "there is no store" in str(missing.exception)
    assert not (tmp_path / "none.db").exists()
    old = tmp_path / "old.db"
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        apply_migration(connection, migrations()[0])
    assert "has schema version 1" in str(run("verify", "--store", str(old)).exception)
    assert "nothing to read" in str(run("verify", "--store", "memory:").exception)


def test_topics_need_the_app_whose_they_are(run: Run, store: Path) -> None:
    told = run("verify", "--store", str(store), "--topics")
    assert told.exit_code == 1
    assert "--topics needs the app" in told.stderr
