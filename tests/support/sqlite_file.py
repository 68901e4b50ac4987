"""A file of an empty SQLite store, migrated once per process of a run and copied from then on."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from pathlib import Path

from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import migrate


def empty_store(folder: Path) -> Path:
    """Put the file of a store with our tables and no rows into a folder, and return its path."""
    path = folder / "shop.db"
    path.touch(mode=0o600)
    path.write_bytes(_migrated())
    return path


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "empty.db")
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(QUERIES["writer"])
        migrate(connection, path)
        connection.close()
        return path.read_bytes()
