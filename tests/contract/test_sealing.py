"""What is sealed at rest, over both databases: what a file or dump of them shows, and keys that change."""

from __future__ import annotations

import asyncio
import sqlite3
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Raw
from msgspec.structs import replace

from awakeables.core.awakeables import Completion, Heartbeat
from awakeables.core.commands import Idempotency, MarkRefused, NewAwakeable, Queue, Resend, Settle
from awakeables.core.instances import Instance
from awakeables.core.invocations import End, Failure, Pause
from awakeables.core.journal import ClockRead, encode_chunk
from awakeables.core.objects import StateWrite
from awakeables.core.outcomes import Rejection, Resolution, encode_outcome
from awakeables.core.replies import Advanced, Begun, KeyConflict, Resent, SettledAll
from awakeables.core.sealed import MAGIC, Unopened
from awakeables.doctor.verification import verify
from awakeables.errors import KeyMissing, NotPossible, StoreUnavailable, ValueSealed
from awakeables.handlers.keyring import KeyRing
from awakeables.ports import Page, PayloadCodec, Store
from awakeables.store.postgres import rekeying as postgres_rekeying
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.rekeying import Rekeyed
from awakeables.store.sealing import SEALED_TABLES
from awakeables.store.sqlite import rekeying as sqlite_rekeying
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import RETENTION_MS, START_MS, Driver, FakeClock, rejected, resolved
from contract.vandal import audit_of
from support.keys import ring
from support.real_postgres import EmptyDatabase

OLD, NEW = ring("old"), ring("old", "new")
SECRET = b"s3cr3t"
"""Stands in every value that users write, each time with another letter behind it."""


@dataclass
class Database:
    """A database that is opened with one codec after the other."""

    where: Path | str
    clock: FakeClock
    issued: int = 0

    @asynccontextmanager
    async def opened(self, codec: PayloadCodec | None) -> AsyncIterator[Driver]:
        store: Store
        if isinstance(self.where, Path):
            store = SqliteStore(self.where, clock=self.clock, retention_ms=RETENTION_MS, codec=codec)
        else:
            store = PostgresStore(self.where, clock=self.clock, retention_ms=RETENTION_MS, codec=codec)
        await store.open()
        try:
            driver = Driver(store, self.clock)
            driver._issued = self.issued
            yield driver
            self.issued = driver._issued
            findings = await verify(audit_of(store, self.clock), retention_ms=RETENTION_MS)
            assert [str(violation) for violation in findings.violations] == []
        finally:
            await store.close()

    async def rekey(self, codec: PayloadCodec, *, clear: bool = False) -> Rekeyed:
        if isinstance(self.where, Path):
            return await asyncio.to_thread(
                sqlite_rekeying.rekey, self.where, app="", codec=codec, clear=clear
            )
        return await postgres_rekeying.rekey(self.where, app="", codec=codec, clear=clear)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds, behind the store's back; tables are named without a schema."""
        if isinstance(self.where, Path):
            with closing(sqlite3.connect(self.where)) as connection, connection:
                return connection.execute(query).fetchall()
        connection = await asyncpg.connect(self.where, server_settings={"search_path": "awakeables"})
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def bytes_at_rest(self) -> bytes:
        """Everything that is stored."""
        if isinstance(self.where, Path):
            return b"".join(file.read_bytes() for file in self.where.parent.glob(f"{self.where.name}*"))
        found = b""
        for table in SEALED_TABLES:
            for row in await self.rows(f"SELECT * FROM {table}"):
                found += b"|".join(each if isinstance(each, bytes) else str(each).encode() for each in row)
        return found


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real_postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Database:
    if request.param == "sqlite":
        return Database(tmp_path / "shop.db", clock)
    emptied: EmptyDatabase = request.getfixturevalue("empty_database")
    return Database(await emptied(), clock)


@dataclass(frozen=True)
class Written:
    """The IDs of what `write_everything` has left."""

    ended: str
    answered: str
    waits: str
    asked: str
    paused: str
    unsent: str
    failed: str
    letter: str


OBJECT = ("orders", b"c-7")


