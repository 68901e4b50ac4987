"""The engine: begins invocations, claims what is runnable, wakes what was told something.

Wake-ups in memory are hints; the rows are the truth. A sweep finds what a lost hint missed (O3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.ids import IdKind, Ids
from awakeables.core.invocations import SUSPECT_STARTS, Invocation
from awakeables.core.journal import AwakeableAsked, Entry, Input, encode_chunk
from awakeables.core.orders import (
    Answer,
    Begin,
    Begun,
    Cancel,
    CancelAsked,
    Claim,
    Claimed,
    Effect,
    Expire,
    Expired,
    Idempotency,
    KeyConflict,
    Release,
    Released,
    Resend,
    Resent,
    Resume,
    Resumed,
    Wake,
)
from awakeables.core.outcomes import Outcome
from awakeables.engine.committer import Committer
from awakeables.engine.edge import Edge
from awakeables.engine.horizon import Horizon
from awakeables.engine.intake import Intake
from awakeables.engine.offsets import Offsets
from awakeables.engine.outbox import Relay, RelaySettings
from awakeables.engine.retention import Retention, RetentionSettings
from awakeables.engine.runner import Runner, RunnerSettings
from awakeables.errors import (
    AuthorError,
    IdempotencyConflict,
    NotFound,
    NotPossible,
    OperatorError,
    Overloaded,
)
from awakeables.handlers.context import Context
from awakeables.handlers.execution import Execution, Taken, World
from awakeables.handlers.service import App, Handler
from awakeables.ports import Clock, Entropy, Expectation, Publisher, Store
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics, end_of

log = structlog.stdlib.get_logger(__name__)

CLAIM_LIMIT = 200
EXPIRE_LIMIT = 1000
MOST_NAMED = 20
"""So many invocations one line of the log names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How the engine behaves.

    Attributes:
        runner: How single invocations are run.
        relay: How effects are published.
        max_running: Handlers live at once; more wait as rows.
        max_backlog: Calls that wait for a place; past it `begin` refuses.
        sweep_interval: How often rows are looked at that no hint told of.
        horizon: How long deadlines are held back when the completions topic can't be read.
        threads: Threads for blocking actions of `ctx.run`.
        max_journal_entries: An invocation whose journal is this long is paused.
        retention: How long what has ended is kept, and dead letters.
        verdicts: Publish every verdict to the app's verdicts topic.
    """

    runner: RunnerSettings = field(default_factory=RunnerSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
    max_running: int = 1000
    max_backlog: int = 10_000
    sweep_interval: timedelta = timedelta(milliseconds=250)
    horizon: timedelta = timedelta(minutes=15)
    threads: int = 16
    max_journal_entries: int = 100_000
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    verdicts: bool = False


class Engine:
    """Serves one app on one store; everything that it does, it does in `run`.

    Attributes:
        owner: This process's name in the fences; new for each start.
        problems: What is wrong with store or broker now, by name; empty: ready.
        errors: Errors of background work that should not have happened.
        serving: Set while calls are taken.
        metrics: What was counted.
    """

    def __init__(  # noqa: PLR0913 - all of it is told apart by name
        self,
        app: App,
        store: Store,
        publisher: Publisher,
        *,
        clock: Clock,
        entropy: Entropy,
        settings: EngineSettings,
        build: str = "0",
        executor: Executor | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Prepare to serve; nothing happens before `run`.

        Args:
            app: Whose handlers are run.
            store: Opened by the caller, and closed after `run`.
            publisher: Where effects go.
            clock: Time; the store's clock is the same one.
            entropy: Chance.
            settings: Bounds and pauses.
            build: Names the code, for the rows that it writes.
            executor: Runs blocking actions of `ctx.run`; threads by default.
            metrics: Where everything is counted; a registry of its own by default.
        """
        self.app = app
        self.store = store
        self.clock = clock
        self.build = build
        self.settings = settings.runner
        self.stopping = False
        self.problems: dict[str, str] = {}
        self.errors: list[BaseException] = []
        self.metrics = metrics or Metrics()
        self.metrics.handlers_live.set_function(lambda: len(self._live))
        self._engine_settings = settings
        self._entropy = entropy
        self._ids = Ids(clock.now_ms, entropy.bytes)
        self.owner = self._ids.new("evt")
        self.committer = Committer(store, metrics=self.metrics)
        self.committer.on_store = self._store_changed
        self.edge = Edge(store)
        self.horizon = Horizon(clock, longest_ms=round(settings.horizon.total_seconds() * 1000))
        self.intake = Intake(
            self.committer,
            self.edge,
            self.horizon,
            clock=clock,
            ids=self._ids,
            dead_letter_topic=app.dead_letter_topic,
            verdicts_topic=app.verdicts_topic if settings.verdicts else "",
            metrics=self.metrics,
        )
        self.relay = Relay(
            self.committer,
            store,
            publisher,
            owner=self.owner,
            clock=clock,
            settings=settings.relay,
            metrics=self.metrics,
        )
        self.intake.on_wakes = self.wake
        self.intake.on_effects = self.relay.poke
        self.relay.on_wakes = self.wake
        self.executor: Executor = executor or ThreadPoolExecutor(
            settings.threads, thread_name_prefix="awakeables-run"
        )
        self.offsets = Offsets(self.intake, store, self.problems, topic=app.completions_topic)
        self._retention = Retention(self.committer, store, clock=clock, settings=settings.retention)
        self._world = World(
            clock=clock,
            ids=self._ids,
            app=app.name,
            reply_to=app.completions_topic,
            max_entries=settings.max_journal_entries,
        )
        self._live: dict[str, Runner] = {}
        self._strangers: set[str] = set()
        self._suspect: Runner | None = None
        self._waiters: dict[str, list[asyncio.Future[Outcome]]] = {}
        self._poked = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.serving = asyncio.Event()

    # ── calls ──────────────────────────────────────────────────────────────────────────────

    def new_id(self, kind: IdKind) -> str:
        return self._ids.new(kind)

    async def begin(
        self,
        handler: Handler,
        content: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        idempotency: Idempotency | None = None,
        delay: timedelta = timedelta(0),
    ) -> Begun:
        """Create an invocation; when this returns, it is durable and will run.

        Args:
            handler: One of the app's.
            content: Its input, encoded and known to fit the handler's input type.
            headers: The caller's, for `ctx.request`.
            idempotency: The caller's key; the same key and fingerprint give the same invocation.
            delay: Begin to run this much later.

        Raises:
            Overloaded: Too many calls wait already; nothing was created.
            IdempotencyConflict: The key was used for another request.
        """
        if not self.serving.is_set() or self.stopping:
            raise Overloaded("the service is starting or stopping; try again later")
        self.committer.refuse_if_full()
        if len(self._waiters) >= self._engine_settings.max_running + self._engine_settings.max_backlog:
            raise Overloaded("too many calls wait for a place; try again later")
        is_json = handler.input.kind == "json"
        given = Input(
            service=handler.service,
            handler=handler.name,
            seed=self._entropy.bytes(16).hex(),
            at_ms=self.clock.now_ms(),
            headers=dict(headers or {}),
            value=msgspec.Raw(content) if is_json else msgspec.UNSET,
            value_base64=msgspec.UNSET if is_json else content,
        )
        at_once = idempotency is None and not delay and not self.crowded()
        order = Begin(
            id=self.new_id("inv"),
            service=handler.service,
            handler=handler.name,
            chunk=encode_chunk([given]),
            owner=self.owner if at_once else None,
            delay_ms=round(delay.total_seconds() * 1000),
            idempotency=idempotency,
            build=self.build,
        )
        begun = self.committer.submit(order)
        if at_once:
            # The handler runs while its row is being written: what it decides commits behind it.
            runner = Runner(self, invocation_id=order.id, epoch=1, version=1, wake=0, attempts=0)
            self._start(runner, handler, [given], attempts=0, begun=begun)
        answer = await begun
        if isinstance(answer, KeyConflict):
            raise IdempotencyConflict(
                f"the idempotency key {idempotency.key if idempotency else ''!r} was used for another request"
            )
        if not isinstance(answer, Begun):
            raise TypeError(f"Begin was answered with {type(answer).__name__}")
        if not at_once:
            self.look_again()
        return answer

    async def result(self, invocation_id: str) -> Outcome:
        """Wait until an invocation has ended; cancel to stop waiting, which changes nothing.

        Raises:
            NotFound: There is no such invocation.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(invocation_id, []).append(future)
        try:
            if invocation_id not in self._live:
                row = await self.store.invocation(invocation_id)
                if row is None:
                    raise NotFound(f"no invocation {invocation_id}")
                if row.result is not None:
                    return row.result
            return await future
        finally:
            waiters = self._waiters.get(invocation_id, [])
            if future in waiters:
                waiters.remove(future)
            if not waiters:
                self._waiters.pop(invocation_id, None)

    async def settle(self, completion: Completion) -> Verdict | None:
        """Settle a completion that somebody outside has sent; None: a heartbeat, kept.

        Raises:
            Overloaded: Too much waits for the store already.
        """
        self.committer.refuse_if_full()
        return await self.intake.settle(completion)

    async def resume(self, invocation_id: str) -> Invocation:
        """Let a paused or backing-off invocation run again, now.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It is neither paused nor backing off.
        """
        resumed = await self.committer.commit(Resume(invocation_id=invocation_id), Resumed)
        if resumed.invocation is None:
            raise NotFound(f"no invocation {invocation_id}")
        if not resumed.changed:
            raise NotPossible(f"invocation {invocation_id} is {resumed.invocation.status}, not paused")
        self.look_again()
        return resumed.invocation

    async def cancel(self, invocation_id: str) -> Invocation:
        """Call an invocation off: its handler is told at its next await, once (hard case 12).

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        asked = await self.committer.commit(Cancel(invocation_id=invocation_id), CancelAsked)
        row = asked.invocation
        if row is None:
            raise NotFound(f"no invocation {invocation_id}")
        if not asked.accepted:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to cancel")
        runner = self._live.get(invocation_id)
        if runner is not None:
            runner.cancel(row.wake, asked.called_off)
        elif row.result is not None:
            self.ended(invocation_id, row.result)
        else:
            self.look_again()
        return row

    async def resend(self, dead_letter_id: str) -> Effect:
        """Send a dead letter to the topic that it came from again.

        Raises:
            NotFound: There is no such dead letter.
            NotPossible: Its bytes were not kept.
        """
        order = Resend(dead_letter_id=dead_letter_id, event_id=self.new_id("evt"))
        resent = await self.committer.commit(order, Resent)
        letter = resent.dead_letter
        if letter is None:
            raise NotFound(f"no dead letter {dead_letter_id}")
        if resent.effect is None:
            raise NotPossible(
                f"the bytes of dead letter {dead_letter_id} were not kept; while the topic has them they "
                f"are at offset {letter.offset} of partition {letter.partition} of {letter.topic}"
            )
        self.relay.poke()
        return resent.effect

    # ── the house of the runners ───────────────────────────────────────────────────────────

    def crowded(self) -> bool:
        return len(self._live) >= self._engine_settings.max_running

    def publish(self, effects: tuple[Effect, ...]) -> None:
        self.relay.hand_off(effects)

    def remember(self, taken: Taken) -> None:
        for row in taken.awakeables:
            schema = taken.schemas.get(row.schema_hash) if row.schema_hash else None
            self.edge.remember(
                row.id, Expectation(codec=row.codec, schema_hash=row.schema_hash, schema=schema)
            )

    async def settle_own(self, completion: Completion) -> Verdict | None:
        return await self.intake.settle(completion)

    def ended(self, invocation_id: str, result: Outcome) -> None:
        for future in self._waiters.get(invocation_id, ()):
            if not future.done():
                future.set_result(result)

    def look_again(self) -> None:
        self._poked.set()

    def wake(self, wakes: Sequence[Wake]) -> None:
        """Tell live runners; the others are claimed."""
        for wake in wakes:
            runner = self._live.get(wake.invocation_id)
            if runner is not None:
                runner.notify(wake)
            else:
                self._poked.set()

    @property
    def live(self) -> int:
        """How many handlers are in memory now."""
        return len(self._live)

    # ── background ─────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Serve until cancelled. First lets go of what an earlier process owned."""
        self.stopping = False
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self.committer.run(), name="committer")
                await self.committer.commit(Release(owner=self.owner), Released)
                tasks.create_task(self.relay.run(), name="relay")
                tasks.create_task(self._claim_for_ever(), name="claims")
                tasks.create_task(self._sweep_for_ever(), name="sweep")
                tasks.create_task(self._retention.run(self._unexpected), name="retention")
                self.serving.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    # Before the group cancels the runners, who must know that it is no misuse.
                    self.stopping = True
        finally:
            self.stopping = True
            self.serving.clear()
            self._tasks = None
            self.executor.shutdown(wait=False, cancel_futures=True)

    async def drain(self, timeout: timedelta) -> bool:
        """Begin nothing, let running handlers reach an await and suspend; True: all did in time."""
        self.stopping = True
        left_s = timeout.total_seconds()
        while self._live and left_s > 0:
            for runner in self._live.values():
                runner.hurry()
            await asyncio.sleep(0.02)
            left_s -= 0.02
        if "broker" not in self.problems:
            # What is not out by then is a row, and goes out after the next start.
            await self.relay.drained(max(0.0, left_s))
        drained = not self._live
        if "store" not in self.problems:
            await self.committer.drained()
        if not drained:
            log.warning(events.DRAIN_INCOMPLETE, live=len(self._live))
        return drained

    async def settled_down(self) -> None:
        """Wait until nothing is under way: no handler is live, nothing is to be written or sent."""
        while True:
            await self.committer.drained()
            idle = not self._live and not self._poked.is_set() and self.relay.idle
            if idle and self.committer.idle:
                return
            await asyncio.sleep(0.001)

    async def _claim_for_ever(self) -> None:
        while True:
            self._poked.clear()
            free = self._engine_settings.max_running - len(self._live)
            more = free > 0 and not self.stopping and await self._claim(min(free, CLAIM_LIMIT))
            if not more:
                await self._poked.wait()

    async def _claim(self, limit: int) -> bool:
        """Run what is runnable; True: there may be more."""
        order = Claim(owner=self.owner, limit=limit, suspect=self._suspect is None)
        claimed = await self.committer.commit(order, Claimed)
        rows = [row for row in claimed.invocations if row.status == "running"]
        for row in claimed.invocations:
            if row.status == "paused" and row.failure is not None:
                log.error(events.INVOCATION_PAUSED, invocation_id=row.id, reason=row.failure.kind)
        # Live before their journals are read, so that a wake-up in between finds them.
        runners = {
            row.id: Runner(
                self,
                invocation_id=row.id,
                epoch=row.epoch,
                version=row.version,
                wake=row.wake,
                attempts=row.attempts,
                cancelled=row.cancelled_ms is not None,
            )
            for row in rows
        }
        self._live.update(runners)
        for row in rows:
            # `starts` counts this claim, too.
            if row.starts > SUSPECT_STARTS:
                self._suspect = runners[row.id]
                self._suspect.stand_alone(self._cleared)
        if rows and self._tasks is not None:
            self._tasks.create_task(self._revive(rows, runners))
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
            outcomes = await self.store.outcomes(asked) if asked else {}
        except Exception as error:
            self._unexpected(error, invocation_ids=sorted(runners)[:MOST_NAMED])
            for runner in runners.values():
                self._forget(runner)
            return
        for row in rows:
            runner = runners[row.id]
            try:
                if row.id in problems:
                    raise problems[row.id]
                journal = journals[row.id]
                handler = self.app.handler(row.service, row.handler)
                own = [entry.id for entry in journal if isinstance(entry, AwakeableAsked)]
                runner.preload({key: outcomes[key] for key in own if key in outcomes})
                self._start(runner, handler, journal, attempts=row.attempts, begun=None)
            except (AuthorError, NotFound, msgspec.MsgspecError) as error:
                self._spawn(runner, runner.park(error))

    async def _histories(
        self, invocation_ids: Sequence[str]
    ) -> tuple[dict[str, list[Entry]], dict[str, msgspec.MsgspecError]]:
        """Journals, and the invocations whose journal this release can't read."""
        try:
            return await self.store.history(invocation_ids), {}
        except msgspec.MsgspecError:
            journals: dict[str, list[Entry]] = {}
            problems: dict[str, msgspec.MsgspecError] = {}
            for invocation_id in invocation_ids:
                try:
                    journals |= await self.store.history([invocation_id])
                except msgspec.MsgspecError as error:
                    problems[invocation_id] = error
            return journals, problems

    def _start(
        self,
        runner: Runner,
        handler: Handler,
        journal: Sequence[Entry],
        *,
        attempts: int,
        begun: asyncio.Future[Answer] | None,
    ) -> None:
        execution = execution_of(
            handler, journal, invocation_id=runner.invocation_id, attempts=attempts, world=self._world
        )
        self._live[runner.invocation_id] = runner
        self._spawn(runner, self._metered(runner, handler, runner.run(execution, begun=begun)))

    def _spawn(self, runner: Runner, work: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None, "nothing is run outside Engine.run"
        # By its task's name a handler is known to whoever watches the loop.
        self._tasks.create_task(self._supervise(runner, work), name=runner.invocation_id)

    async def _metered(self, runner: Runner, handler: Handler, work: Coroutine[Any, Any, None]) -> None:
        began = self.clock.monotonic()
        try:
            await work
        finally:
            took_s = self.clock.monotonic() - began
            self.metrics.attempt(handler.service, handler.name, end_of(runner.last), took_s)

    async def _supervise(self, runner: Runner, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self._unexpected(error, invocation_id=runner.invocation_id)
        finally:
            self._forget(runner)
            if len(self._live) == self._engine_settings.max_running - 1:
                self._poked.set()

    def _forget(self, runner: Runner) -> None:
        if self._live.get(runner.invocation_id) is runner:
            del self._live[runner.invocation_id]
        if runner is self._suspect:
            self._cleared()

    async def _sweep_for_ever(self) -> None:
        interval_s = self._engine_settings.sweep_interval.total_seconds()
        while True:
            try:
                await self.sweep()
            except Exception as error:
                self._unexpected(error)
            await asyncio.sleep(interval_s)

    async def sweep(self) -> None:
        """Look once at the rows for what no hint told of: deadlines, due and lost invocations."""
        await self._expire()
        await self._let_go()
        self.look_again()

    async def _expire(self) -> None:
        while True:
            order = Expire(limit=EXPIRE_LIMIT, held_back_to_ms=self.horizon.held_back_to_ms())
            expired = await self.committer.commit(order, Expired)
            self.wake(expired.wakes)
            if len(expired.wakes) < EXPIRE_LIMIT:
                return

    async def _let_go(self) -> None:
        """Release rows that this owner is said to hold but does not (hard case 3).

        Twice in a row, because a row may be on its way to its runner.
        """
        held = {key for key in await self.store.held_by(self.owner) if key not in self._live}
        lost = held & self._strangers
        self._strangers = held - lost
        if lost:
            released = await self.committer.commit(Release(owner=self.owner, ids=tuple(lost)), Released)
            log.warning(events.LET_GO, count=released.count, invocation_ids=sorted(lost)[:MOST_NAMED])
            self.look_again()

    def _store_changed(self, problem: str | None) -> None:
        if problem is None:
            self.problems.pop("store", None)
        else:
            self.problems["store"] = problem

    def _unexpected(self, error: Exception, **facts: object) -> None:
        """Go on after a failure: the rows are the truth, a sweep finds what was dropped here."""
        if not isinstance(error, OperatorError):
            self.errors.append(error)
        log.error(events.BACKGROUND_ERROR, exc_info=error, **facts)


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
        if not handler.takes_input:
            return await handler.function(context)
        return await handler.function(context, context.decode_input(handler.input))

    return Execution(begin, journal, invocation_id=invocation_id, output=handler.output, world=world)
