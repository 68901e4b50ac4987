"""The engine: begins invocations, claims what is runnable, wakes what was told something.

Wake-ups in memory are hints; the rows are the truth. A sweep finds what a lost hint missed (O3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec
import structlog

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.ids import IdKind, Ids
from awakeables.core.invocations import Invocation
from awakeables.core.journal import Input, encode_chunk
from awakeables.core.orders import (
    Answer,
    Begin,
    Begun,
    Cancel,
    CancelAsked,
    Effect,
    Idempotency,
    KeyConflict,
    Kill,
    Killed,
    Release,
    Released,
    Republish,
    Republished,
    Resend,
    Resent,
    Resume,
    Resumed,
)
from awakeables.core.outcomes import Outcome
from awakeables.engine.committer import Committer
from awakeables.engine.dryreplay import DryReplays
from awakeables.engine.edge import Edge
from awakeables.engine.folding import FoldingSettings
from awakeables.engine.horizon import Horizon
from awakeables.engine.intake import Intake
from awakeables.engine.live import Live
from awakeables.engine.offsets import Offsets
from awakeables.engine.outbox import Relay, RelaySettings
from awakeables.engine.retention import Retention, RetentionSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.subject import Subject
from awakeables.engine.sweeps import Sweeps
from awakeables.engine.waiters import Waiters
from awakeables.errors import (
    IdempotencyConflict,
    NotFound,
    NotPossible,
    OperatorError,
    Overloaded,
)
from awakeables.handlers.execution import Taken, World
from awakeables.handlers.service import App, Handler
from awakeables.ports import Clock, Entropy, Expectation, Publisher, Store
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics

log = structlog.stdlib.get_logger(__name__)

BEHIND = 10_000
"""So many unread completions are about a second's work: more than a burst."""


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
        folding: How many dead letters of a minute are kept one by one.
        verdicts: Publish every verdict to the app's verdicts topic.
        log_invocations: The level of the lines that say that an invocation has begun or ended; that
            it has failed is a warning in any case.
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
    folding: FoldingSettings = field(default_factory=FoldingSettings)
    verdicts: bool = False
    log_invocations: int = logging.DEBUG