async def write_everything(driver: Driver) -> Written:
    """Write a value of each kind that comes from users, all of them with `SECRET` in it."""
    request = Idempotency(scope="orders/fulfil", key="k-1", fingerprint=f"{SECRET.decode()}-fingerprint")
    begun = driver.a_begin(key="c-7", queue=Queue(), idempotency=request)
    given = replace(driver.an_input(), value=Raw(quoted("input")))
    await driver.store.commit([replace(begun, chunk=encode_chunk([given]))])
    await driver.claim()
    asked, later = NewAwakeable(id=driver.id("prom")), NewAwakeable(id=driver.id("prom"))
    unsent = driver.an_effect(begun.id, value=SECRET + b"-payload", task_for=asked.id)
    unsent = replace(unsent, key=SECRET + b"-key", headers=(("h", SECRET + b"-header"),))
    failed = driver.an_effect(begun.id)
    command = driver.an_advance(
        await driver.invocation(begun.id),
        awakeables=[asked, later],
        effects=[unsent, failed],
        writes=[StateWrite(name="items", value=encode_outcome(Resolution(value=Raw(quoted("state")))))],
    )
    row = (await driver.do(Advanced, command)).invocation
    await driver.acknowledged(MarkRefused(event_id=failed.event_id, reason=f"{SECRET.decode()}-refusal"))
    beat = Completion(awakeable_id=later.id, body=Heartbeat(progress=Raw(quoted("progress"))), source="t:0:1")
    misfit = Completion(awakeable_id=later.id, body=None, source="t:0:2", refusal=f"not {SECRET.decode()}")
    batch = (resolved(asked.id, quoted("answer"), source="t:0:3"), beat, misfit)
    ids = tuple(driver.id("evt") for _ in batch)
    await driver.do(SettledAll, Settle(completions=batch, verdicts_to="shop.verdicts", verdict_ids=ids))
    other = await driver.begin(owner="me")
    (ask,) = [NewAwakeable(id=driver.id("prom"))]
    other = (await driver.do(Advanced, driver.an_advance(other, awakeables=[ask]))).invocation
    await driver.settle(rejected(ask.id, f"{SECRET.decode()}-rejection", source="t:0:4"))
    await driver.advance(other, End(result=Rejection(reason=f"{SECRET.decode()}-result")))
    third = await driver.begin(owner="me")
    failure = Failure(kind="KeyError", message=f"{SECRET.decode()}-failure", at_ms=START_MS)
    await driver.advance(third, Pause(failure=failure))
    letter = replace(
        driver.a_letter(offset=1),
        key=SECRET + b"-letter-key",
        value=SECRET + b"-letter",
        headers=(("h", SECRET + b"-letter-header"),),
        reason=f"{SECRET.decode()}-letter-reason",
    )
    await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,)))
    return Written(
        other.id, asked.id, row.id, later.id, third.id, unsent.event_id, failed.event_id, letter.id
    )


def is_secret(content: bytes | str) -> bool:
    """Whether it has the secret in it, also as the base64 of a JSON column."""
    content = content.encode() if isinstance(content, str) else content
    return SECRET in content or b64encode(SECRET) in content


def quoted(name: str) -> bytes:
    return b'"%b-%b"' % (SECRET, name.encode())


async def everything(driver: Driver, ids: Written) -> list[Any]:
    """What readers find of it."""
    store = driver.store
    (waiting,) = (await store.history([ids.waits])).values()
    letter, unsent, failed = (
        await store.dead_letter(ids.letter),
        await store.queued_effect(ids.unsent),
        await store.queued_effect(ids.failed),
    )
    assert letter is not None
    assert unsent is not None
    assert failed is not None
    later = await driver.awakeable(ids.asked)
    return [
        waiting[0],
        (await store.journal(ids.waits, 10**6))[0],
        await store.outcomes([ids.answered]),
        (await driver.awakeable(ids.answered)).outcome,
        later.heartbeat,
        later.verdicts,
        (await driver.invocation(ids.ended)).result,
        await store.ends([ids.ended]),
        (await driver.invocation(ids.paused)).failure,
        await store.state(OBJECT, "items"),
        [entry.value for entry in await store.states(OBJECT, 10)],
        (letter.key, letter.value, letter.headers, letter.reason),
        unsent.effect,
        failed.reason,
        [row.result for row in await store.invocations(Page(limit=10))],
        [row.reason for row in await store.dead_letters(Page(limit=10))],
        await store.effects("me", 10),
    ]


async def test_nothing_that_users_have_written_is_in_clear_at_rest(database: Database) -> None:
    async with database.opened(OLD) as driver:
        ids = await write_everything(driver)
        sealed = await everything(driver, ids)
    assert not is_secret(await database.bytes_at_rest())
    assert str(sealed).count(SECRET.decode()) > 15


