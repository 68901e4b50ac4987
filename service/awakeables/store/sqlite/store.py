"""The embedded store: one SQLite file, one process, three threads.

The writer makes one commit at a time. The engine's reads have their own thread, and lists another, so
that people who list rows never make the engine wait. Readers have their own connections and see only
committed rows; in WAL mode they don't wait for the writer.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

from awakeables.core.awakeables import AwakeableRow, AwakeableState
from awakeables.core.commands import Command, Ended
from awakeables.core.deadletters import DeadLetter
from awakeables.core.effects import Effect, EffectState, QueuedEffect
from awakeables.core.instances import PartitionRead
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Entry
from awakeables.core.objects import ObjectKey, ObjectRow, StateEntry
from awakeables.core.outcomes import Outcome
from awakeables.core.pauses import PauseRow
from awakeables.core.replies import Position, Reply
from awakeables.core.schedules import ListedSchedule
from awakeables.core.versions import OpenInvocations
from awakeables.errors import StoreRefused, StoreUnavailable
from awakeables.ports import ANY_INVOCATION, Clock, Expectation, InvocationFilter, Page, PayloadCodec
from awakeables.store.membership import LocalHints, LocalMembership, LocalWatermark
from awakeables.store.sealing import Sealing
from awakeables.store.sqlite import reading
from awakeables.store.sqlite.connection import FileConnection, connected
from awakeables.store.sqlite.counts import as_counts, count_rows
from awakeables.store.sqlite.errors import translated
from awakeables.store.sqlite.group import Group, RowCache, StaleRows
from awakeables.store.sqlite.lock import FileLock, lock_file_of
from awakeables.store.sqlite.queries import QUERIES
from awakeables.store.sqlite.schema import check_keys, migrate

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Job: TypeAlias = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]
"""Where the result goes, what to call, and its arguments."""


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
        connect: Callable[[], FileConnection],
        disconnect: Callable[[FileConnection], None] = FileConnection.close,
    ) -> None:
        """Does not connect or start the thread yet; both callables are called in the thread."""
        self._path = path
        self._kind = kind
        self._connect = connect
        self._disconnect = disconnect
        self._jobs: SimpleQueue[Job | Future[None]] | None = None
        self._connection: FileConnection | None = None

    async def start(self) -> None:
        """Start the thread and connect."""
        if self._jobs is None:
            jobs = self._jobs = SimpleQueue[Job | Future[None]]()
            opened = asyncio.get_running_loop().create_future()
            jobs.put((opened, self._open, ()))
            Thread(target=self._serve, args=(jobs,), name=f"sqlite-{self._kind}", daemon=True).start()
            await opened

    def run(self, work: Callable[[FileConnection, *Ts], T], *args: *Ts) -> asyncio.Future[T]:
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


class SqliteStore:
    """`ports.Store` in one file; a commit that changes nothing does not touch the disk."""

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Clock,
        retention_ms: int,
        app: str = "",
        codec: PayloadCodec | None = None,
    ) -> None:
        """Does not touch the file yet.

        Args:
            path: The database; `open` creates it, its directory must exist.
            clock: Read once in each transaction.
            retention_ms: An awakeable without a row whose ID is older than this was purged.
            app: The app that the store belongs to; empty: any, and the file gets no name.
            codec: Seals values at rest; None: they are stored as they are.
        """
        self._path = Path(path)
        self._file_name = str(path)
        self._clock = clock
        self._retention_ms = retention_ms
        self._app = app
        self._sealing = Sealing(codec)
        self._lock = FileLock(lock_file_of(self._path))
        self._writer = SqliteThread(self._path, "writer", connect=self._connect, disconnect=self._disconnect)
        self._reader = SqliteThread(self._path, "reader", connect=self._connect_reader)
        self._lister = SqliteThread(self._path, "lister", connect=self._connect_reader)
        self._known = RowCache(retention_ms)
        self.membership = LocalMembership(clock, shared=False)
        self.hints = LocalHints()
        self._watermark = LocalWatermark(clock)
        self._counts: Mapping[str, int] = {}
        self._doubtful = False
        self._file: tuple[int, int] | None = None

    # Opening and closing.

    async def open(self) -> None:
        """As the port says; a missing directory or a file that is not a database is `StoreUnavailable`."""
        try:
            await self._writer.start()
            await self._reader.start()
            await self._lister.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what has started, checkpoint the log (WAL), release the lock."""
        await asyncio.shield(asyncio.wrap_future(self._writer.stop()))

    def _connect(self) -> FileConnection:
        self._known = RowCache(self._retention_ms)
        folder = self._path.parent
        if not folder.is_dir():
            raise StoreUnavailable(
                f"the directory {folder} of the database {self._path.name} does not exist: create it"
            )
        if self._path.is_dir():
            raise StoreUnavailable(f"{self._path} is a directory: give the path of the database's file")
        self._lock.acquire()
        try:
            _refuse_read_only(self._path)
            _make_private(self._path)
            connection = _prepared(self._path, self._app, self._sealing)
            _shut_out_others(self._path)
            self._file = _identity(self._file_name)
            self._counts = count_rows(connection)
        except BaseException:
            self._lock.release()
            raise
        return connection

    def _connect_reader(self) -> FileConnection:
        connection = connected(self._path, self._sealing)
        connection.executescript(QUERIES["reader"])
        return connection

    def _disconnect(self, connection: FileConnection) -> None:
        try:
            self._lister.stop().result()
            self._reader.stop().result()
            with suppress(sqlite3.OperationalError):  # what stays in the log, the next open reads from there
                connection.execute(QUERIES["checkpoint"])
        finally:
            connection.close()
            self._lock.release()

    # Writing.

    def commit(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        return self._writer.run(self._commit, commands)

    def _commit(self, connection: FileConnection, commands: Sequence[Command]) -> list[Reply]:
        if _identity(self._file_name) != self._file:
            raise StoreUnavailable(
                f"{self._path} was removed or replaced while it is open, and further writes would "
                "be lost: put it back, or stop this process before you restore a backup"
            )
        if self._doubtful:
            self._counts, self._doubtful = count_rows(connection), False
        try:
            try:
                group, replies = self._decide(connection, commands)
            except (StaleRows, sqlite3.IntegrityError):
                # A cached row was stale, or a row that should be new exists: start with an empty cache.
                self._forget(connection)
                group, replies = self._decide(connection, commands, one_by_one=True)
            if group.wrote:
                self._doubtful = True
                connection.execute(QUERIES["commit"])
            else:
                connection.execute(QUERIES["roll_back"])
            group.close()
            if group.wrote:
                self._note(group.counts)
        except BaseException as error:
            self._forget(connection)
            if isinstance(error, StaleRows):
                raise StoreRefused(
                    f"{self._path}: {error} does not find the rows that were just read"
                ) from error
            raise
        return replies

    def _decide(
        self, connection: FileConnection, commands: Sequence[Command], *, one_by_one: bool = False
    ) -> tuple[Group, list[Reply]]:
        connection.execute(QUERIES["begin"])
        group = Group(connection, self._known, self._clock.now_ms(), self.membership.living)
        return group, group.decide_one_by_one(commands) if one_by_one else group.decide(commands)

    def _forget(self, connection: FileConnection) -> None:
        """Roll back and drop the cache: the transaction failed, or its outcome is unknown."""
        self._known = RowCache(self._retention_ms)
        connection.due.forget()
        if connection.in_transaction:
            connection.execute(QUERIES["roll_back"])

    def _note(self, changes: Mapping[str, int]) -> None:
        """Replace the counts, so that readers only see those after complete commits."""
        counts = dict(self._counts)
        for kind, change in changes.items():
            counts[kind] += change
        self._counts, self._doubtful = counts, False

    # Reading, for the engine.

    async def history(self, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
        return await self._reader.run(reading.history, invocation_ids)

    async def outcomes(self, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        return await self._reader.run(reading.outcomes, awakeable_ids)

    async def held_by(self, owner: str) -> list[str]:
        return await self._reader.run(reading.held_by, owner)

    async def ends(self, invocation_ids: Sequence[str]) -> dict[str, Outcome | None]:
        return await self._reader.run(reading.ends, invocation_ids)

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        return await self._reader.run(reading.expectations, awakeable_ids)

    async def effects(self, owner: str, limit: int) -> list[Effect]:
        return await self._reader.run(reading.effects, owner, limit)

    async def ended(self, before_ms: int, limit: int) -> list[Ended]:
        return await self._lister.run(reading.ended, before_ms, limit)

    async def awakeables_of(self, invocation_ids: Sequence[str]) -> dict[str, list[str]]:
        return await self._lister.run(reading.awakeables_of, invocation_ids)

    async def read_up_to(
        self, topic: str, partitions: int, mine: Sequence[PartitionRead], *, topic_id: str | None = None
    ) -> int | None:
        return self._watermark.note(topic, partitions, mine, await self.positions(topic), topic_id)

    async def positions(self, topic: str, subscription: str = "") -> list[Position]:
        return await self._reader.run(reading.positions, topic, subscription)

    async def subscribed(self) -> list[tuple[str, str]]:
        return await self._reader.run(reading.subscribed)

    async def pauses(self) -> list[PauseRow]:
        return await self._reader.run(reading.pauses)

    async def schedules(self) -> list[ListedSchedule]:
        return await self._reader.run(reading.schedules)

    async def count_open(self, subscription: str, most: int) -> int:
        return await self._reader.run(reading.count_open, subscription, most)

    async def invocation(self, invocation_id: str) -> Invocation | None:
        return await self._reader.run(reading.invocation, invocation_id)

    async def idempotency_key(self, invocation_id: str) -> str | None:
        return await self._reader.run(reading.idempotency_key, invocation_id)

    async def state(self, object_key: ObjectKey, name: str) -> bytes | None:
        return await self._reader.run(reading.state, object_key, name)

    async def state_names(self, object_key: ObjectKey) -> list[str]:
        return await self._reader.run(reading.state_names, object_key)

    async def queue(self, object_key: ObjectKey) -> ObjectRow | None:
        return await self._reader.run(reading.queue, object_key)

    async def waits_of(self, invocation_id: str, limit: int) -> list[AwakeableRow]:
        return await self._reader.run(reading.waits_of, invocation_id, limit)

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None:
        return await self._reader.run(reading.awakeable, awakeable_id)

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        return await self._reader.run(reading.dead_letter, dead_letter_id)

    async def queued_effect(self, event_id: str) -> QueuedEffect | None:
        return await self._reader.run(reading.queued_effect, event_id)

    # Lists.

    async def invocations(self, page: Page, which: InvocationFilter = ANY_INVOCATION) -> list[Invocation]:
        return await self._lister.run(reading.invocations, page, which)

    async def open_by_versions(self) -> list[OpenInvocations]:
        return await self._lister.run(reading.open_by_versions)

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
        return await self._lister.run(reading.journal, invocation_id, most_bytes)

    async def keyed(self, scopes: Sequence[str], key: str) -> list[Invocation]:
        return await self._lister.run(reading.keyed, scopes, key)

    async def queues(self, service: str, limit: int, after: bytes = b"") -> list[ObjectRow]:
        return await self._lister.run(reading.queues, service, limit, after)

    async def in_line(self, object_key: ObjectKey, limit: int) -> list[Invocation]:
        return await self._lister.run(reading.in_line, object_key, limit)

    async def states(self, object_key: ObjectKey, limit: int, after: str = "") -> list[StateEntry]:
        return await self._lister.run(reading.states, object_key, limit, after)

    async def keys_with_state(self, service: str, limit: int, after: bytes = b"") -> list[bytes]:
        return await self._lister.run(reading.keys_with_state, service, limit, after)

    async def awakeables(self, page: Page, *, state: AwakeableState | None = None) -> list[AwakeableRow]:
        return await self._lister.run(reading.awakeables, page, state)

    async def dead_letters(self, page: Page) -> list[DeadLetter]:
        return await self._lister.run(reading.dead_letters, page)

    async def queued_effects(self, page: Page, *, state: EffectState) -> list[QueuedEffect]:
        return await self._lister.run(reading.queued_effects, page, state)

    async def counts(self) -> Mapping[str, int]:
        oldest = await self._reader.run(reading.oldest)
        return as_counts(self._counts) | oldest


def _refuse_read_only(path: Path) -> None:
    """Refuse a read-only file: SQLite would open it for reading, and fail at the first commit."""
    for file in (path, *_beside(path)):
        if file.exists() and not os.access(file, os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, "it is read-only", str(file))


def _identity(path: str) -> tuple[int, int] | None:
    """The identity of the file that has this name now; None: there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _make_private(path: Path) -> None:
    """Create the file if it is missing, readable by its owner only: inputs and answers may be secret.

    SQLite gives the -wal and -shm files the same mode.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _shut_out_others(path: Path) -> None:
    """Remove the access of others from files that an earlier release created.

    The group's access is left as it is: it may be wanted for backups.
    """
    for file in (path, *_beside(path), lock_file_of(path)):
        with suppress(FileNotFoundError, PermissionError):
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & stat.S_IRWXO:
                file.chmod(mode & ~stat.S_IRWXO)


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _prepared(path: Path, app: str, sealing: Sealing) -> FileConnection:
    connection = connected(path, sealing)
    try:
        connection.executescript(QUERIES["writer"])
        migrate(connection, path, app)
        check_keys(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Called in the loop's thread."""
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
