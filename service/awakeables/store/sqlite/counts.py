"""Counts of rows, for tables that can have millions.

SQLite counts by visiting each entry of an index: a million pending awakeables take 80 ms. So rows are
counted once, when the file is opened, and each commit then adds its changes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from awakeables.core.invocations import STATUSES
from awakeables.store.sqlite.queries import QUERIES

PENDING = "awakeables_pending"
UNSENT = "effects_unsent"
FAILED = "effects_failed"
LETTERS = "dead_letters"
"""The names of counts other than invocations' statuses."""

OPEN: tuple[str, ...] = tuple(status for status in STATUSES if status != "completed")


def count_rows(connection: sqlite3.Connection) -> dict[str, int]:
    """Count the rows by kind, invocations by status; by indexes alone except for those with a due time.

    An open invocation without owner or due time that is neither paused nor queued is suspended. Ended ones
    are not counted.
    """
    unsent, failed, letters, pending, unended, running, paused, queued = connection.execute(
        QUERIES["count_rows"]
    ).fetchone()
    rows: dict[str, int] = dict.fromkeys(STATUSES, 0)
    rows |= {"running": running, "paused": paused, "queued": queued}
    rows |= dict(connection.execute(QUERIES["count_due"]).fetchall())
    rows["suspended"] = unended - sum(rows[status] for status in OPEN if status != "suspended")
    return rows | {UNSENT: unsent, FAILED: failed, LETTERS: letters, PENDING: pending}


def as_counts(rows: Mapping[str, int]) -> dict[str, int]:
    """The counts in the form of `Inspection.counts`."""
    by_status = {f"invocations_{status}": rows[status] for status in OPEN}
    counted = {name: rows[name] for name in (PENDING, UNSENT, FAILED, LETTERS)}
    return counted | {"invocations_open": sum(by_status.values())} | by_status