async def test_the_same_is_found_in_clear_without_a_codec(database: Database) -> None:
    async with database.opened(None) as driver:
        await write_everything(driver)
    found = (await database.bytes_at_rest()).count(SECRET)
    assert found >= 15
    sealed_values = 0
    for table, (_, columns) in SEALED_TABLES.items():
        for column in columns:
            rows = await database.rows(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")
            holding = [row for (row,) in rows if is_secret(row)]
            assert holding, f"no secret is written to {table}.{column}"
            sealed_values += len(holding)
    assert sealed_values >= 15


async def test_readers_find_with_a_codec_what_they_find_without(database: Database) -> None:
    async with database.opened(OLD) as driver:
        ids = await write_everything(driver)
        sealed = await everything(driver, ids)
    await database.rekey(OLD, clear=True)
    async with database.opened(None) as driver:
        assert await everything(driver, ids) == sealed


async def test_values_are_read_after_the_key_has_changed(database: Database) -> None:
    async with database.opened(None) as driver:
        in_clear = await write_everything(driver)
        expected = [await everything(driver, in_clear)]
    async with database.opened(OLD) as driver:
        assert await everything(driver, in_clear) == expected[0]
        row = await driver.begin(owner="me")
        with_old = await driver.do(Advanced, driver.an_advance(row, chunk=encode_chunk([ClockRead(at_ms=1)])))
    async with database.opened(NEW) as driver:
        row = await driver.invocation(with_old.invocation.id)
        await driver.do(Advanced, driver.an_advance(row, chunk=encode_chunk([ClockRead(at_ms=2)])))
        history = (await driver.store.history([row.id]))[row.id]
        assert history[-2:] == [ClockRead(at_ms=1), ClockRead(at_ms=2)]


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (None, "sealed with the key 'old', and the app has no codec"),
        (ring("new"), r"'old' is not in the key ring. Add it, or say that it is lost: KeyRing\(..., lost="),
        (KeyRing(current="old", keys={"old": b"x" * 32}), "the key 'old' is not the one with which"),
    ],
    ids=["no codec", "missing", "another"],
)
async def test_a_store_whose_key_is_not_there_does_not_open(
    database: Database, codec: PayloadCodec | None, message: str
) -> None:
    async with database.opened(OLD):
        pass
    with pytest.raises(KeyMissing, match=message):
        async with database.opened(codec):
            pass


async def test_what_a_lost_key_has_sealed_is_named_where_it_is_needed_and_stays(database: Database) -> None:
    async with database.opened(OLD) as driver:
        ids = await write_everything(driver)
        expected = await everything(driver, ids)
    async with opened_unverified(database, ring("new", lost=["old"])) as driver:
        store = driver.store
        for read in (store.history([ids.waits]), store.journal(ids.waits, 10**6)):
            with pytest.raises(KeyMissing, match="the key 'old' is lost"):
                await read
        with pytest.raises(KeyMissing):
            await store.outcomes([ids.answered])
        with pytest.raises(KeyMissing):
            await store.state(OBJECT, "items")
        failure = (await driver.invocation(ids.paused)).failure
        assert failure is not None
        assert (failure.kind, failure.message) == ("KeyMissing", "the key 'old' is lost")
        assert "the key 'old' is lost" in str((await driver.invocation(ids.ended)).result)
        assert "the key 'old' is lost" in str(await store.ends([ids.ended]))
        assert [isinstance(effect.value, Unopened) for effect in await store.effects("me", 10)] == [True]
        letter = await store.dead_letter(ids.letter)
        assert letter is not None
        assert isinstance(letter.value, Unopened)
        refused = await driver.do(Resent, Resend(dead_letter_id=ids.letter, event_id=driver.id("evt")))
        assert "can't be read: the key 'old' is lost" in str(refused.refusal)
        # Completions of what can't be read hold up no others.
        new = NewAwakeable(id=driver.id("prom"))
        row = await driver.begin(owner="me")
        await driver.do(Advanced, driver.an_advance(row, awakeables=[new]))
        settled = await driver.settle(
            resolved(ids.answered, quoted("answer"), source="t:0:30"),
            resolved(ids.asked, b"1", source="t:0:31"),
            resolved(new.id, b"1", source="t:0:32"),
        )
        kinds = [verdict and verdict.kind for verdict in settled.verdicts]
        assert kinds == ["duplicate", "accepted", "accepted"]
        repeated = settled.verdicts[0]
        assert repeated is not None
        assert (repeated.outcome, "the key 'old' is lost" in str(repeated.reason)) == (None, True)
    async with database.opened(NEW) as driver:
        found = await everything(driver, ids)
        assert found[:4] == expected[:4]


