"""The disk: how long an fsync takes, whether the store waits for it, what the store has kept."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from awakeables.store.sqlite.store import SqliteStore
from awakeables.world import SystemClock

FULL = 2
"""What `PRAGMA synchronous` says of FULL."""

PATIENCE_S = 30.0


class Broken(Exception):
    """The numbers are worth nothing; the message says why."""


def fsync_ms(folder: Path, *, times: int = 200) -> float:
    """The median time of appending 4 KiB to a file and syncing it, in milliseconds."""
    took: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(times):
            began = time.perf_counter()
            os.write(file.fileno(), b"\0" * 4096)
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def check_durability(folder: Path) -> None:
    """Make sure that a store as the service opens it syncs each commit.

    Raises:
        Broken: It does not.
    """
    asyncio.run(_check_durability(folder / "probe.db"))


async def _check_durability(path: Path) -> None:
    store = SqliteStore(path, clock=SystemClock(), retention_ms=0)
    await store.open()
    try:
        # The setting belongs to the connection, and only the writer's lane has that.
        synchronous, mode = await store._writer.run(
            lambda connection: (_pragma(connection, "synchronous"), _pragma(connection, "journal_mode"))
        )
    finally:
        await store.close()
    if (synchronous, mode) != (FULL, "wal"):
        raise Broken(f"the store runs with synchronous={synchronous}, journal_mode={mode}")


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def audit(path: Path, *, answered: int, pending: int = 0) -> int:
    """How many invocations ended with a value, once no more than `pending` are open.

    Args:
        path: The database; its service may be running.
        answered: So many calls were told their value.
        pending: So many invocations wait, and are to wait on.

    Raises:
        Broken: Something else became of one, they don't come to an end, or fewer are kept than
            were answered.
    """
    until = time.monotonic() + PATIENCE_S
    with closing(looking(path)) as connection:
        while (found := _ends(connection)).get("open", 0) > pending:
            if time.monotonic() > until:
                raise Broken(f"{found['open'] - pending} invocations don't come to an end")
            time.sleep(0.1)
        letters, failed = connection.execute(
            "SELECT (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM outbox WHERE state = 'failed')"
        ).fetchone()
    resolved, still = found.pop("resolved", 0), found.pop("open", 0)
    if found or letters or failed or still != pending:
        raise Broken(
            f"beside {resolved} values: {found}, {still} open (not {pending}), {letters} dead letters, "
            f"{failed} failed effects"
        )
    if resolved < answered:
        raise Broken(f"{answered} calls were answered, {resolved} are in the store")
    return resolved


def _ends(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(
        connection.execute(
            "SELECT CASE WHEN result IS NULL THEN 'open' ELSE json_extract(result, '$.status') END, count(*)"
            " FROM invocations GROUP BY 1"
        )
    )


def looking(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def copied(source: Path, target: Path) -> Path:
    """A copy of a database that nobody has open; it is on the disk when this returns.

    What still had to be written would make the first fsync of the service wait.
    """
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return target


def forget_cached(path: Path) -> None:
    """Let the system forget what it has in memory of a file, as after a start of the machine."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size_mb(path: Path) -> float:
    """The size of a file, in MB; 0 if there is none."""
    return path.stat().st_size / 1e6 if path.exists() else 0.0
