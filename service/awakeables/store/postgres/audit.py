"""Reads a whole database in one REPEATABLE READ transaction, while services write to it or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import count
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
from awakeables.ports import Pages, PayloadCodec, Snapshot
from awakeables.store.postgres.connection import Connection, Database, Session
from awakeables.store.postgres.membership import instances_in
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.schema import checked_meta, checked_server, migrations
from awakeables.store.postgres.texts import storable
from awakeables.store.rows import Columns
from awakeables.store.sealing import Sealing

T = TypeVar("T")
R = TypeVar("R")

PAGE_ROWS = 1000
PAGE_ROWS_WITH_PAYLOADS = 100
"""A cursor can't be limited by bytes, and a payload may have megabytes."""


class PostgresAudit:
    """`ports.Audit` of one database; no row that is deleted meanwhile can be vacuumed before it is done."""

    def __init__(
        self,
        url: str,
        *,
        clock_ms: Callable[[], int] | None = None,
        app: str = "",
        codec: PayloadCodec | None = None,
    ) -> None:
        """Does not connect yet.

        Args:
            url: Where to.
            clock_ms: The clock, for tests; None: the database's.
            app: The app that the database must belong to, if it has a name; empty: any.
            codec: Opens what is sealed in it.
        """
        self._database = Database(url, Sealing(codec))
        self._where = self._database.where
        self._clock_ms = clock_ms
        self._app = app

    async def look(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        session = Session(self._database, "auditor")

        async def looking(connection: Connection) -> T:
            await checked_server(connection, self._where)
            await self._check_schema(connection)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                now_ms = await connection.fetchval(QUERIES["audit_clock"])
                return await work(
                    PostgresSnapshot(connection, now_ms if self._clock_ms is None else self._clock_ms())
                )

        try:
            await session.open()
            return await session.run(looking)
        finally:
            await session.close()

    async def _check_schema(self, connection: Connection) -> None:
        meta, newest = await checked_meta(connection, self._where, self._app), len(migrations())
        if meta.version == 0:
            raise OperatorError(f"there is no store in {self._where} to verify")
        if meta.version < newest:
            raise OperatorError(
                f"{self._where} has schema version {meta.version}, this release verifies version {newest}: "
                "start the service once, which migrates it (back it up first)"
            )
        connection.sealing.check(await connection.fetch(QUERIES["seals"]))


class PostgresSnapshot:
    """`ports.Snapshot` of a transaction: each table is read by a cursor."""

    def __init__(self, connection: Connection, now_ms: int) -> None:
        self._connection = connection
        self._cursors = count(1)
        self.now_ms = now_ms

    def invocations(self) -> Pages[Invocation]:
        return self._pages(self._connection.sealing.invocation, PAGE_ROWS_WITH_PAYLOADS, "all_invocations")

    def chunks(self) -> Pages[Chunk]:
        return self._pages(self._connection.sealing.chunk, PAGE_ROWS_WITH_PAYLOADS, "all_chunks")

    def chunks_of(self, invocation_ids: Sequence[str]) -> Pages[Chunk]:
        wanted = [*map(storable, invocation_ids)]
        return self._pages(self._connection.sealing.chunk, PAGE_ROWS_WITH_PAYLOADS, "chunks_of", wanted)

    def awakeables(self) -> Pages[AwakeableRow]:
        return self._pages(self._connection.sealing.awakeable, PAGE_ROWS_WITH_PAYLOADS, "all_awakeables")

    def invocations_with(self, invocation_ids: Sequence[str]) -> Pages[Invocation]:
        wanted = [*map(storable, invocation_ids)]
        return self._pages(
            self._connection.sealing.invocation, PAGE_ROWS_WITH_PAYLOADS, "invocations_with", wanted
        )

    def awakeables_with(self, awakeable_ids: Sequence[str]) -> Pages[AwakeableRow]:
        wanted = [*map(storable, awakeable_ids)]
        return self._pages(
            self._connection.sealing.awakeable, PAGE_ROWS_WITH_PAYLOADS, "awakeables_with", wanted
        )

    def effects(self, state: EffectState) -> Pages[EffectRow]:
        query = "all_unsent" if state == "unsent" else "all_failed"
        return self._pages(self._connection.sealing.effect, PAGE_ROWS, query)

    def dead_letters(self) -> Pages[DeadLetter]:
        return self._pages(self._connection.sealing.dead_letter, PAGE_ROWS, "all_dead_letters")

    def idempotency_keys(self) -> Pages[KeyRow]:
        return self._pages(
            lambda row: KeyRow(text_from(row[0]), text_from(row[1]), row[2]), PAGE_ROWS, "all_keys"
        )

    def positions(self) -> Pages[PositionRow]:
        return self._pages(lambda row: PositionRow(*row), PAGE_ROWS, "all_positions")

    def objects(self) -> Pages[ObjectRow]:
        return self._pages(lambda row: ObjectRow(*row), PAGE_ROWS, "all_objects")

    async def versions(self, invocation_ids: Sequence[str]) -> dict[str, int]:
        wanted = [*map(storable, invocation_ids)]
        return {id_: version for id_, version in await self._connection.fetch(QUERIES["versions"], wanted)}

    async def schema_hashes(self) -> frozenset[str]:
        return frozenset(hash_ for (hash_,) in await self._connection.fetch(QUERIES["schema_hashes"]))

    async def instances(self) -> list[Instance]:
        return await instances_in(self._connection)

    async def _pages(
        self, make: Callable[[Columns], R], limit: int, query: str, *values: object
    ) -> AsyncIterator[Sequence[R]]:
        # Not the driver's cursor, whose prepared statement would stay in the session that a pooler hands on.
        cursor = f"pages_{next(self._cursors)}"
        await self._connection.execute(f"DECLARE {cursor} NO SCROLL CURSOR FOR {QUERIES[query]}", *values)
        while page := await self._connection.fetch(f"FETCH {limit} FROM {cursor}"):
            yield [make(tuple(row)) for row in page]
        await self._connection.execute(f"CLOSE {cursor}")
