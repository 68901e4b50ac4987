"""Reads a whole file in one read transaction, whether or not a service has it open."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import EffectState
from awakeables.core.instances import Instance
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectRow
from awakeables.core.records import text_from
from awakeables.core.rows import Chunk, EffectRow, KeyRow, PositionRow
from awakeables.errors import OperatorError
from awakeables.ports import Clock, Pages, PayloadCodec, Snapshot
from awakeables.store.rows import Columns
from awakeables.store.sealing import Sealing
from awakeables.store.sqlite.connection import FileConnection, connected
from awakeables.store.sqlite.loading import id_list
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import check_file, migrations, schema_version
from awakeables.store.sqlite.store import SqliteThread

T = TypeVar("T")
R = TypeVar("R")

PAGE_ROWS = 1000
PAGE_BYTES = 4 << 20


class SqliteAudit:
    """`ports.Audit` of one file; its log (WAL) grows while the snapshot is open."""

    def __init__(self, path: Path, *, clock: Clock, app: str = "", codec: PayloadCodec | None = None) -> None:
        """Does not touch the file yet.

        Args:
            path: The database.
            clock: The service's clock, which is this machine's.
            app: The app that the store must belong to, if it has a name; empty: any.
            codec: Opens what is sealed in it.
        """
        self._path = path
        self._sealing = Sealing(codec)
        self._clock = clock
        self._app = app

    async def look(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        if not self._path.is_file():
            raise OperatorError(f"there is no store {self._path} to verify")
        thread = SqliteThread(self._path, "auditor", connect=self._connect)
        try:
            await thread.start()
            return await work(SqliteSnapshot(thread, self._clock.now_ms(), self._sealing))
        finally:
            await asyncio.shield(asyncio.wrap_future(thread.stop()))

    def _connect(self) -> FileConnection:
        where = f"{self._path.absolute().as_uri()}?mode=ro"
        connection = connected(where, self._sealing, uri=True)
        try:
            connection.executescript(QUERIES["reader"])
            self._check(connection)
            connection.execute(QUERIES["begin_reading"])
            connection.execute(QUERIES["newest_row"]).fetchone()  # the snapshot is of the first read
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: FileConnection) -> None:
        check_file(connection, self._path, self._app)
        version, newest = schema_version(connection), len(migrations())
        if version < newest:
            raise OperatorError(
                f"{self._path} has schema version {version}, this release verifies version {newest}: start "
                "the service once, which migrates it (back it up first)"
            )
        self._sealing.check(connection.execute(QUERIES["seals"]).fetchall())


class SqliteSnapshot:
    """`ports.Snapshot` of a read transaction: each table is one statement, read page by page."""

    def __init__(self, thread: SqliteThread, now_ms: int, sealing: Sealing) -> None:
        self._thread = thread
        self._sealing = sealing
        self.now_ms = now_ms

    def invocations(self) -> Pages[Invocation]:
        return self._pages(self._sealing.invocation, "all_invocations")

    def chunks(self) -> Pages[Chunk]:
        return self._pages(self._sealing.chunk, "all_chunks")

    def chunks_of(self, invocation_ids: Sequence[str]) -> Pages[Chunk]:
        return self._pages(self._sealing.chunk, "chunks_of", id_list(invocation_ids))

    def awakeables(self) -> Pages[AwakeableRow]:
        return self._pages(self._sealing.awakeable, "all_awakeables")

    def invocations_with(self, invocation_ids: Sequence[str]) -> Pages[Invocation]:
        return self._pages(self._sealing.invocation, "invocations", id_list(invocation_ids))

    def awakeables_with(self, awakeable_ids: Sequence[str]) -> Pages[AwakeableRow]:
        return self._pages(self._sealing.awakeable, "awakeables_with", id_list(awakeable_ids))

    def effects(self, state: EffectState) -> Pages[EffectRow]:
        return self._pages(self._sealing.effect, "all_unsent" if state == "unsent" else "all_failed")

    def dead_letters(self) -> Pages[DeadLetter]:
        return self._pages(self._sealing.dead_letter, "all_dead_letters")

    def idempotency_keys(self) -> Pages[KeyRow]:
        return self._pages(lambda row: KeyRow(text_from(row[0]), text_from(row[1]), row[2]), "all_keys")

    def positions(self) -> Pages[PositionRow]:
        return self._pages(lambda row: PositionRow(*row), "all_positions")

    def objects(self) -> Pages[ObjectRow]:
        return self._pages(lambda row: ObjectRow(*row), "all_objects")

    async def versions(self, invocation_ids: Sequence[str]) -> dict[str, int]:
        found = await self._thread.run(_all, "versions", id_list(invocation_ids))
        return {invocation_id: version for invocation_id, version in found}

    async def schema_hashes(self) -> frozenset[str]:
        return frozenset(row[0] for row in await self._thread.run(_all, "schema_hashes"))

    async def instances(self) -> list[Instance]:
        return []

    async def _pages(
        self, make: Callable[[Columns], R], query: str, *values: str
    ) -> AsyncIterator[Sequence[R]]:
        cursor = await self._thread.run(sqlite3.Connection.execute, QUERIES[query], values)
        while page := await self._thread.run(_page, cursor, make):
            yield page


def _all(connection: FileConnection, query: str, *values: str) -> list[Columns]:
    return connection.execute(QUERIES[query], values).fetchall()


def _page(_connection: FileConnection, cursor: sqlite3.Cursor, make: Callable[[Columns], R]) -> list[R]:
    page: list[R] = []
    size = 0
    for row in cursor:
        page.append(make(row))
        size += sum(len(value) for value in row if isinstance(value, bytes))
        if len(page) >= PAGE_ROWS or size >= PAGE_BYTES:
            break
    return page
