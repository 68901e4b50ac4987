"""Run one handler in memory: no broker, no waiting, a crash and a replay at every await."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from awakeables.core.awakeables import Completion
from awakeables.core.invocations import Invocation
from awakeables.core.orders import Effect
from awakeables.core.outcomes import Rejection, Resolution
from awakeables.core.replay import describe
from awakeables.engine.engine import Engine, EngineSettings
from awakeables.engine.outbox import RelaySettings
from awakeables.engine.runner import RunnerSettings
from awakeables.errors import AwakeablesError, TerminalError
from awakeables.handlers.futures import details_of
from awakeables.handlers.rejections import rejection
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import decode_json
from awakeables.handlers.service import App, Handler, Service
from awakeables.store.memory import MemoryStore
from awakeables.testing.loop import InlineExecutor, SeededEntropy, SeededLoop, VirtualClock
from awakeables.wire.tasks import decode_task, encode_effect
from awakeables.wire.traces import TRACEPARENT, known_traceparent
from awakeables.worker.task import Reject, Task
from awakeables.worker.worker import TaskFunction, Worker

NEVER = timedelta(days=36_500)
"""The kit itself wakes the engine when something is due, so that years pass in no time."""


class Stuck(AwakeablesError):
    """The handler waits for answers that nobody will give."""


class Paused(AwakeablesError):
    """The invocation was parked: retries were used up, or the code can't be replayed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A record that the handler published; `awakeable_id` is set for a task."""

    topic: str
    key: bytes | None
    payload: Any
    awakeable_id: str | None
    task: str | None
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of a handler.

    Attributes:
        status: `completed`, `paused` or `suspended` (it waits and nobody answers).
        published: What it published, in order, each record once.
        journal: What it did and learned, one line per entry.
        duration: How much virtual time went by.
    """

    status: str
    published: Sequence[Published]
    journal: Sequence[str]
    duration: timedelta
    _value: Any = None
    _failure: AwakeablesError | None = None

    @property
    def value(self) -> Any:
        """What the handler returned, as its caller gets it (JSON values).

        Raises:
            TerminalError: The handler failed.
            Paused: It was parked; the message says why.
            Stuck: It waits for answers that nobody gives; the message lists the awakeables.
        """
        if self._failure is not None:
            raise self._failure
        return self._value


def run(
    handler: Callable[..., Any],
    *args: Any,
    workers: Sequence[Worker] = (),
    answers: Mapping[str, Callable[[Task[Any]], Any]] | None = None,
    suspend: bool = True,
    retry: RetryPolicy | None = None,
    seed: int = 0,
) -> Run:
    """Run a handler to its end, in memory, with a virtual clock.

    Tasks that it publishes are done at once by the functions of `workers` and `answers`; time
    jumps to whatever comes next, so a wait of thirty days takes a millisecond.

    Args:
        handler: A function that was declared with `@service.handler()`.
        args: Its input, if it takes one.
        workers: Workers whose functions do the tasks.
        answers: Functions by topic: what they return resolves, `Reject` rejects.
        suspend: Suspend and replay at every await, so that the run shows that the handler can be
            replayed; False: only as in production.
        retry: What happens to failed attempts, as in the settings of the service.
        seed: Decides chance and the order of what happens at once.

    Raises:
        Exception: What a worker's function raised, other than `Reject`.
    """
    loop = SeededLoop(seed)
    try:
        return loop.run_until_complete(
            _run(loop, handler, args, _functions(workers, answers or {}), suspend, retry, seed)
        )
    finally:
        loop.run_until_complete(_end_stray_tasks())
        loop.close()


async def _end_stray_tasks() -> None:
    """Cancel what a handler has begun and left, as `asyncio.run` does at its end."""
    stray = asyncio.all_tasks() - {asyncio.current_task()}
    for task in stray:
        task.cancel()
    await asyncio.gather(*stray, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _functions(
    workers: Sequence[Worker], answers: Mapping[str, Callable[[Task[Any]], Any]]
) -> Callable[[str, str | None], TaskFunction | None]:
    direct = Worker("answers")
    for topic, function in answers.items():
        direct.task(topic)(function)

    def find(topic: str, name: str | None) -> TaskFunction | None:
        found = (worker.function_for(topic, name) for worker in (direct, *workers))
        return next((function for function in found if function is not None), None)

    return find


class _Workers:
    """The publisher of the kit: does the tasks, as the workers would."""

    def __init__(self, find: Callable[[str, str | None], TaskFunction | None]) -> None:
        self._find = find
        self.engine: Engine | None = None
        self.published: list[Published] = []
        self.errors: list[Exception] = []

    async def publish(self, effect: Effect) -> None:
        value, headers = encode_effect(effect)
        text = {name: (content or b"").decode("utf-8", "replace") for name, content in headers}
        record = decode_task(value, headers) if effect.task else None
        self.published.append(
            Published(
                topic=effect.topic,
                key=effect.key,
                payload=_readable(effect.value),
                awakeable_id=record.awakeable_id if record else None,
                task=record.task if record else None,
                headers=text,
            )
        )
        function = self._find(effect.topic, record.task if record else None)
        if record is None or function is None or self.engine is None:
            return
        try:
            task = Task(
                payload=function.payload.decode(effect.value or b"null"),
                awakeable_id=record.awakeable_id,
                deadline=record.deadline,
                headers=text,
                name=record.task,
                topic=effect.topic,
                event_id=record.event_id,
            )
            body = await _answer(function, task)
        except Exception as error:
            self.errors.append(error)
            return
        await self.engine.settle(
            Completion(
                awakeable_id=record.awakeable_id,
                body=body,
                source=f"worker:{effect.event_id}",
                trace=known_traceparent(text.get(TRACEPARENT)),
            )
        )


async def _answer(function: TaskFunction, task: Task[Any]) -> Resolution | Rejection:
    try:
        result = function.function(task)
        if inspect.isawaitable(result):
            result = await result
    except Reject as error:
        return rejection(error.reason, error.code, error.details)
    return function.result(result)


def _readable(value: bytes | None) -> Any:
    try:
        return None if value is None else decode_json(value)
    except ValueError:
        return value


async def _run(
    loop: SeededLoop,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    find: Callable[[str, str | None], TaskFunction | None],
    suspend: bool,
    retry: RetryPolicy | None,
    seed: int,
) -> Run:
    clock = VirtualClock(loop)
    app, handler = _app_of(function)
    publisher = _Workers(find)
    store = MemoryStore(clock=clock, retention_ms=round(NEVER.total_seconds() * 1000))
    engine = Engine(
        app,
        store,
        publisher,
        clock=clock,
        entropy=SeededEntropy(seed),
        settings=EngineSettings(
            runner=RunnerSettings(always_suspend=suspend, retry=retry or RetryPolicy()),
            relay=RelaySettings(sweep_interval=NEVER),
            sweep_interval=NEVER,
            horizon=timedelta(0),
        ),
        executor=InlineExecutor(),
    )
    publisher.engine = engine
    serving = asyncio.ensure_future(engine.run())
    try:
        await engine.serving.wait()
        begun = await engine.begin(handler, handler.input.encode(*args) if args else b"null")
        row = await _until_it_rests(engine, store, publisher, begun.id)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    if publisher.errors or engine.errors:
        raise [*publisher.errors, *engine.errors][0]
    journal = (await store.history([begun.id]))[begun.id]
    value, failure = _result(handler, row, store)
    return Run(
        status=row.status,
        published=publisher.published,
        journal=[describe(entry) for entry in journal],
        duration=timedelta(seconds=round(loop.time(), 3)),
        _value=value,
        _failure=failure,
    )


async def _until_it_rests(
    engine: Engine, store: MemoryStore, publisher: _Workers, invocation_id: str
) -> Invocation:
    """Let time pass from one due thing to the next until the invocation ends or nothing is due."""
    clock = engine.clock
    while True:
        await engine.settled_down()
        row = store.tables.invocations[invocation_id]
        if row.status in ("completed", "paused") or publisher.errors or engine.errors:
            return row
        due = [r.due_ms for r in store.tables.invocations.values() if r.due_ms is not None]
        deadlines = [
            a.deadline_ms
            for a in store.tables.awakeables.values()
            if a.state == "pending" and a.deadline_ms is not None
        ]
        if not due and not deadlines:
            return row
        await asyncio.sleep(max(0, min(due + deadlines) - clock.now_ms()) / 1000)
        await engine.sweep()


def _app_of(function: Callable[..., Any]) -> tuple[App, Handler]:
    """A handler by itself is enough of an app to run it."""
    name = getattr(function, "__name__", "handler")
    service = Service("testing")
    service.handler(name)(function)
    app = App("testing", services=[service])
    return app, app.handler("testing", name)


def _result(handler: Handler, row: Invocation, store: MemoryStore) -> tuple[Any, AwakeablesError | None]:
    match row.result:
        case Resolution() as resolution:
            return (_readable(resolution.content) if resolution.is_json else resolution.content), None
        case Rejection() as rejected:
            return None, TerminalError(rejected.reason, code=rejected.code, details=details_of(rejected))
        case _:
            pass
    if row.status == "paused" and row.failure is not None:
        return None, Paused(f"{row.failure.kind}: {row.failure.message}")
    waiting = [a.id for a in store.tables.awakeables.values() if a.state == "pending"]
    return None, Stuck(
        f"{handler.name} waits for {', '.join(waiting) or 'nothing that is due'} and nobody answers: give "
        "`run` workers or answers for the topics that it publishes to, or the awakeable a timeout"
    )
