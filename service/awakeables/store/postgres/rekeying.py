"""`rekey` of a database, while services use it or not."""

from __future__ import annotations

from awakeables.ports import PayloadCodec
from awakeables.store.postgres.connection import Connection, Database, Session, transaction
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.schema import check_keys, migrate
from awakeables.store.rekeying import PAGE_ROWS, PASSES, Rekeyed, Rekeying, page_query, update_query
from awakeables.store.sealing import SEALED_TABLES, Sealing


async def rekey(url: str, *, app: str, codec: PayloadCodec, clear: bool) -> Rekeyed:
    """Seal all values with the codec's current key, or store them in clear.

    What was there before stays in the database's files until it is vacuumed, and in its log and backups.

    Raises:
        StoreUnavailable: The database can't be read or written; what is done stays, and can be gone on with.
    """
    database = Database(url, Sealing(codec))
    session = Session(database, "migrator")
    rekeying = Rekeying(codec, clear=clear)

    async def work(connection: Connection) -> Rekeyed:
        await migrate(connection, database.where, app)
        await check_keys(connection, database.where)
        for _ in range(PASSES):
            before = rekeying.values
            rekeying.begin_pass()
            for table in SEALED_TABLES:
                await _table(connection, table, rekeying)
            if rekeying.values == before:
                break
        result = rekeying.result([key_id for key_id, _ in await connection.fetch(QUERIES["seals"])])
        for key_id in result.dropped:
            await connection.execute(QUERIES["drop_seal"], key_id)
        return result

    try:
        await session.open()
        return await session.run(work)
    finally:
        await session.close()


async def _table(connection: Connection, table: str, rekeying: Rekeying) -> None:
    key, columns = SEALED_TABLES[table]
    name = f"awakeables.{table}"
    update = update_query(table, name, [f"${place}" for place in range(1, len(key) + len(columns) + 1)])
    last: tuple[object, ...] = ()
    while True:
        holders = [f"${place}" for place in range(1, (len(key) if last else 0) + 2)]
        query = page_query(table, name, first=not last, holders=holders, lock=" FOR NO KEY UPDATE")
        async with transaction(connection):
            rows = [tuple(row) for row in await connection.fetch(query, *last, PAGE_ROWS)]
            changes = [(row, rekeying.again(table, row)) for row in rows]
            await connection.executemany(update, [(*new, *row[: len(key)]) for row, new in changes if new])
        if len(rows) < PAGE_ROWS:
            return
        last = rows[-1][: len(key)]
