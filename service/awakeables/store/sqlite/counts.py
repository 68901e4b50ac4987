"""Counts of rows, for tables that can have millions.

SQLite counts by visiting each entry of an index: a million pending awakeables take 80 ms. So rows are
counted once, when the file is opened, and each commit then adds its changes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import TypeAlias

from awakeables.core.invocations import STATUSES
from awakeables.store.sqlite.queries import QUERIES

RowCounts: TypeAlias = Counter[str]
"""Numbers of rows, or changes of these numbers, by kind; invocations by status."""

PENDING = "awakeables_pending"
UNSENT = "effects_unsent"
FAILED = "effects_failed"
LETTERS = "dead_letters"
"""The names of counts other than invocations' statuses."""

OPEN: tuple[str, ...] = tuple(status for status in STATUSES if status != "completed")


def count_rows(connection: sqlite3.Connection) -> RowCounts:
    """Count the rows, by indexes alone except for invocations with a due time.

    An open invocation without owner or due time that is not paused is suspended.
    """
    unsent, failed, letters, pending, unended, running, paused = connection.execute(
        QUERIES["count_rows"]
    ).fetchone()
    rows = Counter({UNSENT: unsent, FAILED: failed, LETTERS: letters})
    rows.update({PENDING: pending, "running": running, "paused": paused})
    rows.update(dict(connection.execute(QUERIES["count_due"]).fetchall()))
    rows["suspended"] = unended - sum(rows[status] for status in OPEN if status != "suspended")
    return rows


def as_counts(rows: RowCounts) -> dict[str, int]:
    """The counts in the form of `Inspection.counts`."""
    by_status = {f"invocations_{status}": rows[status] for status in OPEN}
    counted = {name: rows[name] for name in (PENDING, UNSENT, FAILED, LETTERS)}
    return counted | {"invocations_open": sum(by_status.values())} | by_status
