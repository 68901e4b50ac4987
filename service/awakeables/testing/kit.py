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
from typing import Any, NamedTuple

from awakeables.core.awakeables import PROMISE, AwakeableRow
from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Rejection, Resolution, as_resolution, encode_outcome
from awakeables.core.records import text_bytes, text_from
from awakeables.core.replay import describe
from awakeables.core.texts import excerpt
from awakeables.engine.engine import EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.retention import RetentionSettings
from awakeables.engine.runner import RunnerSettings
from awakeables.engine.subscriptions import Unusable, object_key
from awakeables.errors import AwakeablesError, DeclarationError, InvalidInput, NotFound, TerminalError
from awakeables.handlers.context import MAX_WAIT
from awakeables.handlers.execution import details_of
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import codec_of_value, explain
from awakeables.handlers.service import App, Handler, KeyedGroup, Service, declarations
from awakeables.handlers.state import State
from awakeables.handlers.subscription import KafkaRecord
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
        state: Of an object's handler: the state of its key afterwards, by name (JSON values, or bytes).
    """

    status: str
    published: Sequence[Published]
    journal: Sequence[str]
    duration: timedelta
    state: Mapping[str, Any]
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


def run(  # noqa: PLR0913 - all but the input by name
    handler: Callable[..., Any],
    *args: Any,
    workers: Sequence[Worker] = (),
    answers: Mapping[str, Any] | None = None,
    on_wait: OnWait | None = None,
    headers: Mapping[str, str] | None = None,
    key: str | None = None,
    state: Mapping[State[Any], Any] | None = None,
    record: KafkaRecord | None = None,
    suspend: bool = True,
    retry: RetryPolicy = FEW_TRIES,
    seed: int = 0,
) -> Run:
    """Run a handler to its end, in memory, with a virtual clock.

    `answers` and `workers` perform its tasks at once; time jumps to the next event, so a wait of thirty
    days takes a millisecond. Within a running event loop (an async test, a notebook) it runs in its own
    thread, with the caller's context variables; the caller's loop is blocked meanwhile.

    Args:
        handler: A function declared with `@service.handler()`, or as a handler of an object.
        args: Its input, if it takes one: a value of the annotated type, or its JSON.
        workers: Workers whose functions perform the tasks.
        answers: By the name of a task or its topic: the answer, or a function of the `Task`. Both
            can give an `Answer`, which can be delayed; a function can raise `Reject`.
        on_wait: Called with each awakeable that nothing answers, before time moves on. Call
            `wait.resolve(value)` or `wait.reject(reason)`, or leave it pending.
        headers: The caller's headers, for `ctx.request`.
        key: Of an object's handler: the key that it is called for.
        state: The state of that key, as it is before: values of the declared types, by what `object.state()`
            returned.
        record: Instead of an input, of a handler with `topic=`: the record that it is called with, as its
            subscription does.
        suspend: Suspend and replay at every await, which proves that the handler can be replayed;
            False suspends only as in production.
        retry: The retry policy: by default three attempts without delay. `RetryPolicy()` is the
            service's own.
        seed: Decides random values and the order of simultaneous events.

    Raises:
        InvalidInput: The input does not fit, over HTTP the call would be answered 422; or the key can't be
            one, is missing, or a value of the state does not fit; or the record would become a dead letter.
        WrongAnswer: An answer does not fit its awakeable, contradicts another one, or belongs to a
            task that was never published.
        Exception: Raised by a function that answers, other than `Reject`.
    """
    settings = _settings(retry, suspend=suspend)
    job = functools.partial(
        _in_a_loop,
        handler,
        _Given(args, headers or {}, key, state or {}, record),
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


class _Given(NamedTuple):
    """How a handler is called."""

    args: tuple[Any, ...]
    headers: Mapping[str, str]
    key: str | None
    state: Mapping[State[Any], Any]
    record: KafkaRecord | None


def _in_a_loop(
    function: Callable[..., Any],
    call: _Given,
    answers: Answers,
    on_wait: OnWait | None,
    *,
    settings: EngineSettings,
    seed: int,
) -> Run:
    app, handler = _app_of(function)
    content = _input(handler, call.args) if call.record is None else None
    stored = {state.name: _stored(handler, state, value) for state, value in call.state.items()}
    loop = SeededLoop(seed)
    clock = VirtualClock(loop)
    executor = ThreadInTurn()
    store = MemoryStore(clock=clock, retention_ms=NEVER // timedelta(milliseconds=1))
    key = call.key if call.record is None else _key_of(handler, call.record)
    for name, value in stored.items():
        store.tables.states[(handler.service, text_bytes(key or "")), name] = (value, STARTED_MS)
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
            return loop.run_until_complete(running.run(handler, content, call))
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

    async def run(self, handler: Handler, content: bytes | None, call: _Given) -> Run:
        outside = self._outside
        async with serving(self._process), outside.reading():
            if call.record is not None:
                invocation_id = await self._deliver(handler, call, call.record)
            else:
                lower = {name.lower(): text for name, text in call.headers.items()}
                begun = await self._api.begin(handler, content, key=call.key, headers=lower)
                invocation_id = begun.id
            row = await self._until_it_rests(invocation_id)
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
            state=self._state(handler, row.key),
            _value=value,
            _failure=failure,
        )

    async def _deliver(self, handler: Handler, call: _Given, record: KafkaRecord) -> str:
        """Have the subscription read a record; the ID of the invocation that it begins.

        Raises:
            InvalidInput: It would become a dead letter, or something else is given beside it.
        """
        subscription = handler.subscription
        if subscription is None or subscription.name is None:
            raise InvalidInput(f"{handler.name} is called with no records: it was declared without topic=")
        if call.args or call.headers or call.key is not None:
            raise InvalidInput("a record has its own value, headers and key: give it alone")
        sink = self._engine.subscriptions.topics[subscription.name].sink(record.partition)
        await sink.open()
        consumed = ConsumedRecord(
            offset=record.offset,
            timestamp_ms=round(record.timestamp.timestamp() * 1000),
            key=record.key,
            value=record.value,
            headers=tuple(record.headers),
        )
        await sink.take([consumed])
        letter = next(iter(self._tables.dead_letters.values()), None)
        if letter is not None:
            raise InvalidInput(letter.reason)
        (row,) = self._tables.invocations.values()
        return row.id

    def _state(self, handler: Handler, key: str | None) -> dict[str, Any]:
        object_key = (handler.service, text_bytes(key or ""))
        found = {name: value for (of, name), (value, _) in self._tables.states.items() if of == object_key}
        return {name: _shown(as_resolution(value)) for name, value in sorted(found.items())}

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

    def _paused_callee(self, row: Invocation) -> Invocation | None:
        """The paused invocation that this one waits for, or that a call of its own waits for, and so on."""
        waits = [wait for wait in self._tables.awakeables.values() if wait.state == "pending"]
        left, seen = [row.id], set[str]()
        while left:
            invocation_id = left.pop()
            if invocation_id in seen:
                continue
            seen.add(invocation_id)
            for source in [
                wait.source for wait in waits if wait.invocation_id == invocation_id and wait.source
            ]:
                call = self._tables.invocations.get(source)  # or a promise
                if call is not None and call.status == "paused":
                    return call
                if call is not None:
                    left.append(call.id)
        return None

    def _pending(self) -> list[AwakeableRow]:
        rows = self._tables.awakeables.values()
        return [row for row in rows if row.state == "pending" and row.source is None]

    def _awaited_promises(self) -> list[str]:
        rows = self._tables.awakeables.values()
        return [
            repr(text_from(row.title))
            for row in rows
            if row.state == "pending" and row.title is not None and row.source_utf8 != PROMISE
        ]

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
                return _shown(resolution), None
            case Rejection() as rejected:
                details = details_of(rejected)
                return None, TerminalError(rejected.reason, code=rejected.code, details=details)
            case _:
                pass
        if row.status == "paused" and row.failure is not None:
            return None, self._paused(f"{row.failure.kind}: {row.failure.message}")
        other = self._paused_callee(row)
        if other is not None and other.failure is not None:
            return None, self._paused(
                f"{handler.name} waits for {other.service}/{other.handler}, which is paused: "
                f"{other.failure.kind}: {other.failure.message}"
            )
        if self._engine.live:
            return None, Stuck(f"{handler.name} awaits something of asyncio's that never comes")
        waiting = ", ".join(map(self._outside.describe, self._pending()))
        promises = self._awaited_promises()
        if promises and not waiting:
            return None, Stuck(
                f"{handler.name} waits for the promise {' and '.join(promises)}, which no handler settles: "
                "let one of those that it calls settle it, or give the wait a timeout"
            )
        return None, Stuck(
            f"{handler.name} waits for {waiting or 'nothing that is due'} and nobody answers: give `run` "
            "answers or workers for the topics that it publishes to, on_wait for an ID that leaves in "
            "another way, or the awakeable a timeout"
        )

    def _paused(self, text: str) -> Paused:
        paused = Paused(text)
        paused.__cause__ = _of_the_author(self._failures[-1] if self._failures else None)
        return paused


def _of_the_author(error: BaseException | None) -> BaseException | None:
    """An error whose stack starts in the author's code."""
    if error is None:
        return None
    stack = error.__traceback__
    while stack is not None and stack.tb_frame.f_globals.get("__name__", "").startswith("awakeables."):
        stack = stack.tb_next
    return error.with_traceback(stack or error.__traceback__)


