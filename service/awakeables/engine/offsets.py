"""How far the completions topic has been read; moving a partition past records that can't be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from awakeables.core.replies import Position
from awakeables.engine.completionstopic import CompletionsTopic
from awakeables.engine.readerstate import ReaderState
from awakeables.errors import NotFound, NotPossible
from awakeables.ports import OffsetReader

PARTITION = "partition"
"""How the name of a problem with one partition begins: `partition 3`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionProgress:
    """How far one partition has been read.

    Attributes:
        topic: The completions topic.
        partition: Its number.
        next: The offset that is read next.
        epoch: Counts its readers; a batch of an earlier one is refused.
        end: Its end offset, as the broker last reported it; None before the first report.
        lag: How many records are unread; None as for `end`. Transaction markers are not records, so it
            can be 0 although `next` is below `end`.
        problem: What keeps it from being read.
    """

    topic: str
    partition: int
    next: int
    epoch: int
    end: int | None
    lag: int | None
    problem: str | None


class TopicProgress:
    """Shows how far each partition of a topic has been read, and moves one on request."""

    def __init__(
        self, completions: CompletionsTopic, reader: OffsetReader, problems: Mapping[str, str]
    ) -> None:
        self._completions = completions
        self._reader = reader
        self._problems = problems

    async def show(self) -> list[PartitionProgress]:
        """Return all partitions that were ever read, in order."""
        return [self._progress(held) for held in await self._reader.positions(self._completions.name)]

    def _progress(self, held: Position) -> PartitionProgress:
        state = self._state(held.partition)
        end = state.end
        unread = None if end is None else max(0, end - held.next)
        return PartitionProgress(
            topic=self._completions.name,
            partition=held.partition,
            next=held.next,
            epoch=held.epoch,
            end=end,
            lag=unread if state.lag is None else state.lag,
            problem=self._problems.get(f"{PARTITION} {held.partition}"),
        )

    async def skip(self, partition: int, to: int | None, *, by: str | None = None) -> PartitionProgress:
        """Move a partition to an offset, or past the batch that it is stuck at.

        A dead letter with the code `skipped` records both offsets. The records between them are not read;
        or, if the partition goes back, they are read again, which changes nothing that was settled (K1).

        Returns:
            The partition after the move.

        Raises:
            NotFound: The partition was never read.
            NotPossible: It is not stuck, is at that offset already, or ends before it.
        """
        position, held = await self._held(partition)
        if to is None:
            to = self._end_of_stuck_batch(partition)
        if held.end is not None and to > held.end:
            raise NotPossible(f"partition {partition} ends at {held.end}; offset {to} is beyond it")
        # Another instance may read the partition; the topic's ID is known to all of them.
        is_new_topic = (
            self._state(partition).ahead
            or (held.end is not None and held.end < held.next)
            or self._completions.is_recreated_since(position.topic_id)
        )
        if to == held.next and not is_new_topic:
            raise NotPossible(f"partition {partition} is at offset {to} already")
        if not await self._completions.skip(partition, held.next, to, by=by, recreated=is_new_topic):
            raise NotPossible(f"partition {partition} has been read beyond {held.next} meanwhile; try again")
        return (await self._held(partition))[1]

    def _state(self, partition: int) -> ReaderState:
        return self._completions.readers.get(partition, ReaderState())

    async def _held(self, partition: int) -> tuple[Position, PartitionProgress]:
        for position in await self._reader.positions(self._completions.name):
            if position.partition == partition:
                return position, self._progress(position)
        raise NotFound(f"partition {partition} of {self._completions.name} has never been read")

    def _end_of_stuck_batch(self, partition: int) -> int:
        stuck = self._state(partition).stuck
        if stuck is None:
            raise NotPossible(f"partition {partition} is not stuck; to move it anyway, give an offset")
        if stuck.next is None:
            raise NotPossible(
                f"the end of the batch at offset {stuck.offset} of partition {partition} is unknown; "
                "give the offset to move to"
            )
        return stuck.next
