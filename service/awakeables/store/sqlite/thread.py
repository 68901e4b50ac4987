"""A thread with its own connection, which runs one piece of work at a time, in order."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

from awakeables.errors import StoreRefused, StoreUnavailable

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Job: TypeAlias = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]
"""Where the result goes, what to call, and its arguments."""


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


class SqliteThread:
    """Runs work on its connection.

    The thread finishes what it has started, even if nobody waits for it any more; what is cancelled
    before is skipped. It does not keep the process alive: a store that is not closed is like one whose
    process was killed.
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
        self._jobs: SimpleQueue[Job | Future[None]] | None = None
        self._connection: sqlite3.Connection | None = None

    async def start(self) -> None:
        """Start the thread and connect."""
        if self._jobs is None:
            jobs = self._jobs = SimpleQueue[Job | Future[None]]()
            opened = asyncio.get_running_loop().create_future()
            jobs.put((opened, self._open, ()))
            Thread(target=self._serve, args=(jobs,), name=f"sqlite-{self._kind}", daemon=True).start()
            await opened

    def run(self, work: Callable[[sqlite3.Connection, *Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run work in the thread, after all work that was submitted before.

        Raises:
            StoreUnavailable: The store is not open; the future has any other error.
        """
        if self._jobs is None or self._connection is None:
            raise StoreUnavailable(f"{self._path} is not open")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, work, (self._connection, *args)))
        return future

    def stop(self) -> Future[None]:
        """Accept no more work; finish what was submitted, disconnect, end the thread."""
        jobs, self._jobs = self._jobs, None
        stopped: Future[None] = Future()
        if jobs is None:
            stopped.set_result(None)
        else:
            jobs.put(stopped)
        return stopped

    def _serve(self, jobs: SimpleQueue[Job | Future[None]]) -> None:
        """The thread: run jobs until `stop` sends the future to resolve once the thread is done."""
        while isinstance(job := jobs.get(), tuple):
            future, work, args = job
            if future.cancelled():
                continue
            result, error = None, None
            try:
                result = work(*args)
            except BaseException as raised:
                error = translated(raised, self._path)
            try:  # noqa: SIM105 - `suppress` is three calls, for each commit
                future.get_loop().call_soon_threadsafe(_resolve, future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits
                pass
            # The next job may come much later: keep no reply until then, and no error's traceback.
            del job, future, work, args, result, error
        try:
            self._close()
        except BaseException as raised:
            job.set_exception(translated(raised, self._path))
        else:
            job.set_result(None)

    def _open(self) -> None:
        self._connection = self._connect()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._disconnect(connection)


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Called in the loop's thread."""
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