class Engine:
    """Serves one app on one store; everything that it does, it does in `run`.

    Attributes:
        owner: This process's name in the fences; new for each start.
        problems: What is wrong now, by name; `readiness` says what that means.
        errors: Errors of background work that should not have happened.
        serving: Set while calls are taken.
        on_failure: Told of the error of each attempt that fails; rows keep its text only.
        publishes_verdicts: To the app's verdicts topic.
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
        self.publishes_verdicts = settings.verdicts
        self.settings = settings.runner
        self.stopping = False
        self.problems: dict[str, str] = {}
        self.errors: list[BaseException] = []
        self.metrics = metrics or Metrics()
        self._engine_settings = settings
        self._entropy = entropy
        self._ids = Ids(clock.now_ms, entropy.bytes)
        self.owner = self._ids.new("evt")
        self.committer = Committer(store, metrics=self.metrics)
        self.committer.on_store = self._store_changed
        self._world = World(
            clock=clock,
            ids=self._ids,
            app=app.name,
            reply_to=app.completions_topic,
            max_entries=settings.max_journal_entries,
        )
        self.edge = Edge(store, DryReplays(app, store, self.committer, self._world).codec)
        self.horizon = Horizon(clock, longest_ms=round(settings.horizon.total_seconds() * 1000))
        self.intake = Intake(
            self.committer,
            self.edge,
            self.horizon,
            clock=clock,
            ids=self._ids,
            dead_letter_topic=app.dead_letter_topic,
            verdicts_topic=app.verdicts_topic if self.publishes_verdicts else "",
            folding=settings.folding,
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
        self.intake.on_effects = self.relay.poke
        self.executor: Executor = executor or ThreadPoolExecutor(
            settings.threads, thread_name_prefix="awakeables-run"
        )
        self.offsets = Offsets(self.intake, store, self.problems, topic=app.completions_topic)
        self._retention = Retention(self.committer, store, clock=clock, settings=settings.retention)
        self._live = Live(
            self, app, store, self._world, metrics=self.metrics, max_running=settings.max_running
        )
        self.intake.on_wakes = self.relay.on_wakes = self._live.wake
        self._sweeps = Sweeps(self, self._live, store, self.horizon, interval=settings.sweep_interval)
        self.on_failure: Callable[[BaseException], None] = lambda _error: None
        self._waiters = Waiters(store, self._live.__contains__)
        self.serving = asyncio.Event()

    # ── calls ──────────────────────────────────────────────────────────────────────────────

    def new_id(self, kind: IdKind) -> str:
        return self._ids.new(kind)

    async def begin(
        self,
        handler: Handler,
        content: bytes | None,
        *,
        headers: Mapping[str, str] | None = None,
        idempotency: Idempotency | None = None,
        delay: timedelta = timedelta(0),
        by: str | None = None,
    ) -> Begun:
        """Create an invocation; when this returns, it is durable and will run.

        Args:
            handler: One of the app's.
            content: Its input as `Handler.accept` has returned it.
            headers: The caller's, for `ctx.request`.
            idempotency: The caller's key; the same key and fingerprint give the same invocation.
            delay: Begin to run this much later.
            by: The name of the caller's token, kept with the invocation.

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
            value=msgspec.UNSET if content is None or not is_json else msgspec.Raw(content),
            value_base64=msgspec.UNSET if content is None or is_json else content,
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
            by=by,
        )
        begun = self.committer.submit(order)
        if at_once:
            # The handler runs while its row is being written: what it decides commits behind it.
            self._live.begin(order.id, handler, given, begun)
        answer = await begun
        if isinstance(answer, KeyConflict):
            raise IdempotencyConflict(
                f"the idempotency key {idempotency.key if idempotency else ''!r} was used for another request"
            )
        if not isinstance(answer, Begun):
            raise TypeError(f"Begin was answered with {type(answer).__name__}")
        if answer.created:
            subject = Subject(invocation_id=answer.id, service=handler.service, handler=handler.name)
            subject.began(level=self._engine_settings.log_invocations)
        if not at_once:
            self.look_again()
        return answer

    async def result(self, invocation_id: str) -> Outcome:
        """Wait until an invocation has ended; cancel to stop waiting, which changes nothing.

        Raises:
            NotFound: There is no such invocation.
        """
        outcome = await self._waiters.wait(invocation_id, until_paused=False)
        assert outcome is not None, "only who waits for a pause is told of one"
        return outcome

    async def result_or_pause(self, invocation_id: str) -> Outcome | None:
        """The same, but also return at a pause, which only an operator ends: None.

        Raises:
            NotFound: There is no such invocation.
        """
        return await self._waiters.wait(invocation_id, until_paused=True)

    async def settle(self, completion: Completion) -> Verdict | None:
        """Settle a completion that somebody outside has sent; None: a heartbeat, kept.

        Raises:
            Overloaded: Too much waits for the store already.
        """
        self.committer.refuse_if_full()
        return await self.intake.settle(completion)

    async def resume(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """Let a paused or backing-off invocation run again, now.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It is neither paused nor backing off.
        """
        resumed = await self.committer.commit(Resume(invocation_id=invocation_id, by=by), Resumed)
        if resumed.invocation is None:
            raise NotFound(f"no invocation {invocation_id}")
        if not resumed.accepted:
            raise NotPossible(f"invocation {invocation_id} is {resumed.invocation.status}, not paused")
        self.look_again()
        return resumed.invocation

    async def cancel(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """Call an invocation off: its handler is told at its next await, once (hard case 12).

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        asked = await self.committer.commit(Cancel(invocation_id=invocation_id, by=by), CancelAsked)
        row = asked.invocation
        if row is None:
            raise NotFound(f"no invocation {invocation_id}")
        if not asked.accepted:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to cancel")
        if self._live.cancel(row, asked.called_off):
            return row
        if row.result is not None:
            self.ended(row)
        else:
            self.look_again()
        return row

    async def kill(self, invocation_id: str, *, by: str | None = None) -> Invocation:
        """End an invocation as it stands; its handler is not asked, what it has to undo stays undone.

        An action of `ctx.run` that is being executed is not interrupted; its result is dropped. A
        handler that hangs in an await of its own stays in memory, but takes no place any more.

        Raises:
            NotFound: There is no such invocation.
            NotPossible: It has ended.
        """
        submitted = self.committer.submit(Kill(invocation_id=invocation_id, by=by))
        submitted.add_done_callback(self._killed)
        # Whoever asked may give up: those who wait are told by the commit itself.
        killed = await asyncio.shield(submitted)
        if not isinstance(killed, Killed):
            raise TypeError(f"Kill was answered with {type(killed).__name__}")
        if killed.invocation is None:
            raise NotFound(f"no invocation {invocation_id}")
        if not killed.done:
            raise NotPossible(f"invocation {invocation_id} has ended; there is nothing to kill")
        return killed.invocation

    def _killed(self, submitted: asyncio.Future[Answer]) -> None:
        if submitted.cancelled() or submitted.exception() is not None:
            return
        killed = submitted.result()
        if isinstance(killed, Killed) and killed.done and killed.invocation:
            self._live.let_go(killed.invocation.id)
            self.ended(killed.invocation)

    async def purge_dead_letters(self, *, older_than: timedelta, code: str | None) -> int:
        """Delete dead letters, of a code or all, a few at a time; how many."""
        return await self._retention.purge_letters(older_than=older_than, code=code)

    async def resend(self, dead_letter_id: str, *, by: str | None = None) -> Effect:
        """Send a dead letter to the topic that it came from again.

        Raises:
            NotFound: There is no such dead letter.
            NotPossible: Its bytes were not kept; or it is a task that nobody waits for, or of another topic.
        """
        order = Resend(dead_letter_id=dead_letter_id, event_id=self.new_id("evt"), by=by)
        resent = await self.committer.commit(order, Resent)
        if resent.dead_letter is None:
            raise NotFound(f"no dead letter {dead_letter_id}")
        if resent.effect is None:
            raise NotPossible(resent.refusal or f"dead letter {dead_letter_id} can't be sent again")
        self.relay.poke()
        return resent.effect

    async def republish(self, event_id: str, *, by: str | None = None) -> Effect:
        """Send a record that Kafka has refused again; later ones of its invocation have passed it.

        Raises:
            NotFound: There is no such record in the outbox.
            NotPossible: It carries an awakeable.
        """
        republished = await self.committer.commit(Republish(event_id=event_id, by=by), Republished)
        queued = republished.queued
        if queued is None:
            raise NotFound(f"no record {event_id} in the outbox")
        task = queued.effect.task
        if not republished.accepted and task is not None:
            raise NotPossible(
                f"record {event_id} carries awakeable {task.awakeable_id}, which was settled by "
                "publish-failed, if not before, when Kafka refused the record: nobody waits for its answer "
                "any more; begin the work anew instead"
            )
        self.relay.poke()
        return queued.effect

    # ── the house of the runners ───────────────────────────────────────────────────────────

    def crowded(self) -> bool:
        return self._live.crowded()

    def publish(self, effects: tuple[Effect, ...]) -> None:
        self.relay.hand_off(effects)

    def remember(self, invocation_id: str, taken: Taken) -> None:
        for row in taken.awakeables:
            codec = taken.codecs[row.id]
            expectation = Expectation(
                invocation_id=invocation_id,
                codec=row.codec,
                type_name=row.type_name,
                schema_hash=row.schema_hash,
                schema=codec.schema,
            )
            self.edge.remember(row.id, expectation, codec)

    async def settle_own(self, completion: Completion) -> Verdict | None:
        return await self.intake.settle(completion)

    def ended(self, row: Invocation) -> None:
        if row.result is None:
            raise TypeError(f"{row.id} has no result")
        Subject(invocation_id=row.id, service=row.service, handler=row.handler).ended(
            row.result,
            duration_ms=row.updated_ms - row.created_ms,
            level=self._engine_settings.log_invocations,
        )
        self._waiters.ended(row.id, row.result)

    def paused(self, invocation_id: str) -> None:
        self._waiters.paused(invocation_id)

    def failed(self, error: BaseException) -> None:
        self.on_failure(error)

    def look_again(self) -> None:
        self._live.look_again()

    def behind(self) -> bool:
        return sum(self.intake.lags.values()) > BEHIND

    def unexpected(self, error: Exception, **facts: object) -> None:
        """Go on after a failure: the rows are the truth, a sweep finds what was dropped here."""
        if not isinstance(error, OperatorError):
            self.errors.append(error)
        log.error(events.BACKGROUND_ERROR, exc_info=error, **facts)

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
                self._live.tasks = tasks
                tasks.create_task(self.committer.run(), name="committer")
                await self.committer.commit(Release(owner=self.owner), Released)
                tasks.create_task(self.relay.run(), name="relay")
                tasks.create_task(self._live.claim_for_ever(), name="claims")
                tasks.create_task(self._sweeps.run(), name="sweep")
                tasks.create_task(self._retention.run(self.unexpected), name="retention")
                self.serving.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    # Before the group cancels the runners, who must know that it is no misuse.
                    self.stopping = True
        finally:
            self.stopping = True
            self.serving.clear()
            self._live.tasks = None
            self.executor.shutdown(wait=False, cancel_futures=True)

    async def drain(self, timeout: timedelta) -> bool:
        """Begin nothing, let running handlers reach an await and suspend; True: all did in time."""
        self.stopping = True
        left_s = timeout.total_seconds()
        while self._live and left_s > 0:
            self._live.hurry()
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
            if self._live.idle and self.relay.idle and self.committer.idle:
                return
            await asyncio.sleep(0.001)

    async def sweep(self) -> None:
        """Look once at the rows for what no hint told of; what `run` does now and then."""
        await self._sweeps.sweep()

    def _store_changed(self, problem: str | None) -> None:
        if problem is None:
            self.problems.pop("store", None)
        else:
            self.problems["store"] = problem
