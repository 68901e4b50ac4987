"""Backups: a complete copy of the file, made while a service writes to it or not."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from awakeables.errors import OperatorError
from awakeables.store.sqlite.errors import translated
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import check_file, name_of, schema_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was checked.

    Attributes:
        version: The schema version of the rows.
        app: The app that the store belongs to; None: none yet.
        bytes: The size of the file.
    """

    version: int
    app: str | None
    bytes: int


def back_up(store: Path, target: Path) -> Backup:
    """Copy a store as of one instant, with everything that was committed before.

    No service has to wait for it: `VACUUM INTO` is one read transaction, during which the log (WAL) grows
    because it can't be checkpointed. The copy is written under a temporary name in the target's
    directory, checked, synced to disk and then renamed, so that a file of the target's name is always a
    complete backup. Only its owner can read it.

    Raises:
        OperatorError: There is no store, the target exists, or the copy is damaged; nothing was created.
        StoreUnavailable: The store can't be read, or the target's directory can't be written.
    """
    if not store.is_file():
        raise OperatorError(f"there is no store {store} to back up")
    if target.exists() or target.is_symlink():
        raise _there_already(target)
    if not target.parent.is_dir():
        raise OperatorError(f"the directory {target.parent} of the backup does not exist: create it")
    try:
        copy = _copied(store, target)
        _sync_folder(target.parent)
    except (sqlite3.Error, OSError) as error:
        raise translated(error, target) from error
    return copy


def _copied(store: Path, target: Path) -> Backup:
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    unfinished = Path(name)
    try:
        with closing(_connected(store, "mode=rw")) as connection:
            try:
                check_file(connection, store)
            except (sqlite3.Error, OSError) as error:
                raise translated(error, store) from error
            connection.execute(QUERIES["back_up"], (str(unfinished),))
            copy = _checked_backup(unfinished, store, name_of(connection))
        os.fsync(descriptor)
        _name(unfinished, target)
    finally:
        os.close(descriptor)
        unfinished.unlink(missing_ok=True)
    return copy


def _checked_backup(copy: Path, store: Path, app: str | None) -> Backup:
    """Check a copy that has a temporary name.

    Raises:
        OperatorError: It is damaged, as the store may be.
    """
    with closing(_connected(copy, "immutable=1")) as connection:
        check_file(connection, copy, app or "")
        (result,) = connection.execute(QUERIES["quick_check"]).fetchone()
        if result != "ok":
            raise OperatorError(f"the copy of {store} is damaged, and so may be {store}: {result}")
        return Backup(version=schema_version(connection), app=app, bytes=copy.stat().st_size)


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)


def _name(unfinished: Path, target: Path) -> None:
    """Rename a file without replacing one that was created with that name meanwhile."""
    try:
        target.hardlink_to(unfinished)
    except FileExistsError:
        raise _there_already(target) from None
    except OSError:
        # A file system without hard links: a rename would replace an existing file.
        if target.exists():
            raise _there_already(target) from None
        unfinished.rename(target)


def _there_already(target: Path) -> OperatorError:
    return OperatorError(f"{target} exists, and a backup never replaces a file: choose another name")


def _sync_folder(folder: Path) -> None:
    """Sync a directory: otherwise a power cut may lose the file's name, though not its content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
