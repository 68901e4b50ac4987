"""A service in memory: its processes, one after the other, and what outlives them, in virtual time."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from awakeables.api import Api
from awakeables.core.awakeables import AwakeableRow
from awakeables.core.effects import Header
from awakeables.core.outcomes import encode_outcome
from awakeables.core.records import text_bytes
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.readtopic import ConsumedRecord, ReadTopic
from awakeables.engine.retention import RetentionSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.schedules import ScheduleSettings
from awakeables.engine.sinks import PartitionSink
from awakeables.errors import InvalidInput
from awakeables.handlers.context import MAX_WAIT
from awakeables.handlers.execution import RunCall
from awakeables.handlers.local import LocalAttempts
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import codec_of_value, explain
from awakeables.handlers.service import App, Handler
from awakeables.handlers.state import State
from awakeables.store.memory import MemoryStore
from awakeables.testing.answers import Answers
from awakeables.testing.bench import FakeOffsets, Process, new_process
from awakeables.testing.crashing import CrashingStore
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

T = TypeVar("T")

NEVER = MAX_WAIT * 3
"""The kit itself wakes the engine when something is due, so that virtual years pass at once."""

FEW_TRIES = RetryPolicy(initial_interval=timedelta(0), max_attempts=3)
"""Three attempts: what fails once or twice succeeds, as in the service; an actual bug fails the test soon."""

MOST_TICKS = 1000
"""So many ticks of schedules are tried, one after the other, if an awaited result depends on nothing else."""

POLL_S = 0.005
"""Real time to wait, before virtual time jumps, for threads that a handler in memory may have started."""

SOCKETS_S = 1.0
"""The same while sockets are open, because a server may be slow."""

STUCK_S = 2.0
"""The same if there is no timer to jump to: after it, the handler counts as stuck."""

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


class SimulatedService:
    """An app that is served in memory. Everything happens within `drive`, in the loop of the service.

    Attributes:
        app: The app.
        loop: The loop, with its virtual time.
        clock: The loop's clock.
        store: What survives each crash.
        outside: Who does the tasks.
        actions: What is executed instead of an action, by its name.
        failures: The errors of attempts, the last ones.
        timeline: What has happened, each with its instant.
    """

    def __init__(
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
    ) -> None:
        """Prepare to serve; the arguments are those of `run` and of `Harness`."""
        self.app = app
        self.loop = SeededLoop(seed)
        self.clock = VirtualClock(self.loop)
        kind = CrashingStore if thorough else MemoryStore
        self.store = kind(clock=self.clock, retention_ms=NEVER // timedelta(milliseconds=1))
        self.actions: dict[str, Callable[[RunCall], Callable[..., Any]]] = {}
        self.failures: deque[BaseException] = deque(maxlen=FAILURES)
        self.timeline: list[tuple[int, str]] = []
        self._answers = answers
        self._entropy = SeededEntropy(seed)
        self._settings = _settings(retry, suspend=suspend, schedules=schedules)
        self._topics = Topics()
        self._logs: dict[str, list[ConsumedRecord]] = {}
        self.outside = Outside(
            lambda ask: self.of(lambda serving: ask(serving.process.api)),
            self._topics,
            self.clock,
            answers,
            on_wait,
            self.write,
            self.note,
        )
        self._serving: Serving | None = None
        self._done: set[tuple[str, int]] = set()
        self._up = asyncio.Event()
        self._errors: list[BaseException] = []
        self._background: list[asyncio.Task[None]] = []
        self._thread: ThreadPoolExecutor | None = None
        self.is_closed = False

    # From the test's side.

    def drive(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something in the loop of the service, which stands still otherwise.

        Within a running loop it is done in a thread, with the caller's context variables.

        Raises:
            BaseException: What a function of the test raised meanwhile, or background work.
        """
        if self.is_closed:
            raise RuntimeError("the test's service is closed")
        return self._in_the_loop(lambda: self._surfacing(work))

    def _in_the_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def job() -> T:
            with redirected():
                return self.loop.run_until_complete(work())

        if not _is_within_a_loop():
            return job()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="awakeables-testing")
        return self._thread.submit(contextvars.copy_context().run, job).result()

    async def _surfacing(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if not self._background:
            doing = (self._serve(), self.outside.read_all())
            self._background = [asyncio.ensure_future(each) for each in doing]
        done = await work()
        for errors in (self.outside.errors, self._errors, self._engine_errors):
            if errors:
                raise errors.pop(0)
        return done

    def close(self) -> None:
        """End the processes, with everything that handlers have left behind."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            self._in_the_loop(self._end)
        finally:
            self._answers.close()
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
                self.store.crash = serving.die
            running = asyncio.ensure_future(serving.engine.run())
            try:
                await serving.engine.serving.wait()
                self._serving = serving
                self._up.set()
                await serving.died
                self.note("the process crashed")
            finally:
                self._up.clear()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                self._errors += serving.engine.errors

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
            handlers=partial(LocalAttempts, action_of=self._action_of),
            offsets=FakeOffsets(),
        )

    def _action_of(self, run: RunCall) -> Callable[..., Any]:
        replaced = self.actions.get(run.name)
        return run.action if replaced is None else replaced(run)

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

    def note(self, what: str) -> None:
        """Add to the timeline."""
        self.timeline.append((self.clock.now_ms(), what))

    async def crash(self) -> None:
        """Kill the process, and go on with the next one."""
        await self._up.wait()
        if self._serving is not None:
            self._serving.die()
        await self.loop.idle()

    @property
    def live(self) -> int:
        """The number of handlers in memory."""
        return 0 if self._serving is None else self._serving.engine.live

    @property
    def _engine_errors(self) -> list[BaseException]:
        return [] if self._serving is None else self._serving.engine.errors

    @property
    def has_failed(self) -> bool:
        """Whether something has happened that fails the test."""
        return bool(self.outside.errors or self._errors or self._engine_errors)

    # Time.

    async def rest(self, is_over: Callable[[], bool] = bool) -> None:
        """Wait until nothing more happens before time passes; or until `is_over`, or an error."""
        while True:
            await self.loop.idle()
            if is_over() or self.has_failed:
                return
            if not self._up.is_set() or await self._read_topics():
                continue
            if self.live:
                if self.loop.poll(SOCKETS_S if self.loop.has_sockets else POLL_S):
                    continue
            elif await self.outside.ask(self.pending()):
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
            due_s, tick_s = self._next_due_s(), self._next_tick_s()
            ticks = ticks + 1 if due_s is None else 0
            if tick_s is not None and (until_s is not None or ticks <= MOST_TICKS):
                due_s = tick_s if due_s is None else min(due_s, tick_s)
            if until_s is not None and (due_s is None or due_s > until_s):
                await asyncio.sleep(max(0.0, until_s - self.loop.time()))
                return
            if due_s is not None:
                await asyncio.sleep(due_s - self.loop.time())
            elif not self.live or not self.loop.poll(STUCK_S):
                return

    async def _do_what_is_due(self) -> bool:
        """Have the engine do what is due by now; whether there is something that it has not seen yet."""
        now_ms = self.clock.now_ms()
        due = {event for event in (*self._events(), *self._ticks()) if event[1] <= now_ms}
        if due <= self._done:
            return False
        self._done = due
        await self.outside.give_what_is_due()
        await self.of(lambda serving: serving.engine.sweep())
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

    def write(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> None:
        """Add a record to a topic, which has one partition."""
        log = self._logs.setdefault(topic, [])
        record = ConsumedRecord(
            offset=len(log),
            timestamp_ms=self.clock.now_ms(),
            key=key,
            value=value,
            headers=tuple(headers),
        )
        log.append(record)

    def reads(self, topic: str) -> bool:
        """Whether the app reads a topic."""
        return topic == self.app.completions_topic or topic in _subscribed(self.app)

    async def _read_topics(self) -> bool:
        """Have what reads topics take what is new; whether it took anything."""
        return await self.of(self._read) if self._logs else False

    async def _read(self, serving: Serving) -> bool:
        engine = serving.engine
        topics: dict[str, ReadTopic] = {"": engine.completions, **engine.subscriptions.topics}
        took = False
        for name, topic in topics.items():
            log = self._logs.get(topic.name, [])
            if not log:
                continue
            if name not in serving.positions:
                await topic.prepare([0])
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
        rows = self.store.tables.awakeables.values()
        return [row for row in rows if row.state == "pending" and row.source is None]

    def state_of(self, service: str, key: str | None) -> Mapping[str, bytes]:
        """The state of a key as it is stored, by name."""
        object_key = (service, text_bytes(key or ""))
        states = self.store.tables.states.items()
        return {name: value for (of, name), (value, _) in sorted(states) if of == object_key}

    def set_state(self, state: State[Any], key: str, value: Any) -> None:
        """Store a value in the state of a key.

        Raises:
            InvalidInput: It does not fit.
        """
        object_key = (state.of, text_bytes(key))
        self.store.tables.states[object_key, state.name] = (stored(state, value), self.clock.now_ms())


def _settings(retry: RetryPolicy, *, suspend: bool, schedules: bool) -> EngineSettings:
    return EngineSettings(
        runner=RunnerSettings(always_suspend=suspend, retry=retry),
        relay=RelaySettings(sweep_interval=NEVER),
        sweep_interval=NEVER,
        schedules=ScheduleSettings(timers=False) if schedules else None,
        horizon=timedelta(0),
        retention=RetentionSettings(interval=NEVER),
    )


def _is_within_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _subscribed(app: App) -> set[str]:
    return {each.subscription.topic for each in app.subscribed().values() if each.subscription}


def stored(state: State[Any], value: Any) -> bytes:
    """A value of the state as it is stored.

    Raises:
        InvalidInput: It does not fit.
    """
    try:
        return encode_outcome(state.codec.resolution(value))
    except Exception as error:  # a user's serializer may raise anything
        raise InvalidInput(f"the value does not fit the state {state.name!r}: {explain(error)}") from error


def given_input(handler: Handler, *given: Any) -> bytes | None:
    """The validated input of a handler, as it would arrive over HTTP.

    Raises:
        InvalidInput: It does not fit.
    """
    # If values of the type can't be serialized, the argument is its JSON.
    if not given:
        return handler.accept(None)
    codec = codec_of_value(given[0]) if handler.input.unanswerable else handler.input
    try:
        content = codec.answer(given[0]).content
    except Exception as error:  # a user's serializer may raise anything
        raise InvalidInput(f"the input does not fit {handler.name}: {explain(error)}") from error
    return handler.accept(content)


def seconds_since_start(instant: datetime) -> float:
    """An instant in the loop's time."""
    return instant.timestamp() - STARTED_MS / 1000
