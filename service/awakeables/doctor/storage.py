"""Is the store in order, and is there room for it to grow?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from awakeables.doctor.findings import Finding
from awakeables.ports import Clock
from awakeables.store.sqlite.checkup import StoreCondition, inspect_store

LEAST_FREE_BYTES = 1 << 30
LEAST_FREE_SHARE = 0.05
"""A log that outgrows its checkpoint, or a VACUUM, wants room at once."""

PATIENCE_S = 60.0
"""How long a file is read through to look for damage; some ten gigabytes."""


def examine_store(path: Path, *, clock: Clock, app: str = "") -> tuple[Finding, StoreCondition | None]:
    """On the file, without changing it; and its condition if there is a file.

    Args:
        path: The database.
        clock: This machine's.
        app: Whose it must be, if it has a name; empty: anybody's.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        return Finding("store", "FAULT", f"the folder {folder} is not there: make it"), None
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("store", "FAULT", f"the folder {folder} can't be written by this user"), None
    if not path.exists():
        return Finding("store", "warn", f"there is no {path} yet; the first start makes it"), None
    if path.is_dir():
        return Finding("store", "FAULT", f"{path} is a folder: name the database's file in it"), None
    if not os.access(path, os.W_OK):
        return Finding("store", "FAULT", f"{path} can't be written by this user"), None
    condition = inspect_store(path, monotonic=clock.monotonic, patience_s=PATIENCE_S, app=app)
    return _told(path, condition), condition


def _told(path: Path, condition: StoreCondition) -> Finding:
    if condition.problem is not None:
        return Finding("store", "FAULT", condition.problem)
    text = f"{path}: schema {condition.version} of {condition.newest_version}"
    if condition.version < condition.newest_version:
        text += ", the next start migrates it (back it up first)"
    if condition.holder is not None:
        return Finding("store", "ok", f"{text}, held by process {condition.holder}, not checked for damage")
    if not condition.read_through:
        return Finding("store", "warn", f"{text}, not read through within {PATIENCE_S:.0f} s")
    return Finding("store", "ok", f"{text}, held by nobody, no damage found")


def examine_disk(path: Path) -> Finding:
    """On the space that is left where the store is."""
    folder = path.absolute().parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Finding("disk", "FAULT", f"{folder}: {error.strerror}")
    share = usage.free / usage.total if usage.total else 0.0
    text = f"{usage.free / (1 << 30):.1f} GiB free at {folder} ({share:.0%})"
    if usage.free < LEAST_FREE_BYTES or share < LEAST_FREE_SHARE:
        return Finding("disk", "FAULT", f"{text}: make room, a full disk stops every commit")
    return Finding("disk", "ok", text)
