"""One partition of the completions topic: claim it, seek, read, settle; whatever happens to it.

Partitions don't wait for each other: each has a task of its own. What several of them settle in
one turn of the loop is committed together.

Each is polled by itself, because `getmany` over all of them, when one can't be decoded, drops what
it has taken from the others already, and doesn't tell which one it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka

from awakeables.core.bounds import MOST_UNPACKED_BYTES
from awakeables.engine.intake import Intake, Record, Stuck
from awakeables.engine.offsets import PARTITION
from awakeables.errors import Overloaded, OwnershipLost, StoreRefused, StoreUnavailable
from awakeables.kafka.alarms import Alarms
from awakeables.kafka.gate import Gate
from awakeables.kafka.pulse import Pulse, Standstill
from awakeables.kafka.unpacking import BatchTooLarge, bounded
from awakeables.ports import Clock
from awakeables.telemetry import events

T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0

SURE_LOOKS = 3
"""A new leader may tell of an earlier end for a moment; at the third look in a row it is another topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingSettings:
    """How partitions are read.

    Attributes:
        max_records: Bound of one batch of one partition, because its decoding holds up the loop.
        max_settling: Bound of the records of all partitions that are on their way into the store,
            because whatever else is committed waits for them: two batches, so that one is decoded
            while the other is written.
        max_unpacked_bytes: What a batch may unpack to; one that is larger is left out, and a dead letter
            says so. Bounds what one look at a partition takes as well.
        idle: How often a partition without records tells that it was read to its end; deadlines
            lag behind by three of these at most.
        open_transaction: An open transaction that holds a partition for longer is a problem.
        stuck_retry: How soon a batch that can't be opened is tried again.
        ahead_retry: How soon a partition whose stored offset lies beyond its end is looked at again.
    """

    max_records: int = 1000
    max_settling: int = 2000
    max_unpacked_bytes: int = MOST_UNPACKED_BYTES
    idle: timedelta = timedelta(milliseconds=100)
    open_transaction: timedelta = timedelta(seconds=10)
    stuck_retry: timedelta = timedelta(minutes=1)
    ahead_retry: timedelta = timedelta(seconds=5)


class UnreadableBatch(Exception):
    """A batch of the partition can't be opened; the records before it were settled."""


class OffsetsAhead(Exception):
    """The stored offset lies beyond the end: the topic was cut short, or is another one."""


NextBatch: TypeAlias = Callable[[TopicPartition, int], Awaitable[int | None]]
"""Tells where the batch behind the one at an offset begins."""

LenientRead: TypeAlias = Callable[[TopicPartition, int], Awaitable[Sequence[ConsumerRecord]]]
"""Reads from an offset on what aiokafka refuses."""


Oversized: TypeAlias = Callable[[TopicPartition, int, int], Awaitable[tuple[int, int] | None]]
"""Finds the first batch from an offset on that unpacks to more: its first offset and the one behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the readers of all partitions share."""

    intake: Intake
    owner: str
    clock: Clock
    alarms: Alarms
    settings: ReadingSettings
    gate: Gate
    lenient: LenientRead
    next_batch: NextBatch
    oversized: Oversized


