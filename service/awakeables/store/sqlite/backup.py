"""A back-up: a copy of the file, whole, made while a service writes to it or while none does."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from awakeables.errors import OperatorError
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import check_file, name_of, schema_version
from awakeables.store.sqlite.thread import translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A back-up that was checked.

    Attributes:
        version: The schema version of the rows.
        app: Whose store it is; None: nobody's yet.
        bytes: How long the file is.
    """

    version: int
    app: str | None
    bytes: int


def back_up(store: Path, target: Path) -> Backup:
    """Copy a store as it is at one instant; everything that was committed before is in it.

    It takes no lock that a service would wait for: one read transaction of `VACUUM INTO`, during which
    the log can't be folded into the file and grows. The copy is written under a name of its own in
    the target's folder, checked, brought to the disk and then given its name, so that a file of that
    name is always a whole back-up. Only its owner can read it.

    Raises:
        OperatorError: There is no store, or something has the target's name already, or the copy
            has not the same rows; nothing was made.
        StoreUnavailable: The store can't be read, or the target's folder can't be written.
    """
    if not store.is_file():
        raise OperatorError(f"there is no store {store} to back up")
    if target.exists() or target.is_symlink():
        raise _there_already(target)
    if not target.parent.is_dir():
        raise OperatorError(f"the folder {target.parent} of the back-up is not there: make it")
    with translated(target):
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        unfinished = Path(name)
        try:
            with closing(_connected(store, "mode=rw")) as connection:
                with translated(store):
                    check_file(connection, store)
                connection.execute(QUERIES["back_up"], (str(unfinished),))
                copy = _checked(unfinished, store, name_of(connection))
            os.fsync(descriptor)
            _name(unfinished, target)
        finally:
            os.close(descriptor)
            unfinished.unlink(missing_ok=True)
        _sync_folder(target.parent)
    return copy


def _checked(copy: Path, store: Path, app: str | None) -> Backup:
    """Check a copy that has a temporary name.

    Raises:
        OperatorError: It is damaged, as the store may be.
    """
    with closing(_connected(copy, "immutable=1")) as connection:
        check_file(connection, copy, app or "")
        (told,) = connection.execute(QUERIES["quick_check"]).fetchone()
        if told != "ok":
            raise OperatorError(f"the copy of {store} is damaged, and so may be {store}: {told}")
        return Backup(version=schema_version(connection), app=app, bytes=copy.stat().st_size)


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)


def _name(unfinished: Path, target: Path) -> None:
    """Give a file its name; a file that got that name meanwhile is not replaced."""
    try:
        target.hardlink_to(unfinished)
    except FileExistsError:
        raise _there_already(target) from None
    except OSError:
        # A file system without hard links: a rename would replace what has the name.
        if target.exists():
            raise _there_already(target) from None
        unfinished.rename(target)


def _there_already(target: Path) -> OperatorError:
    return OperatorError(f"{target} is there already, and a back-up replaces nothing: choose another name")


def _sync_folder(folder: Path) -> None:
    """Without it a power cut may take the name away, though not what was written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
