"""Opening, closing, migrating: what can be wrong with a file, said clearly."""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from awakeables.errors import StoreLocked, StoreOfAnotherApp, StoreTooNew, StoreUnavailable
from awakeables.store.queries import named
from awakeables.store.sqlite import schema
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, Driver, FakeClock

NOBODY = 65534
VERSION = len(schema.migrations())
SORTING = {
    "due_invocations",
    "due_suspects",
    "orphaned_invocations",
    "list_running",
    "unclaimed_of_streams",
    "unsent_of",
    "history",
}
"""Queries that may sort what they find: it is as much as one process runs or asks for at once."""


def a_store(path: Path, app: str = "") -> SqliteStore:
    return SqliteStore(path, clock=FakeClock(), retention_ms=RETENTION_MS, app=app)


async def ask(store: SqliteStore, query: str, values: Sequence[object] = ()) -> Any:
    """Ask the writer's own connection."""
    return await store._writer.run(lambda connection: connection.execute(query, values).fetchall())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


def modes(path: Path) -> dict[str, int]:
    return {file.name.removeprefix(path.name): file.stat().st_mode & 0o777 for file in path.parent.iterdir()}


async def test_case_o13_a_new_store_and_its_other_files_are_readable_by_the_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        store = a_store(path)
        await store.open()
        await Driver(store, FakeClock()).begin()
        assert modes(path) == dict.fromkeys(("", "-wal", "-shm", ".lock"), 0o600)
        await store.close()
    finally:
        os.umask(before)


async def test_case_o13_a_store_that_everybody_could_read_is_shut_to_others_and_open_to_its_group(
    path: Path,
) -> None:
    store = a_store(path)
    await store.open()
    await Driver(store, FakeClock()).begin()
    await store.close()
    for file in path.parent.iterdir():
        file.chmod(0o646)
    await store.open()
    await Driver(store, FakeClock()).begin()
    assert modes(path) == dict.fromkeys(("", "-wal", "-shm", ".lock"), 0o640)
    await store.close()


DIARY = b"dear diary " * 1000


@pytest.fixture
def diary(path: Path) -> Path:
    path.write_bytes(DIARY)
    return path


