"""Schedules: a handler is begun at certain times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

import msgspec

from awakeables.core.records import Record, instant
from awakeables.core.schedules import Overlap
from awakeables.core.texts import excerpt
from awakeables.errors import DeclarationError
from awakeables.handlers.cron import Cron, Interval, Times, time_zone

Missed: TypeAlias = Literal["once", "skip", "all"]

LEAST: Final = timedelta(seconds=1)
MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a handler is begun.

    A time for which it is begun is a *tick*. Each tick begins one invocation at most, whichever instances run
    and whatever crashes. `ctx.request.scheduled_at` is the tick, however late the handler begins.

    Attributes:
        cron: Five fields: minute, hour, day of the month, month, day of the week. None: `interval` says when.
        timezone: Where the clock hangs that they are read from, such as Europe/Berlin. A time that its clocks
            skip fires at the first instant after the gap, one that comes twice fires the first time.
        overlap: What becomes of a tick while the invocation of the one before has not ended: `skip`, nothing;
            `queue`, it begins when that has ended, and further ones are skipped; `allow`, it begins.
        missed: What becomes of ticks that are found more than a minute late, because no instance was
            running: `once`, the last of them begins; `skip`, none; `all`, each, the oldest first.
        within: With `all`: older ones are skipped; so are all but the last thousand.
        input: The handler's input; None: it is called without one.
        key: The key to call a handler of an object for. A workflow's run is begun for `key/tick`.
        name: Identifies the schedule in the store and in commands: renaming the handler then changes nothing.
            By default `service.handler`; of several, those after the first have `.2`, `.3` at the end.
        interval: Use `Schedule.every`.

    Raises:
        DeclarationError: A value can't be used.
    """

    cron: str | None
    _: KW_ONLY
    timezone: str = "UTC"
    overlap: Overlap = "skip"
    missed: Missed = "once"
    within: timedelta = timedelta(days=1)
    input: Any = None
    key: str | None = None
    name: str | None = None
    interval: timedelta | None = None
    _times: Times = field(init=False, repr=False, compare=False)

    @classmethod
    def every(
        cls,
        interval: timedelta,
        *,
        overlap: Overlap = "skip",
        missed: Missed = "once",
        within: timedelta = timedelta(days=1),
        input: Any = None,
        key: str | None = None,
        name: str | None = None,
    ) -> Schedule:
        """A tick at each multiple of an interval since 1970, in UTC: the same on all instances.

        Args:
            interval: At least a second, in whole milliseconds.
            overlap: As in `Schedule`, like the others.
            missed: The same.
            within: The same.
            input: The same.
            key: The same.
            name: The same.
        """
        return cls(
            None,
            overlap=overlap,
            missed=missed,
            within=within,
            input=input,
            key=key,
            name=name,
            interval=interval,
        )

    def __post_init__(self) -> None:
        where = f"schedule {excerpt(self.cron if self.interval is None else self.interval)}"
        if self.overlap not in ("skip", "queue", "allow"):
            raise DeclarationError(
                f"{where}: overlap= is 'skip', 'queue' or 'allow', not {excerpt(self.overlap)}"
            )
        if self.missed not in ("once", "skip", "all"):
            raise DeclarationError(f"{where}: missed= is 'once', 'skip' or 'all', not {excerpt(self.missed)}")
        if self.missed == "all" and self.overlap != "allow":
            raise DeclarationError(
                f"{where}: missed='all' begins what was missed at once, and overlap={self.overlap!r} would "
                "skip most of it: use overlap='allow', on an exclusive handler of an object if one is to run "
                "after the other"
            )
        if not isinstance(self.within, timedelta) or self.within <= timedelta(0):
            raise DeclarationError(f"{where}: within= is a positive timedelta, not {excerpt(self.within)}")
        for what, text in (("name", self.name), ("key", self.key)):
            if text is not None and (not isinstance(text, str) or not text):
                raise DeclarationError(f"{where}: {what}= is a string that is not empty, not {excerpt(text)}")
        object.__setattr__(self, "_times", self._checked_times(where))

    def _checked_times(self, where: str) -> Times:
        if self.interval is not None:
            if self.cron is not None:
                raise DeclarationError(f"{where}: it has a cron expression and an interval")
            if not isinstance(self.interval, timedelta) or self.interval < LEAST:
                raise DeclarationError(f"{where}: an interval is a timedelta of at least a second")
            if self.interval % MILLISECOND:
                raise DeclarationError(f"{where}: an interval has whole milliseconds")
            return Interval(self.interval // MILLISECOND)
        if not isinstance(self.cron, str):
            raise DeclarationError(
                f"{where}: a cron expression is a string such as '0 6 * * 1-5'; for an interval use "
                "Schedule.every(timedelta(…))"
            )
        try:
            return Cron(self.cron, time_zone(self.timezone))
        except ValueError as error:
            raise DeclarationError(f"{where}: {error}") from error

    def after(self, at_ms: int) -> Iterator[int]:
        """The ticks later than an instant, in order, in milliseconds since 1970."""
        return self._times.after(at_ms)

    def following(self, at_ms: int) -> int:
        """The first tick after an instant."""
        return next(self.after(at_ms))

    def spec(self, content: bytes | None) -> bytes:
        """What the store keeps of it, with the input as it is journaled: equal for equal schedules."""
        return _encode(
            _Spec(
                cron=self.cron,
                timezone=self.timezone,
                interval_ms=None if self.interval is None else self.interval // MILLISECOND,
                overlap=self.overlap,
                missed=self.missed,
                within_ms=self.within // MILLISECOND,
                key=self.key,
                input=content,
            )
        )


def schedule_from(spec: bytes) -> Schedule | None:
    """The schedule of a spec, without name and input; None: this release can't read it."""
    try:
        found = _decode(spec)
        return Schedule(
            found.cron,
            timezone=found.timezone,
            overlap=found.overlap,
            missed=found.missed,
            within=found.within_ms * MILLISECOND,
            key=found.key,
            interval=None if found.interval_ms is None else found.interval_ms * MILLISECOND,
        )
    except (msgspec.MsgspecError, DeclarationError):
        return None


def key_at(key: str, tick_ms: int) -> str:
    """The key of a workflow's run for a tick: each tick has a run of its own."""
    tick = instant(tick_ms).replace(tzinfo=None)
    return f"{key}/{tick.isoformat(timespec='milliseconds' if tick.microsecond else 'seconds')}Z"


class _Spec(Record):
    """A schedule as it is stored; every field is written."""

    cron: str | None
    timezone: str
    interval_ms: int | None
    overlap: Overlap
    missed: Missed
    within_ms: int
    key: str | None
    input: bytes | None


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(_Spec).decode
