"""Shows, pauses, resumes and triggers schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from awakeables.core.commands import PauseSchedule, Trigger
from awakeables.core.invocations import Status
from awakeables.core.replies import Fired, ScheduleChanged
from awakeables.core.schedules import ListedSchedule
from awakeables.engine.committer import Committer
from awakeables.engine.schedules import Schedules, is_blocked
from awakeables.errors import NotFound, NotPossible
from awakeables.handlers.schedule import Schedule, schedule_from
from awakeables.ports import Clock, ScheduleReader
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

SHOWN: Final = 3
"""How many of the next ticks are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStatus:
    """A schedule, and what it does next.

    Attributes:
        name: The schedule.
        target: What it begins, as `service/handler`.
        schedule: When; None: a release wrote it that this one can't read.
        is_declared: Whether the code of this instance declares it like this.
        paused_ms: Since when it is paused, in milliseconds since 1970; None: it is not.
        next_ms: The next ticks.
        last_invocation: What a tick began last.
        last_status: The status of that; None: there is none, or it was deleted.
        queued_ms: The tick that waits for its end.
        is_blocked: Nothing begins until somebody resumes or ends that invocation, which is paused.
    """

    name: str
    target: str
    schedule: Schedule | None
    is_declared: bool
    paused_ms: int | None
    next_ms: Sequence[int]
    last_invocation: str | None
    last_status: Status | None
    queued_ms: int | None
    is_blocked: bool


class ScheduleControl:
    """What operators do with the schedules of an app."""

    def __init__(
        self, schedules: Schedules, reader: ScheduleReader, committer: Committer, clock: Clock
    ) -> None:
        self._schedules = schedules
        self._reader = reader
        self._committer = committer
        self._clock = clock

    async def show(self) -> list[ScheduleStatus]:
        """All schedules, by name; also those that the store has and this app does not declare."""
        return [self._status(each) for each in await self._reader.schedules()]

    async def pause(self, name: str) -> ScheduleStatus:
        """Begin nothing for its ticks until it is resumed.

        Raises:
            NotFound: There is no such schedule.
        """
        await self._commit(PauseSchedule(schedule=name, paused=True), name)
        log.info(events.SCHEDULE_PAUSED, schedule=name)
        return self._status(await self._listed(name))

    async def resume(self, name: str) -> ScheduleStatus:
        """Go on with the first tick from now on; those that have passed meanwhile are skipped.

        Raises:
            NotFound: There is no such schedule.
            NotPossible: A release wrote it that this one can't read.
        """
        schedule = schedule_from((await self._listed(name)).row.spec_json)
        if schedule is None:
            raise NotPossible(f"a newer release wrote the schedule {name!r}; resume it with that one")
        next_ms = schedule.following(self._clock.now_ms())
        await self._commit(PauseSchedule(schedule=name, paused=False, next_ms=next_ms), name)
        log.info(events.SCHEDULE_RESUMED, schedule=name)
        self._schedules.look_again()
        return self._status(await self._listed(name))

    async def trigger(self, name: str, *, by: str | None = None) -> str | None:
        """Begin its handler now, also while it is paused; the next tick stays as it is.

        Args:
            name: The schedule.
            by: Who asks for it.

        Returns:
            The invocation's ID; None: it begins when the last one has ended, as `overlap` says.

        Raises:
            NotFound: There is no such schedule.
            NotPossible: The last invocation is open, or other code than this instance's declares it.
        """
        listed, found = await self._listed(name), self._schedules.declared.get(name)
        if found is None or found.declared != listed.row.declared:
            raise NotPossible(
                f"the code of this instance does not declare the schedule {name!r} as it is stored"
            )
        tick = self._schedules.tick(found, self._clock.now_ms(), by=by)
        command = Trigger(schedule=name, declared=found.declared, overlap=found.schedule.overlap, tick=tick)
        reply = await self._committer.submit(command)
        if not isinstance(reply, Fired):
            raise NotPossible(f"the schedule {name!r} has changed meanwhile; try again")
        self._schedules.count(name, reply)
        if reply.begun:
            return reply.begun[0]
        if reply.queued:
            self._schedules.look_again()
            return None
        last = (await self._listed(name)).row.last_invocation
        waits = "a tick waits for its end already" if reply.skipped_queue else "overlap is 'skip'"
        raise NotPossible(f"the last invocation of {name!r}, {last}, is open, and {waits}")

    async def _commit(self, command: PauseSchedule, name: str) -> None:
        if (await self._committer.commit(command, ScheduleChanged)).row is None:
            raise await self._unknown(name)

    async def _listed(self, name: str) -> ListedSchedule:
        for each in await self._reader.schedules():
            if each.row.name == name:
                return each
        raise await self._unknown(name)

    async def _unknown(self, name: str) -> NotFound:
        names = ", ".join(each.row.name for each in await self._reader.schedules()) or "none"
        return NotFound(f"no schedule {name!r}; there are: {names}")

    def _status(self, listed: ListedSchedule) -> ScheduleStatus:
        row, schedule = listed.row, schedule_from(listed.row.spec_json)
        found = self._schedules.declared.get(row.name)
        later = () if schedule is None else islice(schedule.after(row.next_ms), SHOWN - 1)
        return ScheduleStatus(
            name=row.name,
            target=f"{row.service}/{row.handler}",
            schedule=schedule,
            is_declared=found is not None and found.declared == row.declared,
            paused_ms=row.paused_ms,
            next_ms=[row.next_ms, *later],
            last_invocation=row.last_invocation,
            last_status=listed.last_status,
            queued_ms=row.queued_ms,
            is_blocked=schedule is not None and is_blocked(listed, schedule),
        )
