"""A store's file looked at from outside."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from awakeables.store.sqlite import checkup
from awakeables.store.sqlite.checkup import StoreCondition, inspect_store
from awakeables.store.sqlite.lock import holder_of
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, START_MS, Driver, FakeClock


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store with some rows, closed."""
    path, clock = tmp_path / "shop.db", FakeClock()
    store = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    driver = Driver(store, clock)
    for _ in range(100):
        await driver.begin()
    await store.close()
    return path


def look(path: Path, *, seconds: int = 0) -> StoreCondition:
    """Each look at the clock costs so many seconds of the sixty that there are."""
    ticks = itertools.count(step=seconds)
    return inspect_store(path, monotonic=lambda: float(next(ticks)), patience_s=60)


def test_a_sound_store_is_read_through_and_its_newest_row_dated(path: Path) -> None:
    found = look(path)
    assert (found.problem, found.holder, found.read_through) == (None, None, True)
    assert found.version == found.newest_version
    assert found.newest_ms == START_MS


def test_reading_through_is_given_up_after_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "STEPS", 10)
    found = look(path, seconds=61)
    assert (found.problem, found.read_through) == (None, False)


def test_damage_is_found(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\xff" * (len(content) - 4096 * 3)
    path.write_bytes(content)
    found = look(path)
    assert found.problem is not None
    assert str(path) in found.problem


def test_a_file_of_a_newer_release_or_of_another_program_is_reported(path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "schema version 99" in str(look(path).problem)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE diary (entry TEXT)")
    assert "another program" in str(look(other).problem)
    other.write_bytes(b"dear diary " * 1000)
    assert "can't be read" in str(look(other).problem)


def test_looking_at_a_lock_that_was_never_taken_makes_no_file(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "shop.db.lock") is None
    assert list(tmp_path.iterdir()) == []
