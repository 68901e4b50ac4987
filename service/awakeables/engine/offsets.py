"""How far topics have been read; moving a partition; pausing, resuming and moving subscriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import structlog

from awakeables.core.commands import PausePartitions
from awakeables.core.replies import Acknowledged, Position
from awakeables.engine.readerstate import ReaderState
from awakeables.engine.readtopic import ReadTopic
from awakeables.engine.subscriptions import SubscribedTopic, Subscriptions, where_of
from awakeables.errors import InvalidInput, NotFound, NotPossible
from awakeables.ports import OffsetReader, TopicOffsets
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

SeekTo: TypeAlias = Literal["earliest", "latest"] | int | datetime
"""Where to go on: at the beginning or the end of a topic, at an offset, or at an instant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionProgress:
    """How far one partition has been read.

    Attributes:
        topic: The topic.
        partition: Its number.
        next: The offset that is read next.
        epoch: Counts its readers; a batch of an earlier one is refused.
        end: Its end offset, as the broker last reported it; None before the first report.
        lag: How many records are unread; None as for `end`. Transaction markers are not records, so it
            can be 0 although `next` is below `end`.
        problem: What keeps it from being read.
        waits: Why it is not read for now, although nothing is wrong; as this instance knows it.
    """

    topic: str
    partition: int
    next: int
    epoch: int
    end: int | None
    lag: int | None
    problem: str | None
    waits: str | None = None


