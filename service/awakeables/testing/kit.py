"""Run one handler in memory: no broker, no waiting, with a suspension and a replay at every await."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from awakeables.core.awakeables import AwakeableRow
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replay import describe
from awakeables.core.texts import excerpt
from awakeables.engine.engine import EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.retention import RetentionSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import AwakeablesError, DeclarationError, InvalidInput, TerminalError
from awakeables.handlers.context import MAX_WAIT
from awakeables.handlers.execution import details_of
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import codec_of_value, explain
from awakeables.handlers.service import App, Handler, Service
from awakeables.store.memory import MemoryStore
from awakeables.testing.answers import Answers
from awakeables.testing.bench import Process, new_process, serving
from awakeables.testing.logs import redirected
from awakeables.testing.loop import (
    STARTED_MS,
    SeededEntropy,
    SeededLoop,
    ThreadInTurn,
    VirtualClock,
    end_stray_tasks,
)
from awakeables.testing.outside import OnWait, Outside, Published, Topics, readable
from awakeables.worker.worker import Worker

NEVER = MAX_WAIT * 3
"""The kit itself wakes the engine when something is due, so that virtual years pass at once."""

FEW_TRIES = RetryPolicy(initial_interval=timedelta(0), max_attempts=3)
"""Three attempts: what fails once or twice succeeds, as in the service; an actual bug fails the test soon."""

POLL_S = 0.005
"""Real time to wait, before virtual time jumps, for threads that a handler in memory may have started."""

SOCKETS_S = 1.0
"""The same while sockets are open, because a server may be slow."""

STUCK_S = 2.0
"""The same if there is no timer to jump to: after it, the handler counts as stuck."""


class Stuck(AwakeablesError):
    """The handler waits for answers that will never come."""


class Paused(AwakeablesError):
    """The invocation was paused: its retries are exhausted, or its code can't be replayed.

    Its `__cause__` is the exception of the handler or its action, if there was one.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The result of running a handler.

    Attributes:
        status: `completed` or `paused`; `suspended` or `running` if it waits for something that never comes.
        published: The records that it published, in order, each once.
        journal: Its journal, one line per entry.
        duration: How much virtual time passed.
    """

    status: str
    published: Sequence[Published]
    journal: Sequence[str]
    duration: timedelta
    _value: Any = None
    _failure: AwakeablesError | None = None

    @property
    def value(self) -> Any:
        """What the handler returned, as its caller receives it (JSON values).

        Raises:
            TerminalError: The handler failed.
            Paused: It was paused; the message says why.
            Stuck: It waits for answers that never come; the message lists the awakeables.
        """
        if self._failure is not None:
            raise self._failure
        return self._value


def run(
    handler: Callable[..., Any],
    *args: Any,
    workers: Sequence[Worker] = (),
    answers: Mapping[str, Any] | None = None,
    on_wait: OnWait | None = None,
    headers: Mapping[str, str] | None = None,
    suspend: bool = True,
    retry: RetryPolicy = FEW_TRIES,
    seed: int = 0,
) -> Run:
    """Run a handler to its end, in memory, with a virtual clock.

    `answers` and `workers` perform its tasks at once; time jumps to the next event, so a wait of thirty
    days takes a millisecond. Within a running event loop (an async test, a notebook) it runs in its own
    thread, with the caller's context variables; the caller's loop is blocked meanwhile.

    Args:
        handler: A function declared with `@service.handler()`.
        args: Its input, if it takes one: a value of the annotated type, or its JSON.
        workers: Workers whose functions perform the tasks.
        answers: By the name of a task or its topic: the answer, or a function of the `Task`. Both
            can give an `Answer`, which can be delayed; a function can raise `Reject`.
        on_wait: Called with each awakeable that nothing answers, before time moves on. Call
            `wait.resolve(value)` or `wait.reject(reason)`, or leave it pending.
        headers: The caller's headers, for `ctx.request`.
        suspend: Suspend and replay at every await, which proves that the handler can be replayed;
            False suspends only as in production.
        retry: The retry policy: by default three attempts without delay. `RetryPolicy()` is the
            service's own.
        seed: Decides random values and the order of simultaneous events.

    Raises:
        InvalidInput: The input does not fit; over HTTP the call would be answered 422.
        WrongAnswer: An answer does not fit its awakeable, contradicts another one, or belongs to a
            task that was never published.
        Exception: Raised by a function that answers, other than `Reject`.
    """
    settings = _settings(retry, suspend=suspend)
    job = functools.partial(
        _in_a_loop,
        handler,
        args,
        headers or {},
        Answers(answers or {}, workers),
        on_wait,
        settings=settings,
        seed=seed,
    )
    if not _is_within_a_loop():
        return job()
    with ThreadPoolExecutor(1, thread_name_prefix="awakeables-testing") as thread:
        return thread.submit(contextvars.copy_context().run, job).result()


def _is_within_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _settings(retry: RetryPolicy, *, suspend: bool) -> EngineSettings:
    return EngineSettings(
        runner=RunnerSettings(always_suspend=suspend, retry=retry),
        relay=RelaySettings(sweep_interval=NEVER),
        sweep_interval=NEVER,
        horizon=timedelta(0),
        retention=RetentionSettings(interval=NEVER),
    )


def _in_a_loop(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    headers: Mapping[str, str],
    answers: Answers,
    on_wait: OnWait | None,
    *,
    settings: EngineSettings,
    seed: int,
) -> Run:
    app, handler = _app_of(function)
    content = _input(handler, args)
    loop = SeededLoop(seed)
    clock = VirtualClock(loop)
    executor = ThreadInTurn()
    store = MemoryStore(clock=clock, retention_ms=NEVER // timedelta(milliseconds=1))
    topics = Topics()
    failures: deque[BaseException] = deque(maxlen=1)
    process = new_process(
        app,
        store,
        topics,
        clock=clock,
        entropy=SeededEntropy(seed),
        settings=settings,
        executor=executor,
        on_failure=failures.append,
    )
    outside = Outside(process.api, topics, clock, answers, on_wait)
    running = _Running(loop, process, store, outside, failures)
    try:
        with redirected():
            return loop.run_until_complete(running.run(handler, content, headers))
    finally:
        loop.run_until_complete(end_stray_tasks())
        executor.shutdown(wait=False)
        answers.close()
        loop.close()


class _Running:
    """One invocation in its process, from its input to its end or until nothing more is due."""

    def __init__(
        self,
        loop: SeededLoop,
        process: Process,
        store: MemoryStore,
        outside: Outside,
        failures: Sequence[BaseException],
    ) -> None:
        self._loop = loop
        self._process = process
        self._engine = process.engine
        self._api = process.api
        self._store = store
        self._tables = store.tables
        self._outside = outside
        self._failures = failures

    async def run(self, handler: Handler, content: bytes | None, headers: Mapping[str, str]) -> Run:
        outside = self._outside
        async with serving(self._process), outside.reading():
            lower = {name.lower(): text for name, text in headers.items()}
            begun = await self._api.begin(handler, content, headers=lower)
            row = await self._until_it_rests(begun.id)
            value, failure = self._result(handler, row)
            if outside.errors:
                raise outside.errors[0]
        if not isinstance(failure, Paused):
            outside.refuse_unused(failure)
        journal = (await self._store.history([row.id]))[row.id]
        return Run(
            status=row.status,
            published=outside.published,
            journal=[describe(entry) for entry in journal],
            duration=timedelta(seconds=round(self._loop.time(), 3)),
            _value=value,
            _failure=failure,
        )

    async def _until_it_rests(self, invocation_id: str) -> Invocation:
        """Advance time from one event to the next until the invocation ends or nothing is due."""
        loop, engine, outside = self._loop, self._engine, self._outside
        while True:
            await loop.idle()
            row = self._tables.invocations[invocation_id]
            if row.status in ("completed", "paused") or outside.errors or engine.errors:
                return row
            if engine.live:
                if loop.poll(SOCKETS_S if loop.has_sockets else POLL_S):
                    continue
            elif await outside.ask(self._pending()):
                continue
            due_s = self._next_due_s()
            if due_s is not None:
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                await outside.give_what_is_due()
                await engine.sweep()
            elif not engine.live or not loop.poll(STUCK_S):
                return row

    def _pending(self) -> list[AwakeableRow]:
        return [row for row in self._tables.awakeables.values() if row.state == "pending"]

    def _next_due_s(self) -> float | None:
        """When the next event is due, in the loop's time; None if never."""
        rows = [row.due_ms for row in self._tables.invocations.values()]
        due = [*rows, *(row.deadline_ms for row in self._pending()), self._outside.next_due_ms()]
        instants = [(due_ms - STARTED_MS) / 1000 for due_ms in due if due_ms is not None]
        timer = self._loop.next_timer()
        if timer is not None and timer - self._loop.time() <= MAX_WAIT.total_seconds():
            instants.append(timer)
        return min(instants, default=None)

    def _result(self, handler: Handler, row: Invocation) -> tuple[Any, AwakeablesError | None]:
        match row.result:
            case Resolution() as resolution:
                return (readable(resolution.content) if resolution.is_json else resolution.content), None
            case Rejection() as rejected:
                details = details_of(rejected)
                return None, TerminalError(rejected.reason, code=rejected.code, details=details)
            case _:
                pass
        if row.status == "paused" and row.failure is not None:
            paused = Paused(f"{row.failure.kind}: {row.failure.message}")
            paused.__cause__ = _of_the_author(self._failures[-1] if self._failures else None)
            return None, paused
        if self._engine.live:
            return None, Stuck(f"{handler.name} awaits something of asyncio's that never comes")
        waiting = ", ".join(map(self._outside.describe, self._pending()))
        return None, Stuck(
            f"{handler.name} waits for {waiting or 'nothing that is due'} and nobody answers: give `run` "
            "answers or workers for the topics that it publishes to, on_wait for an ID that leaves in "
            "another way, or the awakeable a timeout"
        )


