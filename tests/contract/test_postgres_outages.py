"""A server that goes away and comes back: commits are whole or not there, the store recovers by itself."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import asyncpg
import msgspec
import pytest

from awakeables.core.commands import Claim, Command, Expire
from awakeables.core.replies import Begun, Claimed, Reply
from awakeables.errors import StoreUnavailable
from awakeables.ports import Page
from awakeables.store.postgres.connection import Database
from awakeables.store.postgres.store import PostgresStore
from contract.driver import RETENTION_MS, Driver, FakeClock
from support.eventually import eventually
from support.real_postgres import RealPostgres
from support.shared_postgres import shared_postgres

pytestmark = pytest.mark.real_postgres

OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class Cut:
    """A store whose connections the server ends once, before a step."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        self.url = url
        self.step = ""
        self.store = PostgresStore(url, clock=clock, retention_ms=RETENTION_MS, between=self._between)
        self.driver = Driver(self.store, clock)

    async def _between(self, step: str) -> None:
        if step == self.step:
            self.step = ""
            await self.now()

    async def now(self) -> None:
        connection = await asyncpg.connect(self.url)
        await connection.execute(OTHERS)
        await connection.close()


@pytest.fixture
async def cut(postgres_url: str, clock: FakeClock) -> AsyncIterator[Cut]:
    one = Cut(postgres_url, clock)
    await one.store.open()
    yield one
    await one.store.close()


async def committed(store: PostgresStore, command: Command) -> list[Reply]:
    """Commit a command as the engine does: again while the store is out of reach."""
    for _ in range(100):
        try:
            return await store.commit([command])
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("the store does not recover")


@pytest.mark.parametrize("step", ["load", "write"])
async def test_pg10_a_connection_that_is_ended_at_any_step_is_made_anew(cut: Cut, step: str) -> None:
    begin = cut.driver.a_begin()
    cut.step = step
    with pytest.raises(StoreUnavailable, match=r"postgresql://postgres@127\.0\.0\.1"):
        await cut.store.commit([begin])
    assert await committed(cut.store, begin) == [Begun(id=begin.id, created=True)]
    assert (await cut.driver.invocation(begin.id)).status == "pending"


@pytest.mark.parametrize("step", ["search", "write"])
async def test_pg10_a_search_that_is_cut_off_has_taken_nothing(cut: Cut, step: str) -> None:
    row = await cut.driver.begin()
    cut.step = step
    with pytest.raises(StoreUnavailable):
        await cut.store.commit([Claim(owner="me", limit=10)])
    claimed = (await committed(cut.store, Claim(owner="me", limit=10)))[0]
    assert isinstance(claimed, Claimed)
    assert [each.id for each in claimed.invocations] == [row.id]
    assert claimed.invocations[0].starts == 1


async def test_pg10_readers_come_back_too(cut: Cut) -> None:
    row = await cut.driver.begin()
    await cut.now()

    async def is_read() -> bool:
        try:
            return await cut.store.invocation(row.id) == row and bool(await cut.store.counts())
        except StoreUnavailable:
            return False

    await eventually(is_read)


async def test_pg10_who_finds_no_free_connection_costs_the_others_none(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await cut.driver.begin()
    writer, reader = cut.store._writer._connection, cut.store._reader._connection
    assert reader is not None
    await reader.close()

    async def refuse(*_args: object) -> None:
        raise asyncpg.TooManyConnectionsError("sorry, too many clients already")

    with monkeypatch.context() as full:
        full.setattr(Database, "connect", refuse)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="raise max_connections"):
                await cut.store.history([row.id])
        await cut.store.commit([cut.driver.a_begin()])
    assert cut.store._writer._connection is writer
    assert row.id in await cut.store.history([row.id])


@pytest.mark.impossible_rows
async def test_pg10_a_row_that_can_t_be_decoded_costs_no_connection(cut: Cut) -> None:
    row = await cut.driver.begin()
    connection = await asyncpg.connect(cut.url)
    await connection.execute("UPDATE awakeables.journal SET chunk = '{' WHERE invocation_id = $1", row.id)
    await connection.close()
    before = [session._connection for session in (cut.store._writer, cut.store._reader)]
    with pytest.raises(msgspec.MsgspecError):
        await cut.store.history([row.id])
    await cut.driver.begin()
    assert await cut.store.history([]) == {}
    assert [session._connection for session in (cut.store._writer, cut.store._reader)] == before


@pytest.fixture
def own_server(shared_database: str) -> Iterator[RealPostgres]:
    """A server of this test alone, which syncs what it has committed."""
    server = RealPostgres.started(ends_with=os.getpid(), options=())
    yield server
    server.remove()


