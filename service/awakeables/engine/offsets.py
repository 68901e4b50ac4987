"""How far the completions topic is read, and moving a partition past what can't be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from awakeables.core.orders import Position
from awakeables.engine.intake import Intake
from awakeables.errors import NotFound, NotPossible
from awakeables.ports import OffsetReader

PARTITION = "partition"
"""Names of problems with one partition begin so on the board of problems: `partition 3`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A partition: where it is read on, and where it ends, as last heard; None: not heard yet.

    `lag` is how many records wait to be read. Markers of transactions are none, so it can be 0
    although `next` is below the end.
    """

    topic: str
    partition: int
    next: int
    epoch: int
    end: int | None
    lag: int | None
    problem: str | None


class Offsets:
    """Looks at the partitions of the completions topic, and skips."""

    def __init__(
        self, intake: Intake, reader: OffsetReader, problems: Mapping[str, str], *, topic: str
    ) -> None:
        self._intake = intake
        self._reader = reader
        self._problems = problems
        self._topic = topic

    async def show(self) -> list[Reading]:
        """All partitions that were ever read, in order."""
        return [self._reading(held) for held in await self._reader.positions(self._topic)]

    def _reading(self, held: Position) -> Reading:
        end = self._intake.ends.get(held.partition)
        unread = None if end is None else max(0, end - held.next)
        return Reading(
            topic=self._topic,
            partition=held.partition,
            next=held.next,
            epoch=held.epoch,
            end=end,
            lag=self._intake.lags.get(held.partition, unread),
            problem=self._problems.get(f"{PARTITION} {held.partition}"),
        )

    async def skip(self, partition: int, to: int | None, *, by: str | None = None) -> Reading:
        """Move a partition to an offset, or past the batch that it is stuck at.

        A dead letter with the code `skipped` tells from where to where. What lies between is not
        read; or, if it goes back, read again, which changes nothing for what was settled (K1).

        Returns:
            The partition as it is now.

        Raises:
            NotFound: The partition was never read.
            NotPossible: It is not stuck, stands there already, or ends before.
        """
        held = await self._held(partition)
        if to is None:
            to = self._behind_stuck(partition)
        if held.end is not None and to > held.end:
            raise NotPossible(f"partition {partition} ends at {held.end}: {to} lies beyond it")
        if to == held.next:
            raise NotPossible(f"partition {partition} stands at {to} already")
        anew = partition in self._intake.ahead or (held.end is not None and held.end < held.next)
        if not await self._intake.skip(self._topic, partition, held.next, to, by=by, anew=anew):
            raise NotPossible(f"partition {partition} has been read on from {held.next} meanwhile")
        return await self._held(partition)

    async def _held(self, partition: int) -> Reading:
        for reading in await self.show():
            if reading.partition == partition:
                return reading
        raise NotFound(f"partition {partition} of {self._topic} was never read")

    def _behind_stuck(self, partition: int) -> int:
        stuck = self._intake.stuck.get(partition)
        if stuck is None:
            raise NotPossible(f"partition {partition} is not stuck; say to which offset, if it must be moved")
        if stuck.next is None:
            raise NotPossible(
                f"where the batch at offset {stuck.offset} of partition {partition} ends can't be told; "
                "say to which offset"
            )
        return stuck.next
