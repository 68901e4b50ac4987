"""Reads one partition and passes its records to a sink, through failures of either.

Partitions don't wait for each other: each has its own task. Batches that several of them pass on in
one turn of the loop are committed together.

Each is polled by itself: if one can't be decoded, `getmany` over all of them drops what it has already
taken from the others, and doesn't say which one it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka

from awakeables.core.backoff import Backoff
from awakeables.core.bounds import MAX_UNPACKED_BYTES
from awakeables.engine.readerstate import ReaderState, StuckBatch
from awakeables.engine.readtopic import ConsumedRecord, ProblemNames
from awakeables.engine.sinks import PartitionSink
from awakeables.errors import Overloaded, OwnershipLost, StoreRefused, StoreUnavailable
from awakeables.kafka.connection import KafkaConnection
from awakeables.kafka.fetchprogress import FetchProgress, OpenTransactionTimer
from awakeables.kafka.limiter import BatchLimiter
from awakeables.kafka.problemboard import ProblemBoard
from awakeables.kafka.tolerant import OversizedBatch, TolerantReader, UnreadableBatch
from awakeables.ports import Clock
from awakeables.telemetry import events

T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0

FULL_PAUSE_S = 0.5
"""How soon a sink that takes nothing for now is asked again."""

LOOKS_TO_BE_SURE = 3
"""A new leader may report an earlier end for a moment; the third time in a row it is another topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingSettings:
    """How partitions are read.

    Attributes:
        max_records: Maximum of one batch of one partition, because decoding it blocks the loop.
        max_settling: Maximum of the records of all partitions that are being stored, because other
            commits wait for them: two batches, so that one is decoded while the other is written.
        max_unpacked_bytes: The size to which a batch may unpack; a larger one is skipped, as one dead
            letter. It also limits the size of one poll.
        idle: How often a partition without records reports that it was read to its end; deadlines
            lag by at most three of these intervals.
        open_transaction: An open transaction that blocks a partition for longer is a problem.
        stuck_retry: How soon a batch that can't be opened is retried.
        ahead_retry: How soon a partition whose stored offset is beyond its end is checked again.
    """

    max_records: int = 1000
    max_settling: int = 2000
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES
    idle: timedelta = timedelta(milliseconds=100)
    open_transaction: timedelta = timedelta(seconds=10)
    stuck_retry: timedelta = timedelta(minutes=1)
    ahead_retry: timedelta = timedelta(seconds=5)


