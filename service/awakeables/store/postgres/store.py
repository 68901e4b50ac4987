"""The store in PostgreSQL: several processes may share it, each with six connections.

One connection writes, one serves the engine's reads, one the lists, so that people who list rows never make
the engine wait, one the heartbeats, and two are for hints. A connection that fails is closed, and
the next use makes a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar

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
from awakeables.ports import ANY_INVOCATION, Clock, Expectation, InvocationFilter, Page, PayloadCodec
from awakeables.store.floors import Floors
from awakeables.store.postgres import reading
from awakeables.store.postgres.connection import Connection, Database, Session
from awakeables.store.postgres.counts import Counts
from awakeables.store.postgres.group import OptimisticGroup
from awakeables.store.postgres.hints import PostgresHints
from awakeables.store.postgres.membership import PostgresMembership
from awakeables.store.postgres.schema import check_keys, migrate
from awakeables.store.postgres.watermark import read_up_to
from awakeables.store.sealing import Sealing

P = ParamSpec("P")
T = TypeVar("T")


class PostgresStore:
    """`ports.Store` in a PostgreSQL database, in its schema `awakeables`."""

    def __init__(
        self,
        url: str,
        *,
        retention_ms: int,
        app: str = "",
        clock: Clock | None = None,
        codec: PayloadCodec | None = None,
        between: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Do not connect yet.

        Args:
            url: `postgresql://user:password@host:port/database`; the tables are made by `open`.
            retention_ms: An awakeable without a row whose ID is older than this was purged.
            app: The app that the store belongs to; empty: any, and the database gets no name.
            clock: The clock to decide by, for tests; None: the database's, which all processes share.
            codec: Seals values at rest; None: they are stored as they are.
            between: Called before each step of a commit with its name (`load`, `search`, `write`), for tests.
        """
        self._database = database = Database(url, Sealing(codec))
        self._where = database.where
        self._app = app
        self._retention_ms = retention_ms
        self._clock_ms = None if clock is None else clock.now_ms
        self._between = between
        self._writer = Session(database, "writer")
        self._reader = Session(database, "reader")
        self._lister = Session(database, "reader")
        self._beater = Session(database, "beater")
        key_id = None if codec is None else codec.key_id
        self.membership = PostgresMembership(self._beater, app=app, clock_ms=self._clock_ms, key_id=key_id)
        self.hints = PostgresHints(database)
        self._migrator = Session(database, "migrator")
        self._schemas: set[str] = set()
        self._counts = Counts(_loop_time)
        self._floors = Floors(_loop_time)

    # Opening and closing.

    async def open(self) -> None:
        """As the port says; a server that is out of reach or does not fit is `StoreUnavailable`."""
        try:
            await self._migrator.open()
            await self._migrator.run(self._migrate)
            await self._migrator.close()
            for session in (self._writer, self._reader, self._lister, self._beater):
                await session.open()
            await self.hints.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what has started, then disconnect."""
        await self.hints.close()
        for session in (self._writer, self._lister, self._reader, self._beater, self._migrator):
            await session.close()

    async def _migrate(self, connection: Connection) -> None:
        limits = "migrator_limits" if self._database.pooled else ""
        await migrate(connection, self._where, self._app, limits=limits)
        await check_keys(connection, self._where)

    # Writing.

    async def commit(self, commands: Sequence[Command]) -> list[Reply]:
        async def commit(connection: Connection) -> list[Reply]:
            group = OptimisticGroup(
                connection,
                retention_ms=self._retention_ms,
                clock_ms=self._clock_ms,
                schemas=self._schemas,
                floors=self._floors,
                limits="limits" if self._database.pooled else "",
                between=self._between,
            )
            return await group.commit(commands)

        return await self._writer.run(commit)

    # Reading, for the engine.

    async def history(self, invocation_ids: Sequence[str]) -> dict[str, list[Entry]]:
        return await _read(self._reader, reading.history, invocation_ids)

    async def outcomes(self, awakeable_ids: Sequence[str]) -> dict[str, Outcome]:
        return await _read(self._reader, reading.outcomes, awakeable_ids)

    async def held_by(self, owner: str) -> list[str]:
        return await _read(self._reader, reading.held_by, owner)

    async def ends(self, invocation_ids: Sequence[str]) -> dict[str, Outcome | None]:
        return await _read(self._reader, reading.ends, invocation_ids)

    async def expectations(self, awakeable_ids: Sequence[str]) -> dict[str, Expectation]:
        return await _read(self._reader, reading.expectations, awakeable_ids)

    async def effects(self, owner: str, limit: int) -> list[Effect]:
        return await _read(self._reader, reading.effects, owner, limit)

    async def ended(self, before_ms: int, limit: int) -> list[Ended]:
        return await _read(self._lister, reading.ended, before_ms, limit)

    async def awakeables_of(self, invocation_ids: Sequence[str]) -> dict[str, list[str]]:
        return await _read(self._lister, reading.awakeables_of, invocation_ids)

    async def positions(self, topic: str, subscription: str = "") -> list[Position]:
        return await _read(self._reader, reading.positions, topic, subscription)

    async def subscribed(self) -> list[tuple[str, str]]:
        return await _read(self._reader, reading.subscribed)

    async def pauses(self) -> list[PauseRow]:
        return await _read(self._reader, reading.pauses)

    async def schedules(self) -> list[ListedSchedule]:
        return await _read(self._reader, reading.schedules)

    async def count_open(self, subscription: str, most: int) -> int:
        return await _read(self._reader, reading.count_open, subscription, most)

    async def read_up_to(
        self, topic: str, partitions: int, mine: Sequence[PartitionRead], *, topic_id: str | None = None
    ) -> int | None:
        return await _read(
            self._beater, read_up_to, topic, partitions, mine, topic_id=topic_id, clock_ms=self._clock_ms
        )

    async def invocation(self, invocation_id: str) -> Invocation | None:
        return await _read(self._reader, reading.invocation, invocation_id)

    async def idempotency_key(self, invocation_id: str) -> str | None:
        return await _read(self._reader, reading.idempotency_key, invocation_id)

    async def state(self, object_key: ObjectKey, name: str) -> bytes | None:
        return await _read(self._reader, reading.state, object_key, name)

    async def state_names(self, object_key: ObjectKey) -> list[str]:
        return await _read(self._reader, reading.state_names, object_key)

    async def queue(self, object_key: ObjectKey) -> ObjectRow | None:
        return await _read(self._reader, reading.queue, object_key)

    async def waits_of(self, invocation_id: str, limit: int) -> list[AwakeableRow]:
        return await _read(self._reader, reading.waits_of, invocation_id, limit)

    async def awakeable(self, awakeable_id: str) -> AwakeableRow | None:
        return await _read(self._reader, reading.awakeable, awakeable_id)

    async def dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        return await _read(self._reader, reading.dead_letter, dead_letter_id)

    async def queued_effect(self, event_id: str) -> QueuedEffect | None:
        return await _read(self._reader, reading.queued_effect, event_id)

    # Lists.

    async def invocations(self, page: Page, which: InvocationFilter = ANY_INVOCATION) -> list[Invocation]:
        return await _read(self._lister, reading.invocations, page, which)

    async def open_by_versions(self) -> list[OpenInvocations]:
        return await _read(self._lister, reading.open_by_versions)

    async def journal(self, invocation_id: str, most_bytes: int) -> tuple[list[Entry], bool]:
        return await _read(self._lister, reading.journal, invocation_id, most_bytes)

    async def keyed(self, scopes: Sequence[str], key: str) -> list[Invocation]:
        return await _read(self._lister, reading.keyed, scopes, key)

    async def queues(self, service: str, limit: int, after: bytes = b"") -> list[ObjectRow]:
        return await _read(self._lister, reading.queues, service, limit, after)

    async def in_line(self, object_key: ObjectKey, limit: int) -> list[Invocation]:
        return await _read(self._lister, reading.in_line, object_key, limit)

    async def states(self, object_key: ObjectKey, limit: int, after: str = "") -> list[StateEntry]:
        return await _read(self._lister, reading.states, object_key, limit, after)

    async def keys_with_state(self, service: str, limit: int, after: bytes = b"") -> list[bytes]:
        return await _read(self._lister, reading.keys_with_state, service, limit, after)

    async def awakeables(self, page: Page, *, state: AwakeableState | None = None) -> list[AwakeableRow]:
        return await _read(self._lister, reading.awakeables, page, state)

    async def dead_letters(self, page: Page) -> list[DeadLetter]:
        return await _read(self._lister, reading.dead_letters, page)

    async def queued_effects(self, page: Page, *, state: EffectState) -> list[QueuedEffect]:
        return await _read(self._lister, reading.queued_effects, page, state)

    async def counts(self) -> Mapping[str, int]:
        counts = await self._lister.run(self._counts.read)
        return counts | await self._lister.run(reading.oldest)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


async def _read(
    session: Session,
    query: Callable[Concatenate[Connection, P], Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    return await session.run(lambda connection: query(connection, *args, **kwargs))