@asynccontextmanager
async def opened_unverified(database: Database, codec: PayloadCodec) -> AsyncIterator[Driver]:
    """As `opened`; invariants over what can't be read can't be checked."""
    opening = database.opened(codec)
    driver = await opening.__aenter__()
    try:
        yield driver
    finally:
        await driver.store.close()


async def test_a_value_that_was_moved_to_another_row_does_not_open(database: Database) -> None:
    async with database.opened(OLD) as driver:
        _, one = await driver.waiting()
        _, other = await driver.waiting()
        await driver.settle(resolved(one, b"1", source="t:0:1"), resolved(other, b"2", source="t:0:2"))
    ((stored,),) = await database.rows(f"SELECT outcome FROM awakeables WHERE id = '{one}'")
    literal = f"x'{stored.hex()}'" if isinstance(database.where, Path) else f"'\\x{stored.hex()}'"
    await database.rows(f"UPDATE awakeables SET outcome = {literal} WHERE id = '{other}'")
    async with opened_unverified(database, OLD) as driver:
        assert await driver.store.outcomes([one]) == {one: Resolution(value=Raw(b"1"))}
        with pytest.raises(ValueSealed, match=f"awakeables.outcome:{other} is not what was sealed there"):
            await driver.store.outcomes([other])


async def test_parts_of_a_journal_that_changed_places_do_not_open(database: Database) -> None:
    async with database.opened(OLD) as driver:
        row = await driver.begin(owner="me")
        await driver.do(Advanced, driver.an_advance(row, chunk=encode_chunk([ClockRead(at_ms=1)])))
    await database.rows(f"UPDATE journal SET version = 3 - version + 10 WHERE invocation_id = '{row.id}'")
    await database.rows(f"UPDATE journal SET version = version - 10 WHERE invocation_id = '{row.id}'")
    async with opened_unverified(database, OLD) as driver:
        with pytest.raises(ValueSealed, match="is not what was sealed there"):
            await driver.store.history([row.id])


async def test_a_repeated_answer_is_a_duplicate_and_another_a_conflict(database: Database) -> None:
    async with database.opened(OLD) as driver:
        _, asked = await driver.waiting()
        await driver.settle(resolved(asked, b'{"a":1,"b":2}', source="t:0:1"))
    async with database.opened(NEW) as driver:
        assert (await driver.verdict(resolved(asked, b'{"b":2, "a":1}', source="t:0:2"))).kind == "duplicate"
        assert (await driver.verdict(resolved(asked, b'{"a":1,"b":3}', source="t:0:3"))).kind == "conflict"


async def test_rekey_seals_everything_with_the_current_key_and_lets_the_old_one_go(
    database: Database,
) -> None:
    async with database.opened(None) as driver:
        first = await write_everything(driver)
    async with database.opened(OLD) as driver:
        await driver.begin(owner="me")
        expected = await everything(driver, first)
    done = await database.rekey(NEW)
    assert done.values > 20
    assert (done.unread, done.dropped, done.kept) == (0, ("old",), ())
    assert not is_secret(await database.bytes_at_rest())
    assert b"old" not in b"".join(row[0].encode() for row in await database.rows("SELECT key_id FROM seals"))
    async with database.opened(ring("new")) as driver:
        assert await everything(driver, first) == expected
    again = await database.rekey(ring("new"))
    assert (again.values, again.dropped) == (0, ())


async def test_a_request_is_recognised_by_its_sealed_fingerprint(database: Database) -> None:
    request = Idempotency(scope="orders/fulfil", key="k-1", fingerprint="f")
    async with database.opened(OLD) as driver:
        begun = driver.a_begin(idempotency=request)
        await driver.do(Begun, begun)
    for codec in (NEW, None):
        if codec is None:
            await database.rekey(NEW, clear=True)
        async with database.opened(codec) as driver:
            again = await driver.do(Begun, driver.a_begin(idempotency=request))
            assert (again.id, again.created) == (begun.id, False)
            other = replace(request, fingerprint="g")
            await driver.do(KeyConflict, driver.a_begin(idempotency=other))


