"""Ensures one process per database, with a lock file next to it that is held while the store is open."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from awakeables.errors import StoreLocked
from awakeables.forks import close_in_children


def lock_file_of(database: Path) -> Path:
    """The path of a database's lock file."""
    return database.parent / f"{database.name}.lock"


def holder_of(path: Path) -> str | None:
    """The process that holds a lock; None: no process does.

    Raises:
        OSError: The lock file is there but can't be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # A shared lock, released at once: looking must not keep a service from starting.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _name_in(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _name_in(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"


class FileLock:
    """An advisory lock that is released when its process dies, in any way, even if its children live on.

    The file is never removed: if it were unlinked and created again, two processes could each hold a
    lock on a file of this name. Its content, the holder's process ID, is for people.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StoreLocked: Another store holds it; the message names the file and the process.
            OSError: The file can't be created.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _name_in(descriptor)
            os.close(descriptor)
            raise StoreLocked(
                f"{self._path} is held by process {holder}: only one process can open the store, so "
                "stop that one first"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        close_in_children(self, FileLock.release)

    def release(self) -> None:
        """Release the lock; no effect if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
