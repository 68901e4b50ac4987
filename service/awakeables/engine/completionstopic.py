"""The completions topic as this process reads it: the state of its partitions, and moving one on request.

What is kept of records that settle nothing is limited per partition and minute; the rest is counted. A
producer of garbage can write a million records a minute. A row and a copy of each would fill the service's
disk. So the first of each minute are kept as they are, and one row replaces the others: it has their number
and the range of offsets from which they can be read again, while the topic has them. Likewise only the first
verdicts of each minute that settle nothing are published.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from awakeables.core.acts import with_act
from awakeables.core.awakeables import Completion, DeadTask
from awakeables.core.commands import Skip, TakePartitions
from awakeables.core.deadletters import SKIPPED, DeadLetter, dead_letter_of_task
from awakeables.core.effects import Header
from awakeables.core.ids import Ids
from awakeables.core.records import Record
from awakeables.core.replies import PartitionsTaken, Position, Skipped
from awakeables.core.texts import shortened
from awakeables.engine.committer import Committer
from awakeables.engine.horizon import Horizon
from awakeables.engine.readerstate import ReaderState
from awakeables.engine.settlement import PayloadValidator, Settlement
from awakeables.ports import Clock, OffsetReader
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger(__name__)


class ConsumedRecord(Record):
    """A record as it was read from a topic."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldingSettings:
    """The limits of one partition and minute.

    Attributes:
        letters: How many dead letters are kept.
        bytes: The size of their keys, values and headers together.
        verdicts: How many verdicts other than `accepted` are published.
    """

    letters: int = 1000
    bytes: int = 32 * 1024 * 1024
    verdicts: int = 1000


@dataclass(slots=True)
class Minute:
    """What a partition has used of its limits, in one minute; lost with the process.

    Attributes:
        began_s: When it began, by the monotonic clock.
        fold_id: The ID of the row that counts the dead letters that are not kept.
    """

    began_s: float
    fold_id: str
    letters: int = 0
    bytes: int = 0
    verdicts: int = 0


