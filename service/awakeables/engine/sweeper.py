"""Searches the rows at intervals for passed deadlines, and for work whose wake-up was lost (O3)."""

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
from awakeables.errors import StoreUnavailable
from awakeables.ports import JournalReader
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

EXPIRE_LIMIT = 1000

RARELY = 8
"""Instances other than the first living one sweep this many times less often."""


class Sweeper:
    """Expires overdue awakeables, releases orphaned invocations, and has due ones claimed."""

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
        """Sweep this store once per interval.

        Args:
            pool: The runners; after each sweep it looks for what is due.
            committer: Commits.
            store: Reads what is held.
            horizon: What deadlines are compared with.
            interval: How often the instance with the smallest ID sweeps; others sweep less often.
            on_unexpected: Called with errors.
        """
        self._pool = pool
        self._committer = committer
        self._store = store
        self._horizon = horizon
        self._interval_s = interval.total_seconds()
        self._on_unexpected = on_unexpected
        self._suspected: set[str] = set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except StoreUnavailable:
                pass  # the committer reports the outage
            except Exception as error:
                self._on_unexpected(error)
            await asyncio.sleep(self._interval_s * (1 if self._pool.member.is_first else RARELY))

    async def sweep(self) -> None:
        """Search once: for passed deadlines, orphaned invocations, and due ones."""
        await self._expire()
        await self._release_orphans()
        self._pool.look_again()

    async def _expire(self) -> None:
        while True:
            command = Expire(limit=EXPIRE_LIMIT, held_back_to_ms=self._horizon.held_back_to_ms())
            expired = await self._committer.commit(command, Expired)
            self._pool.wake(expired.wakes)
            if len(expired.wakes) < EXPIRE_LIMIT:
                return

    async def _release_orphans(self) -> None:
        """Release rows that are claimed by this process but have no runner (hard case 3).

        Only if they have none in two consecutive sweeps, and had none in between: a row that was just claimed
        has none yet.
        """
        pool, had = self._pool, self._pool.left
        pool.left = set()
        held = {
            key
            for key in await self._store.held_by(pool.member.id)
            if not (key in pool or key in had or key in pool.left)
        }
        orphans = held & self._suspected
        self._suspected = held - orphans
        if orphans:
            released = await self._committer.commit(
                Release(owner=self._pool.member.id, ids=tuple(orphans)), Released
            )
            log.warning(events.LET_GO, count=released.count, invocation_ids=sorted(orphans)[:MOST_NAMED])
            # If the reply to their claim was lost, so were the effects in it, which are published first.
            self._pool.catch_up()
            self._pool.look_again()
