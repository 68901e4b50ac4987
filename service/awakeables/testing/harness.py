"""Test a whole app in memory, step by step: `Harness`."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from awakeables.core.awakeables import Verdict
from awakeables.core.commands import Idempotency
from awakeables.core.deadletters import DeadLetter
from awakeables.core.outcomes import NULL, as_resolution
from awakeables.core.records import instant
from awakeables.core.texts import excerpt
from awakeables.errors import InvalidInput, NotPossible
from awakeables.handlers.context import Context
from awakeables.handlers.invoking import NO_INPUT, idempotency_scope, key_problem
from awakeables.handlers.objectcontext import ObjectContext
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import codec_for, codec_of_value, explain
from awakeables.handlers.service import App, KeyedGroup, Service, VirtualObject
from awakeables.handlers.state import State
from awakeables.testing.answers import AT_ONCE, Answer, Answers, Delivery, WrongAnswer, body_of
from awakeables.testing.elsewhere import function_of, learn_all
from awakeables.testing.given import checked_headers, given_input, lower_case
from awakeables.testing.operations import Operations
from awakeables.testing.outside import Published, PublishedTask
from awakeables.testing.running import Running, WaitingAwakeable, found, waiting
from awakeables.testing.simulated import FEW_TRIES, SimulatedService, seconds_since_start
from awakeables.worker.heartbeats import TaskOver, progress_text
from awakeables.worker.task import Reject
from awakeables.worker.worker import Worker

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
Given = TypeVar("Given")


class SentTask:
    """A task that a handler has published, for the test to do."""

    def __init__(self, harness: Harness, task: PublishedTask) -> None:
        self._harness = harness
        self._task = task

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<task{name} on {self.topic!r}: {excerpt(self.payload)}>"

    @property
    def awakeable_id(self) -> str:
        """The ID that its answer is for."""
        return self._task.awakeable_id

    @property
    def topic(self) -> str:
        """Where it was published."""
        return self._task.record.topic

    @property
    def name(self) -> str | None:
        """The `task=` that it was published with."""
        return self._task.record.task

    @property
    def key(self) -> bytes | None:
        """The record's key."""
        return self._task.record.key

    @property
    def headers(self) -> Mapping[str, str]:
        """The record's headers."""
        return self._task.record.headers

    @property
    def payload(self) -> Any:
        """What was published: JSON values, or bytes."""
        return self._task.record.payload

    def payload_as(self, type_: type[T]) -> T:
        """The payload as a worker gets it whose function takes a `Task` of this type.

        Raises:
            InvalidInput: It does not fit.
        """
        try:
            payload: T = codec_for(type_).decode(self._task.payload)
        except Exception as error:  # a user's validator may raise anything
            raise InvalidInput(f"the payload of {self!r} does not fit: {explain(error)}") from error
        return payload

    def heartbeat(self, progress: Any = None) -> None:
        """Send a heartbeat, as its worker does; without progress, with that of the last one.

        Raises:
            TaskOver: Nobody waits for the answer any more.
            ValueError: The progress can't be sent.
        """
        self._harness._heartbeat(self._task, progress)

    @overload
    def resolve(self, value: Any = None) -> Verdict: ...
    @overload
    def resolve(self, value: Any = None, *, after: timedelta) -> None: ...

    def resolve(self, value: Any = None, *, after: timedelta | None = None) -> Verdict | None:
        """Answer it, as `Harness.resolve`."""
        return self._harness._answer(self.awakeable_id, value, after)

    @overload
    def reject(self, reason: str, *, code: int = 400, details: Any = None) -> Verdict: ...
    @overload
    def reject(self, reason: str, *, code: int = 400, details: Any = None, after: timedelta) -> None: ...

    def reject(
        self, reason: str, *, code: int = 400, details: Any = None, after: timedelta | None = None
    ) -> Verdict | None:
        """Answer it with a rejection, as `Harness.reject`."""
        return self._harness._answer(self.awakeable_id, Reject(reason, code=code, details=details), after)


