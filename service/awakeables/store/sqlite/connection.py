"""A connection to the file, with what seals and opens the values that pass over it."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from awakeables.store.floors import Floor
from awakeables.store.sealing import Sealing


class FileConnection(sqlite3.Connection):
    """A connection.

    Attributes:
        sealing: Seals what is written, and opens what is read.
        due: Where claims begin to search while they leave handlers alone.
    """

    sealing = Sealing()
    due: Floor


def connected(target: Path | str, sealing: Sealing, *, uri: bool = False) -> FileConnection:
    """Connect to a file, or a URI, in no transaction."""
    connection: FileConnection = sqlite3.connect(
        target, isolation_level=None, factory=FileConnection, uri=uri
    )
    connection.sealing = sealing
    connection.due = Floor(time.monotonic)
    return connection
