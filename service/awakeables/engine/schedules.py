"""Schedules: their ticks begin invocations, each once over all instances.

Each instance reads the rows every few seconds, and has a timer at the earliest tick. What is due it evaluates
by one command, which moves the row to the tick that follows; the instance that comes second is fenced. The
ticks are computed here, each from the one before, so that nothing drifts; the store decides by the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from awakeables.core.commands import (
    Begin,
    BeginQueued,
    Fire,
    NewSchedule,
    PlaceSchedules,
    Queue,
    Tick,
)
from awakeables.core.ids import Ids
from awakeables.core.instances import Instance, newer_builds
from awakeables.core.journal import Input
from awakeables.core.replies import Acknowledged, Fenced, Fired
from awakeables.core.schedules import ListedSchedule, ScheduleRow
from awakeables.engine.committer import Committer
from awakeables.engine.dueticks import due_ticks
from awakeables.engine.member import Member
from awakeables.engine.waiters import Waiter, Waiters
from awakeables.errors import StoreUnavailable
from awakeables.handlers.invoking import beginning, run_key, workflow_of, written_input
from awakeables.handlers.schedule import Schedule
from awakeables.handlers.scheduling import DeclaredSchedule
from awakeables.ports import Clock, Membership, ScheduleReader
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics
from awakeables.telemetry.vocabulary import TICK_OUTCOMES, TickOutcome

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """How schedules are looked at.

    Attributes:
        look_interval: How soon a change by another instance is seen.
        queue_interval: How soon a tick begins that has waited for an invocation which ended elsewhere.
        timers: Whether what is due is evaluated by itself; otherwise `step` is called when it is.
    """

    look_interval: timedelta = timedelta(seconds=2)
    queue_interval: timedelta = timedelta(milliseconds=250)
    timers: bool = True


class Schedules:
    """The schedules of an app, as this instance evaluates them.

    Attributes:
        declared: Those that the code declares, by name.
    """

    def __init__(  # noqa: PLR0913 - all of it is given by name
        self,
        declared: Mapping[str, DeclaredSchedule],
        store: ScheduleReader,
        *,
        membership: Membership,
        member: Member,
        committer: Committer,
        waiters: Waiters,
        ids: Ids,
        clock: Clock,
        build: str,
        settings: ScheduleSettings,
        metrics: Metrics,
        on_begun: Callable[[], None],
        on_unexpected: Callable[[Exception], None],
    ) -> None:
        """Prepare to evaluate.

        Args:
            declared: The schedules of the app, by name.
            store: Reads the rows.
            membership: Knows which builds live.
            member: This instance.
            committer: Commits.
            waiters: Notified of the ends of invocations.
            ids: Issues the IDs of invocations.
            clock: The time.
            build: The version of the code.
            settings: How often rows are looked at.
            metrics: Where ticks are counted.
            on_begun: Called when there are new invocations to run.
            on_unexpected: Called with errors.
        """
        self.declared = declared
        self._store = store
        self._membership = membership
        self._member = member
        self._committer = committer
        self._waiters = waiters
        self._ids = ids
        self._clock = clock
        self._build = build
        self._look_s = settings.look_interval.total_seconds()
        self._queue_s = settings.queue_interval.total_seconds()
        self._timers = settings.timers
        self._metrics = metrics
        self._on_begun = on_begun
        self._on_unexpected = on_unexpected
        self._stopping = False
        self._placed = False
        self._since_ms: int | None = None
        self._turn = asyncio.Lock()
        self._poked = asyncio.Event()
        self._ends: dict[str, Waiter] = {}
        for name in declared:
            metrics.schedule_blocked.labels(name).set(0)
            for outcome in TICK_OUTCOMES:  # an alarm can't see a series appear with 1
                metrics.schedule_ticks.labels(name, outcome)

    async def run(self) -> None:
        """Evaluate what is due, until cancelled."""
        while True:
            wait_s = self._look_s
            try:
                wait_s = await self.step()
            except StoreUnavailable:
                pass  # the committer reports the outage
            except Exception as error:
                self._on_unexpected(error)
            if self._placed and not self.declared:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self._timers else None):
                    await self._poked.wait()

    def look_again(self) -> None:
        """Look at the rows soon."""
        self._poked.set()

    def stop(self) -> None:
        """Evaluate nothing from now on: ticks are for other instances, or for the next process."""
        self._stopping = True

    async def step(self) -> float:
        """Evaluate what is due once; return after how many seconds to do so again.

        Raises:
            StoreUnavailable: The rows can't be read, or written.
        """
        async with self._turn:
            self._poked.clear()
            return await self._step()

    async def _step(self) -> float:
        if self._stopping or (self._placed and not self.declared):
            return self._look_s
        listed = await self._store.schedules()
        if not self._placed or self._is_misplaced(listed):
            await self._place(listed)
            listed = await self._store.schedules() if self.declared else []
        self._watch_ends(listed)
        waits = [self._look_s]
        for each in listed:
            found = self.declared.get(each.row.name)
            if found is None or found.declared != each.row.declared:
                continue  # of other code
            self._metrics.schedule_blocked.labels(found.name).set(is_blocked(each, found.schedule))
            if each.row.paused_ms is None:
                waits.append(await self._evaluate(found, each))
        return max(0.0, min(waits))

    async def _evaluate(self, of: DeclaredSchedule, listed: ListedSchedule) -> float:
        """Begin what is due of one schedule; an error of it does not stop the others."""
        row = listed.row
        try:
            if row.queued_ms is not None and listed.is_free:
                await self._begin_queued(of, row.queued_ms)
                return 0.0
            wait_s = await self._fire(of, row)
        except StoreUnavailable:
            raise
        except Exception as error:
            self._on_unexpected(error)
            return self._look_s
        return wait_s if row.queued_ms is None else min(wait_s, self._queue_s)

    async def _fire(self, of: DeclaredSchedule, row: ScheduleRow) -> float:
        """Move a schedule whose next tick is due; return in how many seconds the one after it is."""
        now_ms = self._clock.now_ms()
        if row.next_ms > now_ms:
            return (row.next_ms - now_ms) / 1000
        due = due_ticks(of.schedule, row.next_ms, now_ms)
        fire = Fire(
            schedule=of.name,
            declared=row.declared,
            overlap=of.schedule.overlap,
            next_ms=row.next_ms,
            following_ms=due.following_ms,
            ticks=tuple(self.tick(of, tick_ms) for tick_ms in due.ticks),
        )
        await self._commit(fire, missed=due.missed)
        return 0.0  # the row has changed

    async def _begin_queued(self, of: DeclaredSchedule, tick_ms: int) -> None:
        await self._commit(BeginQueued(schedule=of.name, declared=of.declared, tick=self.tick(of, tick_ms)))

    async def _commit(self, command: Fire | BeginQueued, *, missed: int = 0) -> None:
        """Evaluate ticks, unless another instance has done so."""
        reply = await self._committer.submit(command)
        if isinstance(reply, Fired):
            self.count(command.schedule, reply, missed=missed)
        elif not isinstance(reply, Fenced):
            raise TypeError(f"{type(command).__name__} got the reply {type(reply).__name__}")

    def _watch_ends(self, listed: Sequence[ListedSchedule]) -> None:
        """Look again at once when an invocation ends here that a tick waits for."""
        awaited = {each.row.last_invocation or "" for each in listed if each.row.queued_ms is not None}
        for key in self._ends.keys() - awaited:
            self._waiters.remove(key, self._ends.pop(key))
        for key in awaited - self._ends.keys():
            self._ends[key] = self._waiters.add(key, until_paused=False)
            self._ends[key].add_done_callback(lambda _end: self.look_again())

    def count(self, name: str, fired: Fired, *, missed: int = 0) -> None:
        """Count what became of ticks, and have what was begun run."""
        counts: dict[TickOutcome, int] = {
            "begun": len(fired.begun),
            "skipped_overlap": fired.skipped,
            "queued": int(fired.queued),
            "skipped_queue": fired.skipped_queue,
            "missed": missed,
        }
        for outcome, count in counts.items():
            if count:
                self._metrics.schedule_ticks.labels(name, outcome).inc(count)
        if missed:
            log.warning(events.TICKS_MISSED, schedule=name, missed=missed, begun=len(fired.begun))
        if fired.begun:
            self._on_begun()

    def tick(self, of: DeclaredSchedule, tick_ms: int, *, by: str | None = None) -> Tick:
        """What a tick begins."""
        handler, content, key = of.handler, of.content, of.key(tick_ms)
        value, value_base64 = written_input(handler, content)
        given = Input(
            service=handler.service,
            handler=handler.name,
            key=key,
            seed=self._ids.seed(),
            at_ms=self._clock.now_ms(),
            value=value,
            value_base64=value_base64,
            version=handler.version,
            scheduled_ms=tick_ms,
        )
        workflow = workflow_of(handler, key)
        begin = Begin(
            id=self._ids.new("inv"),
            service=handler.service,
            handler=handler.name,
            chunk=beginning(given, handler, workflow),
            key=key,
            queue=Queue() if handler.exclusive else None,
            build=self._build,
            by=by,
            idempotency=run_key(workflow, key, content),
            workflow=workflow,
            versions=handler.versions,
        )
        return Tick(at_ms=tick_ms, begin=begin)

    async def _place(self, listed: Sequence[ListedSchedule]) -> None:
        """Write what this code declares, unless an instance of a newer build lives: that has done so."""
        # In this order: a newer build registers before it writes a row.
        living = tuple(each for each in await self._membership.instances() if each.state != "dead")
        me = next((each for each in living if each.id == self._member.id), Instance(id=self._member.id))
        self._since_ms, self._placed = me.build_since_ms, True
        if newer_builds(me, living):
            return
        now_ms = self._clock.now_ms()
        rows = {each.row.name: each.row for each in listed}
        new = [
            NewSchedule(
                name=each.name,
                declared=each.declared,
                next_ms=each.schedule.following(now_ms),
                read_ms=rows[each.name].next_ms if each.name in rows else None,
            )
            for each in self.declared.values()
        ]
        removed = [name for name in rows if name not in self.declared]
        if new or removed:
            command = PlaceSchedules(
                schedules=tuple(new),
                removed=tuple(removed),
                since_ms=me.build_since_ms,
                newest=any(each.row.since_ms > me.build_since_ms for each in listed),
            )
            await self._committer.commit(command, Acknowledged)

    def _is_misplaced(self, listed: Sequence[ListedSchedule]) -> bool:
        """Whether a build has written rows that is gone, or that is older and was late."""
        if self._member.not_builds:
            return False
        rows = {each.row.name: each.row for each in listed}
        return any(
            name not in rows
            or (rows[name].declared != each.declared and rows[name].since_ms != self._since_ms)
            for name, each in self.declared.items()
        )


def is_blocked(listed: ListedSchedule, schedule: Schedule) -> bool:
    """Whether nothing begins until somebody deals with the last invocation."""
    return listed.last_status == "paused" and schedule.overlap != "allow"