class Harness(Operations):
    """An app that is served in memory, in virtual time, by the service's own engine.

    Each method returns when nothing more happens before time passes. Time passes only where the test says
    so: in `advance`, `advance_to`, and while it waits for a result. What an answer function or background
    work raises fails the method in whose course that happens.

        with Harness(app) as harness:
            order = harness.send(fulfil, ORDER)
            harness.next_task("packing").resolve({"tracking": "p-1"})
            assert order.result().tracking == "p-1"

    Within a running event loop (an async test) it works in a thread of its own, while the caller's loop is
    blocked; `AsyncHarness` does not block it.
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
        """Serve an app until `close`, or until the end of the `with` block.

        Args:
            app: All its handlers can be called.
            suspend: Suspend and replay at every await, which proves that handlers can be replayed; False
                suspends only as in production.
            thorough: Crash the process before and after each commit of a step, too: an action may be
                executed more than once, as after a crash in production.
            schedules: Let the ticks of schedules begin handlers while time passes.
            retry: The retry policy: by default three attempts without delay. `RetryPolicy()` is the
                service's own.
            seed: Decides random values and the order of simultaneous events.
            functions: The services of functions, each in the place of the app's `RemoteService` of its name:
                the real ones, or what the test declares.
        """
        function = function_of("testing", functions)
        if function is not None:
            learn_all(app, function)
        service = SimulatedService(
            app,
            Answers({}, ()),
            retry=retry,
            suspend=suspend,
            thorough=thorough,
            schedules=schedules,
            seed=seed,
            function=function,
        )
        super().__init__(service)
        self._app = app
        self._handed_out: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None:
            self.refuse_unused()

    def close(self) -> None:
        """End the processes. Nothing works afterwards but what looks at what has happened.

        Raises:
            RuntimeError: An answer, a handler or an action calls it.
        """
        self._service.close()

    def refuse_unused(self) -> None:
        """Check that what the test has prepared by name was used; the end of a `with` block does it, too.

        Raises:
            AssertionError: `fail` or `replace` was called for a name that no executed action has.
            WrongAnswer: `on_task` was called for what is not the name or the topic of a published task.
        """
        self._service.actions.refuse_unused()
        self._service.outside.refuse_unknown()

    # Calling handlers

    @overload
    def send(
        self,
        handler: Callable[[Context], Awaitable[R]],
        /,
        *,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Running[R]: ...
    @overload
    def send(
        self,
        handler: Callable[[ObjectContext], Awaitable[R]],
        /,
        *,
        key: str,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Running[R]: ...
    @overload
    def send(
        self,
        handler: Callable[[ObjectContext, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        key: str,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Running[R]: ...
    @overload
    def send(
        self,
        handler: Callable[[Context, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        delay: timedelta = ...,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Running[R]: ...

    def send(
        self,
        handler: Callable[..., Any],
        input: Any = NO_INPUT,
        /,
        *,
        key: str | None = None,
        delay: timedelta = timedelta(0),
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Running[Any]:
        """Begin an invocation, as a caller from outside does, and let it run until it waits for something.

        Args:
            handler: The function, as it was declared. An older version begins an invocation of that version,
                such as callers began before there was a higher one.
            input: Its input, of the annotated type.
            key: Of an object's or a workflow's handler: the key that it is called for.
            delay: How much later to begin.
            idempotency_key: The same key again gives the same invocation.
            headers: For `ctx.request`.

        Raises:
            TypeError: A header is not text.
            InvalidInput: The input or the key does not fit: over HTTP the call would be answered 422.
            NotFound: The app has no such handler.
            IdempotencyConflict: The key was used with another input.
            QueueIsFull: The object's key has too many calls in its queue.
        """
        return self._begin(handler, input, key, headers, delay=delay, idempotency_key=idempotency_key)

    @overload
    def call(
        self,
        handler: Callable[[Context], Awaitable[R]],
        /,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    def call(
        self,
        handler: Callable[[ObjectContext], Awaitable[R]],
        /,
        *,
        key: str,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    def call(
        self,
        handler: Callable[[ObjectContext, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        key: str,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...
    @overload
    def call(
        self,
        handler: Callable[[Context, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...

    def call(
        self,
        handler: Callable[..., Any],
        input: Any = NO_INPUT,
        /,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Begin an invocation and return its result: `send`, then `Running.result`."""
        return self._begin(handler, input, key, headers).result()

    def _begin(
        self,
        handler: Callable[..., Any],
        given: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
        *,
        delay: timedelta = timedelta(0),
        idempotency_key: str | None = None,
    ) -> Running[Any]:
        declared = self._app.declared(handler)
        content = given_input(declared, *(() if given is NO_INPUT else (given,)))
        lower = lower_case(headers)
        idempotency = None
        if idempotency_key is not None:
            scope = idempotency_scope(declared.service, declared.name, key)
            fingerprint = hashlib.sha256(content or b"").hexdigest()
            idempotency = Idempotency(scope=scope, key=idempotency_key, fingerprint=fingerprint)

        async def begin() -> str:
            begun = await self._service.api(
                lambda api: api.begin(
                    declared, content, key=key, headers=lower, delay=delay, idempotency=idempotency
                )
            )
            self._service.note(f"begun: {declared.service}/{declared.name} {begun.id}")
            await self._service.rest()
            return begun.id

        return Running(self._service, declared, self._service.drive(begin))

    def invocations(self, handler: Callable[..., Any] | None = None) -> Sequence[Running[Any]]:
        """The invocations, or those of a handler, oldest first; also what handlers, records, ticks began."""
        wanted = None if handler is None else self._app.declared(handler)
        all_ = [found(self._service, row) for row in self._service.store.all_invocations()]
        return [each for each in all_ if wanted in (None, each._handler)]

    # Tasks and awakeables

    def tasks(self, name: str | None = None) -> Sequence[SentTask]:
        """The published tasks, or those of a name or topic, that have no answer yet; the oldest first."""
        pending = {row.id for row in self._service.pending()}
        return [
            SentTask(self, task)
            for task in self._service.outside.tasks
            if task.awakeable_id in pending and name in (None, task.record.task, task.record.topic)
        ]

    def next_task(self, name: str) -> SentTask:
        """The oldest unanswered task that this has not returned yet.

        Args:
            name: The task's name, or its topic.

        Raises:
            AssertionError: There is none; the message lists what was published.
        """
        tasks = self.tasks(name)
        for task in tasks:
            if task.awakeable_id not in self._handed_out:
                self._handed_out.add(task.awakeable_id)
                return task
        again = "no further task" if tasks else "no task"
        outside = self._service.outside
        raise AssertionError(
            f"{again} waits on {name!r}; published so far to: {outside.describe_published()}"
        )

    def on_task(self, name: str, answer: Any) -> None:
        """Answer each task by itself that is published from now on, with this name or to this topic.

        Args:
            name: The task's name, or its topic.
            answer: The answer, an `Answer` that comes later, or a function of the `Task`.

        At the end of the `with` block there must have been such a task.

        Raises:
            DeclarationError: It is a function that does not take exactly one Task.
        """
        self._service.outside.answers.add(name, answer)

    def add_worker(self, worker: Worker) -> None:
        """Let the functions of a worker do its tasks from now on, with the heartbeats that it sends."""
        self._service.outside.answers.add_worker(worker)

    def waiting(self) -> Sequence[WaitingAwakeable]:
        """The awakeables that wait for answers, the oldest first."""
        return waiting(self._service)

    @overload
    def resolve(self, awakeable_id: str, value: Any = None) -> Verdict: ...
    @overload
    def resolve(self, awakeable_id: str, value: Any = None, *, after: timedelta) -> None: ...

    def resolve(
        self, awakeable_id: str, value: Any = None, *, after: timedelta | None = None
    ) -> Verdict | None:
        """Resolve an awakeable, now or when time has passed.

        Args:
            awakeable_id: Its ID, such as that of a `WaitingAwakeable`.
            value: A model, any JSON value, or bytes for one that takes bytes.
            after: How much later; it happens on the way when `advance` or a wait for a result lets time pass.

        Returns:
            The verdict: accepted, or duplicate, conflict or late. With `after`, None.

        Raises:
            WrongAnswer: The value does not fit, or there is no such awakeable. With `after`, what lets the
                time pass raises it, also for a conflict.
            ValueError: `after` is negative.
        """
        return self._answer(awakeable_id, value, after)

    @overload
    def reject(self, awakeable_id: str, reason: str, *, code: int = 400, details: Any = None) -> Verdict: ...
    @overload
    def reject(
        self, awakeable_id: str, reason: str, *, code: int = 400, details: Any = None, after: timedelta
    ) -> None: ...

    def reject(
        self,
        awakeable_id: str,
        reason: str,
        *,
        code: int = 400,
        details: Any = None,
        after: timedelta | None = None,
    ) -> Verdict | None:
        """Reject an awakeable; `after`, the verdict and the errors are those of `resolve`."""
        return self._answer(awakeable_id, Reject(reason, code=code, details=details), after)

    def _heartbeat(self, task: PublishedTask, progress: Any) -> None:
        outside = self._service.outside
        over = outside.why_over(task.awakeable_id, task.deadline, task.record.headers)
        if over is not None:
            raise TaskOver(over)
        text = NULL if progress is None else progress_text(progress)

        async def beat() -> None:
            await outside.heartbeat(task.awakeable_id, text)
            await self._service.rest()

        self._service.drive(beat)

    def _answer(self, awakeable_id: str, value: Any, after: timedelta | None) -> Verdict | None:
        answer = Answer(value, AT_ONCE if after is None else after)
        what = f"the answer to awakeable {awakeable_id}"
        try:
            body = body_of(value)
        except Exception as error:  # a user's serializer may raise anything
            raise WrongAnswer(f"{what} can't be expressed as JSON: {explain(error)}") from error
        delivery = Delivery(awakeable_id=awakeable_id, body=body, after=answer.after, what=what)

        async def give() -> Verdict | None:
            verdict = None
            if after is None:
                verdict = await self._service.outside.settle(delivery)
            else:
                self._service.outside.delay(delivery)
            await self._service.rest()
            return verdict

        return self._service.drive(give)

    # Topics

    def produce(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Write a record to a topic that a handler subscribes to, or to the completions topic.

        Args:
            topic: The topic; it has one partition.
            value: A model or any JSON value; bytes are written as they are; None is a tombstone.
            key: The record's key.
            headers: The record's headers.

        Raises:
            TypeError: The key is neither text nor bytes, or a header is not text.
            InvalidInput: The app does not read this topic, or the value can't be written.
        """
        if not self._service.reads(topic):
            raise InvalidInput(
                f"{self._app.name} does not read the topic {topic!r}: no handler subscribes to it"
            )
        if key is not None and not isinstance(key, str | bytes):
            raise TypeError(f"produce: key must be str or bytes, not {key!r}")
        texts = checked_headers(headers)
        try:
            content = value
            if value is not None and not isinstance(value, bytes):
                content = codec_of_value(value).answer(value).content
            written = key.encode() if isinstance(key, str) else key
            given = [(name, text.encode()) for name, text in texts.items()]
        except Exception as error:  # a user's serializer may raise anything
            raise InvalidInput(f"the record can't be written: {explain(error)}") from error

        async def produce() -> None:
            self._service.logs.write(topic, written, content, given)
            await self._service.rest()

        self._service.drive(produce)

    @property
    def published(self) -> Sequence[Published]:
        """The records that handlers have published, in order, each once."""
        return list(self._service.outside.published)

    @property
    def revocations(self) -> Sequence[Any]:
        """What was published for workers whose task nobody waits for any more, in order (JSON values)."""
        return list(self._service.outside.revocations)

    @property
    def dead_letters(self) -> Sequence[DeadLetter]:
        """The records that could not be used, oldest first, with their `code`, `reason` and `value`."""
        return self._service.store.all_dead_letters()

    # Time

    @property
    def now(self) -> datetime:
        """The virtual time, in UTC."""
        return instant(self._service.clock.now_ms()).astimezone(UTC)

    def advance(self, delta: timedelta) -> None:
        """Let time pass; what becomes due meanwhile happens at its instant, in order.

        Raises:
            ValueError: It is negative.
        """
        self.advance_to(self.now + delta)

    def advance_to(self, when: datetime) -> None:
        """Let time pass up to an instant.

        Raises:
            ValueError: The instant has passed, or has no time zone.
        """
        if when.tzinfo is None:
            raise ValueError(f"advance_to: {when} has no time zone; use datetime(…, tzinfo=UTC)")
        if when < self.now:
            raise ValueError(f"advance_to: {when} is before {self.now}: time only goes forward")
        until_s = seconds_since_start(when)

        async def advance() -> None:
            await self._service.pass_time(until_s=until_s)
            await self._service.rest()

        self._service.drive(advance)

    def describe(self) -> str:
        """What has happened, in lines of text: what the pytest plugin shows of a test that fails."""
        lines = [f"{instant(at_ms).isoformat()}  {what}" for at_ms, what in self._service.timeline]
        for running in self.invocations():
            lines += ["", repr(running), *(f"    {at:>4}  {each}" for at, each in enumerate(running.journal))]
        waits = [
            f"{each.handler} waits for {each.id} since {each.age}"
            + (f", published to {each.topic!r}" if each.topic else "")
            for each in self.waiting()
        ]
        return "\n".join([*lines, "", *waits])

    # Faults

    def fail(self, name: str, error: BaseException, *, times: int = 1) -> None:
        """Let the next executions of an action of `ctx.run` raise an error instead.

        Args:
            name: The name that the handler gives the action.
            error: What is raised.
            times: How often; then the action is executed again. A failure that a crash has lost before it
                was journaled does not count.

        At the end of the `with` block an action of this name must have been executed.

        Raises:
            TypeError: The error is no exception.
            ValueError: `times` is less than 1.
        """
        self._service.actions.fail(name, error, times)

    def replace(self, name: str, function: Callable[..., Any]) -> None:
        """Execute a function instead of an action of `ctx.run`, with the same arguments.

        Args:
            name: The name that the handler gives the action.
            function: A plain function or a coroutine function; its result must be of the action's type.

        At the end of the `with` block an action of this name must have been executed.
        """
        self._service.actions.replace(name, function)

    def crash(self) -> None:
        """Kill the process and start the next one; whatever was committed goes on."""

        async def crash() -> None:
            await self._service.crash()
            await self._service.rest()

        self._service.drive(crash)

    # Virtual objects

    def state(self, state: State[T], key: str) -> T | None:
        """A value in the state of a key, as it is committed; None: there is none, also if it has a default.

        Raises:
            InvalidInput: The app does not have this state, or the key can't be one.
        """
        self._check_declared(state, key)
        written = self._service.state_of(state.of, key).get(state.name)
        if written is None:
            return None
        value: T = state.codec.load_written(as_resolution(written).content)
        return value

    def set_state(self, state: State[T], key: str, value: T) -> None:
        """Set a value in the state of a key, before handlers are called for it.

        Raises:
            NotPossible: An invocation holds the key.
            InvalidInput: The value does not fit, the app does not have this state, or the key can't be one.
        """
        self._check_declared(state, key)
        held = [
            row.id
            for row in self._service.store.all_invocations()
            if (row.service, row.key) == (state.of, key) and row.result is None
        ]
        if held:
            raise NotPossible(f"{state.of}/{key} has an open invocation, {held[0]}")
        self._service.set_state(state, key, value)

    def queue(self, of: VirtualObject, key: str) -> Sequence[Running[Any]]:
        """The open exclusive invocations of a key: the one that holds it, then those that wait.

        Raises:
            InvalidInput: The app does not have this object, or the key can't be one.
        """
        if not isinstance(of, KeyedGroup) or self._app.services.get(of.name) is not of:
            raise InvalidInput(f"{of!r} is not an object of app {self._app.name!r}")
        _check_key(key)
        rows = [
            row
            for row in self._service.store.all_invocations()
            if (row.service, row.key) == (of.name, key) and row.ticket is not None and row.result is None
        ]
        rows.sort(key=lambda row: row.ticket or 0)
        return [found(self._service, row) for row in rows]

    def _check_declared(self, state: State[Any], key: str) -> None:
        group = self._app.services.get(state.of)
        if not isinstance(group, KeyedGroup) or state.name.partition("/")[0] not in group.states:
            raise InvalidInput(f"{state!r} was not declared by an object of app {self._app.name!r}")
        _check_key(key)


def _check_key(key: str) -> None:
    problem = key_problem(key)
    if problem is not None:
        raise InvalidInput(problem)
