"""Connections to PostgreSQL: each runs one piece of work at a time, and is replaced after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
import structlog

from awakeables.errors import StoreUnavailable
from awakeables.store.postgres.errors import breaks_connection, is_lost, translated
from awakeables.store.postgres.queries import QUERIES
from awakeables.store.sealing import Sealing
from awakeables.store.urls import shown_store
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")


class Connection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection.

    Attributes:
        sealing: Seals what is written, and opens what is read.
    """

    sealing = Sealing()


CONNECT_S: Final = 5.0
COMMAND_S: Final = 10.0
"""Above `statement_timeout`, so that the client gives up only a server that does not respond at all."""

_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
"""Seconds and tries, and the last in milliseconds: a connection that is cut silently is noticed."""


class Database:
    """The database to connect to.

    Attributes:
        where: The URL for messages, without its password.
        pooled: Whether a pooler such as pgbouncer is in between, so that each transaction may run in another
            session of the server: nothing may be prepared, set or listened for. None: not known yet.
        lost: How many connections were lost. After a failover the server of before may go on, and still
            answer those who only read: so once one connection is lost, all others are made again. One that
            can't be made is not lost: the others may be all that there are.
    """

    def __init__(self, url: str, sealing: Sealing | None = None) -> None:
        """Do not connect yet.

        Args:
            url: `postgresql://user:password@host:port/database`.
            sealing: Seals and opens values; None: they are stored as they are.
        """
        self._url = url
        self._sealing = Sealing() if sealing is None else sealing
        self.where = shown_store(url)
        self.pooled: bool | None = None
        self.lost = 0

    async def connect(self, setup: str) -> Connection:
        """A new connection to a server that takes writes, set up by the query of this name.

        The first one finds out whether there is a pooler, and is never one that prepares statements.
        """
        plain = self.pooled is not False
        connection: Connection = await asyncpg.connect(
            self._url,
            timeout=CONNECT_S,
            command_timeout=COMMAND_S,
            max_cached_statement_lifetime=0,
            target_session_attrs="read-write",
            connection_class=Connection,
            **({"statement_cache_size": 0} if plain else {}),
        )
        connection.sealing = self._sealing
        try:
            _keep_alive(connection)
            if self.pooled is None:
                # A pooler invents the process number that it gives a client at first.
                at_work: int = await connection.fetchval(QUERIES["process"])
                self.pooled = at_work != connection.get_server_pid()
                if self.pooled:
                    log.warning(events.POOLER_FOUND, store=self.where)
            if not self.pooled:
                await connection.execute(QUERIES[setup])
        except BaseException:
            connection.terminate()
            raise
        return connection


@contextlib.asynccontextmanager
async def transaction(connection: Connection, limits: str = "") -> AsyncIterator[None]:
    """Run the block in a transaction.

    Args:
        connection: In no transaction.
        limits: The name of the query that limits how long it may wait and idle; empty: its session does.
    """
    async with connection.transaction():
        if limits:
            await connection.execute(QUERIES[limits])
        yield


class Session:
    """One connection to the database, made when it is first used."""

    def __init__(self, database: Database, setup: str) -> None:
        """Do not connect yet.

        Args:
            database: Where to.
            setup: The name of the query that sets a connection up.
        """
        self._database = database
        self._where = database.where
        self._setup = setup
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._lost_before = 0  # the connection was made
        self._jobs: set[asyncio.Task[Any]] = set()
        self._is_open = False

    async def open(self) -> None:
        """Connect, and accept work."""
        self._is_open = True
        await self.run(_nothing)

    async def close(self) -> None:
        """Accept no more work; finish what was submitted, then disconnect."""
        self._is_open = False
        if self._jobs:
            await asyncio.wait(set(self._jobs))
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.close(timeout=CONNECT_S)

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run work on the connection, after all work that was submitted before.

        It is finished even if nobody waits for it any more.

        Raises:
            StoreUnavailable: The store is not open or out of reach.
            StoreRefused: It can't hold the data.
        """
        if not self._is_open:
            raise StoreUnavailable(f"{self._where} is not open")
        job = asyncio.create_task(self._run(work))
        self._jobs.add(job)
        job.add_done_callback(self._done)
        return await asyncio.shield(job)

    def _done(self, job: asyncio.Task[Any]) -> None:
        self._jobs.discard(job)
        if not job.cancelled():
            job.exception()  # marked as retrieved: its waiter may have left

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._turn:
            try:
                return await work(await self._connected())
            except BaseException as error:
                if breaks_connection(error):
                    self._database.lost += self._connection is not None and is_lost(error)
                    self._drop()
                promised = translated(error, self._where)
                if promised is error:
                    raise
                raise promised from error

    async def _connected(self) -> Connection:
        connection, lost = self._connection, self._database.lost
        if connection is not None and not connection.is_closed() and self._lost_before == lost:
            return connection
        self._drop()
        self._connection, self._lost_before = await self._database.connect(self._setup), lost
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _nothing(_connection: Connection) -> None:
    """Connecting was the work."""


def _keep_alive(connection: Connection) -> None:
    """Ask the operating system to notice a dead peer; asyncpg has no setting for it."""
    transport = getattr(connection, "_transport", None)
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
