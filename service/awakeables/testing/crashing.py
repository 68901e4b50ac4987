"""Crashes at each step of a handler: the store of a thorough test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from awakeables.core.commands import Advance, Begin, Command, Operating
from awakeables.core.replies import Reply
from awakeables.testing.loop import VirtualClock
from awakeables.testing.store import KitStore

ASKED_ONCE = Begin | Operating
"""Commands of a caller outside, who gets the reply of the process that it has asked, or none: asked again,
the next process would begin another invocation, or say that this one has ended. An answer to an awakeable and
a record are sent again from the same source, as after a crash in production."""


class CrashingStore(KitStore):
    """The store of a thorough test: the process crashes before, and again after, each step is committed.

    Attributes:
        crash: Called when it crashes; nothing that the process does from then on has an effect.
    """

    crash: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, *, clock: VirtualClock, retention_ms: int) -> None:
        super().__init__(clock=clock, retention_ms=retention_ms)
        self._crashed: set[tuple[str, int, bool]] = set()

    async def commit(self, commands: Sequence[Command]) -> list[Reply]:
        """Commit, unless the process crashes before that; and crash after it."""
        steps = self._steps(commands)
        await self._crash_once(steps, is_committed=False)
        replies = await super().commit(commands)
        await self._crash_once(steps, is_committed=True)
        return replies

    def _steps(self, commands: Sequence[Command]) -> list[tuple[str, int]]:
        """The steps of handlers; none if a caller would lose its answer in the crash."""
        if any(isinstance(command, ASKED_ONCE) for command in commands):
            return []
        ids = [command.invocation_id for command in commands if isinstance(command, Advance)]
        return [(each, len(self.tables.chunks(each))) for each in ids]

    async def _crash_once(self, steps: Sequence[tuple[str, int]], *, is_committed: bool) -> None:
        crashes = {(*step, is_committed) for step in steps} - self._crashed
        if crashes:
            self._crashed |= crashes
            self.crash()
            await asyncio.get_running_loop().create_future()  # until the process is killed
