"""`rekey` of a database, while services use it or not."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from awakeables.errors import NotPossible, StoreUnavailable
from awakeables.ports import PayloadCodec
from awakeables.store.postgres.connection import Connection, Database, Session, transaction
from awakeables.store.postgres.errors import is_tried_again
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.schema import check_keys, migrate
from awakeables.store.rekeying import PAGE_ROWS, PASSES, Rekeyed, Rekeying, page_query, update_query
from awakeables.store.sealing import SEALED_TABLES, Sealing

LIVES_MS: Final = 60_000
"""An instance that has sent a heartbeat in this time may still write."""

TRIES: Final = 30
PAUSE_S: Final = 1.0


async def rekey(url: str, *, app: str, codec: PayloadCodec, clear: bool) -> Rekeyed:
    """Seal all values with the codec's current key, or store them in clear.

    What was there before stays in the database's files until it is vacuumed, and in its log and backups.

    Raises:
        NotPossible: An instance runs that seals with another key or, to store them in clear, seals at all.
        StoreUnavailable: The database can't be read or written, or values are still added with other keys;
            what is done stays, and can be gone on with.
    """
    database = Database(url, Sealing(codec))
    session = Session(database, "migrator")
    target = None if clear else codec.key_id

    async def work(connection: Connection) -> Rekeyed:
        limits = "migrator_limits" if database.pooled else ""
        await migrate(connection, database.where, app, limits=limits)
        await check_keys(connection, database.where)
        await _check_instances(connection, target)
        rekeying = Rekeying(codec, clear=clear)
        for _ in range(PASSES):
            before = rekeying.values
            rekeying.begin_pass()
            for table in SEALED_TABLES:
                await _table(connection, table, rekeying)
            if rekeying.values == before:
                break
        else:
            raise StoreUnavailable(
                f"{database.where}: values with other keys are still being added; run rekey again once all "
                "instances have the new key"
            )
        # One that has started meanwhile with another key has written behind this.
        await _check_instances(connection, target)
        result = rekeying.result([key_id for key_id, _ in await connection.fetch(QUERIES["seals"])])
        for key_id in result.dropped:
            await connection.execute(QUERIES["drop_seal"], key_id)
        return result

    try:
        await session.open()
        return await session.run(work)
    finally:
        await session.close()


async def _check_instances(connection: Connection, key_id: str | None) -> None:
    for id_, host, other in await connection.fetch(QUERIES["sealing_instances"], LIVES_MS):
        if other == key_id:
            continue
        seals = "stores values in clear" if other is None else f"seals with the key {other!r}"
        wanted = "stop it first" if key_id is None else f"make {key_id!r} its current key first"
        raise NotPossible(f"instance {id_} on {host} {seals}: {wanted}")


async def _table(connection: Connection, table: str, rekeying: Rekeying) -> None:
    """Look at a table page by page; one that is locked, or too large to be read in time, is tried again."""
    key, columns = SEALED_TABLES[table]
    name = f"awakeables.{table}"
    update = update_query(table, name, [f"${place}" for place in range(1, len(key) + len(columns) + 1)])
    last: tuple[object, ...] = ()
    size, failures = PAGE_ROWS, 0
    while True:
        holders = [f"${place}" for place in range(1, (len(key) if last else 0) + 2)]
        query = page_query(table, name, first=not last, holders=holders, lock=" FOR NO KEY UPDATE")
        try:
            async with transaction(connection):
                rows = [tuple(row) for row in await connection.fetch(query, *last, size)]
                changes = [(row, rekeying.again(table, row)) for row in rows]
                await connection.executemany(
                    update, [(*new, *row[: len(key)]) for row, new in changes if new]
                )
        except (asyncpg.PostgresError, TimeoutError) as error:
            failures += 1
            if failures > TRIES or not (isinstance(error, TimeoutError) or is_tried_again(error)):
                raise
            size = max(1, size // 2)
            await asyncio.sleep(PAUSE_S)
            continue
        if len(rows) < size:
            return
        last, failures, size = rows[-1][: len(key)], 0, min(PAGE_ROWS, 2 * size)
