"""A connection to the file, with what seals and opens the values that pass over it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from awakeables.store.sealing import Sealing


class Connection(sqlite3.Connection):
    """A connection.

    Attributes:
        sealing: Seals what is written, and opens what is read.
    """

    sealing = Sealing()


def connected(target: Path | str, sealing: Sealing, *, uri: bool = False) -> Connection:
    """Connect to a file, or a URI, in no transaction."""
    connection: Connection = sqlite3.connect(target, isolation_level=None, factory=Connection, uri=uri)
    connection.sealing = sealing
    return connection
