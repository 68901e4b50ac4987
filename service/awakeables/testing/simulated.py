"""A service in memory: its processes, one after the other, and what outlives them, in virtual time."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from awakeables.api import Api
from awakeables.core.awakeables import AwakeableRow
from awakeables.core.records import text_bytes
from awakeables.core.rows import UNCLAIMED
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.readtopic import ReadTopic
from awakeables.engine.retention import RetentionSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.schedules import ScheduleSettings
from awakeables.engine.sinks import PartitionSink
from awakeables.handlers.attempt import Attempts
from awakeables.handlers.context import MAX_WAIT
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App
from awakeables.handlers.state import State
from awakeables.testing.actions import Actions
from awakeables.testing.answers import Answers
from awakeables.testing.bench import Process, new_process
from awakeables.testing.crashing import CrashingStore
from awakeables.testing.dropped import noticed
from awakeables.testing.elsewhere import TestedAttempts
from awakeables.testing.given import stored
from awakeables.testing.logs import redirected
from awakeables.testing.loop import (
    STARTED_MS,
    SeededEntropy,
    SeededLoop,
    ThreadInTurn,
    VirtualClock,
    end_stray_tasks,
)
from awakeables.testing.outside import OnWait, Outside, Topics
from awakeables.testing.store import KitStore
from awakeables.testing.topiclogs import TopicLogs
from awakeables.testing.usercode import CountedAttempts, Endless, UserCode

T = TypeVar("T")

NEVER = MAX_WAIT * 3
"""The kit itself wakes the engine when something is due, so that virtual years pass at once."""

FEW_TRIES = RetryPolicy(initial_interval=timedelta(0), max_attempts=3)
"""Three attempts: what fails once or twice succeeds, as in the service; an actual bug fails the test soon."""

MOST_TICKS = 1000
"""So many ticks of schedules are tried, one after the other, if an awaited result depends on nothing else."""

NOT_WITHIN = (
    "the harness is in the middle of a call: an answer, a handler or an action can't call its methods, nor "
    "can another thread; call it in the test, when that call has returned"
)

FAILURES = 100
"""How many errors of attempts are remembered, to be the causes of `Paused`."""


@dataclass(slots=True)
class Serving:
    """A process that serves the app.

    Attributes:
        died: Done once it has crashed.
        positions: The sinks of the topics that it has read, and their next offsets.
    """

    process: Process
    died: asyncio.Future[None]
    positions: dict[str, tuple[PartitionSink, int]] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        return self.process.engine

    def die(self) -> None:
        """Crash."""
        if not self.died.done():
            self.died.set_result(None)

    def reopen(self, subscription: str, _partition: int) -> None:
        """Claim the partition of a subscription again before more of it is read: it was moved or resumed."""
        self.positions.pop(subscription, None)


class SimulatedService:
    """An app that is served in memory. Everything happens within `drive`, in the loop of the service.

    Attributes:
        app: The app.
        loop: The loop, with its virtual time.
        clock: The loop's clock.
        store: What survives each crash.
        logs: The records of its topics.
        outside: Who does the tasks.
        actions: What is executed instead of an action.
        code: The user's code that is being executed.
        failures: The errors of attempts, the last ones.
        timeline: What has happened, each with its instant.
        on_close: Called when it is closed.
    """

    def __init__(  # noqa: PLR0913 - all but two by name
        self,
        app: App,
        answers: Answers,
        on_wait: OnWait | None = None,
        *,
        retry: RetryPolicy,
        suspend: bool,
        thorough: bool,
        schedules: bool,
        seed: int,
        function: App | None,
    ) -> None:
        """Prepare to serve; the arguments are those of `run` and of `Harness`, but for `function`.

        `function` has the handlers of the app's remote services, which have learned from it.

        Raises:
            TypeError: One is of another type.
        """
        if not isinstance(app, App):
            raise TypeError(f"app must be an App, not {app!r}")
        if not isinstance(retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, not {retry!r}")
        self.app = app
        self._function = function
        self._settings = _settings(retry, suspend=suspend, schedules=schedules)
        self._entropy = SeededEntropy(seed)
        self.loop = SeededLoop(seed)
        self.clock = VirtualClock(self.loop)
        kind = CrashingStore if thorough else KitStore
        self.store = kind(clock=self.clock, retention_ms=NEVER // timedelta(milliseconds=1))
        self.actions = Actions(self.store.tables.invocations.get)
        self.code = UserCode(self.loop, self._on_endless)
        self.failures: deque[BaseException] = deque(maxlen=FAILURES)
        self.timeline: list[tuple[int, str]] = []
        self.on_close: list[Callable[[], object]] = [answers.close]
        self._topics = Topics()
        self.logs = TopicLogs(self.clock)
        self.outside = Outside(
            lambda ask: self.of(lambda serving: ask(serving.process.api)),
            self._topics,
            self.clock,
            answers,
            on_wait,
            self.logs.write,
            self.note,
            self._state_of,
        )
        self._serving: Serving | None = None
        self._done: set[tuple[str, int]] = set()
        self._up = asyncio.Event()
        self._errors: list[BaseException] = []
        self._background: list[asyncio.Task[None]] = []
        self._thread: ThreadPoolExecutor | None = None
        self._driving = Lock()
        self.is_closed = False

    # From the test's side.

    def drive(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something in the loop of the service, which stands still otherwise.

        Within a running loop it is done in a thread, with the caller's context variables.

        Raises:
            RuntimeError: It is closed, or is driven already: by the caller of an answer or an action, or by
                another thread.
            BaseException: What a function of the test raised meanwhile, or background work.
        """
        if self.is_closed:
            raise RuntimeError("the test's service is closed")
        return self._in_the_loop(lambda: self._surfacing(work))

    def _in_the_loop(self, work: Callable[[], Coroutine[Any, Any, T]], *, is_last: bool = False) -> T:
        def job() -> T:
            with redirected(), noticed():
                return self.loop.run_until_complete(work())

        self.refuse_within()
        # A close waits for a call of another thread, which a test may have given up.
        if not self._driving.acquire(blocking=is_last):
            raise RuntimeError(NOT_WITHIN)
        try:
            if _running_loop() is None:
                return job()
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="awakeables-testing")
            return self._thread.submit(contextvars.copy_context().run, job).result()
        finally:
            self._driving.release()

    def refuse_within(self) -> None:
        """Refuse what an answer, a handler or an action asks for.

        Raises:
            RuntimeError: The caller is one of them.
        """
        if self.code.is_caller() or _running_loop() is self.loop:
            raise RuntimeError(NOT_WITHIN)

    async def _surfacing(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if not self._background:
            doing = (self._serve(), self.outside.read_all())
            self._background = [asyncio.ensure_future(each) for each in doing]
        self.code.events.clear()
        done = await work()
        for errors in (self.outside.errors, self._errors, self._engine_errors):
            if errors:
                raise errors.pop(0)
        return done

    def close(self) -> None:
        """End the processes, with everything that handlers have left behind."""
        if self.is_closed:
            return
        self.refuse_within()
        self.is_closed = True
        try:
            self._in_the_loop(self._end, is_last=True)
        finally:
            for close in self.on_close:
                close()
            self.loop.close()
            if self._thread is not None:
                self._thread.shutdown()

    async def _end(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await end_stray_tasks()

    # Its processes.

    async def _serve(self) -> None:
        """Serve with one process after the other: each one until it crashes."""
        while True:
            serving = Serving(self._new_process(), self.loop.create_future())
            if isinstance(self.store, CrashingStore):
                self.store.crash = partial(self._die, serving)
            running = asyncio.ensure_future(serving.engine.run())
            try:
                await serving.engine.serving.wait()
                with ExitStack() as listening:
                    for name, topic in serving.engine.subscriptions.topics.items():
                        await topic.prepare([0])  # the first process, before a commit of it can crash
                        listening.enter_context(topic.listening(partial(serving.reopen, name)))
                    self._serving = serving
                    self._up.set()
                    await serving.died
                self.note("the process crashed")
            finally:
                self._up.clear()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                self._errors += serving.engine.errors
            self.store.forget_starts()
            self.actions.crashed()

    def _die(self, serving: Serving) -> None:
        self._up.clear()  # at once, so that this process is asked for nothing more
        serving.die()

    def _state_of(self, awakeable_id: str) -> str | None:
        row = self.store.tables.awakeables.get(awakeable_id)
        return None if row is None else row.state

    def _new_process(self) -> Process:
        return new_process(
            self.app,
            self.store,
            self._topics,
            clock=self.clock,
            entropy=self._entropy,
            settings=self._settings,
            executor=ThreadInTurn(),
            on_failure=self.failures.append,
            handlers=self._attempts,
            offsets=self.logs,
        )

    def _attempts(self, *args: Any) -> CountedAttempts:
        local = LocalAttempts(*args, action_of=self.actions.of)
        attempts: Attempts = local
        if self._function is not None:
            elsewhere = LocalAttempts(self._function, *args[1:], action_of=self.actions.of)
            attempts = TestedAttempts(local, elsewhere, frozenset(self._function.services))
        return CountedAttempts(self.code, attempts)

    async def of(self, ask: Callable[[Serving], Awaitable[T]]) -> T:
        """Ask the process that serves; again, if it crashes meanwhile, the next one."""
        while True:
            await self._up.wait()
            serving = self._serving
            assert serving is not None
            asked = asyncio.ensure_future(ask(serving))
            try:
                either: set[asyncio.Future[Any]] = {asked, serving.died}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    return asked.result()
            finally:
                asked.cancel()

    async def api(self, ask: Callable[[Api], Awaitable[T]]) -> T:
        """The same of its application service."""
        return await self.of(lambda serving: ask(serving.process.api))

    def operate(self, operation: Callable[[Api], Awaitable[T]]) -> T:
        """Do something as an operator does, and let happen what follows from it at once."""

        async def operate() -> T:
            done = await self.api(operation)
            await self.rest()
            return done

        return self.drive(operate)

    def note(self, what: str) -> None:
        """Add to the timeline."""
        self.timeline.append((self.clock.now_ms(), what))

    async def crash(self) -> None:
        """Kill the process, and go on with the next one."""
        await self._up.wait()
        if self._serving is not None:
            self._die(self._serving)
        await self.loop.idle()

    @property
    def _engine_errors(self) -> list[BaseException]:
        return [] if self._serving is None else self._serving.engine.errors

    @property
    def has_failed(self) -> bool:
        """Whether something has happened that fails the test."""
        return bool(self.outside.errors or self._errors or self._engine_errors)

    def _on_endless(self, error: Endless) -> None:
        """Fail the call of the test, which may wait until nothing is left to run."""
        if not any(isinstance(each, Endless) for each in self._errors):
            self._errors.append(error)
        self.loop.interrupt()

    # Time.

    async def rest(self, is_over: Callable[[], bool] = bool) -> None:
        """Wait until nothing more happens before time passes; or until `is_over`, or an error."""
        while True:
            await self.loop.idle()
            if is_over() or self.has_failed:
                return
            if not self._up.is_set() or await self._read_topics():
                continue
            if any(row.claimed_by == UNCLAIMED for _, row in self.store.tables.in_state("unsent")):
                await self.of(_publish)
                continue
            if self.code.wait() or await self.outside.ask(self.pending()):
                continue
            if not await self._do_what_is_due():
                return

    async def pass_time(self, is_over: Callable[[], bool] = bool, *, until_s: float | None = None) -> None:
        """Let what is due happen in order until `is_over`, until an instant, or until nothing is due.

        Without an instant, ticks of schedules alone don't go on for ever.
        """
        ticks = 0
        while True:
            await self.rest(is_over)
            if is_over() or self.has_failed:
                return
            if until_s is not None:
                self.code.events.clear()  # it ends then, however much happens until then
            self.code.count("time passed")
            due_s, tick_s = self._next_due_s(), self._next_tick_s()
            ticks = ticks + 1 if due_s is None else 0
            if tick_s is not None and (until_s is not None or ticks <= MOST_TICKS):
                due_s = tick_s if due_s is None else min(due_s, tick_s)
            if until_s is not None and (due_s is None or due_s > until_s):
                await asyncio.sleep(max(0.0, until_s - self.loop.time()))
                return
            if due_s is None:
                return
            await asyncio.sleep(due_s - self.loop.time())

    async def _do_what_is_due(self) -> bool:
        """Have the engine do what is due by now; whether there is something that it has not seen yet."""
        now_ms = self.clock.now_ms()
        due = {event for event in (*self._events(), *self._ticks()) if event[1] <= now_ms}
        if due <= self._done:
            return False
        await self.outside.give_what_is_due()
        await self.of(lambda serving: serving.engine.sweep())
        self._done = due
        return True

    def _events(self) -> Iterator[tuple[str, int]]:
        """What becomes due, each with its instant."""
        for row in self.store.tables.invocations.values():
            if row.due_ms is not None:
                yield f"{row.id} {row.version} {row.epoch} {row.attempts}", row.due_ms
        for wait in self.pending():
            if wait.deadline_ms is not None:
                yield wait.id, wait.deadline_ms
        yield from self.outside.due()

    def _ticks(self) -> Iterator[tuple[str, int]]:
        """The next ticks of schedules, and those that wait for what has ended, each with its instant."""
        tables, now_ms = self.store.tables, self.clock.now_ms()
        for row in tables.schedules.values():
            if row.paused_ms is not None:
                continue
            yield f"{row.name} at {row.next_ms}", row.next_ms
            last = tables.invocations.get(row.last_invocation or "")
            if row.queued_ms is not None and (last is None or last.status == "completed"):
                yield f"{row.name} queued {row.queued_ms}", now_ms

    def _next_tick_s(self) -> float | None:
        """When the next tick of a schedule is due, in the loop's time; None if never."""
        instants = [(due_ms - STARTED_MS) / 1000 for _, due_ms in self._ticks()]
        return min((each for each in instants if each > self.loop.time()), default=None)

    def _next_due_s(self) -> float | None:
        """When the next event is due, but for ticks of schedules, in the loop's time; None if never."""
        now_s = self.loop.time()
        instants = [(due_ms - STARTED_MS) / 1000 for _, due_ms in self._events()]
        timer = self.loop.next_timer()
        if timer is not None and timer - now_s <= MAX_WAIT.total_seconds():
            instants.append(timer)
        return min((each for each in instants if each > now_s), default=None)

    # Topics.

    def reads(self, topic: str) -> bool:
        """Whether the app reads a topic."""
        return topic == self.app.completions_topic or topic in _subscribed(self.app)

    async def _read_topics(self) -> bool:
        """Have what reads topics take what is new; whether it took anything."""
        return await self.of(self._read) if self.logs else False

    async def _read(self, serving: Serving) -> bool:
        engine = serving.engine
        topics: dict[str, ReadTopic] = {"": engine.completions, **engine.subscriptions.topics}
        took = False
        for name, topic in topics.items():
            log = self.logs.of(topic.name)
            if not log:
                continue
            if name not in serving.positions:
                sink = topic.sink(0)
                serving.positions[name] = sink, await sink.open()
            sink, first = serving.positions[name]
            if first == len(log):
                continue
            await sink.look()
            if sink.full is None:
                next_ = await sink.take(log[first : first + sink.most])
                serving.positions[name] = sink, next_
                took = took or next_ > first
        return took

    # What is there.

    def pending(self) -> list[AwakeableRow]:
        """The awakeables that wait for answers."""
        return [row for row in self.store.pending() if row.source is None]

    def state_of(self, service: str, key: str | None) -> Mapping[str, bytes]:
        """The state of a key as it is stored, by name."""
        return self.store.state_of((service, text_bytes(key or "")))

    def set_state(self, state: State[Any], key: str, value: Any) -> None:
        """Store a value in the state of a key.

        Raises:
            InvalidInput: It does not fit.
        """
        object_key = (state.of, text_bytes(key))
        self.store.set_state(object_key, state.name, stored(state, value), self.clock.now_ms())


def _settings(retry: RetryPolicy, *, suspend: bool, schedules: bool) -> EngineSettings:
    return EngineSettings(
        runner=RunnerSettings(always_suspend=suspend, retry=retry),
        relay=RelaySettings(sweep_interval=NEVER),
        sweep_interval=NEVER,
        schedules=ScheduleSettings(timers=False) if schedules else None,
        horizon=timedelta(0),
        retention=RetentionSettings(interval=NEVER),
    )


async def _publish(serving: Serving) -> None:
    """Have what nobody has claimed published, which the engine does by itself once in a while."""
    serving.engine.relay.poke()
    await asyncio.sleep(0)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _subscribed(app: App) -> set[str]:
    return {each.subscription.topic for each in app.subscribed().values() if each.subscription}


def seconds_since_start(instant: datetime) -> float:
    """An instant in the loop's time."""
    return instant.timestamp() - STARTED_MS / 1000
