"""The context of a handler: everything that must survive a crash goes through it."""

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    TypeVarTuple,
    Unpack,
    cast,
    overload,
)

import msgspec
import structlog
from msgspec import UNSET, Raw

from awakeables.core.awakeables import Verdict
from awakeables.core.commands import NewAwakeable
from awakeables.core.effects import Effect, Envelope, TaskFacts
from awakeables.core.ids import parse_id
from awakeables.core.journal import (
    AwakeableCreated,
    ClockRead,
    PublishRequested,
    RunRequested,
    SettleRequested,
    SleepRequested,
)
from awakeables.core.outcomes import Outcome, Rejection, Resolution
from awakeables.core.records import instant
from awakeables.core.texts import excerpt
from awakeables.errors import (
    HandlerMisuse,
    MalformedId,
    TerminalError,
    Unwritable,
)
from awakeables.handlers import invoking
from awakeables.handlers.actions import result_type, shown
from awakeables.handlers.attempt import AwakeableWait, SettleWait, TimerWait
from awakeables.handlers.combining import Any_, Completed, Gather, Map, Quorum, Race, Select, Timeout
from awakeables.handlers.execution import (
    NOWHERE,
    Awakeable,
    Durable,
    Execution,
    Promise,
    PromiseBySerde,
    RunCall,
    raise_terminal,
    read_answer,
)
from awakeables.handlers.invoking import NO_INPUT, Call
from awakeables.handlers.late import OnLate, target_of
from awakeables.handlers.publishing import EVENTS, publication, traced
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.saga import Saga, Shield
from awakeables.handlers.serde import Codec, Serde, codec_for, codec_of_value, explain
from awakeables.handlers.subscription import KafkaRecord, record_of
from awakeables.handlers.versions import version_of
from awakeables.wire.traces import Trace, trace_of

if TYPE_CHECKING:
    from awakeables.handlers.objectcontext import ObjectContext

Given = TypeVar("Given")
R = TypeVar("R")
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")
F = TypeVar("F", bound="Durable[Any] | Awakeable[Any]")

Part: TypeAlias = Durable[T] | Awakeable[T] | Coroutine[Any, Any, T]
"""What can be combined: a future, or a coroutine of the handler's, which becomes a branch."""

One: TypeAlias = tuple[Part[T1]]
Two: TypeAlias = tuple[Part[T1], Part[T2]]
Three: TypeAlias = tuple[Part[T1], Part[T2], Part[T3]]
Four: TypeAlias = tuple[Part[T1], Part[T2], Part[T3], Part[T4]]
Five: TypeAlias = tuple[Part[T1], Part[T2], Part[T3], Part[T4], Part[T5]]
Six: TypeAlias = tuple[Part[T1], Part[T2], Part[T3], Part[T4], Part[T5], Part[T6]]
More: TypeAlias = tuple[Part[T], Part[T], Part[T], Part[T], Part[T], Part[T], Part[T], *tuple[Part[T], ...]]
"""Parts of different types, for an overload for each number: as `*futures: Part[T]`, mypy joins them.

`More` begins where `Six` ends. If two overloads of `gather` took the same parts, mypy would give up on
`one, other = await ctx.gather(…, return_exceptions=True)` when the type of a part is Any.
"""

OrError: TypeAlias = T | TerminalError
"""What `gather` gives for a part with `return_exceptions`: its value, or its failure."""

Args = TypeVarTuple("Args")

SHORTEST_HEARTBEAT = timedelta(seconds=1)
"""The shortest time between two heartbeats that can be asked for."""

MAX_WAIT = timedelta(days=365_250)
"""A thousand years. Later instants could be beyond the year 9999, the last that `datetime` has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The call that began the invocation, apart from its input.

    Attributes:
        attempt: 1 for the first attempt; it restarts at 1 after each step that was journaled.
        headers: The caller's headers, names in lower case.
        traceparent: The invocation's trace (W3C Trace Context), which is the caller's if it sent one. Pass it
            to services that the handler calls; `publish` adds it to records.
        record: The record that it was begun for, if it was begun by a subscription. `headers` has its
            headers as text.
        scheduled_at: The tick that it was begun for, in UTC, if it was begun by a schedule.
    """

    invocation_id: str
    attempt: int
    headers: Mapping[str, str]
    traceparent: str
    record: KafkaRecord | None = None
    scheduled_at: datetime | None = None


