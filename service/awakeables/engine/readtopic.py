"""A topic that the instances read together, partition by partition, with the positions in the store.

What is kept of records that can't be used is limited per partition and minute; the rest is counted. A
producer of garbage can write a million records a minute. A row and a copy of each would fill the service's
disk. So the first of each minute are kept as they are, and one row replaces the others: it has their number
and the range of offsets from which they can be read again, while the topic has them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import structlog
from msgspec.structs import replace
from prometheus_client import Gauge

from awakeables.core.acts import with_act
from awakeables.core.commands import Skip, TakePartitions
from awakeables.core.deadletters import SKIPPED, DeadLetter
from awakeables.core.effects import Header
from awakeables.core.ids import Ids
from awakeables.core.records import Record
from awakeables.core.replies import PartitionsTaken, Position, Skipped
from awakeables.engine.committer import Committer
from awakeables.engine.horizon import Moment
from awakeables.engine.readerstate import ReaderState
from awakeables.ports import Clock, OffsetReader
from awakeables.telemetry import events
from awakeables.telemetry.instruments import Counter as Count
from awakeables.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from awakeables.engine.sinks import PartitionSink

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


class ProblemNames(NamedTuple):
    """The names of what may be wrong with the reading of one topic, on the board of problems."""

    broker: str
    topic: str
    group: str
    partition: str

    def of_partition(self, number: int) -> str:
        """The name of a problem with one partition: `partition 3`."""
        return f"{self.partition} {number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMetrics:
    """Where the progress of one topic is shown, by partition."""

    lag: Callable[[str], Gauge]
    behind_s: Callable[[str], Gauge]
    transaction_s: Callable[[str], Gauge]
    expired: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the reading of every topic needs.

    Attributes:
        committer: Commits the commands.
        store: Reads the positions.
        owner: Returns this instance's ID, the owner in the partitions' claims.
        dead_letter_topic: Where copies of dead letters are published.
        clock: The store's clock.
        ids: Issues IDs of dead letters.
        folding: How many dead letters per minute are kept one by one.
        metrics: Where everything is counted.
        on_effects: Called when a commit has queued effects that nobody has claimed.
    """

    committer: Committer
    store: OffsetReader
    owner: Callable[[], str]
    dead_letter_topic: str
    clock: Clock
    ids: Ids
    folding: FoldingSettings
    metrics: Metrics
    on_effects: Callable[[], None]


class ReadTopic(ABC):
    """The state that the sinks of all partitions share. It outlives them: a new consumer has new sinks.

    Attributes:
        name: The topic's name.
        subscription: The subscription that reads it; empty: it is the completions topic.
        problems: How what is wrong with it is named.
        topic_id: The broker's ID of the topic, as last seen; None before that, or if it has none.
        minutes: What each partition has used of its limits.
        readers: The state of each partition, as its reader last reported it.
        expired_to: For each partition, the offset up to which deleted records have been reported.
        shown: Where its progress is shown.
    """

    def __init__(
        self,
        reading: Reading,
        *,
        name: str,
        subscription: str,
        problems: ProblemNames,
        shown: ReadMetrics,
    ) -> None:
        """Begin with no partition read."""
        self.name = name
        self.subscription = subscription
        self.problems = problems
        self.shown = shown
        self.topic_id: str | None = None
        self.minutes: dict[int, Minute] = {}
        self.readers: dict[int, ReaderState] = {}
        self.expired_to: dict[int, int] = {}
        self.committer = reading.committer
        self.dead_letter_topic = reading.dead_letter_topic
        self.ids = reading.ids
        self.folding = reading.folding
        self.clock = reading.clock
        self.metrics = reading.metrics
        self.on_effects = reading.on_effects
        self._owner = reading.owner
        self._store = reading.store
        self._claimed: dict[int, int] = {}
        self._skip_listeners: list[Callable[[int], None]] = []

    @abstractmethod
    def sink(self, partition: int) -> PartitionSink:
        """What the records of a partition are passed to."""

    @abstractmethod
    def how_to_begin_again(self, partition: int) -> str:
        """The command that has a partition read from its beginning."""

    def note_topic(self, partitions: Collection[int], asked: Moment, topic_id: str | None) -> None:
        """Note which partitions the topic has, and the broker's ID of it; an older broker knows none.

        Args:
            partitions: All of them.
            asked: When the broker was asked.
            topic_id: The ID; None: as before.
        """
        self.note_topic_id(topic_id)

    def note_topic_id(self, topic_id: str | None) -> None:
        """Note the broker's ID of the topic that is read; a broker of an older release knows none."""
        self.topic_id = topic_id or self.topic_id

    async def prepare(self, partitions: Collection[int]) -> None:
        """Called with the topic's partitions before they are read."""
        return

    async def positions(self) -> list[Position]:
        """The positions of all partitions that have one."""
        return await self._store.positions(self.name, self.subscription)

    async def claim(self, partition: int) -> Position:
        """Claim a partition for this process; any earlier reader is fenced from then on."""
        command = TakePartitions(
            owner=self._owner(),
            topic=self.name,
            partitions=(partition,),
            topic_id=self.topic_id,
            subscription=self.subscription,
        )
        [position] = (await self.committer.commit(command, PartitionsTaken)).positions
        self._claimed[partition] = position.epoch
        return position

    async def moved(self) -> list[int]:
        """The partitions that this instance reads and that were moved since it claimed them, anywhere."""
        return [
            row.partition
            for row in await self.positions()
            # Another owner's epoch is that of the group's next assignment, not of a move.
            if row.epoch > self._claimed.get(row.partition, row.epoch) and row.owner == self._owner()
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
            # Of no record: that at `before`, if it has the same instant, may become a dead letter itself.
            dead_letter=replace(
                letter, source=f"{letter.source} skipped", acts=with_act((), "skip", by, letter.at_ms)
            ),
            relay_to=self.dead_letter_topic,
            recreated=recreated,
            subscription=self.subscription,
        )
        if not (await self.committer.commit(command, Skipped)).done:
            return False
        log.warning(events.SKIPPED, partition=partition, before=before, next=next_, **self.facts)
        state = self.readers.get(partition)
        if state is not None:
            self.readers[partition] = dataclasses.replace(state, stuck=None, lag=None)
        self.metrics.dead_letters_added("skipped")
        self.on_effects()
        self.notify_moved(partition)
        return True

    def notify_moved(self, partition: int) -> None:
        """The position of a partition was changed: its reader is to claim it again."""
        for on_skip in self._skip_listeners:
            on_skip(partition)

    @contextmanager
    def listening(self, on_skip: Callable[[int], None]) -> Iterator[None]:
        """Within the block, call `on_skip` with each partition that was moved."""
        self._skip_listeners.append(on_skip)
        try:
            yield
        finally:
            self._skip_listeners.remove(on_skip)

    @property
    def facts(self) -> dict[str, str]:
        """What names the topic in the log."""
        subscription = {"subscription": self.subscription} if self.subscription else {}
        return {"topic": self.name, **subscription}

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
            source=letter_source(self.subscription, self.name, partition, record.offset, record.timestamp_ms),
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


def letter_source(subscription: str, topic: str, partition: int, offset: int, timestamp_ms: int) -> str:
    """What a record is known by: it becomes one dead letter of each subscription, and of the completions.

    The time distinguishes it from a record at the same offset after the topic was recreated.
    """
    prefix = f"{subscription}:" if subscription else ""
    return f"{prefix}{topic}:{partition}:{offset}@{timestamp_ms}"
