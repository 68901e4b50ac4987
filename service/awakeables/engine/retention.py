"""Deletes old rows: ended invocations with everything that is theirs, dead letters, refused effects.

In small commits with pauses between them, so that other work is not held up. Pending rows are never
purged, whatever their age.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from awakeables.core.commands import ExpireState, Purge, PurgeDeadLetters
from awakeables.core.replies import Purged, StateExpired
from awakeables.engine.committer import Committer
from awakeables.ports import Clock, Store
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

BATCH = 500
"""Journal chunks or dead letters per commit: a few milliseconds of the writer's time."""

PAUSE_RATIO = 4
"""The pause after a batch, as a multiple of its duration: at most a fifth of the time is spent purging."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """How long things are kept.

    Attributes:
        ended: Invocations that have ended, with journals, awakeables, verdicts, idempotency keys.
        dead_letters: Dead letters, and effects that Kafka has refused.
        interval: How often expired rows are searched for.
    """

    ended: timedelta = timedelta(days=7)
    dead_letters: timedelta = timedelta(days=30)
    interval: timedelta = timedelta(minutes=1)


class Retention:
    """Purges expired rows of one store."""

    def __init__(
        self,
        committer: Committer,
        store: Store,
        *,
        clock: Clock,
        settings: RetentionSettings,
        is_first: Callable[[], bool],
        expiring: Mapping[str, timedelta],
    ) -> None:
        """Prepare to purge at intervals, whenever this `is_first` of the instances that share the store.

        Args:
            committer: Commits the purges.
            store: What is purged.
            clock: The time.
            settings: How long things are kept.
            is_first: Whether this instance does it for all.
            expiring: The objects whose state expires, and after which time without a write to the key.
        """
        self._expiring = expiring
        self._look_ms = dict.fromkeys(expiring, 0)
        """When the keys of each object are looked at again."""
        self._committer = committer
        self._is_first = is_first
        self._store = store
        self._clock = clock
        self._settings = settings

    async def run(self, failed: Callable[[Exception], None]) -> None:
        """Purge until cancelled; `failed` is called with each error, and the next interval tries again."""
        while True:
            try:
                # Two at once do no harm, but both would look for the same rows.
                if self._is_first():
                    await self.purge(failed)
            except Exception as error:
                failed(error)
            await asyncio.sleep(self._settings.interval.total_seconds())

    async def purge(self, failed: Callable[[Exception], None] | None = None) -> int:
        """Purge everything that has expired by now; return how many rows that were.

        Args:
            failed: Called with the error of a part, after which the others go on; None: it is raised.
        """
        invocations = await self._part(self._repeat(self._purge_invocations), failed)
        letters = await self._part(self._repeat(self._purge_letters), failed)
        keys = 0
        for name, kept in self._expiring.items():
            keys += await self._part(self._expire_state(name, kept), failed)
        if invocations or letters or keys:
            log.info(events.PURGED, invocations=invocations, dead_letters=letters, object_keys=keys)
        return invocations + letters + keys

    @staticmethod
    async def _part(work: Awaitable[int], failed: Callable[[Exception], None] | None) -> int:
        try:
            return await work
        except Exception as error:
            if failed is None:
                raise
            failed(error)
            return 0

    async def _expire_state(self, name: str, kept: timedelta) -> int:
        """Look at all keys of an object, a batch at a time; return how many have lost their state.

        That reads every key, so the next look is only after a hundredth of the time that state is kept.
        """
        if self._clock.now_ms() < self._look_ms[name]:
            return 0
        before_ms, total, after = self._before_ms(kept), 0, b""
        while True:
            began = self._clock.monotonic()
            command = ExpireState(service=name, before_ms=before_ms, limit=BATCH, after=after)
            expired = await self._committer.commit(command, StateExpired)
            total += expired.count
            if expired.last is None:
                self._look_ms[name] = self._clock.now_ms() + int(kept / timedelta(milliseconds=100))
                return total
            after = expired.last
            await asyncio.sleep((self._clock.monotonic() - began) * PAUSE_RATIO)

    async def purge_letters(self, *, older_than: timedelta, code: str | None) -> int:
        """Delete dead letters of at least this age, of a code or all, for an operator; return how many."""
        before_ms = self._before_ms(older_than) + 1
        command = PurgeDeadLetters(before_ms=before_ms, limit=BATCH, code=code, dead_letters_only=True)
        total = 0
        while count := (await self._committer.commit(command, Purged)).count:
            total += count
        log.info(events.PURGED, dead_letters=total, code=code or "all", older_than=str(older_than))
        return total

    async def _repeat(self, purge_some: Callable[[], Awaitable[int]]) -> int:
        total = 0
        while True:
            began = self._clock.monotonic()
            count = await purge_some()
            if not count:
                return total
            total += count
            await asyncio.sleep((self._clock.monotonic() - began) * PAUSE_RATIO)

    async def _purge_invocations(self) -> int:
        before_ms = self._before_ms(self._settings.ended)
        ended = await self._store.ended(before_ms, BATCH)
        if not ended:
            return 0
        return (await self._committer.commit(Purge(ended=tuple(ended), before_ms=before_ms), Purged)).count

    async def _purge_letters(self) -> int:
        command = PurgeDeadLetters(before_ms=self._before_ms(self._settings.dead_letters), limit=BATCH)
        return (await self._committer.commit(command, Purged)).count

    def _before_ms(self, kept: timedelta) -> int:
        return self._clock.now_ms() - kept // timedelta(milliseconds=1)
