"""Migrations: numbered files, forward only, each applied in its own transaction, by one process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import asyncpg
import structlog

from awakeables.errors import StoreOfAnotherApp, StoreTooNew, StoreUnavailable
from awakeables.store.postgres.connection import Connection, transaction
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.queries import migrations as read_migrations
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

LEAST_VERSION: Final = 140_000
POLL_S: Final = 0.1
PATIENCE_S: Final = 60.0
"""How long another process may take to migrate."""


class Meta(NamedTuple):
    """What a database says about itself.

    Attributes:
        app: The app that it belongs to; None: none yet.
        version: Its schema's version; 0: it has none.
        served_from: The least version that a release must know to serve it.
    """

    app: str | None
    version: int
    served_from: int


def migrations() -> list[str]:
    """The texts of all migrations; the first one makes schema version 1."""
    return read_migrations(__package__)


async def migrate(connection: Connection, where: str, app: str = "", *, limits: str = "") -> None:
    """Migrate a database to the newest schema, and name it after `app` if it has no name.

    Args:
        connection: In no transaction.
        where: The database, for messages.
        app: The app that it belongs to; empty: any, and it gets no name.
        limits: As of `transaction`.

    Raises:
        StoreOfAnotherApp: It belongs to another app.
        StoreTooNew: A newer release wrote it, and this one can't serve that.
        StoreUnavailable: The server is too old, has the wrong encoding, or its schema `awakeables` is of
            another program.
    """
    server = await checked_server(connection, where)
    for risk in server.risks:
        log.warning(events.STORE_AT_RISK, store=where, risk=risk)
    chain = migrations()
    deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
    meta = await checked_meta(connection, where, app)
    while meta.version < len(chain) or (app and meta.app is None):
        # A transaction for each try: another process may have migrated meanwhile. It does not wait long for
        # the lock of a table in use, since whoever needs the table next would wait behind it.
        with suppress(asyncpg.LockNotAvailableError):
            async with transaction(connection, limits):
                if await connection.fetchval(QUERIES["try_lock"]):
                    meta = await checked_meta(connection, where, app)
                    if meta.version < len(chain):
                        await connection.execute(chain[meta.version])
                    elif app:
                        await connection.execute(QUERIES["name_app"], app)
                    meta = await checked_meta(connection, where, app)
                    continue
        if asyncio.get_running_loop().time() > deadline_s:
            raise StoreUnavailable(
                f"{where}: others have been migrating, or using the tables, for {PATIENCE_S:.0f} s"
            )
        await asyncio.sleep(POLL_S)
        meta = await checked_meta(connection, where, app)


async def check_keys(connection: Connection, where: str) -> None:
    """Check that all keys by which values are sealed are there, and note the one that seals from now on.

    Raises:
        KeyMissing: One is not, or is another one.
    """
    probes = await connection.fetch(QUERIES["seals"])
    for key_id in connection.sealing.check(probes):
        log.warning(events.KEY_LOST, store=where, key_id=key_id)
    new = connection.sealing.probe()
    if new is not None and new[0] not in {key_id for key_id, _ in probes}:
        await connection.execute(QUERIES["add_seal"], *new)
        # Another instance may have added another key of this ID at the same time, which was kept.
        connection.sealing.check(await connection.fetch(QUERIES["seals"]))


class Server(NamedTuple):
    """A server that the store can use.

    Attributes:
        version: As people write it.
        risks: Settings with which acknowledged commits can be lost, or the store becomes slow.
    """

    version: str
    risks: tuple[str, ...]


async def checked_server(connection: Connection, where: str) -> Server:
    """Check what the store relies on.

    Raises:
        StoreUnavailable: The server does not have it; the message says what.
    """
    server = await connection.fetchrow(QUERIES["server"])
    assert server is not None
    if server["version"] < LEAST_VERSION:
        raise StoreUnavailable(f"{where}: PostgreSQL {server['named']} is too old; the minimum is 14")
    if server["encoding"] != "UTF8":
        raise StoreUnavailable(
            f"{where}: the database's encoding is {server['encoding']}, it must be UTF8:"
            " create it with ENCODING 'UTF8' TEMPLATE template0"
        )
    return Server(server["named"], tuple(_risks(server)))


def _risks(server: Mapping[str, Any]) -> Iterator[str]:
    for name in ("fsync", "synchronous_commit"):
        if server[name] in ("off", "local"):
            yield f"{name} is {server[name]}: acknowledged commits can be lost"
    if server["full_page_writes"] == "off":
        yield "full_page_writes is off: a power cut can damage tables"
    if server["standbys"] and not server["synchronous"]:
        yield "synchronous_standby_names is empty: a failover to a standby can lose acknowledged commits"
    if server["autovacuum"] == "off":
        yield "autovacuum is off: searches become slower with each row that was ever changed"


async def checked_meta(connection: Connection, where: str, app: str) -> Meta:
    """What the database says about itself, if this release and app can serve it.

    Raises:
        StoreOfAnotherApp: It belongs to another app.
        StoreTooNew: A newer release wrote it, and this one can't serve that.
        StoreUnavailable: The schema `awakeables` is of another program.
    """
    # In this order: another process may create both between the two queries.
    if not await connection.fetchval(QUERIES["has_schema"]):
        return Meta(None, 0, 0)
    if not await connection.fetchval(QUERIES["has_meta"]):
        raise StoreUnavailable(
            f"{where}: the schema `awakeables` is of another program; choose another database"
        )
    row = await connection.fetchrow(QUERIES["meta"])
    if row is None:
        raise StoreUnavailable(f"{where}: awakeables.meta is empty; restore it from a backup")
    meta, newest = Meta(*row), len(migrations())
    if meta.served_from > newest:
        raise StoreTooNew(
            f"{where} has schema version {meta.version}, this release knows up to {newest}:"
            " install the release that wrote it, or a newer one"
        )
    if app and meta.app is not None and meta.app != app:
        raise StoreOfAnotherApp(
            f"{where} is the store of the app {meta.app!r}, not of {app!r}: give this one a database of"
            " its own with --store or AWAKEABLES_STORE, or, if it was renamed, see docs/operations.md"
        )
    return meta
