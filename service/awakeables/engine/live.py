"""The live invocations: claimed, revived from their journals, run, and told what happens to them."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from awakeables.core.invocations import SUSPECT_STARTS, Invocation
from awakeables.core.journal import AwakeableAsked, Entry, Input
from awakeables.core.orders import Answer, Claim, Claimed, Wake
from awakeables.engine.runner import House, Runner
from awakeables.engine.subject import Subject
from awakeables.errors import AuthorError, NotFound
from awakeables.handlers.context import Context
from awakeables.handlers.execution import Execution, World
from awakeables.handlers.service import App, Handler
from awakeables.ports import JournalReader
from awakeables.telemetry.metrics import Metrics, end_of

CLAIM_LIMIT = 200
FEW = 50
"""Suspended handlers that go on at once while answers wait to be read: few enough to leave the processor
to those. A topic forgets, and an answer that is stored is safe; the handlers run when all are."""

MOST_NAMED = 20
"""So many invocations one line of the log names."""


class Household(House, Protocol):
    """A house that knows how busy it is, and is told what should not have happened."""

    def behind(self) -> bool:
        """Do many completions wait to be read?"""
        ...

    def unexpected(self, error: Exception, **facts: object) -> None: ...


class Live:
    """The runners of one engine, by their invocations' IDs.

    Attributes:
        tasks: Where runners run; None: nothing is served.
    """

    def __init__(
        self,
        house: Household,
        app: App,
        store: JournalReader,
        world: World,
        *,
        metrics: Metrics,
        max_running: int,
    ) -> None:
        """Begin with none; at most `max_running` are live at once."""
        self.tasks: asyncio.TaskGroup | None = None
        self._house = house
        self._app = app
        self._store = store
        self._world = world
        self._metrics = metrics
        self._max_running = max_running
        self._runners: dict[str, Runner] = {}
        self._revived: set[Runner] = set()
        self._suspect: Runner | None = None
        self._full = False
        self._poked = asyncio.Event()
        metrics.handlers_live.set_function(lambda: len(self._runners))

    def __len__(self) -> int:
        return len(self._runners)

    def __contains__(self, invocation_id: str) -> bool:
        return invocation_id in self._runners

    def crowded(self) -> bool:
        """Are all places taken?"""
        return len(self._runners) >= self._max_running

    @property
    def idle(self) -> bool:
        """Is none live, and nothing to be claimed that is known of?"""
        return not self._runners and not self._poked.is_set()

    # ── told from outside ──────────────────────────────────────────────────────────────────

    def begin(
        self, invocation_id: str, handler: Handler, given: Input, begun: asyncio.Future[Answer]
    ) -> None:
        """Run a new invocation whose row is still being written."""
        subject = Subject(invocation_id=invocation_id, service=handler.service, handler=handler.name)
        runner = Runner(self._house, subject, epoch=1, version=1, wake=0, attempts=0)
        self._start(runner, handler, [given], begun)

    def wake(self, wakes: Sequence[Wake]) -> None:
        """Tell live runners; the others are claimed."""
        for wake in wakes:
            runner = self._runners.get(wake.invocation_id)
            if runner is not None:
                runner.notify(wake)
            else:
                self._poked.set()

    def cancel(self, row: Invocation) -> bool:
        """Tell the runner that its invocation was cancelled; False: it is not live."""
        runner = self._runners.get(row.id)
        if runner is not None:
            runner.cancel(row.wake)
        return runner is not None

    def let_go(self, invocation_id: str) -> None:
        """The invocation was ended by somebody else: whoever runs it runs in vain."""
        runner = self._runners.get(invocation_id)
        if runner is not None:
            # Its place is free; its task ends when its handler next comes by the context.
            self._forget(runner)
            runner.let_go()

    def look_again(self) -> None:
        """Something may be there to be claimed."""
        self._poked.set()

    def hurry(self) -> None:
        """Let nobody linger."""
        for runner in self._runners.values():
            runner.hurry()

    # ── claiming ───────────────────────────────────────────────────────────────────────────

    async def claim_for_ever(self) -> None:
        """Claim what is runnable, while there are places; cancel to stop."""
        while True:
            self._poked.clear()
            free = self._places()
            self._full = free <= 0
            more = free > 0 and not self._house.stopping and await self._claim(min(free, CLAIM_LIMIT))
            if not more:
                await self._poked.wait()

    def _places(self) -> int:
        places = self._max_running - len(self._runners)
        return min(places, FEW - len(self._revived)) if self._house.behind() else places

    async def _claim(self, limit: int) -> bool:
        """Run what is runnable; True: there may be more."""
        order = Claim(owner=self._house.owner, limit=limit, suspect=self._suspect is None)
        claimed = await self._house.committer.commit(order, Claimed)
        rows = [row for row in claimed.invocations if row.status == "running"]
        for row in claimed.invocations:
            if row.status == "paused" and row.failure is not None:
                _subject_of(row).paused(row.failure.kind, level=logging.ERROR)
                self._house.paused(row.id)
        # Live before their journals are read, so that a wake-up in between finds them.
        runners = {
            row.id: Runner(
                self._house,
                _subject_of(row),
                epoch=row.epoch,
                version=row.version,
                wake=row.wake,
                attempts=row.attempts,
                cancelled=row.cancelled_ms is not None,
            )
            for row in rows
        }
        self._runners.update(runners)
        self._revived.update(runners.values())
        for row in rows:
            # `starts` counts this claim, too.
            if row.starts > SUSPECT_STARTS:
                self._suspect = runners[row.id]
                self._suspect.stand_alone(self._cleared)
        if rows and self.tasks is not None:
            self.tasks.create_task(self._revive(rows, runners))
        return len(claimed.invocations) == limit or any(r.status == "paused" for r in claimed.invocations)

    def _cleared(self) -> None:
        """The suspect has committed, or is gone: the next one may have its turn."""
        self._suspect = None
        self._poked.set()

    async def _revive(self, rows: Sequence[Invocation], runners: Mapping[str, Runner]) -> None:
        """Read the journals of claimed invocations, and run them."""
        try:
            journals, problems = await self._histories([row.id for row in rows])
            asked = [
                entry.id
                for journal in journals.values()
                for entry in journal
                if isinstance(entry, AwakeableAsked)
            ]
            outcomes = await self._store.outcomes(asked) if asked else {}
        except Exception as error:
            self._house.unexpected(error, invocation_ids=sorted(runners)[:MOST_NAMED])
            for runner in runners.values():
                self._forget(runner)
            return
        for row in rows:
            runner = runners[row.id]
            if row.id not in problems and row.id not in journals:
                self._forget(runner)  # it was ended meanwhile, and purged
                continue
            try:
                if row.id in problems:
                    raise problems[row.id]
                journal = journals[row.id]
                handler = self._app.handler(row.service, row.handler)
                own = [entry.id for entry in journal if isinstance(entry, AwakeableAsked)]
                runner.preload({key: outcomes[key] for key in own if key in outcomes})
                self._start(runner, handler, journal)
            except (AuthorError, NotFound, msgspec.MsgspecError) as error:
                self._spawn(runner, functools.partial(runner.park, error))

    async def _histories(
        self, invocation_ids: Sequence[str]
    ) -> tuple[dict[str, list[Entry]], dict[str, msgspec.MsgspecError]]:
        """Journals, and the invocations whose journal this release can't read."""
        try:
            return await self._store.history(invocation_ids), {}
        except msgspec.MsgspecError:
            journals: dict[str, list[Entry]] = {}
            problems: dict[str, msgspec.MsgspecError] = {}
            for invocation_id in invocation_ids:
                try:
                    journals |= await self._store.history([invocation_id])
                except msgspec.MsgspecError as error:
                    problems[invocation_id] = error
            return journals, problems

    def _start(
        self,
        runner: Runner,
        handler: Handler,
        journal: Sequence[Entry],
        begun: asyncio.Future[Answer] | None = None,
    ) -> None:
        self._runners[runner.invocation_id] = runner
        self._spawn(runner, functools.partial(self._attempt, runner, handler, journal, begun))

    def _spawn(self, runner: Runner, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this in a task of the runner's; a coroutine comes to be only when the task begins."""
        assert self.tasks is not None, "nothing is run outside Engine.run"
        # By its task's name a handler is known to whoever watches the loop.
        self.tasks.create_task(self._supervise(runner, work), name=runner.invocation_id)

    async def _attempt(
        self,
        runner: Runner,
        handler: Handler,
        journal: Sequence[Entry],
        begun: asyncio.Future[Answer] | None,
    ) -> None:
        execution = execution_of(
            handler,
            journal,
            invocation_id=runner.invocation_id,
            attempts=runner.attempts,
            world=self._world,
        )
        began = self._house.clock.monotonic()
        try:
            await runner.run(execution, begun=begun)
        finally:
            took_s = self._house.clock.monotonic() - began
            self._metrics.attempt(handler.service, handler.name, end_of(runner.last), took_s)

    async def _supervise(self, runner: Runner, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception as error:
            self._house.unexpected(error, invocation_id=runner.invocation_id)
        finally:
            self._forget(runner)
            if self._full:
                self._poked.set()

    def _forget(self, runner: Runner) -> None:
        if self._runners.get(runner.invocation_id) is runner:
            del self._runners[runner.invocation_id]
        self._revived.discard(runner)
        if runner is self._suspect:
            self._cleared()


def _subject_of(row: Invocation) -> Subject:
    return Subject(invocation_id=row.id, service=row.service, handler=row.handler)


def execution_of(
    handler: Handler,
    journal: Sequence[Entry],
    *,
    invocation_id: str,
    attempts: int,
    world: World,
) -> Execution:
    """An attempt of a handler along a journal."""

    async def begin(execution: Execution) -> object:
        context = Context(execution, attempt=attempts + 1)
        if not handler.takes_input or (handler.has_default and execution.replay.input.is_absent):
            return await handler.call(context)
        return await handler.call(context, context.decode_input(handler.input))

    return Execution(begin, journal, invocation_id=invocation_id, output=handler.output, world=world)
