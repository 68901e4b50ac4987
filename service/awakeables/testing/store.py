"""The store of a test, which other threads may look at while a commit writes to it."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from msgspec.structs import replace

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.commands import Command
from awakeables.core.deadletters import DeadLetter
from awakeables.core.decide.queueing import object_key_of
from awakeables.core.invocations import Invocation
from awakeables.core.objects import ObjectKey
from awakeables.core.pauses import pause_of
from awakeables.core.replies import Reply
from awakeables.store.memory import MemoryStore
from awakeables.testing.loop import VirtualClock


class KitStore(MemoryStore):
    """The memory store; what is read of it here is a copy, since `AsyncHarness` reads in another thread."""

    def __init__(self, *, clock: VirtualClock, retention_ms: int) -> None:
        super().__init__(clock=clock, retention_ms=retention_ms)
        self._writing = Lock()

    async def commit(self, commands: Sequence[Command]) -> list[Reply]:
        """Commit; the lock is held for one step of the loop, since a commit in memory waits for nothing."""
        with self._writing:
            return await super().commit(commands)

    def all_invocations(self) -> list[Invocation]:
        """In the order in which they were created."""
        with self._writing:
            return list(self.tables.invocations.values())

    def pending(self) -> list[AwakeableRow]:
        """What is waited for: awakeables, calls and promises."""
        with self._writing:
            return [row for row in self.tables.awakeables.values() if row.state == "pending"]

    def pause_of(self, row: Invocation) -> str | None:
        """What is paused, so that an invocation does not go on: its handler, its service, or its key."""
        with self._writing:
            if row.status == "queued":
                queue = self.tables.rows.objects.get(object_key_of(row))
                return None if queue is None or queue.paused_ms is None else f"{row.service}/{row.key}"
            if row.due_ms is None or row.due_ms > self._clock.now_ms():
                return None
            rows = list(self.tables.pauses.values())
        pause = pause_of(rows, row.service, row.handler)
        return None if pause is None else pause.target

    def all_dead_letters(self) -> list[DeadLetter]:
        """The oldest first."""
        with self._writing:
            return list(self.tables.dead_letters.values())

    def state_of(self, object_key: ObjectKey) -> dict[str, bytes]:
        """The state of a key, by name."""
        with self._writing:
            states = sorted(self.tables.states.items())
        return {name: value for (of, name), (value, _) in states if of == object_key}

    def set_state(self, object_key: ObjectKey, name: str, value: bytes, now_ms: int) -> None:
        """Write to the state of a key."""
        with self._writing:
            self.tables.states[object_key, name] = (value, now_ms)

    def chunks(self, invocation_id: str) -> list[bytes]:
        """The journal of an invocation, as it is stored."""
        with self._writing:
            return self.tables.chunks(invocation_id)

    def forget_starts(self) -> None:
        """Take back the starts that a crash has ended: the kit made it, not what ran meanwhile."""
        with self._writing:
            for row in list(self.tables.invocations.values()):
                if row.owner is not None and row.starts:
                    self.tables.invocations[row.id] = replace(row, starts=row.starts - 1)
