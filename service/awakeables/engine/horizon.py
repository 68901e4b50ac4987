"""The watermark of the completions topic, which deadlines are compared with (hard case 5).

An outage must not turn finished work into time-outs: an answer that was in the topic in time counts,
although the service reads it late. So deadlines are compared with the latest moment up to which every
partition of the completions topic is known to be read. That moment is always a little in the past, and
never simply *now*: a process that was frozen, or whose event loop was blocked, does not know that from
its own clock, and would expire awakeables whose answers it has not read yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from awakeables.core.instances import PartitionRead
from awakeables.errors import StoreUnavailable
from awakeables.ports import Clock, Watermark

EXCHANGE_S = 0.25
"""How often instances note in the store what they have read; deadlines lag behind by one or two of these."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by both clocks: the wall clock can be set, the monotonic one can stop in standby.

    Attributes:
        ms: Milliseconds since 1970.
        monotonic_s: Seconds of the monotonic clock.
    """

    ms: int
    monotonic_s: float

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        return cls(clock.now_ms(), clock.monotonic())


@dataclass(frozen=True, slots=True)
class ReadMark:
    """Up to when a partition is read.

    Attributes:
        moment: Everything that was in the partition at that moment has been settled.
        epoch: The epoch of the reader that says so.
    """

    moment: Moment
    epoch: int


class Horizon:
    """Keeps the moment up to which each partition is known to be read, and the earliest of them.

    Where several instances share the partitions, each notes in the store what it has read, at intervals,
    and learns up to when all of them have read. That moment may be old, but never becomes wrong: what is
    read stays read, and a partition that is added later holds later answers only.
    """

    def __init__(
        self, clock: Clock, *, longest_ms: int, topic: str = "", watermark: Watermark | None = None
    ) -> None:
        """Begin with nothing read.

        Args:
            clock: The store's clock.
            longest_ms: Deadlines are held back for this long at most, even if Kafka never returns.
            topic: The completions topic.
            watermark: Where the instances note what they have read; None: this one reads all partitions.
        """
        self._clock = clock
        self._longest_ms = longest_ms
        self._topic = topic
        self._watermark = watermark
        self._all_ms: int | None = None
        self._read: dict[int, ReadMark | None] = {}
        self._asked: Moment | None = None
        self._topic_id: str | None = None

    @property
    def partitions(self) -> frozenset[int]:
        """The topic's partitions, by the last answer of the broker."""
        return frozenset(self._read)

    @property
    def asked(self) -> Moment | None:
        """When the broker was last asked for the topic's partitions; None before its first answer."""
        return self._asked

    @property
    def read(self) -> Mapping[int, ReadMark]:
        """The partitions that this instance reads, and up to when."""
        return {partition: mark for partition, mark in self._read.items() if mark is not None}

    def expect(self, partitions: Iterable[int], asked: Moment, *, topic_id: str | None = None) -> None:
        """Record that the topic has exactly these partitions, according to the broker.

        Args:
            partitions: All of them; deadlines wait until each has been read.
            asked: When the broker was asked; a partition may have been added since.
            topic_id: The topic's ID in the broker; None: as before.
        """
        self._topic_id = topic_id or self._topic_id
        self._read = {partition: self._read.get(partition) for partition in partitions}
        self._asked = asked

    def read_to_end(self, partition: int, moment: Moment, epoch: int) -> None:
        """Record that everything that was in the partition at that moment has been settled."""
        self._read[partition] = ReadMark(moment, epoch)

    def drop(self, partition: int) -> None:
        """Record that this instance no longer reads the partition: it counts as unread."""
        if partition in self._read:
            self._read[partition] = None

    def held_back_to_ms(self) -> int:
        """Return the instant to compare deadlines with, in milliseconds since 1970."""
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic()
        earliest_ms, covered_ms = now_ms - self._longest_ms, now_ms
        if self._watermark is not None:
            return earliest_ms if self._all_ms is None else max(earliest_ms, min(now_ms, self._all_ms))
        if not self._read:
            return earliest_ms
        moments = [None if mark is None else mark.moment for mark in self._read.values()]
        for moment in (self._asked, *moments):
            if moment is None:
                return earliest_ms
            # The moment as it was read, or by today's setting, whichever is earlier. If the clock was set
            # back since, its old reading lies in the future. If it was set forward, deadlines seem to have
            # passed that had not when the partition was read.
            age_ms = round((now_s - moment.monotonic_s) * 1000)
            covered_ms = min(covered_ms, moment.ms, now_ms - age_ms)
        return max(earliest_ms, covered_ms)

    async def run(self, on_unexpected: Callable[[Exception], None]) -> None:
        """Note what is read in the store, and learn what others have read, until cancelled."""
        while True:
            try:
                await self.exchange()
            except StoreUnavailable:
                pass  # deadlines wait
            except Exception as error:
                on_unexpected(error)
            await asyncio.sleep(EXCHANGE_S)

    async def exchange(self) -> None:
        """Do so once."""
        assert self._watermark is not None, "this instance reads all partitions"
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic()
        mine = []
        for partition, mark in self.read.items():
            # A partition may have been added since the broker was last asked which there are.
            moments = [mark.moment, self._asked] if self._asked is not None else [mark.moment]
            ages_ms = [
                max(now_ms - moment.ms, round((now_s - moment.monotonic_s) * 1000)) for moment in moments
            ]
            mine.append(PartitionRead(partition=partition, epoch=mark.epoch, up_to_ms=now_ms - max(ages_ms)))
        self._all_ms = await self._watermark.read_up_to(
            self._topic, len(self._read), mine, topic_id=self._topic_id
        )
