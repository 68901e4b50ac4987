"""Looks at a database without changing it."""

from __future__ import annotations

from typing import NamedTuple

from awakeables.ports import PayloadCodec
from awakeables.store.postgres.connection import Connection, Database, Session
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.postgres.reading import open_by_versions, positions
from awakeables.store.postgres.reading import subscribed as subscriptions
from awakeables.store.postgres.schema import checked_meta, checked_server, migrations
from awakeables.store.sealing import Sealing
from awakeables.store.usage import CodeUsage


class DatabaseCondition(NamedTuple):
    """What was found.

    Attributes:
        server: The server's version.
        version: The schema's version; 0: there are no tables yet.
        newest: The version that this release makes of it.
        risks: Settings of the server that endanger what is stored; a pooler, and what it keeps one from
            setting.
        usage: What the rows need of the code; None: it was not asked for, or can't be read.
    """

    server: str
    version: int
    newest: int
    risks: tuple[str, ...]
    usage: CodeUsage | None = None


async def inspect_database(url: str, app: str = "", codec: PayloadCodec | None = None) -> DatabaseCondition:
    """Check that a database fits this release, and the app and its codec if they are given.

    Raises:
        KeyMissing: Values are sealed with a key that the codec does not have.
        StoreOfAnotherApp: It belongs to another app.
        StoreTooNew: A newer release wrote it.
        StoreUnavailable: It is out of reach, or the server does not fit.
    """
    database = Database(url)
    where = database.where

    async def inspect(connection: Connection) -> DatabaseCondition:
        server = await checked_server(connection, where)
        meta, usage = await checked_meta(connection, where, app), None
        if app and meta.version == len(migrations()):
            Sealing(codec).check(await connection.fetch(QUERIES["seals"]))
            usage = await _usage(connection)
        risks = list(server.risks)
        if database.pooled:
            risks.append("there is a pooler, which costs CPU time and hints: connect directly if you can")
            unset = [row["told"] for row in await connection.fetch(QUERIES["unset"])]
            if unset:
                risks.append(f"what is set after connecting must then be the user's: {'; '.join(unset)}")
        return DatabaseCondition(server.version, meta.version, len(migrations()), tuple(risks), usage)

    session = Session(database, "reader")
    await session.open()
    try:
        return await session.run(inspect)
    finally:
        await session.close()


async def _usage(connection: Connection) -> CodeUsage:
    """What the rows need of the code."""
    subscribed = {
        (name, topic): len(await positions(connection, topic, name))
        for name, topic in await subscriptions(connection)
    }
    return CodeUsage(tuple(await open_by_versions(connection)), subscribed)
