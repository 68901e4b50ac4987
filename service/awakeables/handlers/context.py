"""The context of a handler: everything that must survive a crash goes through it."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast, overload

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
from awakeables.handlers.actions import result_type, shown
from awakeables.handlers.attempt import AwakeableWait, SettleWait, TimerWait
from awakeables.handlers.execution import (
    NOWHERE,
    Awakeable,
    Durable,
    Execution,
    Promise,
    RunCall,
    raise_terminal,
    read_answer,
)
from awakeables.handlers.publishing import EVENTS, publication, traced
from awakeables.handlers.rejections import rejection_of
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.serde import Codec, Serde, codec_for, codec_of_value, explain
from awakeables.wire.traces import Trace, trace_of

T = TypeVar("T")
Args = TypeVarTuple("Args")

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
    """

    invocation_id: str
    attempt: int
    headers: Mapping[str, str]
    traceparent: str


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
        invocation_id = self._execution.invocation_id
        return Request(
            invocation_id=invocation_id,
            attempt=self._attempt,
            headers=self._execution.replay.input.headers,
            traceparent=self._trace().traceparent(invocation_id),
        )

    @overload
    def awakeable(
        self, type: None = None, *, timeout: timedelta | None = None, serde: None = None
    ) -> Awakeable[Any]: ...
    @overload
    def awakeable(
        self, type: None = None, *, timeout: timedelta | None = None, serde: Serde[T]
    ) -> Awakeable[T]: ...
    @overload
    def awakeable(
        self, type: type[T], *, timeout: timedelta | None = None, serde: Serde[T] | None = None
    ) -> Awakeable[T]: ...
    @overload
    def awakeable(
        self, type: Any, *, timeout: timedelta | None = None, serde: Serde[Any] | None = None
    ) -> Awakeable[Any]: ...

    def awakeable(
        self, type: Any = None, *, timeout: timedelta | None = None, serde: Serde[Any] | None = None
    ) -> Awakeable[Any]:
        """Create a durable callback.

        Its row is committed before its ID is sent by `publish` or used by a later `run` (A3). Before the next
        await, do not send the ID in any other way.

        Args:
            type: The type of the answer: anything that pydantic validates, `bytes` for raw bytes, None for
                any JSON. An answer that does not fit is refused when it arrives, and the awakeable stays
                pending (A4).
            timeout: After this time without an answer, awaiting raises `TimedOut`.
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
            )
            execution.new_awakeables.append(row)
        execution.codecs[awakeable_id] = codec
        execution.waits[index] = AwakeableWait(index=index, awakeable_id=awakeable_id)
        read = functools.partial(read_answer, execution, awakeable_id, codec)
        return Awakeable((awakeable_id, Promise(execution, index, read)))

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
        effect = Effect(
            event_id=event_id,
            stream=execution.invocation_id,
            topic=topic,
            key=key_bytes,
            value=value,
            headers=traced(own_headers, self._trace(), event_id),
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
        bound = functools.partial(action, *args) if args else action
        self._execution.runs[index] = RunCall(name, bound, codec, retry)
        self._execution.unawaited[index] = f"ctx.run({name!r})"

        def read(outcome: Outcome) -> Any:
            if not isinstance(outcome, Resolution):
                raise_terminal(outcome)
            try:
                return codec.load_written(outcome.content)
            except BaseException as error:
                raise self._execution.unfit(f"the result of run {name!r}", error) from None

        return Durable(self._execution, index, read)

    def sleep(self, duration: timedelta) -> Durable[None]:
        """Wait for at least this long, across restarts of the process."""
        until_ms = self._execution.world.clock.now_ms() + max(
            0, self._checked_ms(duration, "ctx.sleep: duration")
        )
        index, asked = self._execution.ask(SleepRequested(until_ms=until_ms))
        self._execution.waits[index] = TimerWait(index=index, until_ms=asked.until_ms)
        self._execution.unawaited[index] = "ctx.sleep"
        return Durable(self._execution, index, lambda _outcome: None)

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

    def _settle(self, awakeable_id: str, outcome: Resolution | Rejection) -> Durable[Verdict]:
        try:
            parse_id(awakeable_id, "prom")
        except MalformedId as error:
            raise TerminalError(str(error), code=400) from error
        index, _ = self._execution.ask(SettleRequested(id=awakeable_id, status=_status(outcome)))
        self._execution.waits[index] = SettleWait(
            index=index, awakeable_id=awakeable_id, answer=outcome, trace=self.request.traceparent
        )
        verb = "resolve_awakeable" if isinstance(outcome, Resolution) else "reject_awakeable"
        self._execution.unawaited[index] = f"ctx.{verb}"
        return Durable(self._execution, index, _read_verdict)

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


def _read_verdict(outcome: Outcome) -> Verdict:
    if not isinstance(outcome, Resolution):
        raise_terminal(outcome)
    return msgspec.json.decode(outcome.content, type=Verdict)


def _status(outcome: Resolution | Rejection) -> str:
    return "resolved" if isinstance(outcome, Resolution) else "rejected"
