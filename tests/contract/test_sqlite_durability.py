"""What survives: a restart, SIGKILL, a full disk, a lock that others hold."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

import pytest
from msgspec.structs import astuple

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.commands import (
    Claim,
    ClaimEffects,
    Command,
    Expire,
    NewAwakeable,
    Probe,
    Settle,
    TakeOver,
)
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectRow
from awakeables.core.records import Row
from awakeables.core.replies import Acknowledged
from awakeables.core.rows import EffectRow, PositionRow
from awakeables.errors import StoreUnavailable
from awakeables.ports import Page
from awakeables.store.sqlite import schema
from awakeables.store.sqlite import store as store_module
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import DLQ, RETENTION_MS, TOPIC, Driver, FakeClock, beating, resolved
from contract.test_transactions import everything

VICTIM = """
import asyncio, os, sys, time
from awakeables.core.commands import Begin
from awakeables.core.ids import Ids
from awakeables.store.sqlite.store import SqliteStore

class Clock:
    def now_ms(self): return 1_750_000_000_000
    def monotonic(self): return 0.0

ids = Ids(Clock().now_ms, os.urandom)

def begin():
    return Begin(id=ids.new("inv"), service="s", handler="h", chunk=b"[]")

async def main():
    store = SqliteStore(sys.argv[1], clock=Clock(), retention_ms=1)
    await store.open()
    while True:
        members = [begin() for _ in range(5)]
        await store.commit(members)
        print(*(member.id for member in members), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def sqlite(path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def driver(sqlite: SqliteStore, clock: FakeClock) -> Driver:
    return Driver(sqlite, clock)


async def some_of_everything(driver: Driver) -> None:
    await driver.take(0)
    row, (awakeable_id, other) = await driver.running_with(
        NewAwakeable(id=driver.id("prom"), timeout_ms=10), NewAwakeable(id=driver.id("prom"))
    )
    letters = (driver.a_letter(offset=1),)
    await driver.store.commit(
        [
            driver.an_advance(row, effects=[driver.an_effect(row.id, task_for=awakeable_id)]),
            Settle(completions=(resolved(awakeable_id), beating(other)), dead_letters=letters, relay_to=DLQ),
        ]
    )


async def test_reopening_finds_everything(sqlite: SqliteStore, driver: Driver) -> None:
    await some_of_everything(driver)
    before = await everything(sqlite)
    await sqlite.close()
    await sqlite.open()
    assert await everything(sqlite) == before
    assert await sqlite.positions(TOPIC)


@pytest.mark.parametrize("acknowledged", [1, 7, 60])
async def test_a_process_that_is_killed_loses_no_acknowledged_commit(
    path: Path, clock: FakeClock, acknowledged: int
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VICTIM, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = [await process.stdout.readline() for _ in range(acknowledged)]
    os.kill(process.pid, signal.SIGKILL)
    rest, _ = await process.communicate()
    ids = b"".join(told).decode().split() + [
        key for line in rest.decode().splitlines(keepends=True) if line.endswith("\n") for key in line.split()
    ]
    store = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    assert len(ids) >= 5 * acknowledged
    assert all([await store.invocation(key) for key in ids])
    found = (await store.counts())["invocations_open"]
    assert found >= len(ids)
    assert found % 5 == 0
    await store.close()


@pytest.mark.parametrize(
    "nothing",
    [
        Claim(owner="me", limit=10),
        ClaimEffects(owner="me", limit=10),
        Expire(limit=10),
        TakeOver(owner="me"),
        Settle(completions=()),
    ],
)
async def test_a_commit_that_changes_nothing_does_not_touch_the_disk(
    path: Path, sqlite: SqliteStore, driver: Driver, nothing: Command
) -> None:
    row = await driver.begin(owner="me")
    await driver.store.commit([driver.an_advance(row, effects=[driver.an_effect(row.id)])])
    log = path.with_name(path.name + "-wal")
    before = (log.stat().st_size, log.stat().st_mtime_ns)
    for _ in range(3):
        await sqlite.commit([nothing])
        await sqlite.commit([driver.an_advance(row)])  # fenced: the version is stale
    assert (log.stat().st_size, log.stat().st_mtime_ns) == before


async def test_fault_17_a_full_disk_is_an_outage_that_ends(sqlite: SqliteStore, driver: Driver) -> None:
    await some_of_everything(driver)
    before = await everything(sqlite)
    big = [driver.a_begin(owner="me") for _ in range(2000)]
    await sqlite._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    with pytest.raises(
        StoreUnavailable, match=r"full \(SQLITE_FULL\); free some space, and waiting work continues"
    ):
        await sqlite.commit(big)
    assert await everything(sqlite) == before
    await sqlite._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    assert len(await sqlite.commit(big)) == 2000
    assert len(await sqlite.held_by("me")) == 2001


async def test_a_probe_writes_to_the_log_and_changes_no_row(
    path: Path, sqlite: SqliteStore, driver: Driver
) -> None:
    await some_of_everything(driver)
    before = await everything(sqlite)
    log = path.with_name(path.name + "-wal")
    length = log.stat().st_size
    for _ in range(2):
        assert await sqlite.commit([Probe()]) == [Acknowledged()]
    assert log.stat().st_size > length
    assert await everything(sqlite) == before


async def test_a_probe_finds_a_full_disk_that_a_look_at_the_rows_does_not(sqlite: SqliteStore) -> None:
    await sqlite._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    await sqlite.commit([Expire(limit=1)])
    with pytest.raises(StoreUnavailable, match="SQLITE_FULL"):
        await sqlite.commit([Expire(limit=1), Probe()])


async def test_a_commit_that_fails_at_its_last_step_is_rolled_back(
    sqlite: SqliteStore, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await everything(sqlite)
    failing: Mapping[str, str] = MappingProxyType({**QUERIES, "commit": "SELECT * FROM a_broken_disk"})
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "QUERIES", failing)
        with pytest.raises(StoreUnavailable, match="a_broken_disk"):
            await sqlite.commit([driver.a_begin()])
    assert await everything(sqlite) == before
    await driver.begin()


async def test_a_database_that_others_write_to_is_unavailable_until_they_are_done(
    path: Path, sqlite: SqliteStore, driver: Driver
) -> None:
    await sqlite._writer.run(lambda connection: connection.execute("PRAGMA busy_timeout = 0"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
            await sqlite.commit([driver.a_begin()])
        assert (await sqlite.counts())["invocations_open"] == 0
        other.execute("ROLLBACK")
    await driver.begin()


async def test_no_reader_waits_for_the_writer(sqlite: SqliteStore, driver: Driver) -> None:
    row = await driver.begin()
    began, finish = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM invocations")
        began.set()
        finish.wait()
        connection.execute("ROLLBACK")

    writing = asyncio.ensure_future(sqlite._writer.run(slow))
    await asyncio.to_thread(began.wait)
    assert await sqlite.invocation(row.id) == row
    assert row.id in await sqlite.history([row.id])
    assert (await sqlite.counts())["invocations_open"] == 1
    finish.set()
    await writing


async def test_the_engine_does_not_wait_for_lists(sqlite: SqliteStore, driver: Driver) -> None:
    row = await driver.begin()
    finish = threading.Event()
    listing = asyncio.ensure_future(sqlite._lister.run(lambda _: finish.wait()))
    assert row.id in await sqlite.history([row.id])
    await driver.begin()
    finish.set()
    await listing


# ── every field ─────────────────────────────────────────────────────────────────────────────


async def test_case_o1_a_store_whose_file_was_taken_away_says_so_and_acknowledges_nothing(
    tmp_path: Path, clock: FakeClock
) -> None:
    path, away = tmp_path / "shop.db", tmp_path / "away.db"
    store = SqliteStore(path, clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    driver = Driver(store, clock)
    await driver.begin()
    path.rename(away)
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        await driver.begin()
    path.write_bytes(away.read_bytes())  # as a backup that is restored while the service runs
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        await driver.begin()
    away.rename(path)
    await driver.begin()
    assert len(await store.invocations(Page())) == 2
    await store.close()


FULL_INVOCATION = Invocation(
    id="inv",
    service="s",
    handler="h",
    created_ms=1,
    updated_ms=2,
    key_utf8=b"k",
    status="paused",
    owner="o",
    epoch=3,
    version=4,
    wake=5,
    starts=6,
    attempts=7,
    due_ms=8,
    committed_by="c",
    build="b",
    failure_json=b"{}",
    result_json=b'{"status":"resolved","value":0.10}',
    cancelled_ms=7,
    ended_ms=11,
    acts_json=b"[]",
    commits=12,
    origin="i",
    awaited=True,
    ticket=3,
    pausing_ms=13,
    subscription="s",
    versions_json=b"[]",
)
FULL_AWAKEABLE = AwakeableRow(
    id="prom",
    invocation_id="inv",
    created_ms=1,
    codec="bytes",
    type_name="t",
    schema_hash="h",
    topic="tasks",
    deadline_ms=2,
    state="resolved",
    outcome_json=b"{}",
    settled_ms=3,
    settled_by="t:0:1",
    verdicts_json=b'{"counts":{"late":1}}',
    heartbeat_json=b'{"progress":0.10}',
    title=b"t",
    about=b"a",
    source_utf8=b"inv",
    owned=True,
    watch_json=b'{"heartbeat_ms":1}',
)


FULL_EFFECT = EffectRow("evt", "s", "o", "failed", 1, "t", b"r", b"{}", b"[]", b"k", b"v", b"[]", 2, "task")
FULL_POSITION = PositionRow("s", "t", 1, 2, 3, "o", 4, "an ID", 5)
FULL_QUEUE = ObjectRow("carts", b"c-7", "inv", 1, 2, 3, 4, b"[]")
FULL_ROWS = [
    ("invocation", FULL_INVOCATION),
    ("awakeable", FULL_AWAKEABLE),
    ("effect", FULL_EFFECT),
    ("position", FULL_POSITION),
    ("object", FULL_QUEUE),
]


@pytest.mark.parametrize(("table", "full"), FULL_ROWS)
def test_every_field_of_a_row_is_a_column(table: str, full: Row) -> None:
    values = astuple(full)
    for name, value, default in zip(full.__struct_fields__, values, _defaults(full), strict=True):
        assert value not in (default, None), f"{name} is new: give it a column and a value here"
    assert type(full)(*kept(table, values)) == full


def kept(table: str, row: tuple[object, ...]) -> tuple[object, ...]:
    """A row as it is read from a new file after it was inserted."""
    keys = {"position": 3, "object": 2}.get(table, 1)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection, "memory")
        connection.execute(QUERIES[f"insert_{table}"], row)
        query = "queue" if table == "object" else table
        found: tuple[object, ...] = connection.execute(QUERIES[query], row[:keys]).fetchone()
    return found


def _defaults(row: Row) -> list[object]:
    given = list(row.__struct_defaults__)
    return [None] * (len(row.__struct_fields__) - len(given)) + given
