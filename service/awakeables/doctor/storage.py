"""Checks that the store is intact and has room to grow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from awakeables.doctor.findings import Finding
from awakeables.errors import OperatorError
from awakeables.extras import extra
from awakeables.ports import Clock, PayloadCodec
from awakeables.store.sqlite.checkup import StoreCondition, inspect_store
from awakeables.store.urls import shown_store
from awakeables.store.usage import CodeUsage

LEAST_FREE_BYTES = 1 << 30
LEAST_FREE_SHARE = 0.05
"""A write-ahead log that outgrows its checkpoint, or a VACUUM, needs space at once."""

PATIENCE_S = 60.0
"""How long to scan the file for damage; enough for about ten gigabytes."""


def examine_store(
    path: Path, *, clock: Clock, app: str = "", codec: PayloadCodec | None = None
) -> tuple[Finding, StoreCondition | None]:
    """Check the file without changing it; also return its condition if it exists.

    Args:
        path: The database file.
        clock: This machine's clock.
        app: The app that the store must belong to; empty for any.
        codec: The app's.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        return Finding("store", "FAULT", f"the folder {folder} does not exist: create it"), None
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("store", "FAULT", f"this user can't write to the folder {folder}"), None
    if not path.exists():
        return Finding("store", "warn", f"{path} does not exist yet; the first start creates it"), None
    if path.is_dir():
        return Finding("store", "FAULT", f"{path} is a folder: name a database file in it"), None
    if not os.access(path, os.W_OK):
        return Finding("store", "FAULT", f"this user can't write to {path}"), None
    condition = inspect_store(path, monotonic=clock.monotonic, patience_s=PATIENCE_S, app=app, codec=codec)
    return _finding(path, condition), condition


def _finding(path: Path, condition: StoreCondition) -> Finding:
    if condition.problem is not None:
        return Finding("store", "FAULT", condition.problem)
    text = f"{path}: schema {condition.version} of {condition.newest_version}"
    if condition.version < condition.newest_version:
        text += ", the next start migrates it (back it up first)"
    if condition.holder is not None:
        return Finding("store", "ok", f"{text}, open in process {condition.holder}, not checked for damage")
    if not condition.read_through:
        return Finding("store", "warn", f"{text}, not fully checked for damage within {PATIENCE_S:.0f} s")
    return Finding("store", "ok", f"{text}, not open, no damage found")


def examine_disk(path: Path) -> Finding:
    """Check the free space on the store's file system."""
    folder = path.absolute().parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return Finding("disk", "FAULT", f"{folder}: {error.strerror}")
    share = usage.free / usage.total if usage.total else 0.0
    text = f"{usage.free / (1 << 30):.1f} GiB free at {folder} ({share:.0%})"
    if usage.free < LEAST_FREE_BYTES or share < LEAST_FREE_SHARE:
        return Finding("disk", "FAULT", f"{text}: free some space, a full disk stops every commit")
    return Finding("disk", "ok", text)


async def examine_database(
    url: str, app: str = "", codec: PayloadCodec | None = None
) -> tuple[Finding, CodeUsage | None]:
    """Check a database without changing it; also return what its rows need of the code, if that is known."""
    try:
        with extra("postgres", "a store in PostgreSQL needs"):
            from awakeables.store.postgres.checkup import inspect_database
        condition = await inspect_database(url, app, codec)
    except OperatorError as error:
        return Finding("store", "FAULT", str(error)), None
    text = (
        f"{shown_store(url)}: PostgreSQL {condition.server}, schema {condition.version} of {condition.newest}"
    )
    if condition.version < condition.newest:
        text += ", the next start migrates it (back it up first)"
    if condition.risks:
        return Finding("store", "warn", f"{text}; {'; '.join(condition.risks)}"), condition.usage
    return Finding("store", "ok", text), condition.usage
