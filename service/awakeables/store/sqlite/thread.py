"""A thread with its own connection, which runs one piece of work at a time, in order."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from awakeables.errors import StoreRefused, StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate the driver's errors into those that the ports promise."""
    try:
        yield
    except (
        sqlite3.IntegrityError,
        sqlite3.DataError,
        sqlite3.InterfaceError,
        sqlite3.ProgrammingError,
        OverflowError,
        UnicodeEncodeError,
    ) as error:
        raise StoreRefused(f"{path} can't hold this data: {error}") from error
    except (sqlite3.Error, OSError) as error:
        name = _name_of(error)
        raise StoreUnavailable(f"{path}: {error} ({name}){_advice(name)}") from error


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


class SqliteThread:
    """Runs work on its connection.

    Cancelling a wait does not stop the work: the thread finishes what it has started.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        *,
        connect: Callable[[], sqlite3.Connection],
        disconnect: Callable[[sqlite3.Connection], None] = sqlite3.Connection.close,
    ) -> None:
        """Does not connect or start the thread yet; both callables are called in the thread."""
        self._path = path
        self._kind = kind
        self._connect = connect
        self._disconnect = disconnect
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def start(self) -> None:
        """Start the thread and connect."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-{self._kind}")
            await self._wait(self._thread.submit(self._open))

    async def run(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run work in the thread, after all work that was submitted before."""

        def on_connection() -> T:
            if self._connection is None:
                raise StoreUnavailable(f"{self._path} is not open")
            with translated(self._path):
                return work(self._connection, *args, **kwargs)

        if self._thread is None:
            raise StoreUnavailable(f"{self._path} is not open")
        return await self._wait(self._thread.submit(on_connection))

    def stop(self) -> Future[None]:
        """Accept no more work; finish what was submitted, disconnect, end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            stopped: Future[None] = Future()
            stopped.set_result(None)
            return stopped
        stopped = thread.submit(self._close)
        thread.shutdown(wait=False)
        return stopped

    def _open(self) -> None:
        with translated(self._path):
            self._connection = self._connect()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with translated(self._path):
                self._disconnect(connection)

    async def _wait(self, future: Future[T]) -> T:
        return await asyncio.wrap_future(future)
