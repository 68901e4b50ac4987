"""Migrations: numbered files, forward only, each applied in its own transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import structlog

from awakeables.errors import StoreOfAnotherApp, StoreTooNew, StoreUnavailable
from awakeables.store.queries import migrations as read_migrations
from awakeables.store.sqlite.connection import FileConnection
from awakeables.store.sqlite.queries import QUERIES
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

APPLICATION_ID = 0x61776B31
"""'awk1' in the file's header, so that another program's database is not mistaken for ours."""

NAMED_FROM = 3
"""The first schema version in which a file has the name of its app."""


def migrations() -> list[str]:
    """The texts of all migrations; the first one makes schema version 1."""
    return read_migrations(__package__)


def migrate(connection: sqlite3.Connection, path: object, app: str = "") -> None:
    """Migrate a database to the newest schema, and name it after `app` if it has no name.

    Raises:
        StoreOfAnotherApp: It belongs to another app.
        StoreTooNew: A newer release wrote it.
        StoreUnavailable: It belongs to another program.
    """
    chain = migrations()
    check_file(connection, path, app)
    for text in chain[schema_version(connection) :]:
        apply_migration(connection, text)
    if app:
        connection.execute(QUERIES["name_app"], (app,))


def check_file(connection: sqlite3.Connection, path: object, app: str = "") -> None:
    """Check that a database is empty, or ours and of a schema that this release can serve.

    Args:
        connection: A connection to the database, which is only read.
        path: The database's path, for errors.
        app: The app that it must belong to, if it has a name; empty: any.

    Raises:
        StoreOfAnotherApp: It belongs to another app.
        StoreTooNew: A newer release wrote it.
        StoreUnavailable: It belongs to another program.
    """
    newest, version = len(migrations()), schema_version(connection)
    if version == 0 and not _ask(connection, "is_empty"):
        raise StoreUnavailable(f"{path} is a database of another program; choose another path")
    if version and _ask(connection, "application_id") != APPLICATION_ID:
        raise StoreUnavailable(f"{path} is a database of another program; choose another path")
    if version > newest:
        raise StoreTooNew(
            f"{path} has schema version {version}, this release knows up to {newest}:"
            " install the release that wrote it, or a newer one"
        )
    named = name_of(connection) if app else None
    if named is not None and named != app:
        raise StoreOfAnotherApp(
            f"{path} is the store of the app {named!r}, not of {app!r}: give this one a file of"
            " its own with --store or AWAKEABLES_STORE, or, if it was renamed, see docs/operations.md"
        )


def name_of(connection: sqlite3.Connection) -> str | None:
    """The app that a store belongs to; None: none yet."""
    if schema_version(connection) < NAMED_FROM:
        return None
    named: tuple[str] | None = connection.execute(QUERIES["app_name"]).fetchone()
    return None if named is None else named[0]


def check_keys(connection: FileConnection, path: object) -> None:
    """Check that all keys by which values are sealed are there, and note the one that seals from now on.

    Raises:
        KeyMissing: One is not, or is another one.
    """
    probes = connection.execute(QUERIES["seals"]).fetchall()
    for key_id in connection.sealing.check(probes):
        log.warning(events.KEY_LOST, store=str(path), key_id=key_id)
    new = connection.sealing.probe()
    if new is not None and new[0] not in dict(probes):
        connection.execute(QUERIES["add_seal"], new)


def apply_migration(connection: sqlite3.Connection, text: str) -> None:
    """Apply one migration in a transaction; its last statement sets the version."""
    connection.execute(QUERIES["begin"])
    try:
        for statement in _statements(text):
            connection.execute(statement)
        connection.execute(QUERIES["commit"])
    except BaseException:
        if connection.in_transaction:
            connection.execute(QUERIES["roll_back"])
        raise


def schema_version(connection: sqlite3.Connection) -> int:
    return _ask(connection, "schema_version")


def _ask(connection: sqlite3.Connection, name: str) -> int:
    (answer,) = connection.execute(QUERIES[name]).fetchone()
    return int(answer)


def _statements(text: str) -> Iterator[str]:
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
