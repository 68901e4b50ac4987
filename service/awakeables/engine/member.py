"""This process as one of the instances that share the store: registers, sends heartbeats, takes over.

An instance that has sent no heartbeat for the time-out is declared dead by any other instance. Its commits
are fenced from then on, and the living instances take over what it owned. If it was only frozen or cut off,
it finds out with its next heartbeat, drops its handlers, and continues as a new instance.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from awakeables.core.commands import TakeOver
from awakeables.core.ids import Ids
from awakeables.core.instances import Instance, newer_builds, served_elsewhere
from awakeables.core.replies import Released
from awakeables.engine.committer import Committer
from awakeables.errors import StoreUnavailable
from awakeables.ports import Clock, Membership
from awakeables.telemetry import events

log = structlog.stdlib.get_logger(__name__)

TAKE_OVER_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """How instances notice each other's death.

    Attributes:
        timeout: An instance without a heartbeat for this long is declared dead.
        margin: An instance begins nothing new once its last acknowledged heartbeat is older than the
            time-out less this margin, since it may be declared dead before it notices.
    """

    timeout: timedelta = timedelta(seconds=10)
    margin: timedelta = timedelta(seconds=3)

    @property
    def interval_s(self) -> float:
        """How often a heartbeat is sent, in seconds; it also finds out who is dead."""
        return min(1.0, self.timeout.total_seconds() / 5)


class Member:
    """One instance.

    Attributes:
        id: Its ID, which is the owner's name in its fences.
        alone: Whether there can be no others, since the store is not shared.
        living: The instances that lived at the last heartbeat, this one included.
        not_builds: Builds whose invocations this instance leaves to newer instances.
        not_handlers: Handlers that only other instances serve.
    """

    def __init__(  # noqa: PLR0913 - all of it is given by name
        self,
        membership: Membership,
        committer: Committer,
        ids: Ids,
        clock: Clock,
        *,
        build: str,
        handlers: Callable[[], tuple[str, ...]],
        settings: MemberSettings,
        on_dead: Callable[[], None],
        on_sure: Callable[[], None],
        on_time: Callable[[int, float], None] | None,
    ) -> None:
        """Prepare; `register` comes first.

        Args:
            membership: Where instances meet.
            committer: Commits take-overs.
            ids: Issues the instance's ID.
            clock: The time; its monotonic clock tells how old a heartbeat is.
            build: The version of the code.
            handlers: Returns those it serves, as `versions.target` names them.
            settings: When an instance is dead.
            on_dead: Called when this instance was declared dead and has its new ID.
            on_sure: Called when this instance is certain again that it lives, after it was not.
            on_time: Called with the time of the store's clock, and how many seconds ago it was asked for.
        """
        self.id = ids.new("own")
        self.living: tuple[Instance, ...] = ()
        self.not_builds: tuple[str, ...] = ()
        self.not_handlers: tuple[str, ...] = ()
        self._membership = membership
        self._committer = committer
        self._ids = ids
        self._clock = clock
        self._build = build
        self._handlers = handlers
        self._settings = settings
        self._on_dead = on_dead
        self._on_sure = on_sure
        self._on_time = on_time
        self._left = False
        self._beaten = asyncio.Event()
        self.alone = not membership.shared
        self._sure_until_s = 0.0

    def is_sure(self) -> bool:
        """Whether this instance is certain to live for at least the margin, and so may begin something."""
        return self.alone or self._clock.monotonic() < self._sure_until_s

    @property
    def is_first(self) -> bool:
        """Whether it has the smallest ID of the living: it sweeps for all of them."""
        return not self.living or self.id <= min(each.id for each in self.living)

    async def register(self) -> None:
        """Register, learn the store's time, and take over what no living instance owns."""
        await self._register(self.id)
        if not self.alone:  # without the store's time nothing may be timed out
            await until_available(self.beat, self._settings.interval_s)
        await self.take_over()

    async def run(self, on_unexpected: Callable[[Exception], None]) -> None:
        """Send heartbeats and take over, until cancelled; only for a shared store."""
        async with asyncio.TaskGroup() as tasks:
            # In a task of its own: a take-over waits for the commits before it, and a heartbeat must not.
            tasks.create_task(self._repeat(self._pause, self.beat, on_unexpected), name="heartbeats")
            tasks.create_task(self._repeat(self._next_beat, self.take_over, on_unexpected), name="take-overs")

    async def _repeat(
        self,
        wait: Callable[[], Awaitable[None]],
        work: Callable[[], Awaitable[object]],
        on_unexpected: Callable[[Exception], None],
    ) -> None:
        while True:
            await wait()
            if self._left:
                continue
            try:
                await work()
            except StoreUnavailable:
                continue  # the committer reports the outage
            except Exception as error:
                on_unexpected(error)

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.interval_s)

    async def _next_beat(self) -> None:
        await self._beaten.wait()
        self._beaten.clear()

    async def beat(self) -> None:
        """Send a heartbeat; become a new instance if this one was declared dead."""
        sent_s = self._clock.monotonic()
        beat = await self._membership.beat(self.id, timeout_ms=_ms(self._settings.timeout))
        if beat is None and self._left:
            return
        if beat is None:
            new = self._ids.new("own")
            log.error(events.DECLARED_DEAD, instance=self.id, now=new)
            # Nothing is done under an ID that the others don't know: they would take it over.
            await self._register(new)
            self.id = new
            self._on_dead()
            await self.beat()  # learns which others live
            return
        was_sure = self.is_sure()  # until this moment: it may have lapsed while the heartbeat was under way
        self._last_beat(sent_s)
        if self._on_time is not None:
            self._on_time(beat.now_ms, self._clock.monotonic() - sent_s)
        if beat.living != self.living:
            self._note(beat.living)
        if not was_sure:
            self._on_sure()
        self._beaten.set()
        await self._serve()  # last: the heartbeat counts, whatever comes of this

    async def _serve(self) -> None:
        """Announce which handlers this instance serves, if that has changed."""
        me, handlers = self._mine(self.living), self._handlers()
        if me is not None and me.handlers != handlers:
            await self._membership.serve(self.id, handlers)

    async def take_over(self) -> int:
        """Release what dead instances own; return the number of invocations."""
        count = 0
        while True:
            command = TakeOver(owner=self.id, limit=TAKE_OVER_LIMIT)
            released = (await self._committer.commit(command, Released)).count
            count += released
            if released < TAKE_OVER_LIMIT:
                break
        if count:
            log.warning(events.TAKEN_OVER, instance=self.id, count=count)
        return count

    async def leave(self, *, gone: bool) -> None:
        """Announce that this instance is stopping, or that it is `gone` and sends no more heartbeats."""
        self._left = gone
        await self._membership.leave(self.id, gone=gone)

    async def _register(self, instance_id: str) -> None:
        me = Instance(
            id=instance_id,
            host=f"{socket.gethostname()}:{os.getpid()}",
            build=self._build,
            handlers=self._handlers(),
        )
        while True:
            sent_s = self._clock.monotonic()
            try:
                await self._membership.register(me)
                break
            except StoreUnavailable as error:
                log.warning(events.NOT_REGISTERED, instance=instance_id, error=str(error))
                await asyncio.sleep(self._settings.interval_s)
        self._last_beat(sent_s)

    def _last_beat(self, sent_s: float) -> None:
        if not self.alone:
            self._sure_until_s = sent_s + (self._settings.timeout - self._settings.margin).total_seconds()

    def _mine(self, living: tuple[Instance, ...]) -> Instance | None:
        return next((each for each in living if each.id == self.id), None)

    def _note(self, living: tuple[Instance, ...]) -> None:
        self.living = living
        me = self._mine(living)
        if me is not None:
            self.not_builds = newer_builds(me, living)
            self.not_handlers = served_elsewhere(me, living)


async def until_available(ask: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Ask the store for what is needed at the start, again for as long as it is unavailable."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(interval_s)


def _ms(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
