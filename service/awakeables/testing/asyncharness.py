"""`Harness` for async tests, which does not block their loop: `AsyncHarness`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from awakeables.api import SeekTo
from awakeables.core.awakeables import Verdict
from awakeables.core.deadletters import DeadLetter
from awakeables.core.invocations import Status
from awakeables.handlers.context import Context
from awakeables.handlers.invoking import NO_INPUT
from awakeables.handlers.objectcontext import ObjectContext
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App, Service, VirtualObject
from awakeables.handlers.state import State
from awakeables.testing.harness import Harness, SentTask
from awakeables.testing.operations import Pausable
from awakeables.testing.outside import Published
from awakeables.testing.running import Running, WaitingAwakeable
from awakeables.testing.simulated import FEW_TRIES, SimulatedService
from awakeables.worker.worker import Worker

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
Given = TypeVar("Given")


class _Thread:
    """The thread in which a harness does everything, so that the caller's loop goes on."""

    def __init__(self, service: SimulatedService) -> None:
        self._service = service
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="awakeables-testing")

    async def do(self, work: Callable[[], T]) -> T:
        self._service.refuse_within()  # at once: it would wait for the call that it is a part of
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, copy_context().run, work)

    def close(self) -> None:
        self._executor.shutdown(wait=False)


class AsyncRunning(Generic[R_co]):
    """As `Running`; what lets something happen is awaited."""

    def __init__(self, thread: _Thread, running: Running[R_co]) -> None:
        self._thread = thread
        self._running = running

    def __repr__(self) -> str:
        return repr(self._running)

    @property
    def id(self) -> str:
        """Its ID."""
        return self._running.id

    @property
    def status(self) -> Status:
        """As `Running.status`."""
        return self._running.status

    @property
    def waits(self) -> Sequence[WaitingAwakeable]:
        """As `Running.waits`."""
        return self._running.waits

    async def journal(self) -> Sequence[str]:
        """As `Running.journal`."""
        return await self._thread.do(lambda: self._running.journal)

    async def result(self) -> R_co:
        """As `Running.result`."""
        return await self._thread.do(self._running.result)

    async def cancel(self) -> None:
        """As `Running.cancel`."""
        await self._thread.do(self._running.cancel)

    async def kill(self) -> None:
        """As `Running.kill`."""
        await self._thread.do(self._running.kill)

    async def pause(self) -> None:
        """As `Running.pause`."""
        await self._thread.do(self._running.pause)

    async def resume(self) -> None:
        """As `Running.resume`."""
        await self._thread.do(self._running.resume)

    async def restart(self, *, from_entry: int = 0) -> AsyncRunning[R_co]:
        """As `Running.restart`."""
        restart = partial(self._running.restart, from_entry=from_entry)
        return AsyncRunning(self._thread, await self._thread.do(restart))

    async def purge(self) -> None:
        """As `Running.purge`."""
        await self._thread.do(self._running.purge)


class AsyncSentTask:
    """As `SentTask`; answering it is awaited."""

    def __init__(self, thread: _Thread, task: SentTask) -> None:
        self._thread = thread
        self._task = task

    def __repr__(self) -> str:
        return repr(self._task)

    @property
    def awakeable_id(self) -> str:
        """The ID that its answer is for."""
        return self._task.awakeable_id

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self._task.topic

    @property
    def name(self) -> str | None:
        """The `task=` that it was published with."""
        return self._task.name

    @property
    def key(self) -> bytes | None:
        """The record's key."""
        return self._task.key

    @property
    def headers(self) -> Mapping[str, str]:
        """The record's headers."""
        return self._task.headers

    @property
    def payload(self) -> Any:
        """What was published: JSON values, or bytes."""
        return self._task.payload

    def payload_as(self, type_: type[T]) -> T:
        """As `SentTask.payload_as`."""
        return self._task.payload_as(type_)

    async def heartbeat(self, progress: Any = None) -> None:
        """As `SentTask.heartbeat`."""
        await self._thread.do(partial(self._task.heartbeat, progress))

    @overload
    async def resolve(self, value: Any = None) -> Verdict: ...
    @overload
    async def resolve(self, value: Any = None, *, after: timedelta) -> None: ...

    async def resolve(self, value: Any = None, **options: Any) -> Verdict | None:
        """As `SentTask.resolve`."""
        resolve: Callable[..., Verdict | None] = self._task.resolve
        return await self._thread.do(partial(resolve, value, **options))

    @overload
    async def reject(self, reason: str, *, code: int = 400, details: Any = None) -> Verdict: ...
    @overload
    async def reject(
        self, reason: str, *, code: int = 400, details: Any = None, after: timedelta
    ) -> None: ...

    async def reject(self, reason: str, **options: Any) -> Verdict | None:
        """As `SentTask.reject`."""
        reject: Callable[..., Verdict | None] = self._task.reject
        return await self._thread.do(partial(reject, reason, **options))


