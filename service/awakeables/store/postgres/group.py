"""One group of commands: load, decide, write, and again if a row has changed in between.

Commands that name their rows are decided together, on rows that are only read: the write, one statement,
fails as a whole if one of them has changed since it was loaded. So no process waits for another one that is
deciding, or was frozen while it decided. A command that searches is decided alone, in a short transaction
that locks what it has found. See docs/adr/0030-optimistic-commits-on-postgresql.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import groupby
from random import uniform
from typing import Final

import asyncpg

from awakeables.core.backoff import Backoff
from awakeables.core.commands import Command, Purge
from awakeables.core.decide.decisions import BY_KEY, BY_SEARCH, SearchDecision
from awakeables.core.decide.needs import Keys, missing, needs, needs_of_loaded
from awakeables.core.replies import Reply
from awakeables.core.rows import Changes, NotLoaded, Rows
from awakeables.errors import StoreRefused, StoreUnavailable
from awakeables.store.floors import Floors
from awakeables.store.postgres.changes import BlindChanges, with_counts
from awakeables.store.postgres.connection import Connection, transaction
from awakeables.store.postgres.errors import EXISTS, STALE, is_tried_again, sqlstate
from awakeables.store.postgres.loading import Loaded, keys_of, load, lock, merge
from awakeables.store.postgres.searching import find
from awakeables.store.postgres.writing import write

OPTIMISTIC_TRIES: Final = 5
LOCKED_TRIES: Final = 5
FIRST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.016
"""Between tries, at random down to half: a conflict lasts as long as a commit of another instance."""

PATIENCE_S: Final = 10.0
"""How long a group is tried again while rows change or are locked, before it fails."""


class OptimisticGroup:
    """Commits commands over one connection."""

    def __init__(
        self,
        connection: Connection,
        *,
        retention_ms: int,
        clock_ms: Callable[[], int] | None,
        schemas: set[str],
        floors: Floors,
        limits: str = "",
        between: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Commit over this connection.

        Args:
            connection: In no transaction.
            retention_ms: As in `Rows`.
            clock_ms: The clock to decide by; None: the database's.
            schemas: Hashes of schemas that are known to be stored.
            floors: Where searches begin.
            limits: As of `transaction`.
            between: Called with the name of the step that comes next.
        """
        self._connection = connection
        self._retention_ms = retention_ms
        self._clock_ms = clock_ms
        self._schemas = schemas
        self._floors = floors
        self._limits = limits
        self._between = between
        self._give_up_s = asyncio.get_running_loop().time() + PATIENCE_S

    async def commit(self, commands: Sequence[Command]) -> list[Reply]:
        """Commit commands in order; those between two that search or purge together."""
        replies: list[Reply] = []
        try:
            for decision, some in _parts(commands):
                if decision is None:
                    replies += await self._by_key(some, needs(some))
                else:
                    replies.append(await self._search(some[0], decision))
        except BaseException:
            self._schemas.clear()  # those of a transaction that failed are not stored
            raise
        return replies

    # Commands that name their rows.

    async def _by_key(self, commands: Sequence[Command], keys: Keys) -> list[Reply]:
        """Load, decide, write; after `OPTIMISTIC_TRIES` by halves, and a single command on locked rows."""
        backoff = _backoff()
        for _ in range(OPTIMISTIC_TRIES):
            try:
                return await self._optimistic(commands, keys)
            except asyncpg.PostgresError as error:
                await self._again(error, commands, keys, backoff)
        if len(commands) > 1:
            middle = len(commands) // 2
            first = await self._by_key(commands[:middle], needs(commands[:middle]))
            return first + await self._by_key(commands[middle:], needs(commands[middle:]))
        return await self._locked(commands, keys)

    async def _optimistic(self, commands: Sequence[Command], keys: Keys) -> list[Reply]:
        """One try, in a statement that reads and one that writes."""
        while True:
            loaded, rows = await self._load(commands, keys, waiting=False)
            changes = BlindChanges(rows)
            try:
                replies = _decide(commands, loaded, changes)
            except NotLoaded as unknown:
                merge(keys, keys_of(unknown.table, unknown.keys))
                continue
            await self._step("write")
            woken = await write(self._connection, changes, loaded, self._schemas)
            return with_counts(replies, changes.wakes, woken) if woken else replies

    async def _locked(self, commands: Sequence[Command], keys: Keys) -> list[Reply]:
        """The same on locked rows, including the invocations to wake."""
        backoff = _backoff()
        for _ in range(LOCKED_TRIES):
            try:
                while True:
                    async with transaction(self._connection, self._limits):
                        await lock(self._connection, keys)
                        replies = await self._decide_locked(commands, keys)
                        if replies is not None:
                            return replies
            except asyncpg.PostgresError as error:
                await self._again(error, commands, keys, backoff)
        named = ", ".join(type(command).__name__ for command in commands)
        raise StoreRefused(f"{named} can't be written on the rows that were just locked")

    async def _decide_locked(self, commands: Sequence[Command], keys: Keys) -> list[Reply] | None:
        """Decide and write; None: more rows must be locked first."""
        locked = {table: set(some) for table, some in keys.items()}
        loaded, rows = await self._load(commands, keys, waiting=True)
        if locked != keys:
            return None
        changes = Changes(rows)
        try:
            replies = _decide(commands, loaded, changes)
        except NotLoaded as unknown:
            merge(keys, keys_of(unknown.table, unknown.keys))
            return None
        await self._step("write")
        await write(self._connection, changes, loaded, self._schemas, guard=False)
        return replies

    async def _load(self, commands: Sequence[Command], keys: Keys, *, waiting: bool) -> tuple[Loaded, Rows]:
        """Load rows with these keys and those that they refer to, which are added to the keys."""
        while True:
            await self._step("load")
            loaded = await load(self._connection, keys, self._clock_ms)
            rows = loaded.rows(self._retention_ms)
            if not merge(keys, missing(needs_of_loaded(commands, rows, waiting=waiting), rows)):
                return loaded, rows

    async def _again(
        self, error: asyncpg.PostgresError, commands: Sequence[Command], keys: Keys, backoff: Backoff
    ) -> None:
        """Wait before the next try, or raise the error if trying again does not help.

        If a row that should be new exists, the next try reads it.
        """
        state = sqlstate(error)
        if state != STALE:
            self._schemas.clear()  # those of a transaction that failed are not stored
        if state == EXISTS:
            merge(keys, needs(commands, new=True))
        elif state != STALE and not is_tried_again(error):
            raise error
        if asyncio.get_running_loop().time() > self._give_up_s:
            raise StoreUnavailable(f"rows were locked or changed by others for {PATIENCE_S:.0f} s") from error
        await asyncio.sleep(backoff.next_s())

    # Commands that search.

    async def _search(self, command: Command, decision: SearchDecision) -> Reply:
        backoff = _backoff()
        for _ in range(LOCKED_TRIES):
            try:
                async with transaction(self._connection, self._limits):
                    return await self._find_and_decide(command, decision)
            except asyncpg.PostgresError as error:
                await self._again(error, [command], keys_of("invocations", ()), backoff)
        raise StoreUnavailable(f"{type(command).__name__} found rows that others were changing")

    async def _find_and_decide(self, command: Command, decision: SearchDecision) -> Reply:
        """Decide on what is found, and write."""
        await self._step("search")
        loaded = await load(self._connection, keys_of("invocations", ()), self._clock_ms)
        found = await find(self._connection, command, loaded, self._floors)
        changes = BlindChanges(loaded.rows(self._retention_ms))
        reply = decision(command, found, loaded.now_ms, changes)
        await self._step("write")
        woken = await write(self._connection, changes, loaded, self._schemas)
        return with_counts([reply], changes.wakes, woken)[0]

    async def _step(self, name: str) -> None:
        if self._between is not None:
            await self._between(name)


def _backoff() -> Backoff:
    return Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, jitter=lambda: uniform(0.5, 1.0))  # noqa: S311 - no secret


def _decide(commands: Iterable[Command], loaded: Loaded, changes: Changes) -> list[Reply]:
    rows, now_ms = changes.rows, loaded.now_ms
    return [BY_KEY[type(command)](command, rows, now_ms, changes) for command in commands]


def _parts(commands: Sequence[Command]) -> Iterator[tuple[SearchDecision | None, list[Command]]]:
    """The commands in order: each that searches with its decision, those in between in lists.

    A purge deletes rows that the commands before it may have written, so it is in a list of its own.
    """
    alone = enumerate(commands, 1)
    for _, some in groupby(alone, lambda each: each[0] if _is_alone(each[1]) else 0):
        part = [command for _, command in some]
        yield BY_SEARCH.get(type(part[0])), part


def _is_alone(command: Command) -> bool:
    return isinstance(command, Purge) or type(command) in BY_SEARCH