class PartitionReader:
    """Reads one partition for ever.

    Attributes:
        next: Everything before it is settled or, as markers of transactions, no record; None
            before the first claim.
        settling_since_s: Since when a batch is on its way into the store, by the monotonic clock.
        leaving: No further batch shall be begun.
    """

    def __init__(self, consumer: AIOKafkaConsumer, partition: TopicPartition, shared: Surroundings) -> None:
        self.next: int | None = None
        self.settling_since_s: float | None = None
        self.leaving = False
        self.partition = partition
        self._consumer = consumer
        self._intake = shared.intake
        self._owner = shared.owner
        self._alarms = shared.alarms
        self._settings = shared.settings
        self._gate = shared.gate
        self._lenient = shared.lenient
        self._next_batch = shared.next_batch
        self._oversized = shared.oversized
        self._called = asyncio.Event()
        self._name = f"{PARTITION} {partition.partition}"
        self._facts = {"topic": partition.topic, "partition": partition.partition}
        self._epoch = 0
        self._position = 0
        self._ahead = (0, 0)  # where it was ahead of the topic's end, and how many looks in a row
        self._wary = False
        self._pause_s = FIRST_PAUSE_S
        self._pulse = Pulse(shared.clock)
        self._standstill = Standstill(shared.clock)
        self._clock = shared.clock
        self._settled_ms = 0
        self._lag = self._intake.metrics.consumer_lag.labels(str(partition.partition))
        self._behind_s = self._intake.metrics.consumer_behind_s.labels(str(partition.partition))
        self._held_s = self._intake.metrics.consumer_transaction_s.labels(str(partition.partition))

    @property
    def silent_s(self) -> float:
        """For how long a read has waited for an answer of the broker."""
        return self._pulse.silent_s()

    @property
    def behind_s(self) -> float:
        """For how long nothing came although the broker has told of more."""
        return self._pulse.behind_s()

    def call_back(self) -> None:
        """Rest no longer: the partition is to be read on from elsewhere."""
        self._called.set()

    async def run(self) -> None:
        """Read and settle until cancelled, or until the consumer is closed."""
        while not self.leaving:
            try:
                await self._take_place()
                while not (self.leaving or self._called.is_set()):
                    await self._read_and_settle()
            except kafka.ConsumerStoppedError:
                return
            except Exception as error:
                # The supervisor of this partition: the others go on, and so will this one.
                if isinstance(error, UnreadableBatch):
                    await self._note_stuck()
                await self._rest(self._trouble(error))

    def _trouble(self, error: Exception) -> float:
        """Say what is wrong; how long to stay away, in seconds."""
        match error:
            case OwnershipLost():
                log.warning(events.BATCH_FENCED, reason=str(error), **self._facts)
            case OffsetsAhead():
                self._alarms.sound(self._name, events.OFFSETS_AHEAD, str(error), **self._facts)
                return self._settings.ahead_retry.total_seconds()
            case UnreadableBatch():
                self._alarms.sound(
                    self._name, events.PARTITION_STUCK, str(error), offset=self._position, **self._facts
                )
                return self._settings.stuck_retry.total_seconds()
            case kafka.TopicAuthorizationFailedError():
                told = f"Kafka does not let us read topic {self.partition.topic!r}; grant it by an ACL"
                self._alarms.sound(self._name, events.BROKER_REFUSED, told, **self._facts)
            case kafka.KafkaError():
                # Whether the broker is there is watched for all partitions together; and records
                # that were deleted under the reader are reported when it takes its place again.
                log.debug(events.BROKER_DOWN, error=repr(error), **self._facts)
            case StoreRefused():
                self._alarms.sound(self._name, events.MEMBER_REFUSED, str(error), **self._facts)
            case _:
                self._alarms.sound(
                    self._name, events.BACKGROUND_ERROR, repr(error), exc_info=error, **self._facts
                )
        pause_s = self._pause_s
        self._pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        return pause_s

    # ── place ──────────────────────────────────────────────────────────────────────────────

    async def _take_place(self) -> None:
        """Claim the partition, and stand where its last reader has stopped."""
        # Who calls from here on has moved the partition after this claim.
        self._called.clear()
        number = self.partition.partition
        [held] = await _patiently(
            lambda: self._intake.take_partitions(self._owner, self.partition.topic, (number,))
        )
        self._pulse.resume()
        begin, end = await self._bounds()
        self._refuse_another_topic(held.next, end)
        self._intake.ahead.discard(number)
        self._epoch = held.epoch
        if held.next < begin:
            await self._pass_expired(held.next, begin)
        self.next = max(held.next, begin)
        self._measure(end, self.next)
        self._go_to(self.next)
        self._intake.lags[number] = end - self._position
        self._consumer.resume(self.partition)
        self._pulse.begin(self._stamp())

    async def _pass_expired(self, first: int, begin: int) -> None:
        """Report records that were deleted before they were read, and keep that they are gone."""
        count = self._alarms.lost(self._name, first, begin)
        if count:
            self._intake.metrics.records_expired.inc(count)
            log.error(events.RECORDS_EXPIRED, first=begin - count, next=begin, count=count, **self._facts)
        topic, number = self.partition
        await _patiently(lambda: self._intake.expire(topic, number, self._epoch, first, begin))

    def _refuse_another_topic(self, position: int, end: int) -> None:
        """Stay away from a topic that ends before the position, or did so for long and has grown since.

        Raises:
            OffsetsAhead: It is one.
        """
        at, looks = self._ahead
        looks = looks if at == position else 0
        if position <= end and looks < SURE_LOOKS:
            self._ahead = (position, 0)
            return
        self._ahead = (position, looks + 1)
        number = self.partition.partition
        self._intake.ahead.add(number)
        ends = f"but ends at {end}" if position > end else "before which it ended for a while"
        raise OffsetsAhead(
            f"partition {number} of {self.partition.topic} is to be read from offset {position}, {ends}: "
            "the topic was recreated or has lost records; it waits. If it was made anew, "
            f"`awakeables offsets skip {number} --to 0` reads it from its beginning"
        )

    async def _bounds(self) -> tuple[int, int]:
        """Where the partition begins and, as far as it is committed, ends."""
        begin, end = await asyncio.gather(
            self._consumer.beginning_offsets([self.partition]), self._consumer.end_offsets([self.partition])
        )
        self._intake.ends[self.partition.partition] = end[self.partition]
        return begin[self.partition], end[self.partition]

    def _go_to(self, offset: int) -> None:
        self._position = offset
        self._consumer.seek(self.partition, offset)

    async def _rest(self, pause_s: float) -> None:
        """Stay away from the partition for a while; fetch nothing of it."""
        self._pulse.end()
        if self.partition in self._consumer.assignment():
            self._consumer.pause(self.partition)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._called.wait()

    async def _note_stuck(self) -> None:
        """Find out where the batch ends that can't be opened, for an operator who skips it."""
        try:
            following = await self._next_batch(self.partition, self._position)
        except (kafka.KafkaError, OSError, TimeoutError):
            following = None
        stuck = Stuck(offset=self._position, next=following)
        self._intake.stuck[self.partition.partition] = stuck

    # ── read ───────────────────────────────────────────────────────────────────────────────

    async def _read_and_settle(self) -> None:
        records = await (self._read_one_by_one() if self._wary else self._read())
        if records:
            await self._settle(records)
            self._alarms.clear(self._name)
            self._intake.stuck.pop(self.partition.partition, None)
            self._pause_s = FIRST_PAUSE_S
        await self._observe()

    async def _read(self) -> Sequence[ConsumerRecord]:
        try:
            return await self._poll(self._settings.max_records)
        except UnreadableBatch:
            # The good records before the bad batch went down with it: again, carefully.
            self._wary = True
            self._go_to(self._position)
            return ()

    async def _read_one_by_one(self) -> Sequence[ConsumerRecord]:
        """Read up to the batch that can't be opened; wary until the end was reached without one."""
        records: list[ConsumerRecord] = []
        room = self._settings.max_unpacked_bytes
        try:
            while len(records) < self._settings.max_records and room > 0:
                record = await self._poll(1, wait=not records)
                if not record:
                    self._wary = bool(records)
                    break
                records += record
                room -= len(record[0].value or b"")
        except UnreadableBatch as error:
            if not records and isinstance(error.__cause__, UnicodeDecodeError):
                records += await self._lenient(self.partition, self._position)
                self._position = records[-1].offset + 1 if records else self._position
            self._go_to(self._position)
            if records:
                return records
            if not isinstance(error.__cause__, BatchTooLarge) or not await self._leave_out(error.__cause__):
                raise
        return records

    async def _leave_out(self, why: BatchTooLarge) -> bool:
        """Read on behind a batch that is too large to be unpacked; a dead letter reports it.

        Only an attacker writes such a batch, and must not stop the partition with it.
        """
        topic, number = self.partition
        found = await self._oversized(self.partition, self._position, self._settings.max_unpacked_bytes)
        if found is None:
            return False
        first, behind = found
        await _patiently(lambda: self._intake.leave_out(topic, number, self._epoch, first, behind, str(why)))
        self.next = behind
        self._go_to(behind)
        return True

    async def _poll(self, max_records: int, *, wait: bool = True) -> Sequence[ConsumerRecord]:
        timeout_ms = round(self._settings.idle.total_seconds() * 1000) if wait else 0
        try:
            with bounded(self._settings.max_unpacked_bytes):
                batches = await self._consumer.getmany(
                    self.partition, timeout_ms=timeout_ms, max_records=max_records
                )
        except (kafka.OffsetOutOfRangeError, kafka.ConsumerStoppedError, kafka.TopicAuthorizationFailedError):
            raise
        except Exception as error:
            # A codec raises what it likes: gzip an OSError, cramjam an error of its own.
            raise UnreadableBatch(
                f"partition {self.partition.partition} of {self.partition.topic}: the batch at or after "
                f"offset {self._position} can't be opened: {error!r}"
            ) from error
        records: Sequence[ConsumerRecord] = batches.get(self.partition, ())
        if records:
            self._position = records[-1].offset + 1
        return records

    # ── settle ─────────────────────────────────────────────────────────────────────────────

    async def _settle(self, records: Sequence[ConsumerRecord]) -> None:
        self._pulse.end()
        self.settling_since_s = self._clock.monotonic()
        try:
            async with self._gate.passing(len(records)):
                await self._take([_record(record) for record in records])
        finally:
            self.settling_since_s = None
        self._pulse.resume()

    async def _take(self, records: Sequence[Record]) -> None:
        topic, number = self.partition
        try:
            await _patiently(lambda: self._intake.take(topic, number, self._epoch, records))
        except StoreRefused as error:
            # One record is to blame: the others are let through, up to it.
            if len(records) > 1:
                middle = len(records) // 2
                await self._take(records[:middle])
                await self._take(records[middle:])
                return
            reason = str(error)
            await _patiently(lambda: self._intake.bury(topic, number, self._epoch, records[0], reason))
        self.next = records[-1].offset + 1
        self._settled_ms = records[-1].timestamp_ms

    # ── observe ────────────────────────────────────────────────────────────────────────────

    async def _observe(self) -> None:
        """Report up to when the partition was read, and how many records wait."""
        end = self._consumer.highwater(self.partition)
        stable = self._consumer.last_stable_offset(self.partition)
        if stable is None or stable < 0:
            stable = end
        if end is not None:
            self._intake.ends[self.partition.partition] = end
        self.next = position = await self._consumer.position(self.partition)
        self._measure(end, position)
        read = self._pulse.beat(self._stamp(), position, end=end, stable=stable)
        if read is not None:
            self._alarms.clear(self._name)
            self._intake.horizon.read_to_end(self.partition.partition, read)
        self._watch_transaction(position, end=end, stable=stable)

    def _watch_transaction(self, position: int, *, end: int | None, stable: int | None) -> None:
        """Say that answers wait behind an open transaction, if they do for long."""
        held_s = self._standstill.seconds(end=end, stable=stable)
        self._held_s.set(held_s)
        if held_s > self._settings.open_transaction.total_seconds() and position == stable:
            told = (
                f"partition {self.partition.partition} of {self.partition.topic} can be read up to offset "
                f"{stable} only, it ends at {end}: a producer has a transaction open there. What is behind "
                "waits until it is committed or aborted; `kafka-transactions.sh find-hanging` names it"
            )
            self._alarms.sound(self._name, events.TRANSACTION_OPEN, told, offset=stable, **self._facts)

    def note_end(self, end: int) -> None:
        """The partition ends here; for when the store keeps the reader from looking itself."""
        # Asked for, the end is that of what is committed; an answer may have reported a later one.
        end = max(end, self._intake.ends.get(self.partition.partition, end))
        self._intake.ends[self.partition.partition] = end
        self._measure(end, self._position if self.next is None else self.next)

    def _measure(self, end: int | None, position: int) -> None:
        """Tell how much waits, and since when: the record before it is about as old."""
        lag = 0 if end is None else max(0, end - position)
        self._lag.set(lag)
        self._intake.lags[self.partition.partition] = lag
        behind_ms = self._clock.now_ms() - self._settled_ms if lag and self._settled_ms else 0
        self._behind_s.set(max(0, behind_ms) / 1000)

    def _stamp(self) -> int | None:
        stamp: int | None = self._consumer.last_poll_timestamp(self.partition)
        return stamp


def _record(record: ConsumerRecord) -> Record:
    return Record(
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the store is there; what waits is one batch."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await ask()
        except (Overloaded, StoreUnavailable):
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
