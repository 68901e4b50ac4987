"""Looking at a store's file from outside, while a service has it open or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from awakeables.errors import OperatorError
from awakeables.store.sqlite.lock import holder_of, lock_file_of
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import check_file, migrations, schema_version

STEPS = 100_000
"""Steps of SQLite's machine between two looks at the clock: some milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCondition:
    """What was found; nothing of the file was changed.

    Attributes:
        holder: The process that has the store open; None: nobody.
        version: The file's schema version.
        newest_version: The schema version that this release writes.
        newest_ms: When the newest invocation was created; None: there is none.
        read_through: The whole file was read and is sound.
        problem: Why it can't be served, in one line.
    """

    newest_version: int
    holder: str | None = None
    version: int = 0
    newest_ms: int | None = None
    read_through: bool = False
    problem: str | None = None


def inspect_store(
    path: Path, *, monotonic: Callable[[], float], patience_s: float, app: str = ""
) -> StoreCondition:
    """Look at a file that is there; it is read through only if nobody has it open.

    Args:
        path: The database.
        monotonic: Seconds that only grow.
        patience_s: Reading it through is given up after this long.
        app: Whose store it must be, if it has a name; empty: anybody's.
    """
    newest_version = len(migrations())
    try:
        holder = holder_of(lock_file_of(path))
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.executescript(QUERIES["reader"])
            check_file(connection, path, app)
            version = schema_version(connection)
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
        problem=None if damage is None else f"{path} is damaged, restore a backup: {damage}",
    )


def _read_through(
    connection: sqlite3.Connection, monotonic: Callable[[], float], patience_s: float
) -> tuple[str | None, bool]:
    """The damage, and whether all was read."""
    end = monotonic() + patience_s
    connection.set_progress_handler(lambda: monotonic() > end, STEPS)
    try:
        (told,) = connection.execute(QUERIES["quick_check"]).fetchone()
    except sqlite3.OperationalError:
        if monotonic() > end:
            return None, False
        raise
    return (None, True) if told == "ok" else (str(told), True)
