"""How many rows there are of the kinds that there can be millions of.

SQLite counts by visiting each entry of an index: a million pending awakeables are 80 ms. So they
are counted once, when the file is opened, and from then on each commit says what it has changed.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import TypeAlias

from awakeables.core.invocations import STATUSES
from awakeables.store.sqlite.queries import QUERIES

RowCounts: TypeAlias = Counter[str]
"""Rows, or changes of their number, by what they are; invocations by their status."""

PENDING = "awakeables_pending"
UNSENT = "effects_unsent"
FAILED = "effects_failed"
LETTERS = "dead_letters"
"""The names beside those of the statuses."""

OPEN: tuple[str, ...] = tuple(status for status in STATUSES if status != "completed")


def count_rows(connection: sqlite3.Connection) -> RowCounts:
    """Count, by indexes alone but for the rows that are due at some time.

    Whatever is open and neither has an owner nor is due nor paused, is suspended.
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
    """As `Inspection.counts` has them."""
    by_status = {f"invocations_{status}": rows[status] for status in OPEN}
    counted = {name: rows[name] for name in (PENDING, UNSENT, FAILED, LETTERS)}
    return counted | {"invocations_open": sum(by_status.values())} | by_status
