"""The readers of the partitions that are assigned to this instance, each in a task of its own.

A reader of an earlier assignment may still wait in `getmany`. That call must not be cancelled while the
consumer is in use (see `TolerantReader.polling`), and aiokafka does not return from it until the next
assignment is known. If it then returned records of a partition that is assigned again, that partition's new
reader would miss them. So the readers of an assignment are started once all earlier ones have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from aiokafka import TopicPartition

from awakeables.kafka.partitions import PartitionReader
from awakeables.ports import Clock


class Readers:
    """Starts and ends readers as partitions are assigned and revoked.

    Attributes:
        current: The readers of the partitions that are assigned.
    """

    def __init__(
        self,
        new_reader: Callable[[TopicPartition], PartitionReader],
        clock: Clock,
        *,
        drain: timedelta,
    ) -> None:
        """Begin with none.

        Args:
            new_reader: Makes the reader of a partition.
            clock: Time.
            drain: How long to wait for batches that are being stored before their partitions are given up;
                a fraction of the time that a group gives its members to rejoin.
        """
        self.current: Sequence[PartitionReader] = ()
        self._new_reader = new_reader
        self._clock = clock
        self._drain_s = drain.total_seconds()
        self._tasks: dict[PartitionReader, asyncio.Task[None]] = {}
        self._assigned = asyncio.Event()
        self._assigned_s = 0.0

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that are assigned."""
        return frozenset(reader.partition.partition for reader in self.current)

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        """The next offset of each partition, where it is known."""
        return {reader.partition: reader.next for reader in self.current if reader.next}

    @property
    def held_up_s(self) -> float:
        """How many seconds the readers have been waiting for earlier ones to end; 0 once they are started."""
        started = all(reader in self._tasks for reader in self.current)
        return 0.0 if started else self._clock.monotonic() - self._assigned_s

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions from now on; the earlier ones have been revoked."""
        self.current = [self._new_reader(partition) for partition in sorted(partitions)]
        self._assigned_s = self._clock.monotonic()
        self._assigned.set()

    async def revoke(self) -> None:
        """Give up all partitions, after a short wait for batches under way.

        A batch that isn't committed by then either is before the partition's next reader claims it, or is
        refused after that.
        """
        leaving, self.current = self.current, ()
        await self._drain(leaving)
        for reader in leaving:
            reader.close()
            task = self._tasks.get(reader)
            if task is not None and not reader.polling:
                task.cancel()

    async def drain(self) -> None:
        """Begin no further batch, and wait for those under way: the consumer will be closed."""
        await self._drain(self.current)

    def notify_moved(self, partition: int) -> None:
        """An operator has moved the partition: its reader is to claim it again, if it is one of these."""
        for reader in self.current:
            if reader.partition.partition == partition:
                reader.notify_moved()

    async def run(self) -> None:
        """Start and supervise the readers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._assigned.wait()
                self._assigned.clear()
                ending = {task for reader, task in self._tasks.items() if reader not in self.current}
                if ending:
                    await asyncio.wait(ending)
                # Partitions may have been assigned again during the wait.
                self._tasks = {reader: task for reader, task in self._tasks.items() if not task.done()}
                for reader in self.current:
                    if reader not in self._tasks:
                        name = f"{reader.partition.topic}-{reader.partition.partition}"
                        self._tasks[reader] = tasks.create_task(reader.run(), name=name)

    async def _drain(self, readers: Sequence[PartitionReader]) -> None:
        for reader in readers:
            reader.leave()
        waited_s = 0.0
        while waited_s < self._drain_s and any(reader.taking_since_s is not None for reader in readers):
            await asyncio.sleep(0.01)
            waited_s += 0.01
