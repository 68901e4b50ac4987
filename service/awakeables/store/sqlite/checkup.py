"""Inspects a store's file from outside, whether or not a service has it open."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from awakeables.errors import OperatorError
from awakeables.ports import PayloadCodec
from awakeables.store.rows import open_invocations_from
from awakeables.store.sealing import Sealing
from awakeables.store.sqlite.lock import holder_of, lock_file_of
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import check_file, migrations, schema_version
from awakeables.store.usage import CodeUsage

STEPS = 100_000
"""Instructions of SQLite's virtual machine between two checks of the clock: a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCondition:
    """The result of an inspection, which changes nothing in the file.

    Attributes:
        holder: The process that has the store open; None: none has.
        version: The file's schema version.
        newest_version: The schema version that this release writes.
        newest_ms: When the newest invocation was created; None: there is none.
        read_through: The whole file was read, and no damage found.
        usage: What the rows need of the code; None: it was not asked for, or can't be read.
        problem: Why the file can't be served, in one line.
    """

    newest_version: int
    holder: str | None = None
    version: int = 0
    newest_ms: int | None = None
    read_through: bool = False
    usage: CodeUsage | None = None
    problem: str | None = None


def inspect_store(
    path: Path,
    *,
    monotonic: Callable[[], float],
    patience_s: float,
    app: str = "",
    codec: PayloadCodec | None = None,
) -> StoreCondition:
    """Inspect an existing file; it is read completely only if no process has it open.

    Args:
        path: The database.
        monotonic: Seconds of a monotonic clock.
        patience_s: The complete read is abandoned after this long.
        app: The app that the store must belong to, if it has a name; empty: any, and neither keys nor the
            use of the code are looked at.
        codec: Must open what is sealed in it.
    """
    newest_version = len(migrations())
    try:
        holder = holder_of(lock_file_of(path))
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.executescript(QUERIES["reader"])
            check_file(connection, path, app)
            usage = None
            version = schema_version(connection)
            if app and version == newest_version:
                Sealing(codec).check(connection.execute(QUERIES["seals"]).fetchall())
                usage = _usage(connection)
            newest = connection.execute(QUERIES["newest_row"]).fetchone() if version else None
            damage, read_through = None, False
            if holder is None:
                damage, read_through = _read_through(connection, monotonic, patience_s)
    except OperatorError as error:
        return StoreCondition(newest_version=newest_version, problem=str(error))
    except (sqlite3.Error, OSError) as error:
        return StoreCondition(newest_version=newest_version, problem=f"{path} can't be read: {error}")
    return StoreCondition(
        newest_version=newest_version,
        holder=holder,
        version=version,
        newest_ms=None if newest is None else int(newest[0]),
        read_through=read_through,
        usage=usage,
        problem=None if damage is None else f"{path} is damaged, restore a backup: {damage}",
    )


def _usage(connection: sqlite3.Connection) -> CodeUsage:
    """What the rows need of the code."""
    opened = map(open_invocations_from, connection.execute(QUERIES["open_by_versions"]).fetchall())
    subscribed = {
        (name, topic): len(connection.execute(QUERIES["positions"], (name, topic)).fetchall())
        for name, topic in connection.execute(QUERIES["subscribed"]).fetchall()
    }
    return CodeUsage(tuple(opened), subscribed)


def _read_through(
    connection: sqlite3.Connection, monotonic: Callable[[], float], patience_s: float
) -> tuple[str | None, bool]:
    """The damage that was found, if any, and whether the whole file was read."""
    end = monotonic() + patience_s
    connection.set_progress_handler(lambda: monotonic() > end, STEPS)
    try:
        (result,) = connection.execute(QUERIES["quick_check"]).fetchone()
    except sqlite3.OperationalError:
        if monotonic() > end:
            return None, False
        raise
    return (None, True) if result == "ok" else (str(result), True)
