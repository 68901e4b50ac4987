"""Opening a database: migrations, whose it is, and what does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias, cast

import asyncpg
import pytest

from awakeables.core.commands import TakePartitions
from awakeables.core.replies import PartitionsTaken
from awakeables.core.versions import OpenInvocations, Versions
from awakeables.errors import OperatorError, StoreOfAnotherApp, StoreTooNew, StoreUnavailable
from awakeables.store.postgres import schema
from awakeables.store.postgres.checkup import inspect_database
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.usage import CodeUsage
from awakeables.telemetry import events
from contract.driver import RETENTION_MS, Driver, FakeClock
from support.eventually import eventually
from support.logs import heard
from support.real_postgres import RealPostgres
from support.shared_postgres import shared_postgres

pytestmark = pytest.mark.real_postgres

NewDatabase: TypeAlias = Callable[[bool], str]


@pytest.fixture
def server(shared_database: str) -> RealPostgres:
    return shared_postgres()


@pytest.fixture
def database(server: RealPostgres) -> Iterator[NewDatabase]:
    """Makes databases: `database(migrated)`."""
    with ExitStack() as stack:
        yield lambda migrated: stack.enter_context(server.database(migrated=migrated))


def a_store(url: str, app: str = "") -> PostgresStore:
    return PostgresStore(url, retention_ms=RETENTION_MS, app=app)


async def sql(url: str, text: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(text)
    finally:
        await connection.close()


async def opened(url: str, app: str = "") -> None:
    store = a_store(url, app)
    await store.open()
    await store.close()


async def test_pg22_several_processes_migrate_at_once(database: NewDatabase) -> None:
    url = database(False)
    await asyncio.gather(*(opened(url, "shop") for _ in range(4)))
    assert await sql(url, "SELECT version FROM awakeables.meta") == len(schema.migrations())
    assert await sql(url, "SELECT app FROM awakeables.meta") == "shop"


class Overtaken:
    """A connection between whose first two queries another process migrates the database."""

    def __init__(self, connection: Any, url: str) -> None:
        self._connection = connection
        self._url = url
        self._queries = 0

    async def fetchval(self, query: str) -> Any:
        self._queries += 1
        if self._queries == 2:
            await opened(self._url)
        return await self._connection.fetchval(query)

    async def fetchrow(self, query: str) -> Any:
        return await self._connection.fetchrow(query)


@pytest.mark.parametrize("exists", [False, True], ids=["new", "migrated"])
async def test_pg22_a_database_that_another_process_is_just_migrating_is_ours(
    database: NewDatabase, exists: bool
) -> None:
    url = database(exists)
    connection = await asyncpg.connect(url)
    try:
        await schema.checked_meta(cast("Any", Overtaken(connection, url)), "", "")
    finally:
        await connection.close()


async def test_pg22_what_another_process_has_migrated_is_seen_once_the_lock_is_free(
    database: NewDatabase,
) -> None:
    """Also by a connection that has looked for it so often that all of its plans and names are cached."""
    url = database(False)
    waiting, other = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        for _ in range(7):
            async with waiting.transaction():
                assert await waiting.fetchval(QUERIES["try_lock"])
                assert not await waiting.fetchval(QUERIES["has_schema"])
        async with waiting.transaction():
            await waiting.execute("SET LOCAL lock_timeout = '1s'")
            await other.execute(schema.migrations()[0])
            assert await waiting.fetchval(QUERIES["try_lock"])
            assert (await schema.checked_meta(cast("Any", waiting), url, "")).version == 1
    finally:
        await waiting.close()
        await other.close()


async def test_pg22_who_is_killed_while_it_migrates_leaves_nothing_behind(database: NewDatabase) -> None:
    url = database(False)
    other = await asyncpg.connect(url)
    await other.execute("BEGIN")
    assert await other.fetchval(QUERIES["try_lock"])
    await other.execute(schema.migrations()[0])
    opening = asyncio.create_task(opened(url))
    await asyncio.sleep(3 * schema.POLL_S)
    assert not opening.done()
    other.terminate()
    await opening
    assert await sql(url, "SELECT count(*) FROM awakeables.meta") == 1


async def test_another_app_s_database_is_refused_and_left_alone(database: NewDatabase) -> None:
    url = database(True)
    await opened(url, "shop")
    with pytest.raises(StoreOfAnotherApp, match="'shop', not of 'bank'"):
        await opened(url, "bank")
    assert await sql(url, "SELECT app FROM awakeables.meta") == "shop"


async def test_a_release_serves_the_schema_of_the_next_one_while_both_run(database: NewDatabase) -> None:
    url = database(True)
    newest = len(schema.migrations())
    await sql(url, f"UPDATE awakeables.meta SET version = {newest + 1}")
    await opened(url)
    await sql(url, f"UPDATE awakeables.meta SET served_from = {newest + 1}")
    with pytest.raises(StoreTooNew, match=f"schema version {newest + 1}, this release knows up to {newest}"):
        await opened(url)


async def test_a_schema_of_another_program_is_left_alone(database: NewDatabase) -> None:
    url = database(False)
    await sql(url, "CREATE SCHEMA awakeables")
    with pytest.raises(StoreUnavailable, match="schema `awakeables` is of another program"):
        await opened(url)


async def test_an_encoding_that_can_not_hold_every_text_is_refused(server: RealPostgres) -> None:
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    try:
        with pytest.raises(StoreUnavailable, match="encoding is LATIN1, it must be UTF8"):
            await opened(server.url("latin"))
    finally:
        server.sql("DROP DATABASE latin")


async def test_a_database_that_is_not_there_and_a_port_where_nobody_listens_are_named(
    server: RealPostgres,
) -> None:
    with pytest.raises(StoreUnavailable, match='"nowhere" does not exist; create the database'):
        await opened(server.url("nowhere"))
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1/x: .*is PostgreSQL running there"):
        await opened("postgresql://me:secret@127.0.0.1:1/x")


async def test_a_password_with_any_character_is_encoded_and_never_shown(server: RealPostgres) -> None:
    server.sql("CREATE ROLE guest LOGIN PASSWORD 'p@:/?#%w'")
    hba = server.folder / "data" / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all guest 127.0.0.1/32 scram-sha-256\n{before}")
    server.sql("SELECT pg_reload_conf()")
    try:
        condition = await inspect_database(server.url(user="guest", password="p%40%3A%2F%3F%23%25w"))
        assert condition.version == 0
        with pytest.raises(OperatorError, match=r"guest.*check user and password") as refused:
            await inspect_database(server.url(user="guest", password="wr%40ng"))
        assert "ng@" not in str(refused.value)
    finally:
        hba.write_text(before)
        server.sql("SELECT pg_reload_conf(); DROP ROLE guest")


async def test_what_the_rows_need_of_the_code_is_looked_at_if_the_app_is_given(database: NewDatabase) -> None:
    url, clock = database(True), FakeClock()
    store = PostgresStore(url, retention_ms=RETENTION_MS, app="shop", clock=clock)
    await store.open()
    driver = Driver(store, clock)
    row = await driver.begin()
    take = TakePartitions(owner="me", topic="numbers", partitions=(0, 2), subscription="orders.count")
    await driver.do(PartitionsTaken, take)
    await store.close()
    group = OpenInvocations(
        service="orders", handler="fulfil", versions=Versions(), count=1, oldest_ms=row.created_ms
    )
    usage = CodeUsage((group,), {("orders.count", "numbers"): 2})
    assert (await inspect_database(url, "shop")).usage == usage
    assert (await inspect_database(url)).usage is None


UNSAFE = {
    "fsync is off: acknowledged commits can be lost",
    "synchronous_commit is off: acknowledged commits can be lost",
    "full_page_writes is off: a power cut can damage tables",
    "autovacuum is off: searches become slower with each row that was ever changed",
}


async def test_settings_of_the_server_that_endanger_the_store_are_named_by_doctor_and_at_the_start(
    server: RealPostgres, database: NewDatabase
) -> None:
    """The tests' servers are as unsafe as that, to be fast; the last one is set here."""
    url = database(True)
    server.sql("ALTER SYSTEM SET autovacuum = off")
    server.sql("SELECT pg_reload_conf()")
    try:

        async def all_are_named() -> bool:
            return set((await inspect_database(url)).risks) == UNSAFE

        await eventually(all_are_named)
        with heard() as logs:
            await opened(url)
        assert {line["risk"] for line in logs if line["event"] == events.STORE_AT_RISK} == UNSAFE
    finally:
        server.sql("ALTER SYSTEM RESET autovacuum")
        server.sql("SELECT pg_reload_conf()")


async def test_pg19_a_migration_waits_for_a_table_in_use_in_short_turns(
    database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database(True)
    newest = len(schema.migrations()) + 1
    added = "ALTER TABLE awakeables.invocations ADD COLUMN later text"
    chain = [*schema.migrations(), f"{added}; UPDATE awakeables.meta SET version = {newest}"]
    monkeypatch.setattr(schema, "migrations", lambda: chain)
    busy = await asyncpg.connect(url)
    try:
        async with busy.transaction():
            await busy.execute("LOCK TABLE awakeables.invocations IN ACCESS SHARE MODE")
            opening = asyncio.create_task(opened(url))
            await asyncio.sleep(2.5)
            # Whoever comes meanwhile is let in between two turns.
            assert await asyncio.wait_for(sql(url, "SELECT count(*) FROM awakeables.invocations"), 5) == 0
            assert not opening.done()
        await opening
    finally:
        await busy.close()
    assert await sql(url, "SELECT version FROM awakeables.meta") == newest