class TopicProgress:
    """Shows how far each partition of a topic has been read, and moves one on request."""

    def __init__(self, topic: ReadTopic, problems: Mapping[str, str]) -> None:
        self._topic = topic
        self._problems = problems

    async def show(self) -> list[PartitionProgress]:
        """Return all partitions that were ever read, in order."""
        return self.of(await self._topic.positions())

    def of(self, positions: Sequence[Position]) -> list[PartitionProgress]:
        """Return the progress of partitions that have these positions."""
        return [self._progress(held) for held in positions]

    def _progress(self, held: Position) -> PartitionProgress:
        state = self._state(held.partition)
        end = state.end
        unread = None if end is None else max(0, end - held.next)
        return PartitionProgress(
            topic=self._topic.name,
            partition=held.partition,
            next=held.next,
            epoch=held.epoch,
            end=end,
            lag=unread if state.lag is None else state.lag,
            problem=self._problems.get(self._topic.problems.of_partition(held.partition)),
            waits=state.waits,
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
        is_new_topic = self.is_of_another_topic(position)
        if to == held.next and not is_new_topic:
            raise NotPossible(f"partition {partition} is at offset {to} already")
        if not await self._topic.skip(partition, held.next, to, by=by, recreated=is_new_topic):
            raise NotPossible(f"partition {partition} has been read beyond {held.next} meanwhile; try again")
        return (await self._held(partition))[1]

    def is_of_another_topic(self, position: Position) -> bool:
        """Whether the topic was recreated, or has lost records, since it was read up to a position."""
        state = self._state(position.partition)
        # Another instance may read the partition; the topic's ID is known to all of them.
        return (
            state.ahead
            or (state.end is not None and state.end < position.next)
            or self._topic.is_recreated_since(position.topic_id)
        )

    def _state(self, partition: int) -> ReaderState:
        return self._topic.readers.get(partition, ReaderState())

    async def _held(self, partition: int) -> tuple[Position, PartitionProgress]:
        for position in await self._topic.positions():
            if position.partition == partition:
                return position, self._progress(position)
        raise NotFound(f"partition {partition} of {self._topic.name} has never been read")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionProgress:
    """How far a subscription has read its topic.

    Attributes:
        name: The subscription.
        topic: Its topic.
        target: What it calls, as `service/handler`; None: this app has no such subscription any more.
        paused_ms: When it was paused, in milliseconds since 1970; None: it is not paused.
        open: How many of its invocations have not ended, counted up to `max_open`.
        max_open: With so many nothing more is read.
        problems: What keeps it from being read, apart from its partitions.
        partitions: Each partition that was ever read.
    """

    name: str
    topic: str
    target: str | None
    paused_ms: int | None
    open: int
    max_open: int | None
    problems: Sequence[str]
    partitions: Sequence[PartitionProgress]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A partition of a subscription that was moved from the offset `before` to `next`."""

    partition: int
    before: int
    next: int


class SubscriptionControl:
    """Shows the subscriptions of an app; pauses, resumes and moves them on request."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        reader: OffsetReader,
        offsets: TopicOffsets | None,
        problems: Mapping[str, str],
    ) -> None:
        self._topics = subscriptions.topics
        self._reader = reader
        self._offsets = offsets
        self._problems = problems

    async def show(self) -> list[SubscriptionProgress]:
        """Return all subscriptions of the app, and those of which the store has positions, by name."""
        shown = [await self._progress(topic) for topic in self._topics.values()]
        for name, topic in await self._reader.subscribed():
            if name in self._topics and self._topics[name].name == topic:
                continue
            positions = await self._reader.positions(topic, name)
            shown.append(
                SubscriptionProgress(
                    name=name,
                    topic=topic,
                    target=None,
                    paused_ms=_paused_ms(positions),
                    open=await self._reader.count_open(name, MOST_COUNTED),
                    max_open=None,
                    problems=(),
                    partitions=[_unread(topic, position) for position in positions],
                )
            )
        return sorted(shown, key=lambda each: (each.name, each.topic))

    async def pause(self, name: str) -> SubscriptionProgress:
        """Begin no invocation for its records until it is resumed; those that have begun go on.

        Raises:
            NotFound: There is no such subscription.
            NotPossible: It was never read.
        """
        return await self._set_paused(name, paused=True)

    async def resume(self, name: str) -> SubscriptionProgress:
        """Go on where it was paused, or moved to.

        Raises:
            NotFound: There is no such subscription.
            NotPossible: It was never read.
        """
        return await self._set_paused(name, paused=False)

    async def _set_paused(self, name: str, *, paused: bool) -> SubscriptionProgress:
        topic = self._topic(name)
        left = await self._positions(topic)
        while left:  # a partition that was added meanwhile, and claimed before this was committed, is left
            numbers = tuple(position.partition for position in left)
            command = PausePartitions(subscription=name, topic=topic.name, partitions=numbers, paused=paused)
            await topic.committer.commit(command, Acknowledged)
            for partition in numbers:
                topic.notify_moved(partition)
            left = [each for each in await topic.positions() if (each.paused_ms is not None) != paused]
        event = events.SUBSCRIPTION_PAUSED if paused else events.SUBSCRIPTION_RESUMED
        log.info(event, subscription=name, topic=topic.name)
        return await self._progress(topic)

    async def seek(
        self, name: str, to: SeekTo, *, partition: int | None = None, by: str | None = None
    ) -> list[Move]:
        """Move a paused subscription; records may be read again, or never.

        Each move is recorded as a dead letter with the code `skipped`.

        Args:
            name: The subscription.
            to: Where to go on. An offset needs a partition.
            partition: Move this one alone.
            by: Who asks for it.

        Raises:
            NotFound: There is no such subscription, or no such partition.
            NotPossible: It is not paused, or was never read.
            InvalidInput: The offset is not in the partition, or there is no partition for it.
            BrokerUnavailable: The broker did not answer.
        """
        topic = self._topic(name)
        held = {each.partition: each for each in await self._positions(topic)}
        if all(each.paused_ms is None for each in held.values()):
            raise NotPossible(f"subscription {name!r} is not paused: `awakeables subscriptions pause {name}`")
        if partition is not None and partition not in held:
            raise NotFound(f"subscription {name!r} has read no partition {partition} of {topic.name!r}")
        wanted = list(held) if partition is None else [partition]
        targets = await self._targets(topic, to, wanted)
        progress, moves = TopicProgress(topic, self._problems), []
        for number in wanted:
            position, next_ = held[number], targets[number]
            is_new = progress.is_of_another_topic(position)
            if position.next == next_ and not is_new:
                continue
            if not await topic.skip(number, position.next, next_, by=by, recreated=is_new):
                raise NotPossible(f"partition {number} was moved by somebody else meanwhile; try again")
            moves.append(Move(partition=number, before=position.next, next=next_))
        return moves

    async def _targets(self, topic: SubscribedTopic, to: SeekTo, wanted: Sequence[int]) -> Mapping[int, int]:
        assert self._offsets is not None, "it was not said how to find offsets"
        if not isinstance(to, int):
            return await self._offsets.offsets_at(topic.name, wanted, where_of(to))
        if len(wanted) != 1:
            raise InvalidInput(
                f"{topic.name!r} has {len(wanted)} partitions: give the one to move to an offset"
            )
        [number] = wanted
        first = (await self._offsets.offsets_at(topic.name, wanted, "earliest"))[number]
        end = (await self._offsets.offsets_at(topic.name, wanted, "latest"))[number]
        if not first <= to <= end:
            raise InvalidInput(
                f"partition {number} of {topic.name!r} has the offsets {first} to {end}, not {to}"
            )
        return {number: to}

    def _topic(self, name: str) -> SubscribedTopic:
        topic = self._topics.get(name)
        if topic is None:
            named = ", ".join(sorted(self._topics)) or "none"
            raise NotFound(f"no subscription {name!r}; there are: {named}")
        return topic

    async def _positions(self, topic: SubscribedTopic) -> list[Position]:
        positions = await topic.positions()
        if not positions:
            raise NotPossible(
                f"subscription {topic.subscription!r} has not begun: is there a topic {topic.name!r}?"
            )
        return positions

    async def _progress(self, topic: SubscribedTopic) -> SubscriptionProgress:
        names = topic.problems
        found = map(self._problems.get, (names.broker, names.topic, names.group))
        handler, positions = topic.handler, await topic.positions()
        return SubscriptionProgress(
            name=topic.subscription,
            topic=topic.name,
            target=f"{handler.service}/{handler.name}",
            paused_ms=_paused_ms(positions),
            open=await self._reader.count_open(topic.subscription, topic.settings.max_open),
            max_open=topic.settings.max_open,
            problems=[problem for problem in found if problem is not None],
            partitions=TopicProgress(topic, self._problems).of(positions),
        )


MOST_COUNTED = 10_000
"""How many open invocations are counted of a subscription that the app does not have any more."""


def _paused_ms(positions: Sequence[Position]) -> int | None:
    return min((each.paused_ms for each in positions if each.paused_ms is not None), default=None)


def _unread(topic: str, held: Position) -> PartitionProgress:
    """A partition that nobody reads."""
    return PartitionProgress(
        topic=topic,
        partition=held.partition,
        next=held.next,
        epoch=held.epoch,
        end=None,
        lag=None,
        problem=None,
    )