def _key_of(handler: Handler, record: KafkaRecord) -> str | None:
    """The key of an object that a record is for, if it is for one and has one."""
    if handler.subscription is None or not handler.keyed:
        return None
    try:
        return object_key(handler.subscription, record)
    except Unusable:  # of which delivering it makes an error
        return None


def _shown(resolution: Resolution) -> Any:
    return readable(resolution.content) if resolution.is_json else resolution.content


def _stored(handler: Handler, state: State[Any], value: Any) -> bytes:
    """A value of the state as it is stored."""
    if state.of != handler.service:
        raise InvalidInput(
            f"the state {state.name!r} was declared by {state.of!r}, not by {handler.service!r}"
        )
    try:
        return encode_outcome(state.codec.resolution(value))
    except Exception as error:  # a user's serializer may raise anything
        raise InvalidInput(f"the value does not fit the state {state.name!r}: {explain(error)}") from error


def _app_of(function: Callable[..., Any]) -> tuple[App, Handler]:
    """Make an app for a single handler, and of an object for all of its handlers."""
    for of, declared in declarations(function):
        if isinstance(of, KeyedGroup):
            return _Handlers(declared, of), declared
    service = Service("testing")
    name = str(getattr(function, "__name__", ""))
    topic = next((declared.subscription for _, declared in declarations(function)), None)
    try:
        handler = Handler(service.name, name, function, topic=topic)
    except DeclarationError:
        # Its own service may use another name; if the function itself is invalid, this raises again.
        handler = Handler(service.name, "handler", function, topic=topic)
    service.handlers[handler.name] = handler
    return _Handlers(handler, service), handler


class _Handlers(App):
    """One handler, and those that it calls, each in its own service."""

    def __init__(self, tested: Handler, service: Service | KeyedGroup) -> None:
        super().__init__("testing", services=[service])
        self._tested = tested

    def find(self, function: Callable[..., Any]) -> Handler:
        if function is self._tested.function:
            return self._tested
        try:
            return super().find(function)
        except NotFound:
            for service, handler in declarations(function):
                if isinstance(service, Service | KeyedGroup) and (
                    self.services.setdefault(service.name, service) is service
                ):
                    return handler
            raise


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