class Context:
    """The durable operations of a handler, which are journaled and replayed.

    The rest of the handler must be deterministic: take the time, randomness and IDs from the context, and
    put side effects into `run`.
    """

    def __init__(self, execution: Execution, *, attempt: int) -> None:
        self._execution = execution
        self._attempt = attempt
        self._chance: Random | None = None
        self._known_trace: Trace | None = None

    @functools.cached_property
    def request(self) -> Request:
        """The call that began the invocation, apart from its input."""
        invocation_id, given = self._execution.invocation_id, self._execution.replay.input
        return Request(
            invocation_id=invocation_id,
            attempt=self._attempt,
            headers=given.headers,
            traceparent=self._trace().traceparent(invocation_id),
            record=None if given.record is None else record_of(given, given.record),
            scheduled_at=None if given.scheduled_ms is None else instant(given.scheduled_ms),
        )

    @overload
    def awakeable(
        self,
        type: None = None,
        *,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        on_late: OnLate[Any] = None,
        revocable: bool = False,
        serde: None = None,
    ) -> Awakeable[Any]: ...
    @overload
    def awakeable(
        self,
        type: None = None,
        *,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        on_late: OnLate[T] = None,
        revocable: bool = False,
        serde: Serde[T],
    ) -> Awakeable[T]: ...
    @overload
    def awakeable(
        self,
        type: type[T],
        *,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        on_late: OnLate[T] = None,
        revocable: bool = False,
        serde: Serde[T] | None = None,
    ) -> Awakeable[T]: ...
    @overload
    def awakeable(
        self,
        type: Any,
        *,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        on_late: OnLate[Any] = None,
        revocable: bool = False,
        serde: Serde[Any] | None = None,
    ) -> Awakeable[Any]: ...

    def awakeable(
        self,
        type: Any = None,
        *,
        timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        on_late: OnLate[Any] = None,
        revocable: bool = False,
        serde: Serde[Any] | None = None,
    ) -> Awakeable[Any]:
        """Create a durable callback.

        Its row is committed before its ID is sent by `publish` or used by a later `run` (A3). Before the next
        await, do not send the ID in any other way.

        Args:
            type: The type of the answer: anything that pydantic validates, `bytes` for raw bytes, None for
                any JSON. An answer that does not fit is refused when it arrives, and the awakeable stays
                pending (A4).
            timeout: After this time without an answer, awaiting raises `TimedOut`.
            heartbeat_timeout: After the worker's first heartbeat, the longest time to the next one; when it
                is over, awaiting raises `TimedOut` with the kind `heartbeat`. Without a heartbeat only
                `timeout` counts: who has not begun is not silent.
            on_late: What else becomes of a late answer, which settles nothing: `dead-letter`, if it came
                over Kafka; or a handler of a service, `(Context, Late[T])`, that is begun with the first
                one. It is known for as long as this invocation is kept.
            revocable: If the awakeable times out or is cancelled, a record on the app's revocations topic
                says so, and `Task.heartbeat` raises `TaskOver` in the worker. With `heartbeat_timeout=`
                this is so in any case.
            serde: Decodes the answer's bytes, in place of JSON by type.
        """
        try:
            codec = codec_for(type, serde)
        except TypeError as error:
            raise self._execution.misuse(f"ctx.awakeable: {error}") from error
        timeout_ms = None if timeout is None else self._checked_ms(timeout, "ctx.awakeable: timeout")
        if timeout is not None and timeout <= timedelta(0):
            raise self._execution.misuse(f"ctx.awakeable: timeout must be positive, not {timeout}")
        execution = self._execution
        heartbeat_ms = None
        if heartbeat_timeout is not None:
            heartbeat_ms = self._checked_ms(heartbeat_timeout, "ctx.awakeable: heartbeat_timeout")
            if heartbeat_timeout < SHORTEST_HEARTBEAT:
                raise execution.misuse(
                    f"ctx.awakeable: heartbeat_timeout must be a second or more, not {heartbeat_timeout}"
                )
        late = None if on_late is None else target_of(execution, on_late, codec)
        replaying = execution.replay.replaying
        new_id = "" if replaying else execution.world.ids.new("prom")
        index, asked = execution.ask(AwakeableCreated(id=new_id, timeout_ms=timeout_ms))
        awakeable_id: str = asked.id
        if not replaying and index != NOWHERE:
            row = NewAwakeable(
                id=awakeable_id,
                codec=codec.kind,
                type_name=codec.type_name,
                schema_hash=codec.schema_hash,
                timeout_ms=timeout_ms,
                heartbeat_ms=heartbeat_ms,
                on_late=late,
                revoke_to=execution.world.revoke_to if revocable or heartbeat_ms is not None else None,
            )
            execution.new_awakeables.append(row)
            if codec.schema_hash is not None and codec.schema is not None:
                execution.new_schemas[codec.schema_hash] = codec.schema
        execution.codecs[awakeable_id] = codec
        execution.waits[index] = AwakeableWait(index=index, awakeable_id=awakeable_id)
        read = functools.partial(read_answer, execution, awakeable_id, codec)
        promise = PromiseBySerde if codec.kind == "custom" else Promise
        return Awakeable((awakeable_id, promise(execution, index, read)))

    def publish(
        self,
        topic: str,
        payload: Any,
        *,
        awakeable: Awakeable[Any] | None = None,
        task: str | None = None,
        key: str | bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        envelope: Envelope = "json",
    ) -> None:
        """Publish a record to Kafka, once the operations before it are committed.

        The record is written to the outbox in the same commit as the awakeable that it carries (K3).
        With an awakeable it is a task, in one of four forms (docs/workers.md), all with the same facts in
        headers. Without an awakeable the payload is sent as it is. Both carry the invocation's trace,
        unless `headers` has a `traceparent`.

        Args:
            payload: Bytes are sent as they are, anything else as JSON.
            task: The name of the task, for a topic that has several.
            key: The record's key; by default the awakeable's ID.
            headers: Your own headers. `content-type`, `traceparent` and `tracestate` replace ours; names
                that begin with `awakeable-`, and on a task with `ce_` or `ce-`, are reserved.
            envelope: `json`: our envelope around the payload. `none`: the bare payload.
                `cloudevents`: a structured CloudEvent. `cloudevents-binary`: a binary one, whose
                payload may be bytes.
        """
        execution = self._execution

        def misuse(message: str) -> HandlerMisuse:
            return execution.misuse(f"ctx.publish to {excerpt(topic)}: {message}")

        if not isinstance(awakeable, Awakeable | None):
            raise misuse(f"awakeable= must be what ctx.awakeable() returned, not {excerpt(awakeable)}")
        if not isinstance(task, str | None):
            raise misuse(f"a task's name must be a string, not {excerpt(task)}")
        of = None if awakeable is None else awakeable[1]._index
        replaying = execution.replay.replaying
        if awakeable is not None and key is None:
            key = awakeable[0]
        # Before the journal is asked, in replay too, so that what can't be encoded fails in the same way.
        key_bytes, value, own_headers = publication(
            payload,
            envelope=envelope,
            topic=topic,
            key=key,
            headers=headers,
            is_task=awakeable is not None,
            misuse=misuse,
        )
        if task is not None:
            self._check_name(task)
        index, _ = execution.ask(PublishRequested(topic=topic, of=of, task=task))
        if replaying or index == NOWHERE:
            return
        world, facts = execution.world, None
        if awakeable is not None:
            facts = TaskFacts(
                awakeable_id=awakeable[0],
                reply_to=world.reply_to,
                task=task,
                envelope=envelope,
                source=f"/apps/{world.app}" if envelope in EVENTS else None,
            )
        event_id = world.ids.new("evt")
        create = None
        if execution.span is not None:
            create = functools.partial(
                execution.span.create,
                topic,
                event_id,
                awakeable_id=None if awakeable is None else awakeable[0],
                task=task,
            )
        effect = Effect(
            event_id=event_id,
            stream=execution.invocation_id,
            topic=topic,
            key=key_bytes,
            value=value,
            headers=traced(own_headers, self._trace(), event_id, create),
            task=facts,
            created_ms=world.clock.now_ms(),
            kind="event" if facts is None else "task",
        )
        execution.new_effects.append(effect)

    @overload
    def run(
        self,
        name: str,
        action: Callable[[Unpack[Args]], Awaitable[T]],
        *args: *Args,
        type: Any = None,
        retry: RetryPolicy | None = None,
    ) -> Durable[T]: ...
    @overload
    def run(
        self,
        name: str,
        action: Callable[[Unpack[Args]], T],
        *args: *Args,
        type: Any = None,
        retry: RetryPolicy | None = None,
    ) -> Durable[T]: ...

    def run(  # type: ignore[misc]  # mypy can't match *args with *Args
        self,
        name: str,
        action: Callable[..., Any],
        *args: Any,
        type: Any = None,
        retry: RetryPolicy | None = None,
    ) -> Durable[Any]:
        """Execute a side effect and journal its result. Once journaled, it is never executed again (J3).

        After a crash between the side effect and the journal it is executed again: pass `ctx.uuid()` on as
        an idempotency key. It starts when it is awaited and everything before it is committed.

        Args:
            action: A coroutine function, or a plain function, which runs in a thread. It may use only
                `request` and `log` of the context: pass anything else that it needs as an argument.
            type: The result's type, if the action's return annotation does not give it.
            retry: Without it a failure fails the attempt, which is retried as a whole and in the end
                paused. With it only the action is retried; the last failure is a `TerminalError` that the
                handler can catch. A `TerminalError` that the action itself raises is never retried.
        """
        if not isinstance(name, str):
            raise self._execution.misuse(
                f"ctx.run: the name of an action must be a string, not {excerpt(name)}"
            )
        if not callable(action):
            raise self._execution.misuse(
                f"ctx.run({excerpt(name)}): {excerpt(action)} is not callable; pass the function and its "
                "arguments, without calling it"
            )
        expected = result_type(action, type)
        try:
            codec = codec_for(expected)
        except TypeError as error:
            raise self._execution.misuse(
                f"ctx.run({excerpt(name)}): its result type {shown(expected)} can't be journaled: return "
                f"one that can be (a pydantic model, a dataclass, dict, …), or pass it as type= ({error})"
            ) from error
        if codec.unwritable is not None:
            raise self._execution.misuse(
                f"ctx.run({excerpt(name)}): its result can't be journaled: {codec.unwritable}"
            )
        self._check_name(name)
        index, _ = self._execution.ask(RunRequested(name=name))
        branches = self._execution.branches
        variables = None if branches is None else branches.current.variables
        self._execution.runs[index] = RunCall(name, action, args, codec, retry, variables)
        self._execution.unawaited[index] = f"ctx.run({name!r})"

        def read(outcome: Outcome) -> Any:
            if not isinstance(outcome, Resolution):
                raise_terminal(outcome)
            try:
                return codec.load_written(outcome.content)
            except BaseException as error:
                raise self._execution.unfit(f"the result of run {name!r}", error) from None

        return Durable(self._execution, index, read)

    @overload
    def call(
        self,
        handler: Callable[[Context], Awaitable[R]],
        /,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...
    @overload
    def call(
        self,
        handler: Callable[[ObjectContext], Awaitable[R]],
        /,
        *,
        key: str,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...
    @overload
    def call(
        self,
        handler: Callable[[ObjectContext, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        key: str,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...
    @overload
    def call(
        self,
        handler: Callable[[Context, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...

    def call(
        self,
        handler: Callable[..., Any],
        input: Any = NO_INPUT,
        /,
        *,
        key: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[Any]:
        """Call another handler of the app; awaiting the call returns its result.

        The callee is an invocation of its own. It is created in the same commit as everything that this
        handler did before, and must be awaited. It is cancelled and killed with this one, and cancelled if
        this one ends before it has been awaited.

        Args:
            handler: The function, as it was declared with `@service.handler()`.
            input: Its input, of the annotated type.
            key: Of an object's handler: the key that it is called for.
            idempotency_key: A call of that handler with a key that was used before joins the older
                invocation; with another input, awaiting it fails (code 422). The inputs are compared as they
                are written, so one with a set has no stable text; and a body over HTTP is compared to the
                letter. Others may wait for the invocation, so it is not cancelled with this one.
            headers: For its `ctx.request`. It gets no others, except for this invocation's trace.

        Raises:
            TerminalError: The input does not fit the handler (code 422), or calls are nested too deep (508);
                nothing is begun. Awaiting the call raises the callee's failure, with the code, reason and
                details that it failed with; or that the key's queue is full (429), or that the call would
                wait for a key until a caller of it lets go (409): then it has not begun, either.
        """
        return invoking.call(
            self._execution,
            handler,
            input,
            key=key,
            idempotency_key=idempotency_key,
            headers=self._headers(headers, "ctx.call"),
        )

    @overload
    def send(
        self,
        handler: Callable[[Context], Awaitable[R]],
        /,
        *,
        delay: timedelta | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...
    @overload
    def send(
        self,
        handler: Callable[[ObjectContext], Awaitable[R]],
        /,
        *,
        key: str,
        delay: timedelta | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...
    @overload
    def send(
        self,
        handler: Callable[[ObjectContext, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        key: str,
        delay: timedelta | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...
    @overload
    def send(
        self,
        handler: Callable[[Context, Given], Awaitable[R]],
        input: Given,
        /,
        *,
        delay: timedelta | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[R]: ...

    def send(
        self,
        handler: Callable[..., Any],
        input: Any = NO_INPUT,
        /,
        *,
        key: str | None = None,
        delay: timedelta | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[Any]:
        """Begin an invocation of another handler of the app, which goes its own way.

        It is created in the same commit as everything that this handler did before. It is not cancelled
        with this one. It may be awaited, and need not be.

        Args:
            handler: As in `call`.
            input: As in `call`.
            key: As in `call`.
            delay: How much later it begins.
            idempotency_key: As in `call`; the first one decides when it begins.
            headers: As in `call`.

        Raises:
            TerminalError: The input does not fit the handler (code 422); nothing is begun.
        """
        delay_ms = 0 if delay is None else max(0, self._checked_ms(delay, "ctx.send: delay"))
        return invoking.send(
            self._execution,
            handler,
            input,
            key=key,
            delay_ms=delay_ms,
            idempotency_key=idempotency_key,
            headers=self._headers(headers, "ctx.send"),
        )

    @overload
    def attach(self, invocation_id: str, type: None = None) -> Call[Any]: ...
    @overload
    def attach(self, invocation_id: str, type: type[T]) -> Call[T]: ...
    @overload  # mypy takes T from where the result goes; if that is not the type, it must not get to Any
    def attach(  # type: ignore[overload-cannot-match]
        self, invocation_id: str, type: type[object]
    ) -> Call[object]: ...
    @overload
    def attach(self, invocation_id: str, type: Any) -> Call[Any]: ...

    def attach(self, invocation_id: str, type: Any = None) -> Call[Any]:
        """Wait for the end of an invocation that was begun elsewhere.

        Args:
            invocation_id: Its ID.
            type: The type of its result: anything that pydantic validates, None for any JSON.

        Raises:
            TerminalError: The text is not an invocation ID (code 400). Awaiting it raises the failure of
                the invocation, or that there is none (404) or it was purged (410).
        """
        try:
            codec = codec_for(type)
        except TypeError as error:
            raise self._execution.misuse(f"ctx.attach: {error}") from error
        return invoking.attach(self._execution, invocation_id, codec)

    def sleep(self, duration: timedelta) -> Durable[None]:
        """Wait for at least this long, across restarts of the process."""
        until_ms = self._execution.world.clock.now_ms() + max(
            0, self._checked_ms(duration, "ctx.sleep: duration")
        )
        index, asked = self._execution.ask(SleepRequested(until_ms=until_ms))
        self._execution.waits[index] = TimerWait(index=index, until_ms=asked.until_ms)
        self._execution.unawaited[index] = "ctx.sleep"
        return Durable(self._execution, index, _read_nothing)

    # Several at once. Nothing is cancelled unless you say so.
    #
    # A coroutine becomes a branch: it begins when the handler waits, and runs beside it within the same
    # invocation, one at a time, to its next await. Its outcome is what it returns, or the `TerminalError`
    # that it raises; any other error fails the attempt. `cancel` raises `Cancelled` at its await. When the
    # handler ends, so do its branches: `Cancelled` is raised in those that live, and they are waited for.

    @overload
    def gather(
        self, *futures: *One[T1], return_exceptions: Literal[False] = False, cancel_losers: bool = False
    ) -> Durable[tuple[T1]]: ...
    @overload
    def gather(
        self, *futures: *Two[T1, T2], return_exceptions: Literal[False] = False, cancel_losers: bool = False
    ) -> Durable[tuple[T1, T2]]: ...
    @overload
    def gather(
        self,
        *futures: *Three[T1, T2, T3],
        return_exceptions: Literal[False] = False,
        cancel_losers: bool = False,
    ) -> Durable[tuple[T1, T2, T3]]: ...
    @overload
    def gather(
        self,
        *futures: *Four[T1, T2, T3, T4],
        return_exceptions: Literal[False] = False,
        cancel_losers: bool = False,
    ) -> Durable[tuple[T1, T2, T3, T4]]: ...
    @overload
    def gather(
        self,
        *futures: *Five[T1, T2, T3, T4, T5],
        return_exceptions: Literal[False] = False,
        cancel_losers: bool = False,
    ) -> Durable[tuple[T1, T2, T3, T4, T5]]: ...
    @overload
    def gather(
        self,
        *futures: *Six[T1, T2, T3, T4, T5, T6],
        return_exceptions: Literal[False] = False,
        cancel_losers: bool = False,
    ) -> Durable[tuple[T1, T2, T3, T4, T5, T6]]: ...
    @overload
    def gather(
        self, *futures: *One[T1], return_exceptions: bool, cancel_losers: bool = False
    ) -> Durable[tuple[OrError[T1]]]: ...
    @overload
    def gather(
        self, *futures: *Two[T1, T2], return_exceptions: bool, cancel_losers: bool = False
    ) -> Durable[tuple[OrError[T1], OrError[T2]]]: ...
    @overload
    def gather(
        self, *futures: *Three[T1, T2, T3], return_exceptions: bool, cancel_losers: bool = False
    ) -> Durable[tuple[OrError[T1], OrError[T2], OrError[T3]]]: ...
    @overload
    def gather(
        self, *futures: *Four[T1, T2, T3, T4], return_exceptions: bool, cancel_losers: bool = False
    ) -> Durable[tuple[OrError[T1], OrError[T2], OrError[T3], OrError[T4]]]: ...
    @overload
    def gather(
        self, *futures: *Five[T1, T2, T3, T4, T5], return_exceptions: bool, cancel_losers: bool = False
    ) -> Durable[tuple[OrError[T1], OrError[T2], OrError[T3], OrError[T4], OrError[T5]]]: ...
    @overload
    def gather(
        self, *futures: *Six[T1, T2, T3, T4, T5, T6], return_exceptions: bool, cancel_losers: bool = False
    ) -> Durable[tuple[OrError[T1], OrError[T2], OrError[T3], OrError[T4], OrError[T5], OrError[T6]]]: ...
    @overload
    def gather(
        self, *futures: *More[T], return_exceptions: Literal[False] = False, cancel_losers: bool = False
    ) -> Durable[tuple[T, ...]]: ...
    @overload
    def gather(
        self, *futures: *More[T], return_exceptions: bool, cancel_losers: bool = False
    ) -> Durable[tuple[OrError[T], ...]]: ...
    @overload
    def gather(
        self, *, return_exceptions: bool = False, cancel_losers: bool = False
    ) -> Durable[tuple[()]]: ...

    def gather(
        self, *futures: Part[Any], return_exceptions: bool = False, cancel_losers: bool = False
    ) -> Durable[Any]:
        """All of these: a tuple of their values, or the first failure.

        Args:
            futures: What `awakeable`, `call`, `run`, `sleep` and the other combinators return, or
                coroutines, which become branches.
            return_exceptions: Wait for all, and give the failures in their places.
            cancel_losers: After a failure, cancel the others (`Durable.cancel`).
        """
        return Gather(
            self._execution, futures, return_exceptions=return_exceptions, cancel_losers=cancel_losers
        )

    @overload
    def race(self, *futures: *Two[T1, T2], cancel_losers: bool = False) -> Durable[T1 | T2]: ...
    @overload
    def race(self, *futures: *Three[T1, T2, T3], cancel_losers: bool = False) -> Durable[T1 | T2 | T3]: ...
    @overload
    def race(
        self, *futures: *Four[T1, T2, T3, T4], cancel_losers: bool = False
    ) -> Durable[T1 | T2 | T3 | T4]: ...
    @overload
    def race(
        self, *futures: *Five[T1, T2, T3, T4, T5], cancel_losers: bool = False
    ) -> Durable[T1 | T2 | T3 | T4 | T5]: ...
    @overload
    def race(
        self, *futures: *Six[T1, T2, T3, T4, T5, T6], cancel_losers: bool = False
    ) -> Durable[T1 | T2 | T3 | T4 | T5 | T6]: ...
    @overload
    def race(self, *futures: Part[T], cancel_losers: bool = False) -> Durable[T]: ...

    def race(self, *futures: Part[Any], cancel_losers: bool = False) -> Durable[Any]:
        """The first of these to end: its value, or its failure. The others go on, or are cancelled."""
        return Race(self._execution, "ctx.race", futures, cancel_losers=cancel_losers)

    @overload
    def any(self, *futures: *Two[T1, T2], cancel_losers: bool = False) -> Durable[T1 | T2]: ...
    @overload
    def any(self, *futures: *Three[T1, T2, T3], cancel_losers: bool = False) -> Durable[T1 | T2 | T3]: ...
    @overload
    def any(
        self, *futures: *Four[T1, T2, T3, T4], cancel_losers: bool = False
    ) -> Durable[T1 | T2 | T3 | T4]: ...
    @overload
    def any(
        self, *futures: *Five[T1, T2, T3, T4, T5], cancel_losers: bool = False
    ) -> Durable[T1 | T2 | T3 | T4 | T5]: ...
    @overload
    def any(
        self, *futures: *Six[T1, T2, T3, T4, T5, T6], cancel_losers: bool = False
    ) -> Durable[T1 | T2 | T3 | T4 | T5 | T6]: ...
    @overload
    def any(self, *futures: Part[T], cancel_losers: bool = False) -> Durable[T]: ...

    def any(self, *futures: Part[Any], cancel_losers: bool = False) -> Durable[Any]:
        """The first of these to succeed; `QuorumFailed` if all fail. The others go on, or are cancelled."""
        return Any_(self._execution, futures, cancel_losers=cancel_losers)

    def quorum(
        self, needed: int, futures: Iterable[Part[T]], *, cancel_losers: bool = False
    ) -> Durable[list[T]]:
        """The first so many to succeed, in the order in which they did.

        `QuorumFailed` as soon as too many have failed. The others go on, or are cancelled.
        """
        return Quorum(self._execution, "ctx.quorum", needed, futures, cancel_losers=cancel_losers)

    def select(self, *futures: F) -> Durable[F]:
        """The first of these to end: the future itself. Await it for its value, or its failure."""
        return Select(self._execution, futures)

    def as_completed(self, futures: Iterable[F]) -> AsyncIterator[F]:
        """Iterate over futures in the order in which they end: `async for done in ctx.as_completed(...)`."""
        return Completed(self._execution, futures)

    def map(
        self,
        function: Callable[[Given], Part[T]],
        items: Iterable[Given],
        *,
        concurrency: int | None = None,
    ) -> list[Durable[T]]:
        """Begin something for each item, at most so many at once; a future for each, in order.

        It waits for nothing: pass the futures to a combinator. The next one begins when one has ended and the
        handler waits, for whatever it waits.

        Args:
            function: Returns a durable future, as `lambda box: ctx.call(ship, box)` does; or a coroutine, as
                an `async def` does, which becomes a branch.
            items: Its arguments.
            concurrency: How many may be under way at once; None: all.
        """
        return list(Map(self._execution, function, items, concurrency).parts)

    def timeout(self, duration: timedelta) -> Timeout:
        """Limit the time of everything that is awaited in a block: `async with ctx.timeout(...)`.

        When the time is up, the await in the block raises `TimedOut`, and so does each later one until the
        block is left. What was awaited goes on, and can be awaited again. The time counts across restarts.
        """
        wait_ms = max(0, self._checked_ms(duration, "ctx.timeout: duration"))
        return Timeout(self._execution, self._execution.world.clock.now_ms() + wait_ms)

    def shield(self) -> Shield:
        """A block that the invocation's own cancellation does not interrupt: `async with ctx.shield():`.

        It is raised at the first await after the block. A kill does not wait for it.
        """
        return Shield(self._execution)

    def saga(self) -> Saga:
        """A block whose steps are undone if it fails or is cancelled: `async with ctx.saga() as saga:`."""
        return Saga(self, self._execution)

    def resolve_awakeable(self, awakeable_id: str, value: Any = None) -> Durable[Verdict]:
        """Resolve an awakeable of this or any other invocation. Awaiting it returns the verdict.

        Raises:
            TerminalError: The text is not an awakeable ID (code 400).
            Unwritable: The value can't be encoded, or can't be decoded again as its own type.
        """
        try:
            outcome = codec_of_value(value).answer(value)
        except Exception as error:  # the user's serializer may raise anything
            raise Unwritable(
                f"ctx.resolve_awakeable: the value can't be encoded: {explain(error)}"
            ) from error
        return self._settle(awakeable_id, outcome)

    def reject_awakeable(
        self, awakeable_id: str, reason: str, *, code: int = 500, details: Any = None
    ) -> Durable[Verdict]:
        """Reject an awakeable of this or any other invocation. Awaiting it returns the verdict.

        Raises:
            TerminalError: The text is not an awakeable ID (code 400).
        """
        error = TerminalError(reason, code=code, details=details)
        return self._settle(awakeable_id, rejection_of(error))

    def now(self) -> datetime:
        """The time (UTC) at which the handler first made this call; the same in replay."""
        at_ms = self._execution.world.clock.now_ms()
        _, asked = self._execution.ask(ClockRead(at_ms=at_ms))
        return instant(asked.at_ms)

    def version(self, name: str, current: int, oldest: int = 1) -> int:
        """Which version of a part of the handler's code this invocation runs.

        An invocation that comes here for the first time gets `current`; one that has come past here before
        this call was in the code gets 1. It keeps that number, wherever in the handler it is asked for, and
        the call may be deleted when no open invocation needs the older code (`awakeables versions`).

        Args:
            name: What has changed; up to 100 characters.
            current: The version of today's code. Raise it with each further change.
            oldest: The oldest version that the code supports. An invocation with an older one is paused.
        """
        return version_of(self._execution, name, current, oldest)

    def random(self) -> Random:
        """A random generator whose numbers are the same in replay; don't use it for secrets."""
        self._execution.check()
        if self._chance is None:
            self._chance = Random(self._execution.replay.input.seed)  # noqa: S311 - must repeat
        return self._chance

    def uuid(self) -> uuid.UUID:
        """A UUID that is the same in replay: an idempotency key for a side effect."""
        return uuid.UUID(int=self.random().getrandbits(128), version=4)

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A structured logger that is silent in replay, so that each event is logged once.

        Each event has the invocation's ID and trace ID.
        """
        return cast("structlog.stdlib.BoundLogger", _ReplaySafeLog(self._execution, self._trace().trace_id))

    def decode_input(self, codec: Codec[T]) -> T:
        """The input of the invocation, decoded by the handler's current type."""
        given = self._execution.replay.input
        content = given.value if isinstance(given.value, Raw) else given.value_base64
        try:
            return codec.load(b"null" if content is UNSET else bytes(content))
        except BaseException as error:
            raise self._execution.unfit("the input", error) from None

    def _settle(
        self, awakeable_id: str, outcome: Resolution | Rejection, *, promise: str | None = None
    ) -> Durable[Verdict]:
        try:
            parse_id(awakeable_id, "prom")
        except MalformedId as error:
            raise TerminalError(str(error), code=400) from error
        index, _ = self._execution.ask(SettleRequested(id=awakeable_id, status=_status(outcome)))
        self._execution.waits[index] = SettleWait(
            index=index,
            awakeable_id=awakeable_id,
            answer=outcome,
            trace=self._traceparent(),
            of_promise=promise is not None,
        )
        verb = "resolve_awakeable" if isinstance(outcome, Resolution) else "reject_awakeable"
        if promise is not None:
            verb = f"promise({promise!r}).{'resolve' if isinstance(outcome, Resolution) else 'reject'}"
        self._execution.unawaited[index] = f"ctx.{verb}"
        return Durable(self._execution, index, _read_verdict)

    def _headers(self, headers: Mapping[str, str] | None, what: str) -> dict[str, str]:
        """The headers of a call: those that are given, in lower case, and the trace."""
        given = {} if headers is None else dict(headers)
        if not all(isinstance(text, str) for item in given.items() for text in item):
            raise self._execution.misuse(f"{what}: headers are a mapping of strings to strings")
        lower = {name.lower(): text for name, text in given.items()}
        for text in (*lower, *lower.values()):
            self._check_name(text)
        return {"traceparent": self._traceparent()} | lower

    def _check_name(self, name: str) -> None:
        """Refuse a name that the journal can't hold."""
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise self._execution.misuse(
                f"a name that can't be encoded as UTF-8 can't be journaled: {error}"
            ) from None

    def _checked_ms(self, duration: object, what: str) -> int:
        if not isinstance(duration, timedelta):
            raise self._execution.misuse(f"{what} must be a timedelta, not {excerpt(duration)}")
        if duration > MAX_WAIT:
            raise self._execution.misuse(f"{what} is too long, {duration}; at most a thousand years")
        return round(duration.total_seconds() * 1000)

    def _traceparent(self) -> str:
        """The parent of what this attempt begins elsewhere: its span, or the invocation."""
        span = self._execution.span
        return self.request.traceparent if span is None else span.traceparent

    def _trace(self) -> Trace:
        if self._known_trace is None:
            given = self._execution.replay.input
            self._known_trace = trace_of(given.headers, given.seed)
        return self._known_trace


class _ReplaySafeLog:
    """Passes calls on to a structured logger, except in replay."""

    def __init__(self, execution: Execution, trace_id: str) -> None:
        self._execution = execution
        self._bound = structlog.stdlib.get_logger("awakeables.handler").bind(
            invocation_id=execution.invocation_id, trace_id=trace_id
        )

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._bound, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return None if self._execution.replay.replaying else target(*args, **kwargs)

        return call


def _read_nothing(outcome: Outcome) -> None:
    if not isinstance(outcome, Resolution):
        raise_terminal(outcome)


def _read_verdict(outcome: Outcome) -> Verdict:
    if not isinstance(outcome, Resolution):
        raise_terminal(outcome)
    return msgspec.json.decode(outcome.content, type=Verdict)


def _status(outcome: Resolution | Rejection) -> str:
    return "resolved" if isinstance(outcome, Resolution) else "rejected"