class AsyncHarness:
    """As `Harness`, for async tests: what lets something happen is awaited, and the caller's loop goes on.

    Handlers and their actions run in a loop of the harness's own, in a thread: they can't use what belongs
    to the caller's loop.
    """

    def __init__(
        self,
        app: App,
        *,
        suspend: bool = True,
        thorough: bool = False,
        schedules: bool = True,
        retry: RetryPolicy = FEW_TRIES,
        seed: int = 0,
        functions: Sequence[Service] = (),
    ) -> None:
        """Serve an app until `close`, or the end of the `async with` block; the arguments are `Harness`'s."""
        self._harness = Harness(
            app,
            suspend=suspend,
            thorough=thorough,
            schedules=schedules,
            retry=retry,
            seed=seed,
            functions=functions,
        )
        self._thread = _Thread(self._harness._service)
        self._harness._service.on_close.append(self._thread.close)

    @property
    def blocking(self) -> Harness:
        """The same harness, for code that is not async."""
        return self._harness

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if kind is None:
            self.refuse_unused()

    async def close(self) -> None:
        """As `Harness.close`, once the call has ended that is under way."""
        service = self._harness._service
        service.refuse_within()
        if not service.is_closed:
            await self._thread.do(self._harness.close)

    def refuse_unused(self) -> None:
        """As `Harness.refuse_unused`."""
        self._harness.refuse_unused()

    @overload
    async def send(
        self,
        handler: Callable[[Context], Awaitable[R]],
        /,
        *,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncRunning[R]: ...
    @overload
    async def send(
        self,
        handler: Callable[[ObjectContext], Awaitable[R]],
        /,
        *,
        key: str,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncRunning[R]: ...
    @overload
    async def send(
        self,
        handler: Callable[[ObjectContext, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        key: str,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncRunning[R]: ...
    @overload
    async def send(
        self,
        handler: Callable[[Context, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncRunning[R]: ...

    async def send(
        self,
        handler: Callable[..., Any],
        input: Any = NO_INPUT,
        /,
        **options: Any,
    ) -> AsyncRunning[Any]:
        """As `Harness.send`."""
        send: Callable[..., Running[Any]] = self._harness.send
        running = await self._thread.do(partial(send, handler, input, **options))
        return AsyncRunning(self._thread, running)

    @overload
    async def call(
        self,
        handler: Callable[[Context], Awaitable[R]],
        /,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    async def call(
        self,
        handler: Callable[[ObjectContext], Awaitable[R]],
        /,
        *,
        key: str,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    async def call(
        self,
        handler: Callable[[ObjectContext, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        key: str,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    async def call(
        self,
        handler: Callable[[Context, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...

    async def call(
        self,
        handler: Callable[..., Any],
        input: Any = NO_INPUT,
        /,
        **options: Any,
    ) -> Any:
        """As `Harness.call`."""
        call: Callable[..., Any] = self._harness.call
        return await self._thread.do(partial(call, handler, input, **options))

    def invocations(self, handler: Callable[..., Any] | None = None) -> Sequence[AsyncRunning[Any]]:
        """As `Harness.invocations`."""
        return [AsyncRunning(self._thread, each) for each in self._harness.invocations(handler)]

    def tasks(self, name: str | None = None) -> Sequence[AsyncSentTask]:
        """As `Harness.tasks`."""
        return [AsyncSentTask(self._thread, each) for each in self._harness.tasks(name)]

    def next_task(self, name: str) -> AsyncSentTask:
        """As `Harness.next_task`."""
        return AsyncSentTask(self._thread, self._harness.next_task(name))

    def on_task(self, name: str, answer: Any) -> None:
        """As `Harness.on_task`."""
        self._harness.on_task(name, answer)

    def add_worker(self, worker: Worker) -> None:
        """As `Harness.add_worker`."""
        self._harness.add_worker(worker)

    def waiting(self) -> Sequence[WaitingAwakeable]:
        """As `Harness.waiting`."""
        return self._harness.waiting()

    @overload
    async def resolve(self, awakeable_id: str, value: Any = None) -> Verdict: ...
    @overload
    async def resolve(self, awakeable_id: str, value: Any = None, *, after: timedelta) -> None: ...

    async def resolve(self, awakeable_id: str, value: Any = None, **options: Any) -> Verdict | None:
        """As `Harness.resolve`."""
        resolve: Callable[..., Verdict | None] = self._harness.resolve
        return await self._thread.do(partial(resolve, awakeable_id, value, **options))

    @overload
    async def reject(
        self, awakeable_id: str, reason: str, *, code: int = 400, details: Any = None
    ) -> Verdict: ...
    @overload
    async def reject(
        self, awakeable_id: str, reason: str, *, code: int = 400, details: Any = None, after: timedelta
    ) -> None: ...

    async def reject(self, awakeable_id: str, reason: str, **options: Any) -> Verdict | None:
        """As `Harness.reject`."""
        reject: Callable[..., Verdict | None] = self._harness.reject
        return await self._thread.do(partial(reject, awakeable_id, reason, **options))

    async def produce(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """As `Harness.produce`."""
        await self._thread.do(partial(self._harness.produce, topic, value, key=key, headers=headers))

    @property
    def published(self) -> Sequence[Published]:
        """As `Harness.published`."""
        return self._harness.published

    @property
    def revocations(self) -> Sequence[Any]:
        """As `Harness.revocations`."""
        return self._harness.revocations

    @property
    def dead_letters(self) -> Sequence[DeadLetter]:
        """As `Harness.dead_letters`."""
        return self._harness.dead_letters

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return self._harness.now

    async def advance(self, delta: timedelta) -> None:
        """As `Harness.advance`."""
        await self._thread.do(partial(self._harness.advance, delta))

    async def advance_to(self, when: datetime) -> None:
        """As `Harness.advance_to`."""
        await self._thread.do(partial(self._harness.advance_to, when))

    def describe(self) -> str:
        """As `Harness.describe`."""
        return self._harness.describe()

    def fail(self, name: str, error: BaseException, *, times: int = 1) -> None:
        """As `Harness.fail`."""
        self._harness.fail(name, error, times=times)

    def replace(self, name: str, function: Callable[..., Any]) -> None:
        """As `Harness.replace`."""
        self._harness.replace(name, function)

    async def crash(self) -> None:
        """As `Harness.crash`."""
        await self._thread.do(self._harness.crash)

    @overload
    async def pause(self, of: Pausable) -> None: ...
    @overload
    async def pause(self, of: VirtualObject, key: str) -> None: ...

    async def pause(self, of: Pausable, *args: Any, **options: Any) -> None:
        """As `Harness.pause`."""
        pause: Callable[..., None] = self._harness.pause
        await self._thread.do(partial(pause, of, *args, **options))

    @overload
    async def resume(self, of: Pausable) -> None: ...
    @overload
    async def resume(self, of: VirtualObject, key: str) -> None: ...

    async def resume(self, of: Pausable, *args: Any, **options: Any) -> None:
        """As `Harness.resume`."""
        resume: Callable[..., None] = self._harness.resume
        await self._thread.do(partial(resume, of, *args, **options))

    async def pause_subscription(self, name: str) -> None:
        """As `Harness.pause_subscription`."""
        await self._thread.do(partial(self._harness.pause_subscription, name))

    async def resume_subscription(self, name: str) -> None:
        """As `Harness.resume_subscription`."""
        await self._thread.do(partial(self._harness.resume_subscription, name))

    async def seek(self, name: str, to: SeekTo) -> None:
        """As `Harness.seek`."""
        await self._thread.do(partial(self._harness.seek, name, to))

    async def pause_schedule(self, name: str) -> None:
        """As `Harness.pause_schedule`."""
        await self._thread.do(partial(self._harness.pause_schedule, name))

    async def resume_schedule(self, name: str) -> None:
        """As `Harness.resume_schedule`."""
        await self._thread.do(partial(self._harness.resume_schedule, name))

    async def trigger_schedule(self, name: str) -> AsyncRunning[Any] | None:
        """As `Harness.trigger_schedule`."""
        begun = await self._thread.do(partial(self._harness.trigger_schedule, name))
        return None if begun is None else AsyncRunning(self._thread, begun)

    def state(self, state: State[T], key: str) -> T | None:
        """As `Harness.state`."""
        return self._harness.state(state, key)

    def set_state(self, state: State[T], key: str, value: T) -> None:
        """As `Harness.set_state`."""
        self._harness.set_state(state, key, value)

    def queue(self, of: VirtualObject, key: str) -> Sequence[AsyncRunning[Any]]:
        """As `Harness.queue`."""
        return [AsyncRunning(self._thread, each) for each in self._harness.queue(of, key)]