@pytest.mark.real_postgres
@pytest.mark.parametrize(
    ("theirs", "ours", "clear", "problem"),
    [
        (OLD, NEW, False, "seals with the key 'old': make 'new' its current key first"),
        (None, OLD, False, "stores values in clear: make 'old' its current key first"),
        (OLD, OLD, True, "seals with the key 'old': stop it first"),
        (NEW, NEW, False, None),
    ],
    ids=["another key", "in clear", "to clear", "the same"],
)
async def test_rekey_is_refused_while_an_instance_writes_otherwise(
    postgres_url: str,
    theirs: PayloadCodec | None,
    ours: PayloadCodec,
    clear: bool,
    problem: str | None,
) -> None:
    store = PostgresStore(postgres_url, retention_ms=RETENTION_MS, codec=theirs)
    await store.open()
    try:
        await store.membership.register(Instance(id="inst_1"))
        rekeying = postgres_rekeying.rekey(postgres_url, app="", codec=ours, clear=clear)
        if problem is None:
            await rekeying
        else:
            with pytest.raises(NotPossible, match=problem):
                await rekeying
    finally:
        await store.close()


@pytest.mark.real_postgres
async def test_two_instances_with_different_keys_of_one_id_do_not_both_start(postgres_url: str) -> None:
    stores = [
        PostgresStore(
            postgres_url,
            retention_ms=RETENTION_MS,
            codec=KeyRing(current="k", keys={"k": letter * 32}),
        )
        for letter in (b"a", b"b")
    ]
    found = await asyncio.gather(*(store.open() for store in stores), return_exceptions=True)
    await asyncio.gather(*(store.close() for store in stores))
    assert [type(each) for each in found if each is not None] == [KeyMissing]


@pytest.mark.real_postgres
async def test_rekey_waits_for_rows_that_others_have_locked(
    postgres_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_rekeying, "PAUSE_S", 0.1)
    database = Database(postgres_url, clock)
    async with database.opened(OLD) as driver:
        await driver.begin()
    connection = await asyncpg.connect(postgres_url)
    try:
        locked = connection.transaction()
        await locked.start()
        await connection.execute("SELECT 1 FROM awakeables.journal FOR UPDATE")
        rekeying = asyncio.ensure_future(database.rekey(NEW))
        _, waits = await asyncio.wait({rekeying}, timeout=1.5)
        assert waits
        await locked.rollback()
        assert (await rekeying).dropped == ("old",)
    finally:
        await connection.close()


async def test_rekey_of_a_file_that_is_read_says_that_the_older_values_are_still_there(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_rekeying, "QUERIES", {**QUERIES, "writer": "PRAGMA busy_timeout = 10"})
    database = Database(tmp_path / "shop.db", clock)
    async with database.opened(OLD) as driver:
        await write_everything(driver)
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM journal").fetchone()
        with pytest.raises(
            StoreUnavailable, match="is being read, so what was there before is still in its log"
        ):
            await database.rekey(NEW)
        reader.execute("ROLLBACK")
    assert (await database.rekey(NEW)).dropped == ("old",)


async def test_rekey_leaves_what_it_can_t_open_and_keeps_its_key(database: Database) -> None:
    async with database.opened(OLD) as driver:
        await write_everything(driver)
    done = await database.rekey(ring("new", lost=["old"]))
    assert (done.values, done.dropped, done.kept) == (0, (), ("old",))
    assert done.unread > 15
    async with database.opened(NEW) as driver:
        assert len(await driver.store.invocations(Page(limit=10))) == 3


async def test_clear_bytes_that_look_sealed_stay_clear(database: Database) -> None:
    looks = MAGIC + b"\x03old1234"
    for codec in (None, OLD):
        async with database.opened(codec) as driver:
            row = await driver.begin(owner="me")
            effect = replace(driver.an_effect(row.id, value=looks), key=looks)
            await driver.do(Advanced, driver.an_advance(row, effects=[effect]))
            letter = replace(driver.a_letter(offset=0 if codec else 1), value=looks, key=looks)
            await driver.do(SettledAll, Settle(completions=(), dead_letters=(letter,)))
            queued, kept = (
                await driver.store.queued_effect(effect.event_id),
                await driver.store.dead_letter(letter.id),
            )
            assert queued is not None
            assert kept is not None
            assert (queued.effect.value, queued.effect.key) == (looks, looks)
            assert (kept.value, kept.key) == (looks, looks)
