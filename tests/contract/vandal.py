"""Changes rows of a store behind its back, by the names that tables and columns have on disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from msgspec.structs import replace

from awakeables.ports import Audit, PayloadCodec, Store
from awakeables.store.memory import MemoryStore, MemoryTables
from awakeables.store.memoryaudit import MemoryAudit
from awakeables.store.postgres.audit import PostgresAudit
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.audit import SqliteAudit
from awakeables.store.sqlite.store import SqliteStore
from contract.driver import FakeClock

KEYS = {
    "invocations": "id",
    "awakeables": "id",
    "journal": "invocation_id",
    "outbox": "event_id",
    "dead_letters": "id",
    "offsets": "topic",
    "idempotency": "invocation_id",
    "schemas": "hash",
}
FIELDS = {
    "versions": "versions_json",
    "result": "result_json",
    "failure": "failure_json",
    "outcome": "outcome_json",
    "book": "verdicts_json",
    "reason": "reason_utf8",
    "facts": "facts_json",
}
"""The fields of rows whose columns have other names."""


def audit_of(store: Store, clock: FakeClock) -> Audit:
    """What reads the whole of this store."""
    match store:
        case MemoryStore():
            return MemoryAudit(store.tables, clock=clock)
        case SqliteStore():
            return SqliteAudit(store._path, clock=clock, codec=store._sealing.codec)
        case PostgresStore():
            database = store._writer._database
            return PostgresAudit(database._url, clock_ms=clock.now_ms, codec=database._sealing.codec)
        case _:
            raise TypeError(store)


class Vandal(Protocol):
    """Damages one store, which is open, and verifies what is left."""

    @property
    def audit(self) -> Audit: ...

    async def change(self, table: str, key: str, **columns: Any) -> None:
        """Overwrite columns of the rows with this key."""
        ...

    async def delete(self, table: str, key: str) -> None:
        """Delete the rows with this key."""
        ...


class SqliteVandal:
    def __init__(self, path: Path, clock: FakeClock, codec: PayloadCodec | None) -> None:
        self.audit = SqliteAudit(path, clock=clock, codec=codec)
        self._path = path

    async def change(self, table: str, key: str, **columns: Any) -> None:
        values = ", ".join(f'"{name}" = ?' for name in columns)
        self._do(f"UPDATE {table} SET {values} WHERE {KEYS[table]} = ?", *columns.values(), key)

    async def delete(self, table: str, key: str) -> None:
        self._do(f"DELETE FROM {table} WHERE {KEYS[table]} = ?", key)

    def _do(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1


class PostgresVandal:
    def __init__(self, url: str, clock: FakeClock, codec: PayloadCodec | None) -> None:
        self.audit = PostgresAudit(url, clock_ms=clock.now_ms, codec=codec)
        self._url = url

    async def change(self, table: str, key: str, **columns: Any) -> None:
        values = ", ".join(f'"{name}" = ${place}' for place, name in enumerate(columns, 2))
        await self._do(
            f"UPDATE awakeables.{table} SET {values} WHERE {KEYS[table]} = $1", key, *columns.values()
        )

    async def delete(self, table: str, key: str) -> None:
        await self._do(f"DELETE FROM awakeables.{table} WHERE {KEYS[table]} = $1", key)

    async def _do(self, statement: str, *values: Any) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            assert (await connection.execute(statement, *values)).endswith(" 1")
        finally:
            await connection.close()


class MemoryVandal:
    def __init__(self, tables: MemoryTables, clock: FakeClock) -> None:
        self.audit = MemoryAudit(tables, clock=clock)
        self._tables: dict[str, dict[Any, Any]] = {
            "invocations": tables.invocations,
            "awakeables": tables.awakeables,
            "journal": tables.journals,
            "outbox": tables.effects,
            "dead_letters": tables.dead_letters,
            "offsets": tables.positions,
            "idempotency": tables.keys,
            "schemas": tables.schemas,
        }

    async def change(self, table: str, key: str, **columns: Any) -> None:
        rows = self._tables[table]
        if table == "journal":
            ((version, chunk),) = rows[key].items()
            rows[key] = {columns.get("version", version): columns.get("chunk", chunk)}
            return
        (place,) = [place for place in rows if place == key or (table == "offsets" and place[1] == key)]
        rows[place] = replace(
            rows[place], **{FIELDS.get(name, name): value for name, value in columns.items()}
        )

    async def delete(self, table: str, key: str) -> None:
        rows = self._tables[table]
        (place,) = (
            [place for place, row in rows.items() if key in (place, row[-1])]
            if table == "idempotency"
            else [key]
        )
        del rows[place]