class OffsetsAhead(Exception):
    """The stored offset is beyond the end: the topic lost records, or is another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderContext:
    """What the readers of all partitions share.

    Attributes:
        fenced_pause: How long a reader that was fenced stays away at least. In a group Kafka's next heartbeat
            may say that the partition has moved; to claim it before that would fence its new reader.
    """

    connection: KafkaConnection
    clock: Clock
    board: ProblemBoard
    problems: ProblemNames
    settings: ReadingSettings
    limiter: BatchLimiter
    fenced_pause: timedelta = timedelta(0)


class PartitionReader:
    """Reads one partition until it is cancelled, or until it leaves and has handed over its last batch.

    Attributes:
        next: Everything before it was processed, or is not a record but a transaction marker; None
            before the first claim.
        taking_since_s: Since when the sink has a batch, by the monotonic clock.
        full_since_s: Since when the sink takes nothing for now.
        leaving: No further batch is begun.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partition: TopicPartition,
        sink: PartitionSink,
        context: ReaderContext,
    ) -> None:
        self.next: int | None = None
        self.taking_since_s: float | None = None
        self.full_since_s: float | None = None
        self.leaving = False
        self.partition = partition
        self._consumer = consumer
        self._sink = sink
        self._board = context.board
        self._settings = context.settings
        self._limiter = context.limiter
        self._fenced_pause_s = context.fenced_pause.total_seconds()
        self._clock = context.clock
        self._reader = TolerantReader(
            consumer,
            partition,
            context.connection,
            position=0,
            max_unpacked_bytes=context.settings.max_unpacked_bytes,
        )
        self._moved = asyncio.Event()
        self._roused = asyncio.Event()  # from a rest
        self._name = context.problems.of_partition(partition.partition)
        self._facts = {"topic": partition.topic, "partition": partition.partition}
        self._ahead = (0, 0)  # where it was ahead of the topic's end, and how many looks in a row
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._fetch = FetchProgress(context.clock)
        self._transaction = OpenTransactionTimer(context.clock)
        self._state = ReaderState()
        self._taken_ms = 0
        self._leader: int | None = None

    @property
    def silent_s(self) -> float:
        """For how long a read has waited for a response of the broker."""
        return self._fetch.silent_s()

    @property
    def behind_s(self) -> float:
        """For how long no record came although the broker has reported more."""
        return self._fetch.behind_s()

    @property
    def polling(self) -> bool:
        """Whether it must not be cancelled: see `TolerantReader`."""
        return self._reader.polling

    @property
    def waiting_since_s(self) -> float | None:
        """Since when nothing is read, because the sink has a batch or takes none; None: it is read."""
        return self.taking_since_s or self.full_since_s

    def leave(self) -> None:
        """Begin no further batch, and don't move the consumer any more."""
        self.leaving = True
        self._reader.detach()

    def close(self) -> None:
        """After `leave`: report nothing any more, the partition is another reader's."""
        self._sink.close()
        self._board.clear(self._name)

    def notify_moved(self) -> None:
        """Open the partition again, at once: its offset was moved."""
        self._moved.set()
        self._roused.set()

    async def run(self) -> None:
        """Read until cancelled, or until the consumer is closed."""
        try:
            while not self.leaving:
                try:
                    await self._open()
                    while not (self.leaving or self._moved.is_set()):
                        if self._sink.full is None:
                            await self._read_and_hand_over()
                        else:
                            await self._wait_for_room()
                except kafka.ConsumerStoppedError:
                    return
                except Exception as error:
                    # The supervisor of this partition: the others go on, and so will this one.
                    if not self.leaving:
                        await self._rest(self._trouble(error))
        finally:
            self._observe(lag=None)

    def _trouble(self, error: Exception) -> float:
        """Report what is wrong; return how long to wait before the next attempt, in seconds."""
        match error:
            case OwnershipLost():
                log.warning(events.BATCH_FENCED, reason=str(error), **self._facts)
                return max(self._fenced_pause_s, self._backoff.next_s())
            case OffsetsAhead():
                self._board.report(self._name, events.OFFSETS_AHEAD, str(error), **self._facts)
                return self._settings.ahead_retry.total_seconds()
            case UnreadableBatch():
                self._observe(stuck=StuckBatch(offset=error.offset, next=error.next))
                self._board.report(
                    self._name, events.PARTITION_STUCK, str(error), offset=error.offset, **self._facts
                )
                return self._settings.stuck_retry.total_seconds()
            case kafka.TopicAuthorizationFailedError():
                text = f"Kafka does not let us read topic {self.partition.topic!r}; grant it by an ACL"
                self._board.report(self._name, events.BROKER_REFUSED, text, **self._facts)
            case kafka.KafkaError():
                # Whether the broker is there is watched for all partitions together; and records
                # that were deleted under the reader are reported when it opens the partition again.
                log.debug(events.BROKER_DOWN, error=repr(error), **self._facts)
            case StoreRefused():
                self._board.report(self._name, events.MEMBER_REFUSED, str(error), **self._facts)
            case _:
                self._board.report(
                    self._name, events.BACKGROUND_ERROR, repr(error), exc_info=error, **self._facts
                )
        return self._backoff.next_s()

    async def _rest(self, pause_s: float) -> None:
        """Fetch nothing of the partition for a while."""
        self._fetch.pause()
        if self.partition in self._consumer.assignment():
            self._consumer.pause(self.partition)
        if not self._moved.is_set():
            self._roused.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._roused.wait()

    async def _wait_for_room(self) -> None:
        """Fetch nothing until the sink takes records again."""
        self.full_since_s = self.full_since_s or self._clock.monotonic()
        self._observe(waits=self._sink.full)
        self._sink.call_on_room(self._roused.set)
        await self._rest(FULL_PAUSE_S)
        if self.leaving or self._moved.is_set():
            self.full_since_s = None
            return
        await _until_stored(self._sink.look)
        if self._sink.full is None and not self.leaving:
            self.full_since_s = None
            self._observe(waits=None)
            self._consumer.resume(self.partition)
            self._fetch.begin(self._stamp())

    # Opening: claim the partition, and go to where its last reader stopped.

    async def _open(self) -> None:
        # From here on `notify_moved` means a move after this claim.
        self._moved.clear()
        self._fetch.pause()
        position = await _until_stored(self._sink.open)
        self._fetch.resume()
        self._leader = self._leader_now()
        begin, end = await self._bounds()
        self._refuse_another_topic(position, end)
        if position < begin:
            await _until_stored(lambda: self._sink.expire(position, begin))
        self.next = max(position, begin)
        self._reader.go_to(self.next)
        self._measure(end, self.next)
        self.full_since_s = self.full_since_s if self._sink.full else None
        self._observe(waits=self._sink.full)
        if not self.leaving:
            self._consumer.resume(self.partition)
        self._fetch.begin(self._stamp())

    def _refuse_another_topic(self, position: int, end: int) -> None:
        """Refuse a topic that, by its ID or its end, is known to be another one, however long it is now.

        Raises:
            OffsetsAhead: It is another one.
        """
        at, looks = self._ahead
        looks = looks if at == position else 0
        recreated = self._sink.is_topic_recreated
        if position <= end and looks < LOOKS_TO_BE_SURE and not recreated:
            self._ahead = (position, 0)
            stuck = self._state.stuck
            self._observe(ahead=False, stuck=stuck if stuck and stuck.offset == position else None)
            return
        self._ahead = (position, looks + 1)
        self._observe(ahead=True)
        number = self.partition.partition
        if recreated:
            found = "which belongs to an earlier topic of this name: the topic was recreated"
        elif position > end:
            found = f"but ends at {end}: the topic was recreated or has lost records"
        else:
            found = "before which it ended for a while: the topic was recreated or has lost records"
        raise OffsetsAhead(
            f"partition {number} of {self.partition.topic} must be read from offset {position}, {found}; "
            f"it waits. If it was recreated, {self._sink.how_to_begin_again} reads it from its beginning"
        )

    async def _bounds(self) -> tuple[int, int]:
        """Where the partition begins and, as far as it is committed, ends."""
        begin, end = await asyncio.gather(
            self._consumer.beginning_offsets([self.partition]), self._consumer.end_offsets([self.partition])
        )
        self._observe(end=end[self.partition])
        return begin[self.partition], end[self.partition]

    # Reading, and passing records on.

    async def _read_and_hand_over(self) -> None:
        idle_ms = round(self._settings.idle.total_seconds() * 1000)
        try:
            most = min(self._settings.max_records, self._sink.most)
            records = await self._reader.read(most, timeout_ms=idle_ms)
        except OversizedBatch as batch:
            first, next_, reason = batch.first, batch.next, batch.reason
            self._fetch.pause()
            await _until_stored(lambda: self._sink.leave_out(first, next_, reason))
            self._reader.go_to(next_)
            self._fetch.resume()
            records = ()
        if self.leaving:
            return
        if records:
            await self._hand_over(records)
            self._board.clear(self._name)
            if self._state.stuck is not None:
                self._observe(stuck=None)
            self._backoff.reset()
        await self._look()

    async def _hand_over(self, records: Sequence[ConsumerRecord]) -> None:
        self._fetch.pause()
        self.taking_since_s = self._clock.monotonic()
        try:
            async with self._limiter.acquire(len(records)):
                consumed = [
                    ConsumedRecord(
                        offset=record.offset,
                        timestamp_ms=record.timestamp,
                        key=record.key,
                        value=record.value,
                        headers=record.headers,
                    )
                    for record in records
                ]
                await self._take(consumed)
        finally:
            self.taking_since_s = None
        self._fetch.resume()

    async def _take(self, records: Sequence[ConsumedRecord]) -> bool:
        """Pass records on; return whether the sink has taken all of them."""
        after = records[-1].offset + 1
        try:
            next_ = await _until_stored(lambda: self._sink.take(records))
        except StoreRefused as error:
            # One record is the cause: take those before and after it.
            if len(records) > 1:
                middle = len(records) // 2
                return await self._take(records[:middle]) and await self._take(records[middle:])
            reason = str(error)
            await _until_stored(lambda: self._sink.reject(records[0], reason))
            next_ = after
        taken = [record for record in records if record.offset < next_] if next_ < after else records
        if taken:
            self.next = next_
            self._taken_ms = taken[-1].timestamp_ms
        if next_ == after:
            return True
        if not self.leaving:
            self._reader.go_to(next_)
        return False

    # Observing: up to when the partition was read, and how many records wait.

    async def _look(self) -> None:
        leader = self._leader_now()
        if leader is None:
            self._leader = None
            self._fetch.pause()  # the broker is there: it tells that nobody leads the partition
            text = f"partition {self.partition.partition} of {self.partition.topic} has no leader"
            self._board.report(self._name, events.BROKER_DOWN, text, **self._facts)
        elif leader != self._leader:
            # A new leader may not know yet how far records were acknowledged, and fetch responses then have
            # an earlier end. Where the partition ends it tells only once it knows (KIP-207).
            await self._bounds()
            self._leader = leader
            self._fetch.begin(self._stamp())
        end = self._consumer.highwater(self.partition)
        stable = self._consumer.last_stable_offset(self.partition)
        if stable is None or stable < 0:
            stable = end
        self.next = position = await self._consumer.position(self.partition)
        self._measure(end, position, transaction_s=self._transaction.seconds(end=end, stable=stable))
        read = self._fetch.look(self._stamp(), position, end=end, stable=stable)
        if read is not None and not self.leaving:
            self._board.clear(self._name)
            self._sink.read_up_to(read)
        if position == stable:
            self._report_open_transaction(stable, end)

    def _report_open_transaction(self, stable: int | None, end: int | None) -> None:
        """Report that records have been waiting behind an open transaction for long."""
        if self._state.transaction_s <= self._settings.open_transaction.total_seconds():
            return
        text = (
            f"partition {self.partition.partition} of {self.partition.topic} can only be read up to offset "
            f"{stable}, although it ends at {end}: a producer has a transaction open there. The records "
            "after it wait until it is committed or aborted; `kafka-transactions.sh find-hanging` names it"
        )
        self._board.report(self._name, events.TRANSACTION_OPEN, text, offset=stable, **self._facts)

    def note_end(self, end: int) -> None:
        """Report the partition's end, while the store keeps the reader from polling."""
        # This query returns the end of committed records; a fetch response may have had a later end.
        end = max(end, self._state.end or 0)
        self._measure(end, self._reader.position if self.next is None else self.next)

    def _measure(self, end: int | None, position: int, *, transaction_s: float = 0.0) -> None:
        """Report how many records wait, and for how long: about since the record before them."""
        lag = 0 if end is None else max(0, end - position)
        behind_ms = self._clock.now_ms() - self._taken_ms if lag and self._taken_ms else 0
        self._state = replace(
            self._state,
            end=self._state.end if end is None else end,
            lag=lag,
            behind_s=max(0, behind_ms) / 1000,
            transaction_s=transaction_s,
        )
        self._sink.observe(self._state)

    def _observe(self, **seen: Any) -> None:
        self._state = replace(self._state, **seen)
        self._sink.observe(self._state)

    def _leader_now(self) -> int | None:
        """The broker that leads the partition; None: none, or it is not known."""
        leader: int | None = self._consumer._client.cluster.leader_for_partition(self.partition)
        return None if leader is None or leader < 0 else leader

    def _stamp(self) -> int | None:
        stamp: int | None = self._consumer.last_poll_timestamp(self.partition)
        return stamp


async def _until_stored(ask: Callable[[], Awaitable[T]]) -> T:
    """Call until the store accepts it; only one batch waits meanwhile."""
    backoff: Backoff | None = None
    while True:
        try:
            return await ask()
        except (Overloaded, StoreUnavailable):
            backoff = backoff or Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
            await asyncio.sleep(backoff.next_s())
