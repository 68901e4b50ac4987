"""Looking at the rows now and then, for what no hint told of (O3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog

from awakeables.core.commands import Expire, Release
from awakeables.core.replies import Expired, Released
from awakeables.engine.committer import Committer
from awakeables.engine.horizon import Horizon
from awakeables.engine.pool import MOST_NAMED, RunnerPool
from awakeables.ports import JournalReader
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

EXPIRE_LIMIT = 1000


class Sweeper:
    """Times out what is overdue, lets go of what is held by nobody, has the due ones claimed."""

    def __init__(
        self,
        pool: RunnerPool,
        committer: Committer,
        store: JournalReader,
        horizon: Horizon,
        *,
        interval: timedelta,
        on_unexpected: Callable[[Exception], None],
    ) -> None:
        """Look at the rows of this store once each interval; errors go to `on_unexpected`."""
        self._pool = pool
        self._committer = committer
        self._store = store
        self._horizon = horizon
        self._interval_s = interval.total_seconds()
        self._on_unexpected = on_unexpected
        self._strangers: set[str] = set()

    async def run(self) -> None:
        """Sweep for ever; cancel to stop."""
        while True:
            try:
                await self.sweep()
            except Exception as error:
                self._on_unexpected(error)
            await asyncio.sleep(self._interval_s)

    async def sweep(self) -> None:
        """Look once at the rows for what no hint told of: deadlines, due and lost invocations."""
        await self._expire()
        await self._let_go()
        self._pool.look_again()

    async def _expire(self) -> None:
        while True:
            order = Expire(limit=EXPIRE_LIMIT, held_back_to_ms=self._horizon.held_back_to_ms())
            expired = await self._committer.commit(order, Expired)
            self._pool.wake(expired.wakes)
            if len(expired.wakes) < EXPIRE_LIMIT:
                return

    async def _let_go(self) -> None:
        """Release rows that this owner is said to hold but does not (hard case 3).

        Twice in a row, because a row may be on its way to its runner.
        """
        held = {key for key in await self._store.held_by(self._pool.owner) if key not in self._pool}
        lost = held & self._strangers
        self._strangers = held - lost
        if lost:
            released = await self._committer.commit(
                Release(owner=self._pool.owner, ids=tuple(lost)), Released
            )
            log.warning(events.LET_GO, count=released.count, invocation_ids=sorted(lost)[:MOST_NAMED])
            self._pool.look_again()
