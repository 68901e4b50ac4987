"""A store copied while it is being written, by our command and by SQLite's own."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from awakeables.core.invocations import Invocation
from awakeables.errors import AwakeablesError, OperatorError, StoreUnavailable
from awakeables.store.sqlite import backup
from awakeables.store.sqlite.backup import back_up
from awakeables.store.sqlite.schema import migrate
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, Driver, FakeClock, resolved
from support.eventually import eventually


def by_vacuum(source: Path, copy: Path) -> None:
    """What `sqlite3 FILE "VACUUM INTO 'COPY'"` does."""
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))


@pytest.mark.parametrize("back_up", [back_up, by_vacuum])
async def test_case_o14_a_copy_made_under_load_has_what_was_acknowledged_before_and_goes_on(
    back_up: Callable[[Path, Path], object], tmp_path: Path
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


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The file of an app, closed, in a folder of its own."""
    path = tmp_path / "data/shop.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, path, "shop")
    return path


def test_case_o14_a_back_up_is_its_owner_s_alone_and_leaves_nothing_else_behind(
    store: Path, tmp_path: Path
) -> None:
    copy = back_up(store, tmp_path / "copy.db")
    assert (copy.app, copy.bytes) == ("shop", (tmp_path / "copy.db").stat().st_size)
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"data", "copy.db"}
    assert [path.name for path in store.parent.iterdir()] == ["shop.db"]


@pytest.mark.parametrize("there", ["file", "folder", "link", "the store itself"])
def test_case_o14_a_back_up_replaces_nothing(there: str, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    match there:
        case "file":
            target.write_text("last week's")
        case "folder":
            target.mkdir()
        case "link":
            target.symlink_to(tmp_path / "nowhere")
        case _:
            target = store
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OperatorError, match="exists, and a backup never replaces a file"):
        back_up(store, target)
    assert sorted(tmp_path.rglob("*")) == before
    assert there != "file" or target.read_text() == "last week's"


@pytest.mark.parametrize("links", [True, False])
def test_case_o14_a_name_that_is_taken_meanwhile_is_left_alone(
    links: bool, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "copy.db"
    checked = backup._checked_backup

    def slowly(*args: Any) -> Any:
        target.write_text("another's")
        return checked(*args)

    def no_links(*_: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(backup, "_checked_backup", slowly)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    with pytest.raises(OperatorError, match="exists, and a backup never replaces"):
        back_up(store, target)
    assert target.read_text() == "another's"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "copy.db"}
    target.unlink()
    monkeypatch.setattr(backup, "_checked_backup", checked)
    back_up(store, target)
    assert target.stat().st_size > 0


def test_case_o14_a_failed_backup_is_reported_and_leaves_no_file(store: Path, tmp_path: Path) -> None:
    wrong: list[tuple[Path, Path, type[AwakeablesError], str]] = [
        (tmp_path / "none.db", tmp_path / "copy.db", OperatorError, "there is no store"),
        (store, tmp_path / "nowhere/copy.db", OperatorError, "does not exist: create it"),
        (tmp_path / "notes", tmp_path / "copy.db", StoreUnavailable, "not a database"),
    ]
    (tmp_path / "notes").write_text("dear diary " * 1000)
    for source, target, error, told in wrong:
        with pytest.raises(error, match=told):
            back_up(source, target)
        assert {path.name for path in tmp_path.iterdir()} == {"data", "notes"}


def test_case_o14_a_damaged_store_makes_no_back_up(store: Path, tmp_path: Path) -> None:
    content = bytearray(store.read_bytes())
    content[4096 * 3 :] = b"\xff" * (len(content) - 4096 * 3)
    store.write_bytes(content)
    with pytest.raises(AwakeablesError):
        back_up(store, tmp_path / "copy.db")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