async def test_a_store_that_is_open_is_locked_by_its_process(path: Path) -> None:
    first = a_store(path)
    await first.open()
    with pytest.raises(StoreLocked, match=re.escape(f"{path}.lock") + f".*process {os.getpid()}"):
        await a_store(path).open()
    await Driver(first, FakeClock()).begin()
    await first.close()
    second = a_store(path)
    await second.open()
    await second.close()


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=re.escape(str(tmp_path / "nowhere"))):
        await a_store(tmp_path / "nowhere" / "shop.db").open()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions bind: for root they don't."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def nobodys(path: Path) -> Iterator[Path]:
    """A store that another user of this machine has; its folder is reachable for everybody."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder / path.name
        folder.chmod(0o700)


async def a_closed_store_of(path: Path) -> None:
    store = a_store(path)
    await store.open()
    await Driver(store, FakeClock()).begin()
    await store.close()
    for file in (path.parent, *path.parent.iterdir()):
        os.chown(file, NOBODY if os.geteuid() == 0 else -1, -1)


ADVICE = "this process must be able to write the file, its .lock and its directory"


@pytest.mark.parametrize(
    ("read_only", "why"),
    [
        ("", r"EACCES|SQLITE_READONLY_DIRECTORY|SQLITE_CANTOPEN"),
        ("shop.db", "it is read-only: .*EACCES"),
        ("shop.db.lock", "EACCES"),
    ],
    ids=["folder", "file", "lock"],
)
async def test_a_store_that_can_t_be_written_is_refused_at_the_start(
    nobodys: Path, read_only: str, why: str
) -> None:
    await a_closed_store_of(nobodys)
    where = nobodys.parent / read_only
    where.chmod(0o555)
    with unprivileged(), pytest.raises(StoreUnavailable, match=rf"shop\.db.*({why})\); {ADVICE}"):
        await a_store(nobodys).open()
    where.chmod(0o755)
    with unprivileged():
        store = a_store(nobodys)
        await store.open()
        assert (await store.counts())["invocations_open"] == 1
        await store.close()


async def test_a_new_store_in_a_folder_that_takes_no_files_is_refused(nobodys: Path) -> None:
    nobodys.parent.chmod(0o555)
    with unprivileged(), pytest.raises(StoreUnavailable, match=rf"shop\.db\.lock' \(EACCES\); {ADVICE}"):
        await a_store(nobodys).open()
    assert list(nobodys.parent.iterdir()) == []


@pytest.mark.parametrize("path", ["", "/", "/tmp"])
async def test_a_directory_is_not_a_database(path: str) -> None:
    with pytest.raises(StoreUnavailable, match="is a directory: give the path of the database's file"):
        await a_store(Path(path)).open()


async def test_a_file_that_is_not_a_database_is_refused_and_left_alone(diary: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"shop\.db.*not a database"):
        await a_store(diary).open()
    with diary.open("rb") as file:
        assert file.read() == DIARY


async def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    for version in (0, 1):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(StoreUnavailable, match="another program"):
            await a_store(path).open()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


async def test_a_store_of_a_newer_release_is_refused_with_both_versions(path: Path) -> None:
    store = a_store(path)
    await store.open()
    await ask(store, "PRAGMA user_version = 99")
    await store.close()
    with pytest.raises(StoreTooNew, match=f"99.*{VERSION}"):
        await a_store(path).open()


def contents(path: Path) -> bytes:
    return path.read_bytes()


async def test_another_app_s_store_is_refused_and_left_alone(path: Path) -> None:
    for app in ("", "shop", "shop", ""):
        store = a_store(path, app)
        await store.open()
        await store.close()
    written = contents(path)
    told = f"{path} is the store of the app 'shop', not of 'bank': .*--store or AWAKEABLES_STORE"
    for _ in range(2):
        with pytest.raises(StoreOfAnotherApp, match=told):
            await a_store(path, "bank").open()
    assert contents(path) == written


async def test_another_app_s_store_of_an_older_release_is_not_migrated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(path, "shop")
    await store.open()
    await store.close()
    chain = [*schema.migrations(), f"CREATE TABLE added (x);\nPRAGMA user_version = {VERSION + 1};\n"]
    monkeypatch.setattr(schema, "migrations", lambda: chain)
    with pytest.raises(StoreOfAnotherApp):
        await a_store(path, "bank").open()
    with closing(sqlite3.connect(path)) as connection:
        assert schema.schema_version(connection) == VERSION


async def test_opening_it_for_no_app_gives_it_no_name(path: Path) -> None:
    for app in ("", "bank"):
        store = a_store(path, app)
        await store.open()
        assert await ask(store, "SELECT name FROM app") == ([(app,)] if app else [])
        await store.close()


async def test_a_renamed_app_takes_over_its_file_as_the_operations_guide_says(path: Path) -> None:
    store = a_store(path, "shop")
    await store.open()
    await store.close()
    handbook = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (statement,) = re.findall(r'sqlite3 awakeables\.db "(UPDATE app .*)"', handbook)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement.replace("new-name", "bank")).rowcount == 1
    store = a_store(path, "bank")
    await store.open()
    await store.close()
    with pytest.raises(StoreOfAnotherApp):
        await a_store(path, "shop").open()


async def test_an_opening_that_failed_releases_the_lock(diary: Path) -> None:
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await a_store(diary).open()


async def test_a_store_that_is_not_open_says_so(path: Path) -> None:
    store = a_store(path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.commit([])
        with pytest.raises(StoreUnavailable, match="not open"):
            await store.counts()
        await store.open()
        assert await store.commit([]) == []
        await store.close()
        await store.close()


async def test_closing_folds_the_log_into_the_file(path: Path) -> None:
    store = a_store(path)
    await store.open()
    await Driver(store, FakeClock()).begin()
    await store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["shop.db", "shop.db.lock"]


async def test_a_commit_is_on_disk_when_it_returns(path: Path) -> None:
    store = a_store(path)
    await store.open()
    assert await ask(store, "PRAGMA journal_mode") == [("wal",)]
    assert await ask(store, "PRAGMA synchronous") == [(2,)]
    await store.close()


async def test_readers_cant_write(path: Path) -> None:
    store = a_store(path)
    await store.open()
    for thread in (store._reader, store._lister):
        with pytest.raises(StoreUnavailable, match="readonly"):
            await thread.run(lambda connection: connection.execute("DELETE FROM outbox"))
    await store.close()


# ── migrations ──────────────────────────────────────────────────────────────────────────────


def test_each_migration_sets_the_version_that_its_number_says(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for number, text in enumerate(schema.migrations(), start=1):
            schema.apply_migration(connection, text)
            assert schema.schema_version(connection) == number


async def test_an_older_store_is_migrated_and_keeps_its_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(path)
    await store.open()
    row = await Driver(store, FakeClock()).begin()
    await store.close()
    added = f"CREATE TABLE added (x);\nPRAGMA user_version = {VERSION + 1};\n"
    chain = [*schema.migrations(), added]
    monkeypatch.setattr(schema, "migrations", lambda: chain)
    for _ in range(2):
        await store.open()
        assert await ask(store, "SELECT count(*) FROM added") == [(0,)]
        assert await ask(store, "PRAGMA user_version") == [(VERSION + 1,)]
        assert await store.invocation(row.id) == row
        await store.close()


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(path)
    await store.open()
    await store.close()
    broken = f"CREATE TABLE added (x);\nPRAGMA user_version = {VERSION + 1};\nDROP TABLE nowhere;\n"
    with monkeypatch.context() as patch:
        chain = [*schema.migrations(), broken]
        patch.setattr(schema, "migrations", lambda: chain)
        with pytest.raises(StoreUnavailable, match="nowhere"):
            await store.open()
    await store.open()
    assert await ask(store, "PRAGMA user_version") == [(VERSION,)]
    assert await ask(store, "SELECT count(*) FROM sqlite_schema WHERE name = 'added'") == [(0,)]
    await store.close()


# ── queries ─────────────────────────────────────────────────────────────────────────────────


WHOLE = (
    "all_invocations",
    "all_chunks",
    "all_awakeables",
    "all_keys",
    "all_positions",
    "all_objects",
    "schedules",  # as many as the code declares
    "pauses",  # as many as operators have made
    "seals",  # as many as there were keys
    "awakeables_of",  # for what can't be read otherwise
    "schema_hashes",
    "subscribed",
)
"""`awakeables verify` reads whole tables, each in the order of its key, which needs no sorting.
There are as many positions as partitions."""


FEW = r"wanted|json_each|holders|keys|firsts|oldest|chosen|CONSTANT|\(subquery"
"""What has few rows: parameters, and what a query itself has found."""


async def test_no_query_scans_a_table_that_grows(path: Path) -> None:
    store = a_store(path)
    await store.open()
    planned = 0
    for name, query in QUERIES.items():
        if not re.match(r"(--.*\n)*(SELECT|UPDATE|DELETE|WITH)", query) or "sqlite_schema" in query:
            continue
        plan = [row[3] for row in await ask(store, "EXPLAIN QUERY PLAN " + query, [None] * query.count("?"))]
        scans = [
            step
            for step in plan
            if re.match(
                r"SCAN (?!wanted|json_each|holders|keys|firsts|oldest|chosen|CONSTANT|\(subquery)", step
            )
        ]
        assert all("USING" in step and "INDEX" in step for step in scans) or name in WHOLE, (name, plan)
        assert not any("ORDER BY" in step for step in plan) or name in SORTING, (name, plan)
        planned += 1
    assert planned > 20
    await store.close()


@pytest.mark.parametrize(
    ("name", "looks_at"),
    [
        ("newest_failed", "outbox_failed (state=? AND event_id>? AND event_id<?)"),
        ("newest_unsent", "outbox_claimed (state=? AND claimed_by=? AND event_id>? AND event_id<?)"),
        ("unsent_of", "outbox_claimed (state=? AND claimed_by=?)"),
        ("old_failed", "COVERING INDEX outbox_failed (state=? AND event_id>? AND event_id<?)"),
    ],
)
async def test_what_looks_into_the_outbox_looks_only_at_what_it_finds(
    path: Path, name: str, looks_at: str
) -> None:
    store = a_store(path)
    await store.open()
    query = QUERIES[name]
    plan = [row[3] for row in await ask(store, "EXPLAIN QUERY PLAN " + query, [None] * query.count("?"))]
    assert any(step.endswith(looks_at) for step in plan), plan
    await store.close()


async def test_the_open_invocations_of_a_subscription_are_listed_by_its_index(path: Path) -> None:
    store = a_store(path)
    await store.open()
    query = QUERIES["list_subscribed"]
    plan = [row[3] for row in await ask(store, "EXPLAIN QUERY PLAN " + query, [None] * query.count("?"))]
    assert plan == ["SEARCH invocations USING INDEX invocations_subscribed (subscription=? AND id<?)"]
    await store.close()


def test_a_query_name_stands_once() -> None:
    assert named("-- a --\nSELECT 1\n\n-- b --\n-- why\nSELECT 2\n") == {
        "a": "SELECT 1",
        "b": "-- why\nSELECT 2",
    }


def test_every_query_is_used() -> None:
    folder = Path(schema.__file__).parent
    code = "".join(file.read_text() for file in [*folder.glob("*.py"), folder.parent / "listing.py"])
    overlays = {"invocation", "invocations", "awakeable", "awakeables"}
    assert {name for name in QUERIES if f'"{name}"' not in code} <= overlays
