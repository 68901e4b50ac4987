"""The store of a run: looked into by SQL beside the services, and opened once they have ended."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from awakeables.handlers.keyring import KeyRing
from awakeables.ports import Store
from awakeables.store.postgres.store import PostgresStore
from awakeables.store.sqlite.store import SqliteStore
from awakeables.world import SystemClock
from support.keys import ring

DAY_MS = 24 * 3600 * 1000

Rows = list[tuple[Any, ...]]


def codec_for(store: str) -> KeyRing | None:
    """The app seals what it stores in a database; in a file it does not, so that both are tried."""
    return ring("chaos") if store.startswith("postgresql:") else None


class Books(Protocol):
    """One store."""

    async def rows(self, sql: str) -> Rows:
        """What a query finds while services run."""
        ...

    def store(self) -> Store:
        """The same, to be opened."""
        ...

    async def check(self) -> None:
        """Fails the test if the storage is damaged."""
        ...


class SqliteBooks:
    """A file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def rows(self, sql: str) -> Rows:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(sql).fetchall()

    def store(self) -> Store:
        return SqliteStore(self._path, clock=SystemClock(), retention_ms=DAY_MS)

    async def check(self) -> None:
        assert await self.rows("PRAGMA integrity_check") == [("ok",)]


class PostgresBooks:
    """A database."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def rows(self, sql: str) -> Rows:
        connection = await asyncpg.connect(self._url, server_settings={"search_path": "awakeables"})
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    def store(self) -> Store:
        return PostgresStore(self._url, retention_ms=DAY_MS, codec=codec_for(self._url))

    async def check(self) -> None:
        """Each row belongs to an instance that lives, or to none."""
        names = "SELECT owner FROM invocations UNION SELECT claimed_by FROM outbox WHERE claimed_by <> ''"
        living = "SELECT id FROM instances WHERE state <> 'dead'"
        assert await self.rows(f"({names} EXCEPT {living}) EXCEPT SELECT NULL") == []