async def test_pg10_after_a_power_cut_what_was_acknowledged_is_there_and_work_goes_on(
    own_server: RealPostgres, clock: FakeClock
) -> None:
    with own_server.database() as url:
        store = PostgresStore(url, clock=clock, retention_ms=RETENTION_MS)
        await store.open()
        driver = Driver(store, clock)
        rows = [await driver.begin(owner="me") for _ in range(5)]
        await asyncio.to_thread(own_server.stop, "immediate")
        with pytest.raises(StoreUnavailable):
            await store.commit([Expire(limit=1)])
        with pytest.raises(StoreUnavailable, match="is PostgreSQL running there"):
            await store.commit([driver.a_begin()])
        await asyncio.to_thread(own_server.start)
        begin = driver.a_begin()
        assert await committed(store, begin) == [Begun(id=begin.id, created=True)]
        assert [await driver.invocation(row.id) for row in rows] == rows
        await store.close()


async def test_pg10_after_a_failover_the_store_finds_the_server_that_takes_writes(
    own_server: RealPostgres, clock: FakeClock
) -> None:
    """The old one goes on, and refuses to write (25006): a connection to it must not be kept."""
    with own_server.database() as url:
        standby = await asyncio.to_thread(lambda: own_server.standby(ends_with=os.getpid()))
        try:
            both = f"127.0.0.1:{own_server.port},127.0.0.1:{standby.port}"
            store = PostgresStore(
                url.replace(f"127.0.0.1:{own_server.port}", both), clock=clock, retention_ms=RETENTION_MS
            )
            await store.open()
            driver = Driver(store, clock)
            before = await driver.begin(owner="me")
            name = url.rpartition("/")[2]
            count = "SELECT count(*) FROM awakeables.invocations"
            await eventually(lambda: standby.sql(count, database=name) == "1", timeout=30)

            read_only = "ALTER SYSTEM SET default_transaction_read_only = on"
            await asyncio.to_thread(own_server.sql, read_only)
            await asyncio.to_thread(own_server.sql, "SELECT pg_reload_conf()")
            await asyncio.to_thread(standby.promote)
            begin = driver.a_begin()
            assert await committed(store, begin) == [Begun(id=begin.id, created=True)]
            # Those who only read have moved, too: the old server would answer, and knows nothing of it.
            assert (await driver.invocation(begin.id)).status == "pending"
            assert begin.id in await store.history([begin.id])
            assert [row.id for row in await store.invocations(Page(limit=1))] == [begin.id]
            assert await driver.invocation(before.id) == before
            assert standby.sql(count, database=name) == "2"
            assert own_server.sql(count, database=name) == "1"
            await store.close()
        finally:
            await asyncio.to_thread(standby.remove)
            own_server.sql("ALTER SYSTEM RESET default_transaction_read_only; ")
            own_server.sql("SELECT pg_reload_conf()")


class Disk(NamedTuple):
    """The disk of a database.

    Attributes:
        url: The database.
        fill: Takes all space that is left.
        free: Gives it back.
    """

    url: str
    fill: Callable[[], object]
    free: Callable[[], object]


@pytest.fixture
def small_disk(own_server: RealPostgres) -> Iterator[Disk]:
    """A small file system; skipped where none can be mounted.

    The server is this test's: whoever needs a buffer writes what is in it, also for another database, and
    fails with it.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(own_server.small_disk(48))
        except OSError as error:
            pytest.skip(str(error))
        filler = folder / "filler"

        def fill() -> None:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

        yield Disk(stack.enter_context(own_server.database(options="TABLESPACE small")), fill, filler.unlink)


FILL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$;
CREATE TRIGGER full_disk AFTER INSERT ON awakeables.invocations EXECUTE FUNCTION refuse()
"""


@pytest.fixture
def told_disk() -> Iterator[Disk]:
    """A server that says what one with a full disk says."""
    server = shared_postgres()
    with server.database() as url:
        run = functools.partial(server.sql, database=url.rpartition("/")[2])
        yield Disk(url, lambda: run(FILL), lambda: run("DROP FUNCTION refuse CASCADE"))


@pytest.mark.parametrize("kind", ["small_disk", "told_disk"])
async def test_fault_17_a_full_disk_of_the_server_is_an_outage_that_ends(
    shared_database: str, clock: FakeClock, kind: str, request: pytest.FixtureRequest
) -> None:
    disk: Disk = request.getfixturevalue(kind)
    store = PostgresStore(disk.url, clock=clock, retention_ms=RETENTION_MS)
    await store.open()
    try:
        driver = Driver(store, clock)
        before = await driver.begin(owner="me")
        big = [driver.a_begin(owner="me") for _ in range(2000)]
        disk.fill()
        with pytest.raises(StoreUnavailable, match=r"No space left on device; free some space, and waiting"):
            await store.commit(big)
        assert await store.held_by("me") == [before.id]
        disk.free()
        assert await store.commit(big) == [Begun(id=begin.id, created=True) for begin in big]
        assert len(await store.held_by("me")) == 2001
    finally:
        await store.close()
