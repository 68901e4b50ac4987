"""Membership and hints for stores in one process: nothing is written, as instances end with the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from awakeables.core.instances import HeartbeatReply, Hint, Instance, PartitionRead
from awakeables.core.replies import Position
from awakeables.ports import Clock

FORGOTTEN_MS = 86_400_000
"""How long a dead instance is listed."""


class LocalMembership:
    """`ports.Membership` in memory.

    Attributes:
        living: The IDs of the instances that are not dead. It is replaced as a whole, since a store's writer
            reads it in its own thread, for each commit.
    """

    def __init__(self, clock: Clock, *, shared: bool) -> None:
        """Begin without instances; the clock dates their heartbeats, `shared` is as the port says."""
        self.shared = shared
        self._clock = clock
        self._instances: dict[str, Instance] = {}
        self.living: frozenset[str] = frozenset()

    async def register(self, instance: Instance) -> None:
        now_ms = self._clock.now_ms()
        since_ms = min(
            (each.build_since_ms for each in self._instances.values() if each.build == instance.build),
            default=now_ms,
        )
        if not self.shared:
            self._instances.clear()
        for key, each in list(self._instances.items()):
            if each.state == "dead" and each.beat_ms < now_ms - FORGOTTEN_MS:
                del self._instances[key]
        self._instances[instance.id] = replace(
            instance, build_since_ms=since_ms, started_ms=now_ms, beat_ms=now_ms
        )
        self._note_living()

    async def beat(self, instance_id: str, *, timeout_ms: int) -> HeartbeatReply | None:
        now_ms = self._clock.now_ms()
        mine = self._instances.get(instance_id)
        if mine is None or mine.state == "dead":
            return None
        self._instances[instance_id] = replace(mine, beat_ms=now_ms)
        for key, each in self._instances.items():
            if each.beat_ms < now_ms - timeout_ms:
                self._instances[key] = replace(each, state="dead")
        self._note_living()
        living = tuple(each for each in self._instances.values() if each.state != "dead")
        return HeartbeatReply(now_ms=now_ms, living=living)

    async def serve(self, instance_id: str, handlers: Sequence[str]) -> None:
        mine = self._instances.get(instance_id)
        if mine is not None:
            self._instances[instance_id] = replace(mine, handlers=tuple(handlers))

    async def leave(self, instance_id: str, *, gone: bool) -> None:
        mine = self._instances.get(instance_id)
        if mine is not None and gone:
            del self._instances[instance_id]
        elif mine is not None and mine.state == "alive":
            self._instances[instance_id] = replace(mine, state="leaving")
        self._note_living()

    async def instances(self) -> list[Instance]:
        return sorted(self._instances.values(), key=lambda each: each.id)

    def _note_living(self) -> None:
        self.living = frozenset(key for key, each in self._instances.items() if each.state != "dead")


class LocalHints:
    """`ports.Hints` within one event loop."""

    def __init__(self) -> None:
        """Begin with nobody listening."""
        self._listeners: dict[str, Callable[[Sequence[Hint]], None]] = {}

    def send(self, instance_id: str, hint: Hint) -> None:
        on_hints = self._listeners.get(instance_id)
        if on_hints is not None:
            asyncio.get_running_loop().call_soon(on_hints, [hint])

    def listen(self, instance_id: str, on_hints: Callable[[Sequence[Hint]], None]) -> None:
        self._listeners[instance_id] = on_hints


class LocalWatermark:
    """What `ports.Watermark` keeps; lost with the process, so a topic counts as unread at first."""

    def __init__(self, clock: Clock) -> None:
        """Begin with nothing read."""
        self._clock = clock
        self._read_ms: dict[tuple[str, int], int] = {}
        self._partitions: dict[str, int] = {}
        self._ids: dict[str, str] = {}

    def note(
        self,
        topic: str,
        partitions: int,
        mine: Sequence[PartitionRead],
        positions: Sequence[Position],
        topic_id: str | None,
    ) -> int | None:
        """Note what was read under the epochs of these positions; return what all have read up to."""
        now_ms, epochs = self._clock.now_ms(), {each.partition: each.epoch for each in positions}
        if partitions and topic_id is not None and topic_id != self._ids.setdefault(topic, topic_id):
            self._ids[topic], self._partitions[topic] = topic_id, partitions
        count = self._partitions[topic] = max(partitions, self._partitions.get(topic, 0))
        for each in mine:
            if epochs.get(each.partition) == each.epoch:
                key = (topic, each.partition)
                # A moment that is still to come was noted before the clock was set back, and says nothing.
                noted_ms = self._read_ms.get(key, 0)
                up_to_ms = min(now_ms, each.up_to_ms)
                self._read_ms[key] = max(noted_ms, up_to_ms) if noted_ms <= now_ms else up_to_ms
        read = [self._read_ms.get((topic, partition)) for partition in range(count)]
        known = [ms for ms in read if ms is not None and ms <= now_ms]
        return min(known) if known and len(known) == count else None
