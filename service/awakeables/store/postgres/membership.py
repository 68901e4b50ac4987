"""The instances that share a database, on a connection that has nothing else to do than what can't wait.

A heartbeat never waits for work; the marks up to where partitions are read go the same way, and wait for
no lock either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from awakeables.core.instances import HeartbeatReply, Instance
from awakeables.store.postgres.connection import Connection, Session
from awakeables.store.postgres.queries import QUERIES


class PostgresMembership:
    """`ports.Membership` in the table `instances`, by the database's clock."""

    shared = True

    def __init__(
        self, session: Session, *, app: str, clock_ms: Callable[[], int] | None, key_id: str | None = None
    ) -> None:
        """Use this connection.

        Args:
            session: For nothing else.
            app: The app, for people.
            clock_ms: The clock, for tests; None: the database's.
            key_id: The key that this instance seals with, if it does.
        """
        self._key_id = key_id
        self._session = session
        self._app = app
        self._clock_ms = clock_ms

    @property
    def _now_ms(self) -> int | None:
        return None if self._clock_ms is None else self._clock_ms()

    async def register(self, instance: Instance) -> None:
        row = (instance.id, self._app, instance.host, instance.build, instance.level, list(instance.handlers))
        await self._execute("forget_dead", self._now_ms)
        await self._execute("register", *row, self._now_ms, self._key_id)

    async def beat(self, instance_id: str, *, timeout_ms: int) -> HeartbeatReply | None:
        # A statement each: in one, two that declare each other dead would wait for each other.
        async def beat(connection: Connection) -> HeartbeatReply | None:
            now_ms: int | None = await connection.fetchval(QUERIES["beat"], instance_id, self._now_ms)
            if now_ms is None:
                return None
            await connection.execute(QUERIES["declare_dead"], now_ms - timeout_ms)
            found = await instances_in(connection)
            return HeartbeatReply(now_ms=now_ms, living=tuple(each for each in found if each.state != "dead"))

        return await self._session.run(beat)

    async def serve(self, instance_id: str, handlers: Sequence[str]) -> None:
        await self._execute("serve", instance_id, list(handlers))

    async def leave(self, instance_id: str, *, gone: bool) -> None:
        await self._execute("gone" if gone else "leave", instance_id)

    async def instances(self) -> list[Instance]:
        return await self._session.run(instances_in)

    async def _execute(self, query: str, *values: object) -> None:
        await self._session.run(lambda connection: connection.execute(QUERIES[query], *values))


async def instances_in(connection: Connection) -> list[Instance]:
    """All instances that are known, by ID."""
    return [
        Instance(
            id=id_,
            host=host,
            build=build,
            build_since_ms=build_since_ms,
            level=level,
            handlers=tuple(handlers),
            started_ms=started_ms,
            beat_ms=beat_ms,
            state=state,
        )
        for id_, host, build, build_since_ms, level, handlers, started_ms, beat_ms, state in (
            await connection.fetch(QUERIES["instances"])
        )
    ]
