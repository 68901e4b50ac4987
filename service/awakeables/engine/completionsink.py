"""Settles what a reader of one partition of the completions topic hands over."""

from __future__ import annotations

from collections.abc import Sequence

from awakeables.engine.horizon import Moment
from awakeables.engine.intake import ConsumedRecord, Intake
from awakeables.engine.readerstate import ReaderState


class CompletionSink:
    """`kafka.partitions.RecordSink` of the completions topic.

    The partition is claimed with an epoch, and every write is fenced by it: it fails with
    `OwnershipLost` once another reader has claimed the partition.
    """

    def __init__(self, intake: Intake, *, owner: str, topic: str, partition: int) -> None:
        self._intake = intake
        self._owner = owner
        self._topic = topic
        self._partition = partition
        self._epoch = 0
        metrics, label = intake.metrics, str(partition)
        self._lag = metrics.consumer_lag.labels(label)
        self._behind_s = metrics.consumer_behind_s.labels(label)
        self._transaction_s = metrics.consumer_transaction_s.labels(label)

    async def open(self) -> int:
        """As `RecordSink.open`."""
        [held] = await self._intake.take_partitions(self._owner, self._topic, (self._partition,))
        self._epoch = held.epoch
        return held.next

    async def take(self, records: Sequence[ConsumedRecord]) -> None:
        """As `RecordSink.take`."""
        await self._intake.take(self._topic, self._partition, self._epoch, records)

    async def reject(self, record: ConsumedRecord, reason: str) -> None:
        """As `RecordSink.reject`."""
        await self._intake.bury(self._topic, self._partition, self._epoch, record, reason)

    async def leave_out(self, first: int, next_: int, reason: str) -> None:
        """As `RecordSink.leave_out`."""
        await self._intake.leave_out(self._topic, self._partition, self._epoch, first, next_, reason)

    async def expire(self, first: int, next_: int) -> None:
        """As `RecordSink.expire`."""
        await self._intake.expire(self._topic, self._partition, self._epoch, first, next_)

    def observe(self, state: ReaderState) -> None:
        """As `RecordSink.observe`."""
        self._intake.readers[self._partition] = state
        self._lag.set(state.lag or 0)
        self._behind_s.set(state.behind_s)
        self._transaction_s.set(state.transaction_s)

    def read_up_to(self, moment: Moment) -> None:
        """As `RecordSink.read_up_to`."""
        self._intake.horizon.read_to_end(self._partition, moment)
