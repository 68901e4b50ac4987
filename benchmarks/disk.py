"""The disk: how long an fsync takes, whether the store waits for it, what the store has kept."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
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


def completed(path: Path) -> int:
    """How many invocations ended with a value, once nothing is open any more.

    Raises:
        Broken: Something else became of one, or they don't come to an end.
    """
    until = time.monotonic() + PATIENCE_S
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        while True:
            found = dict(
                connection.execute(
                    "SELECT CASE WHEN result IS NULL THEN 'open' ELSE json_extract(result, '$.status') END,"
                    " count(*) FROM invocations GROUP BY 1"
                )
            )
            if not found.get("open"):
                break
            if time.monotonic() > until:
                raise Broken(f"{found['open']} invocations don't come to an end")
            time.sleep(0.1)
        letters, failed = connection.execute(
            "SELECT (SELECT count(*) FROM dead_letters), (SELECT count(*) FROM outbox WHERE state = 'failed')"
        ).fetchone()
    finally:
        connection.close()
    resolved: int = found.pop("resolved", 0)
    if found.keys() - {"open"} or letters or failed:
        raise Broken(f"beside {resolved} values: {found}, {letters} dead letters, {failed} failed effects")
    return resolved
