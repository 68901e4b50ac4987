"""Looks at a database without changing it."""

from __future__ import annotations

from typing import NamedTuple

from awakeables.store.postgres.connection import Connection, Session
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.schema import check_server, checked_meta, migrations
from awakeables.store.urls import shown_store


class DatabaseCondition(NamedTuple):
    """What was found.

    Attributes:
        server: The server's version.
        version: The schema's version; 0: there are no tables yet.
        newest: The version that this release makes of it.
        risks: Settings of the server with which an acknowledged commit can be lost.
    """

    server: str
    version: int
    newest: int
    risks: tuple[str, ...]


async def inspect_database(url: str, app: str = "") -> DatabaseCondition:
    """Check that a database fits this release, and the app if one is given.

    Raises:
        StoreOfAnotherApp: It belongs to another app.
        StoreTooNew: A newer release wrote it.
        StoreUnavailable: It is out of reach, or the server does not fit.
    """
    where = shown_store(url)

    async def inspect(connection: Connection) -> DatabaseCondition:
        await check_server(connection, where)
        server = await connection.fetchrow(QUERIES["server"])
        assert server is not None
        meta = await checked_meta(connection, where, app)
        risks = [name for name in ("fsync", "synchronous_commit") if server[name] in ("off", "local")]
        told = tuple(f"{name} is {server[name]}: acknowledged commits can be lost" for name in risks)
        return DatabaseCondition(server["named"], meta.version, len(migrations()), told)

    session = Session(url, where, "reader")
    await session.open()
    try:
        return await session.run(inspect)
    finally:
        await session.close()
