"""`rekey` of a file that no service has open."""

from __future__ import annotations

from pathlib import Path

from awakeables.errors import OperatorError, StoreUnavailable
from awakeables.ports import PayloadCodec
from awakeables.store.rekeying import PAGE_ROWS, Rekeyed, Rekeying, page_query, update_query
from awakeables.store.sealing import SEALED_TABLES, Sealing
from awakeables.store.sqlite.connection import FileConnection, connected
from awakeables.store.sqlite.errors import translated
from awakeables.store.sqlite.lock import FileLock, lock_file_of
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import check_keys, migrate


def rekey(path: Path, *, app: str, codec: PayloadCodec, clear: bool) -> Rekeyed:
    """Seal all values with the codec's current key, or store them in clear; then write the file anew.

    Without that, what was there before would still be in free parts of the file.

    Raises:
        OperatorError: There is no store, or a service has it open.
        StoreUnavailable: It can't be read or written, or somebody else reads it; what is done stays, and can
            be gone on with.
    """
    if not path.is_file():
        raise OperatorError(f"there is no store {path} to rekey")
    lock = FileLock(lock_file_of(path))
    lock.acquire()
    try:
        connection = connected(path, Sealing(codec))
        try:
            return _rekey(connection, path, app, Rekeying(codec, clear=clear))
        except Exception as error:
            raise translated(error, path) from error
        finally:
            connection.close()
    finally:
        lock.release()


def _rekey(connection: FileConnection, path: Path, app: str, rekeying: Rekeying) -> Rekeyed:
    connection.executescript(QUERIES["writer"])
    migrate(connection, path, app)
    check_keys(connection, path)
    for table in SEALED_TABLES:
        _table(connection, table, rekeying)
    # Nobody writes meanwhile, so a second pass finds only what is left.
    rekeying.begin_pass()
    for table in SEALED_TABLES:
        _table(connection, table, rekeying)
    result = rekeying.result([key_id for key_id, _ in connection.execute(QUERIES["seals"])])
    connection.execute("PRAGMA temp_store = FILE")  # the copy may be larger than memory
    connection.execute("VACUUM")
    busy, *_ = connection.execute(QUERIES["checkpoint"]).fetchone()
    if busy:
        raise StoreUnavailable(
            f"{path} is being read, so what was there before is still in its log: end that, and run "
            "rekey again"
        )
    for key_id in result.dropped:
        connection.execute(QUERIES["drop_seal"], (key_id,))
    return result


def _table(connection: FileConnection, table: str, rekeying: Rekeying) -> None:
    key, columns = SEALED_TABLES[table]
    holders = ["?"] * (len(key) + len(columns))
    update = update_query(table, table, holders)
    last: tuple[object, ...] = ()
    while True:
        query = page_query(table, table, first=not last, holders=["?"] * (len(key) + 1))
        connection.execute(QUERIES["begin"])
        rows = connection.execute(query, (*last, PAGE_ROWS)).fetchall()
        for row in rows:
            new = rekeying.again(table, row)
            if new is not None:
                connection.execute(update, (*new, *row[: len(key)]))
        connection.execute(QUERIES["commit"])
        if len(rows) < PAGE_ROWS:
            return
        last = rows[-1][: len(key)]