class CompletionsTopic:
    """The state that the sinks of all partitions share. It outlives them: a new consumer has new sinks.

    Attributes:
        settlement: Settles the completions.
        validator: Validates their values.
        name: The topic's name.
        topic_id: The broker's ID of the topic, as last seen; None before that, or if it has none.
        dead_letter_topic: Where copies of dead letters are published.
        ids: Issues IDs of dead letters.
        folding: The limits of what is kept per partition and minute.
        minutes: What each partition has used of them.
        readers: The state of each partition, as its reader last reported it.
        expired_to: For each partition, the offset up to which deleted records have been reported.
        horizon: What deadlines are compared with.
        clock: The store's clock.
        metrics: Where completions, dead letters and the readers' progress are counted.
        on_effects: Called when a commit has queued effects that nobody has claimed.
    """

    def __init__(  # noqa: PLR0913 - all of it is given by name
        self,
        committer: Committer,
        settlement: Settlement,
        validator: PayloadValidator,
        horizon: Horizon,
        store: OffsetReader,
        *,
        name: str,
        dead_letter_topic: str,
        owner: Callable[[], str],
        clock: Clock,
        ids: Ids,
        folding: FoldingSettings,
        metrics: Metrics,
        on_effects: Callable[[], None],
    ) -> None:
        """Begin with no partition read.

        Args:
            committer: Commits the commands.
            settlement: Settles completions.
            validator: Validates their values.
            horizon: What deadlines are compared with.
            store: Reads the positions.
            name: The topic's name.
            dead_letter_topic: Where copies of dead letters are published.
            owner: Returns this instance's ID, the owner in the partitions' claims.
            clock: The store's clock.
            ids: Issues IDs of dead letters.
            folding: How many dead letters per minute are kept one by one.
            metrics: Where everything is counted.
            on_effects: Called when a commit has queued effects that nobody has claimed.
        """
        self.settlement = settlement
        self.validator = validator
        self.name = name
        self.topic_id: str | None = None
        self._owner = owner
        self.dead_letter_topic = dead_letter_topic
        self.ids = ids
        self.folding = folding
        self.minutes: dict[int, Minute] = {}
        self.readers: dict[int, ReaderState] = {}
        self.expired_to: dict[int, int] = {}
        self.horizon = horizon
        self.clock = clock
        self.metrics = metrics
        self.on_effects = on_effects
        self._committer = committer
        self._store = store
        self._claimed: dict[int, int] = {}
        self._skip_listeners: list[Callable[[int], None]] = []

    @property
    def readable(self) -> int:
        """The number of unread records that can be read: not behind what stops their partition."""
        return sum(state.lag or 0 for state in self.readers.values() if not state.is_stopped)

    def note_topic_id(self, topic_id: str | None) -> None:
        """Note the broker's ID of the topic that is read; a broker of an older release knows none."""
        self.topic_id = topic_id or self.topic_id

    async def claim(self, partition: int) -> Position:
        """Claim a partition for this process; any earlier reader is fenced from then on."""
        command = TakePartitions(
            owner=self._owner(), topic=self.name, partitions=(partition,), topic_id=self.topic_id
        )
        [position] = (await self._committer.commit(command, PartitionsTaken)).positions
        self._claimed[partition] = position.epoch
        return position

    async def moved(self) -> list[int]:
        """The partitions that this instance has read to their end and that were moved since, anywhere."""
        read = self.horizon.read
        return [
            row.partition
            for row in await self._store.positions(self.name)
            # Another owner's epoch is that of the group's next assignment, not of a move.
            if row.partition in read
            and row.epoch > self._claimed.get(row.partition, row.epoch)
            and row.owner == self._owner()
        ]

    def is_recreated_since(self, read: str | None) -> bool:
        """Whether the broker's topic is another one than that with this ID, which was read."""
        return read is not None and self.topic_id is not None and read != self.topic_id

    async def skip(
        self, partition: int, before: int, next_: int, *, by: str | None = None, recreated: bool = False
    ) -> bool:
        """Move a partition from offset `before` to `next_`, and record that as a dead letter.

        Args:
            partition: The partition's number.
            before: Its offset now.
            next_: Its offset from then on.
            by: Who asks for it.
            recreated: The topic was deleted and created again: none of its records has been read.

        Returns:
            Whether it was moved. It is not if records were read meanwhile.
        """
        lost = ConsumedRecord(offset=before, timestamp_ms=self.clock.now_ms(), key=None, value=None)
        reason = f"an operator has moved the partition from offset {before} to {next_}"
        letter = self.dead_letter(partition, lost, SKIPPED, reason)
        command = Skip(
            topic=self.name,
            partition=partition,
            before=before,
            next=next_,
            dead_letter=replace(letter, acts=with_act((), "skip", by, letter.at_ms)),
            relay_to=self.dead_letter_topic,
            recreated=recreated,
        )
        if not (await self._committer.commit(command, Skipped)).done:
            return False
        log.warning(events.SKIPPED, topic=self.name, partition=partition, before=before, next=next_)
        state = self.readers.get(partition, ReaderState())
        self.readers[partition] = dataclasses.replace(state, stuck=None, lag=None)
        self.metrics.dead_letters_added("skipped")
        self.on_effects()
        for on_skip in self._skip_listeners:
            on_skip(partition)
        return True

    @contextmanager
    def listening(self, on_skip: Callable[[int], None]) -> Iterator[None]:
        """Within the block, call `on_skip` with each partition that was moved."""
        self._skip_listeners.append(on_skip)
        try:
            yield
        finally:
            self._skip_listeners.remove(on_skip)

    def dead_letter(
        self,
        partition: int,
        record: ConsumedRecord,
        code: str,
        reason: str,
        awakeable_id: str | None = None,
    ) -> DeadLetter:
        """Make the dead letter of a record."""
        return DeadLetter(
            id=self.ids.new("dlq"),
            # The time distinguishes it from a record at the same offset after the topic was recreated.
            source=f"{self.name}:{partition}:{record.offset}@{record.timestamp_ms}",
            topic=self.name,
            partition=partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            code=code,
            reason=reason,
            at_ms=self.clock.now_ms(),
            key=record.key,
            value=record.value,
            headers=record.headers,
            awakeable_id=awakeable_id,
        )

    def dead_task(self, completion: Completion, task: DeadTask) -> DeadLetter:
        """Make the dead letter to file for a task that its worker could not use."""
        return dead_letter_of_task(
            task,
            letter_id=self.ids.new("dlq"),
            awakeable_id=completion.awakeable_id,
            worker=shortened(completion.worker or "unnamed"),
            now_ms=self.clock.now_ms(),
        )
