"""The store of a soak: a SQLite file for one instance, a database of PostgreSQL for several."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import asyncpg

from awakeables.doctor.verification import verify
from awakeables.store.postgres.audit import PostgresAudit
from benchmarks import disk

SIZES = """
SELECT pg_database_size(current_database()), (SELECT sum(n_dead_tup) FROM pg_stat_user_tables)
"""
ENDED = """
SELECT count(*) FILTER (WHERE result IS NULL), count(*),
    (SELECT count(*) FROM awakeables.dead_letters),
    (SELECT count(*) FROM awakeables.outbox WHERE state = 'failed')
FROM awakeables.invocations
"""


class Sizes(NamedTuple):
    """As in `looks.Look`."""

    file_mb: float
    log_mb: float
    dead_rows: float


class Storage(Protocol):
    """A store that services have open."""

    @property
    def at(self) -> str | Path:
        """For `--store`."""
        ...

    def sizes(self) -> Sizes: ...

    def audit(self) -> int:
        """How many invocations are left, once all have ended; raises `disk.Broken` if one went wrong."""
        ...


class File:
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def at(self) -> Path:
        return self._path

    def sizes(self) -> Sizes:
        log = self._path.with_name(self._path.name + "-wal")
        return Sizes(disk.size_mb(self._path), disk.size_mb(log), 0)

    def audit(self) -> int:
        return disk.audit(self._path, answered=0)


class Database:
    """A database of PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def at(self) -> str:
        return self._url

    def sizes(self) -> Sizes:
        size, dead = self._row(SIZES)
        return Sizes(size / 1e6, 0, float(dead))

    def audit(self) -> int:
        findings = asyncio.run(verify(PostgresAudit(self._url), retention_ms=0))
        if findings.violations:
            raise disk.Broken("\n".join(map(str, findings.violations[:10])))
        unfinished, count, letters, failed = self._row(ENDED)
        if unfinished or letters or failed:
            raise disk.Broken(f"{unfinished} are open, {letters} dead letters, {failed} failed effects")
        return count

    def _row(self, query: str) -> tuple[int, ...]:
        async def fetched() -> tuple[int, ...]:
            connection = await asyncpg.connect(self._url)
            try:
                row = await connection.fetchrow(query)
                assert row is not None
                return tuple(row)
            finally:
                await connection.close()

        return asyncio.run(fetched())


NewDatabase = Callable[[], AbstractContextManager[str]]


@contextmanager
def databases() -> Iterator[NewDatabase | None]:
    """A function that makes a database, dropped after its block; None if no server can be started."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # as pytest has it
    try:
        from support.real_postgres import RealPostgres, reason_real_postgres_is_missing
    except ImportError:
        yield None
        return
    if reason_real_postgres_is_missing() is not None:
        yield None
        return
    server = RealPostgres.started(ends_with=os.getpid(), options=("fsync=on", "synchronous_commit=on"))
    try:
        yield lambda: server.database(migrated=False)
    finally:
        server.remove()
