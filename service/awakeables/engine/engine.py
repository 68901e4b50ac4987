"""The engine: composes the parts of one process, runs them, and drains them.

Wake-ups in memory are hints; the rows are the truth. A sweep finds the work of a hint that was lost (O3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import structlog

from awakeables.core.awakeables import Completion, Verdict
from awakeables.core.ids import Ids
from awakeables.core.journal import Input
from awakeables.core.outcomes import Rejection
from awakeables.core.versions import parsed_target
from awakeables.engine.committer import Committer
from awakeables.engine.completionstopic import CompletionsTopic
from awakeables.engine.dryreplay import DryReplays
from awakeables.engine.horizon import Horizon
from awakeables.engine.member import Member, MemberSettings, until_available
from awakeables.engine.others import HintSender, OtherInstances
from awakeables.engine.outbox import Relay, RelaySettings
from awakeables.engine.pauses import Pauses
from awakeables.engine.pool import DeadLetterTo, RunnerPool
from awakeables.engine.readtopic import FoldingSettings, Reading
from awakeables.engine.retention import Retention, RetentionSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.schedules import Schedules, ScheduleSettings
from awakeables.engine.settlement import PayloadValidator, Settlement
from awakeables.engine.subscriptions import Subscriptions
from awakeables.engine.sweeper import Sweeper
from awakeables.engine.waiters import Waiters
from awakeables.errors import OperatorError, StoreUnavailable
from awakeables.handlers.attempt import Attempts
from awakeables.handlers.execution import World
from awakeables.handlers.local import LocalAttempts, RunFailed, log_failed_run
from awakeables.handlers.service import App
from awakeables.ports import Clock, Entropy, Publisher, Store, TopicOffsets
from awakeables.telemetry import events
from awakeables.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from awakeables.telemetry.spans import Spans

log = structlog.stdlib.get_logger(__name__)


HandlersRun: TypeAlias = Callable[[App, World, Executor, RunFailed], Attempts]
"""Makes the `Attempts` of an app, and so decides where its handlers run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How the engine behaves.

    Attributes:
        runner: How each invocation is run.
        member: When instances are dead.
        relay: How effects are published.
        max_running: How many handlers may be in memory at once; further invocations wait as rows.
        max_backlog: How many calls may wait for a place; above it `begin` refuses.
        sweep_interval: How often the rows are searched for work whose wake-up was lost.
        schedules: How schedules are looked at; None: their ticks begin nothing.
        horizon: How long deadlines are held back when the completions topic can't be read.
        threads: Threads for blocking actions of `ctx.run`.
        max_journal_entries: An invocation whose journal has this many entries is paused.
        retention: How long ended invocations and dead letters are kept.
        folding: How many dead letters per minute are kept one by one.
        verdicts: Whether every verdict is published to the app's verdicts topic.
        log_invocations: The log level at which an invocation begins and ends; a failed one is always
            logged as a warning.
    """

    runner: RunnerSettings = field(default_factory=RunnerSettings)
    member: MemberSettings = field(default_factory=MemberSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
    max_running: int = 1000
    max_backlog: int = 10_000
    sweep_interval: timedelta = timedelta(milliseconds=250)
    schedules: ScheduleSettings | None = field(default_factory=ScheduleSettings)
    horizon: timedelta = timedelta(minutes=15)
    threads: int = 16
    max_journal_entries: int = 100_000
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    folding: FoldingSettings = field(default_factory=FoldingSettings)
    verdicts: bool = False
    log_invocations: int = logging.DEBUG


LEAVE_S = 2.0
"""How long a stopping instance tries to say so."""


class Engine:
    """The parts that serve one app on one store, and their life cycle. Nothing happens outside `run`.

    `api.Api` is how it is used.

    Attributes:
        config: The settings of all parts.
        ids: Issues every ID of this process.
        member: This process among the instances that share the store.
        problems: The current problems by name; `readiness` says what they mean.
        errors: Unexpected errors of background work.
        serving: Set while calls are accepted.
        metrics: Where everything is counted.
    """

    def __init__(  # noqa: PLR0913 - all of it is given by name
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
        on_failure: Callable[[BaseException], None] = lambda _error: None,
        on_time: Callable[[int, float], None] | None = None,
        handlers: HandlersRun = LocalAttempts,
        offsets: TopicOffsets | None = None,
        spans: Spans | None = None,
    ) -> None:
        """Prepare to serve; nothing happens before `run`.

        Args:
            app: Its handlers are run.
            store: Opened by the caller before `run`, and closed after it.
            publisher: Publishes effects.
            clock: The time; the same clock as the store's.
            entropy: Random bytes.
            settings: The settings of all parts.
            build: The version of the code, kept in the rows that it writes.
            executor: Runs blocking actions of `ctx.run`; threads by default.
            metrics: Where everything is counted; by default a registry of its own.
            on_failure: Called with the error of each failed attempt; rows keep only its text.
            on_time: Called with the time of a shared store's clock, and how many seconds ago it was asked.
            handlers: Where handlers run; by default in this process.
            offsets: Finds out where subscriptions begin to read their topics; needed for that alone.
            spans: Begins spans; None: none are recorded.
        """
        self.app = app
        self.store = store
        self.clock = clock
        self.build = build
        self.problems: dict[str, str] = {}
        self.errors: list[BaseException] = []
        self.metrics = metrics or Metrics()
        self.config = settings
        self.entropy = entropy
        self.ids = Ids(clock.now_ms, entropy.bytes)
        self.committer = Committer(store, metrics=self.metrics, on_store=self._store_changed)
        self.member = Member(
            store.membership,
            self.committer,
            self.ids,
            clock,
            build=build,
            handlers=lambda: tuple(sorted(app.targets)),
            settings=settings.member,
            on_dead=self._declared_dead,
            on_sure=self._sure_again,
            on_time=on_time,
        )
        world = World(
            clock=clock,
            ids=self.ids,
            app=app.name,
            reply_to=app.completions_topic,
            max_entries=settings.max_journal_entries,
            max_actions=settings.runner.max_actions,
            revoke_to=app.revocations_topic,
        )
        self.executor: Executor = executor or ThreadPoolExecutor(
            settings.threads, thread_name_prefix="awakeables-run"
        )
        attempts = handlers(app, world, self.executor, log_failed_run)
        self.relay = Relay(
            self.committer,
            store,
            publisher,
            owner=lambda: self.member.id,
            clock=clock,
            settings=settings.relay,
            # The pool is constructed later: it publishes through the relay.
            on_wakes=lambda wakes: self.pool.wake(wakes),
            may_publish=None if self.member.alone else self.member.is_sure,
            metrics=self.metrics,
            spans=spans,
        )
        self.validator = PayloadValidator(store, DryReplays(store, self.committer, attempts, clock).codec)
        self.horizon = Horizon(
            clock,
            longest_ms=round(settings.horizon.total_seconds() * 1000),
            topic=app.completions_topic,
            watermark=None if self.member.alone else store,
        )
        self.waiters = Waiters()
        self.pauses = Pauses(
            app,
            store,
            self.committer,
            interval_s=settings.member.interval_s,
            metrics=self.metrics,
            on_resumed=lambda: self.pool.look_again(),
        )
        self.hints = HintSender(store.hints, self.member)
        self.pool = RunnerPool(
            attempts,
            store,
            self.committer,
            relay=self.relay,
            settle=self._settle,
            unread=lambda: self.completions.readable,
            validator=self.validator,
            waiters=self.waiters,
            clock=clock,
            member=self.member,
            paused=lambda: self.pauses.targets,
            build=build,
            settings=settings.runner,
            max_running=settings.max_running,
            log_level=settings.log_invocations,
            metrics=self.metrics,
            spans=spans,
            on_wake_elsewhere=self.hints.woken,
            on_end_for_another=self.hints.ended,
            on_cancelled_elsewhere=self.hints.cancelled,
            on_failure=on_failure,
            on_unexpected=self.unexpected,
            failed_record=self._failed_record,
            on_subscribed_end=lambda name: self.subscriptions.ended(name),
        )
        for target in app.targets:  # an alarm can't see a series appear with 1
            self.metrics.send_conflicts.labels(*parsed_target(target)[:2])
        self.others = OtherInstances(
            store.hints,
            store,
            self.member,
            self.pool,
            self.waiters,
            on_unexpected=self.unexpected,
        )
        self.settlement = Settlement(
            self.committer,
            self.validator,
            self.horizon,
            ids=self.ids,
            verdicts_topic=app.verdicts_topic if settings.verdicts else "",
            metrics=self.metrics,
            spans=spans,
            on_wakes=self.pool.wake,
            on_effects=self.relay.poke,
            on_begun=self.pool.look_again,
        )
        reading = Reading(
            committer=self.committer,
            store=store,
            owner=lambda: self.member.id,
            dead_letter_topic=app.dead_letter_topic,
            clock=clock,
            ids=self.ids,
            folding=settings.folding,
            metrics=self.metrics,
            on_effects=self.relay.poke,
        )
        self.completions = CompletionsTopic(
            reading, self.settlement, self.validator, self.horizon, name=app.completions_topic
        )
        self.subscriptions = Subscriptions(
            app, reading, offsets=offsets, build=build, on_begun=self.pool.look_again
        )
        self.offsets = offsets
        self.schedules = Schedules(
            {} if settings.schedules is None else app.scheduled(),
            store,
            membership=store.membership,
            member=self.member,
            committer=self.committer,
            waiters=self.waiters,
            ids=self.ids,
            clock=clock,
            build=build,
            settings=settings.schedules or ScheduleSettings(),
            metrics=self.metrics,
            on_begun=self.pool.look_again,
            on_unexpected=self.unexpected,
        )
        self.retention = Retention(
            self.committer,
            store,
            clock=clock,
            settings=settings.retention,
            is_first=lambda: self.member.is_first,
            expiring={each.name: each.expire_after for each in app.objects if each.expire_after is not None},
        )
        self._sweeper = Sweeper(
            self.pool,
            self.committer,
            store,
            self.horizon,
            interval=settings.sweep_interval,
            on_unexpected=self.unexpected,
        )
        self.serving = asyncio.Event()

    def unexpected(self, error: Exception, **facts: object) -> None:
        """Log an error of background work, which goes on: a sweep finds the work that was dropped."""
        if not isinstance(error, OperatorError):
            self.errors.append(error)
        log.error(events.BACKGROUND_ERROR, exc_info=error, **facts)

    @property
    def live(self) -> int:
        """The number of handlers in memory."""
        return len(self.pool)

    async def run(self) -> None:
        """Serve until cancelled. First takes over what instances own that don't live."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.committer.run(), name="committer")
                await self.member.register()
                interval_s = self.config.member.interval_s
                await until_available(self.pauses.read, interval_s)
                await until_available(self.subscriptions.report_undeclared, interval_s)
                if not self.member.alone:
                    tasks.create_task(self.pauses.run(self.unexpected), name="pauses")
                    tasks.create_task(self.member.run(self.unexpected), name="member")
                    tasks.create_task(self.others.run(), name="other-instances")
                    tasks.create_task(self.horizon.run(self.unexpected), name="horizon")
                tasks.create_task(self.relay.run(), name="relay")
                tasks.create_task(self.pool.run(), name="claims")
                tasks.create_task(self._sweeper.run(), name="sweeper")
                tasks.create_task(self.retention.run(self.unexpected), name="retention")
                tasks.create_task(self.schedules.run(), name="schedules")
                self.serving.set()
                await asyncio.Event().wait()
        finally:
            self.serving.clear()
            self.executor.shutdown(wait=False, cancel_futures=True)

    async def drain(self, timeout: timedelta) -> bool:
        """Begin nothing new, and let handlers run to an await and suspend; True if all did in time."""
        self.schedules.stop()
        self.pool.stop_claiming()
        await self._leave(gone=False)
        left_s = timeout.total_seconds()
        while self.pool and left_s > 0:
            self.pool.stop_lingering()
            await asyncio.sleep(0.02)
            left_s -= 0.02
        if "broker" not in self.problems:
            # Effects that are not published by then are rows, and are published after the next start.
            await self.relay.drained(max(0.0, left_s))
        drained = not self.pool
        if "store" not in self.problems:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(LEAVE_S, left_s)):  # the store may fail meanwhile
                    await self.committer.drained()
            await self._leave()
        if not drained:
            log.warning(events.DRAIN_INCOMPLETE, live=len(self.pool))
        return drained

    async def _leave(self, *, gone: bool = True) -> None:
        if not self.member.alone:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self.member.leave(gone=gone)
            except (StoreUnavailable, TimeoutError):
                pass  # the others declare this instance dead after the time-out

    async def settled_down(self) -> None:
        """Wait until nothing is in progress: no handler in memory, nothing to commit or to publish."""
        while True:
            await self.committer.drained()
            if self.pool.idle and self.relay.idle and self.committer.idle:
                return
            await asyncio.sleep(0.001)

    async def sweep(self) -> None:
        """Sweep once, as `run` does at intervals."""
        await self._sweeper.sweep()
        await self.schedules.step()

    async def _settle(self, completion: Completion) -> Verdict | None:
        # The settlement is constructed after the pool, whose runners it wakes.
        return await self.settlement.settle(completion)

    def _failed_record(self, invocation_id: str, given: Input, why: Rejection) -> DeadLetterTo | None:
        # The subscriptions are constructed after the pool, which runs what they begin.
        return self.subscriptions.failed(invocation_id, given, why)

    def _declared_dead(self) -> None:
        self.pool.lose_all("this instance was declared dead")
        self.relay.lose_all()
        self.others.listen()
        self.pool.look_again()

    def _sure_again(self) -> None:
        self.pool.go_on()
        self.relay.go_on()

    def _store_changed(self, problem: str | None) -> None:
        if problem is None:
            self.problems.pop("store", None)
        else:
            self.problems["store"] = problem
