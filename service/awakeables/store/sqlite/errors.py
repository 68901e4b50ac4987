"""The errors that the ports promise in place of the driver's."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from awakeables.errors import StoreRefused, StoreUnavailable


def translated(error: BaseException, path: Path) -> BaseException:
    """The error that the ports promise in place of the driver's; any other error is left as it is."""
    match error:
        case (
            sqlite3.IntegrityError()
            | sqlite3.DataError()
            | sqlite3.InterfaceError()
            | sqlite3.ProgrammingError()
            | OverflowError()
            | UnicodeEncodeError()
        ):
            promised: Exception = StoreRefused(f"{path} can't hold this data: {error}")
        case sqlite3.Error() | OSError():
            name = _name_of(error)
            promised = StoreUnavailable(f"{path}: {error} ({name}){_advice(name)}")
        case _:
            return error
    promised.__cause__ = error
    return promised


def _name_of(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return getattr(error, "sqlite_errorname", type(error).__name__)


def _advice(name: str) -> str:
    if name in {"EACCES", "EPERM", "EROFS"} or name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return "; this process must be able to write the file, its .lock and its directory"
    if name in {"ENOSPC", "EDQUOT", "SQLITE_FULL"}:
        return "; free some space, and waiting work continues by itself"
    return ""
