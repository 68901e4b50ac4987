"""Cron expressions and intervals: at which instants they fire.

Daylight saving follows one rule. A time of day is a time on the wall: one that the clocks skip fires at the
first instant after the gap, and one that comes twice fires the first time. An expression that fires in each
hour of a day means hours that pass: it fires in both of the repeated ones, and nothing is moved for a gap.

`cronsim` is used for wall-clock times without a zone alone. With a zone it loses times where clocks change by
half an hour, and skips times in a gap if the minute or the hour begins with `*`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from awakeables.core.records import instant

FIELDS = 5
SECOND = timedelta(seconds=1)
DAY_OF_CHANGE = timedelta(hours=26)
"""Clocks that are changed after the last time of a day repeat at most hours of that day."""


class Times(Protocol):
    """The instants at which something fires."""

    def after(self, at_ms: int) -> Iterator[int]:
        """The instants later than this one, in order, in milliseconds since 1970."""
        ...


class Interval:
    """The multiples of an interval since 1970, in UTC."""

    def __init__(self, every_ms: int) -> None:
        self._every_ms = every_ms

    def after(self, at_ms: int) -> Iterator[int]:
        """As `Times.after`."""
        number = at_ms // self._every_ms
        while True:
            number += 1
            yield number * self._every_ms


class Cron:
    """A cron expression in a time zone."""

    def __init__(self, expression: str, zone: tzinfo) -> None:
        """Parse it.

        Raises:
            ValueError: It can't be parsed, or never fires; the text says why.
        """
        count = len(expression.split())
        if count != FIELDS:
            raise ValueError(
                f"it has {count} fields, not {FIELDS}: minute, hour, day of the month, month, day of the week"
            )
        try:
            first = CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001 - a time on the wall
        except (CronSimError, AssertionError) as error:
            raise ValueError(str(error) or "it can't be parsed") from error
        if next(first, None) is None:
            raise ValueError("it never fires")
        self._expression = expression
        self._zone = zone
        self._each_hour = len(first.hours) == 24

    def after(self, at_ms: int) -> Iterator[int]:
        """As `Times.after`."""
        found = self._passing(instant(at_ms)) if self._each_hour else self._on_the_wall(instant(at_ms))
        return (round(at.timestamp()) * 1000 for at in found)

    def _on_the_wall(self, last: datetime) -> Iterator[datetime]:
        """Each time on the wall once."""
        for wall in CronSim(self._expression, self._wall(last)):
            at = self._first_instant(wall)
            if at > last:  # the second of two equal times, or of two in one gap, is none
                last = at
                yield at

    def _first_instant(self, wall: datetime) -> datetime:
        """The first instant at which clocks show a time; if they skip it, the first one after the gap."""
        at = wall.replace(tzinfo=self._zone).astimezone(UTC)
        if self._wall(at) == wall:
            return at
        before = wall.replace(tzinfo=self._zone, fold=1).astimezone(UTC)
        return self._change(before, at)

    def _passing(self, last: datetime) -> Iterator[datetime]:
        """Each instant at which clocks show a time that matches."""
        begin = self._wall(last)
        while True:
            offset = self._offset(last)
            for wall in CronSim(self._expression, begin):
                at = (wall - offset).replace(tzinfo=UTC)
                changed = next(
                    (t for t in (min(at, last + DAY_OF_CHANGE), at) if self._offset(t) != offset), None
                )
                if changed is not None:
                    last = self._change(last, changed)
                    begin = self._wall(last) - SECOND  # the time of the change itself may match
                    break
                last = at
                yield at
            else:
                return

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The instant after the first one, up to the second, from which clocks go as at the second."""
        offset = self._offset(after)
        first, last = int(before.timestamp()), int(after.timestamp())
        while last - first > 1:
            middle = (first + last) // 2
            if self._offset(datetime.fromtimestamp(middle, UTC)) == offset:
                last = middle
            else:
                first = middle
        return datetime.fromtimestamp(last, UTC)

    def _wall(self, at: datetime) -> datetime:
        return at.astimezone(self._zone).replace(tzinfo=None, fold=0)

    def _offset(self, at: datetime) -> timedelta:
        return at.astimezone(self._zone).utcoffset() or timedelta(0)


def time_zone(name: str) -> tzinfo:
    """The time zone of this name, such as Europe/Berlin.

    Raises:
        ValueError: There is none.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError) as error:
        raise ValueError(f"there is no time zone {name!r}; names are like 'Europe/Berlin'") from error