def _of_the_author(error: BaseException | None) -> BaseException | None:
    """An error whose stack starts in the author's code."""
    if error is None:
        return None
    stack = error.__traceback__
    while stack is not None and stack.tb_frame.f_globals.get("__name__", "").startswith("awakeables."):
        stack = stack.tb_next
    return error.with_traceback(stack or error.__traceback__)


def _app_of(function: Callable[..., Any]) -> tuple[App, Handler]:
    """Make an app for a single handler."""
    service = Service("testing")
    name = str(getattr(function, "__name__", ""))
    try:
        service.handler(name)(function)
    except DeclarationError:
        # Its own service may use another name; if the function itself is invalid, this raises again.
        name = "handler"
        service.handler(name)(function)
    app = App("testing", services=[service])
    return app, app.handler("testing", name)


def _input(handler: Handler, args: tuple[Any, ...]) -> bytes | None:
    """The validated input, as it would arrive over HTTP."""
    if len(args) > 1 or (args and args[0] is not None and not handler.takes_input):
        takes = "one input" if handler.takes_input else "no input"
        raise InvalidInput(f"{handler.name} takes {takes}, and was given {', '.join(map(excerpt, args))}")
    if not args:
        return handler.accept(None)
    # If values of the type can't be serialized, the argument is its JSON.
    codec = codec_of_value(args[0]) if handler.input.unanswerable else handler.input
    try:
        content = codec.answer(args[0]).content
    except Exception as error:  # a user's serializer may raise anything
        raise InvalidInput(f"the input does not fit {handler.name}: {explain(error)}") from error
    return handler.accept(content)
