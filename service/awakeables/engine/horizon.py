"""How far time may be taken to have passed for deadlines (hard case 5).

An outage must not turn finished work into time-outs: an answer that was in the topic in time
counts, although the service read it late. So deadlines are held against the last moment up to
which every completions partition is known to be read. That moment always lies a little in the
past. It is never simply *now*: a process that was frozen, or whose loop was blocked, can't tell
that from its own clock, and would expire what it has not read yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from awakeables.ports import Clock


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by both clocks: the wall clock may be set, the monotonic one may stand still.

    Attributes:
        ms: Milliseconds since 1970.
        monotonic_s: Seconds of the monotonic clock.
    """

    ms: int
    monotonic_s: float

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        return cls(clock.now_ms(), clock.monotonic())


class Horizon:
    """Keeps up to which moment each partition is known to be read."""

    def __init__(self, clock: Clock, *, longest_ms: int) -> None:
        """Begin with nothing read.

        Args:
            clock: The store's clock.
            longest_ms: Deadlines are held back at most this long, also if Kafka never returns.
        """
        self._clock = clock
        self._longest_ms = longest_ms
        self._read: dict[int, Moment | None] = {}
        self._asked: Moment | None = None

    def expect(self, partitions: Iterable[int], asked: Moment) -> None:
        """The topic has these partitions and no others, as far as is known from an answer.

        Args:
            partitions: All of them; deadlines wait until each was read.
            asked: When the question was sent; a partition may have been added since.
        """
        self._read = {partition: self._read.get(partition) for partition in partitions}
        self._asked = asked

    def read_to_end(self, partition: int, moment: Moment) -> None:
        """Everything that was in the partition at that moment is settled."""
        self._read[partition] = moment

    def held_back_to_ms(self) -> int:
        """The instant to compare deadlines with."""
        now = Moment.now(self._clock)
        earliest_ms = now.ms - self._longest_ms
        moments = [self._asked, *self._read.values()] if self._read else [None]
        covered_ms = min(earliest_ms if moment is None else _at(moment, now) for moment in moments)
        return max(earliest_ms, covered_ms)


def _at(moment: Moment, now: Moment) -> int:
    """What the wall clock said then, or, if it was set back since, would have said by today's setting.

    The earlier of both: set forward, the clock has passed deadlines at which it was not yet that late.
    """
    age_ms = round((now.monotonic_s - moment.monotonic_s) * 1000)
    return min(moment.ms, now.ms - age_ms)
