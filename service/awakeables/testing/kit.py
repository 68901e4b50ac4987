"""Run one handler in memory: no broker, no waiting, with a suspension and a replay at every await."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from awakeables.core.invocations import Invocation
from awakeables.core.outcomes import Rejection, Resolution, as_resolution
from awakeables.core.replay import describe
from awakeables.core.texts import excerpt
from awakeables.engine.readtopic import ConsumedRecord
from awakeables.engine.subscriptions import Unusable, object_key
from awakeables.errors import AwakeablesError, DeclarationError, InvalidInput, NotFound, TerminalError
from awakeables.handlers.execution import details_of
from awakeables.handlers.invoking import key_problem
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.retry import RetryPolicy
from awakeables.handlers.service import App, Handler, KeyedGroup, Service, declarations, groups
from awakeables.handlers.state import State
from awakeables.handlers.subscription import KafkaRecord
from awakeables.testing.answers import Answers
from awakeables.testing.elsewhere import function_of, teach
from awakeables.testing.given import given_input, lower_case, stored
from awakeables.testing.outside import OnWait, Published, readable
from awakeables.testing.simulated import FEW_TRIES, Serving, SimulatedService
from awakeables.testing.stuck import Paused, why_open
from awakeables.worker.worker import Worker

NOBODY_ANSWERS = (
    "give `run` answers or workers for the topics that it publishes to, on_wait for an ID that leaves in "
    "another way, or the awakeable a timeout"
)
"""What to do about a handler that is `Stuck`."""


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
    scheduled_at: datetime | None = None,
    suspend: bool = True,
    thorough: bool = False,
    retry: RetryPolicy = FEW_TRIES,
    seed: int = 0,
    functions: Sequence[Service] = (),
) -> Run:
    """Run a handler to its end, in memory, with a virtual clock.

    `answers` and `workers` perform its tasks at once; time jumps to the next event, so a wait of thirty
    days takes a millisecond. Within a running event loop (an async test, a notebook) it runs in its own
    thread, with the caller's context variables; the caller's loop is blocked meanwhile.

    Args:
        handler: A function declared with `@service.handler()`, or as a handler of an object.
        args: Its input, if it takes one: a value of the annotated type, or its JSON.
        workers: Workers whose functions perform the tasks, with the heartbeats that the workers send.
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
        scheduled_at: `ctx.request.scheduled_at`, with its time zone: the tick of a schedule that it is begun
            for. No schedule of the handler begins anything by itself.
        suspend: Suspend and replay at every await, which proves that the handler can be replayed;
            False suspends only as in production.
        thorough: Crash the process before and after each commit of a step, too: an action may be executed
            more than once, as after a crash in production.
        retry: The retry policy: by default three attempts without delay. `RetryPolicy()` is the
            service's own.
        seed: Decides random values and the order of simultaneous events.
        functions: The services of functions, each in the place of the `RemoteService` of its name whose
            handlers are called: the real ones, or what the test declares.

    Raises:
        InvalidInput: The input does not fit, over HTTP the call would be answered 422; or the key can't be
            one, is missing, or a value of the state does not fit; or the record would become a dead letter.
        WrongAnswer: An answer does not fit its awakeable, contradicts another one, or belongs to a
            task that was never published.
        Exception: Raised by a function that answers, other than `Reject`.
    """
    function = function_of("testing", functions)
    app, found = _app_of(handler, function)
    given = _Given(args, headers or {}, key, state or {}, record, _milliseconds(scheduled_at))
    content = _input(found, args) if record is None else None
    checked = {each: _of_handler(found, each, value) for each, value in given.state.items()}
    service = SimulatedService(
        app,
        Answers(answers or {}, workers),
        on_wait,
        retry=retry,
        suspend=suspend,
        thorough=thorough,
        schedules=False,
        seed=seed,
        function=function,
    )
    try:
        object_key = key if record is None else _key_of(found, record)
        if checked and (problem := key_problem(object_key)) is not None:
            raise InvalidInput(problem)
        for each, value in checked.items():
            service.set_state(each, str(object_key), value)
        return service.drive(lambda: _run(service, found, content, given))
    finally:
        service.close()


class _Given(NamedTuple):
    """How a handler is called."""

    args: tuple[Any, ...]
    headers: Mapping[str, str]
    key: str | None
    state: Mapping[State[Any], Any]
    record: KafkaRecord | None
    scheduled_ms: int | None


async def _run(service: SimulatedService, handler: Handler, content: bytes | None, call: _Given) -> Run:
    """Run one invocation from its input to its end, or until nothing more is due."""
    outside, invocations = service.outside, service.store.tables.invocations
    if call.record is not None:
        invocation_id = await _deliver(service, handler, call, call.record)
    else:
        lower = lower_case(call.headers)
        begun = await service.api(
            lambda api: api.begin(
                handler, content, key=call.key, headers=lower, scheduled_ms=call.scheduled_ms
            )
        )
        invocation_id = begun.id
    await service.pass_time(lambda: invocations[invocation_id].status in ("completed", "paused"))
    row = invocations[invocation_id]
    value, failure = _result(service, handler, row)
    if not isinstance(failure, Paused) and not service.has_failed:
        outside.refuse_unused(failure)
    journal = (await service.store.history([row.id]))[row.id]
    return Run(
        status=row.status,
        published=outside.published,
        journal=[describe(entry) for entry in journal],
        duration=timedelta(seconds=round(service.loop.time(), 3)),
        state={
            name: shown(as_resolution(value))
            for name, value in service.state_of(handler.service, row.key).items()
        },
        _value=value,
        _failure=failure,
    )


async def _deliver(service: SimulatedService, handler: Handler, call: _Given, record: KafkaRecord) -> str:
    """Have the subscription read a record; the ID of the invocation that it begins.

    Raises:
        InvalidInput: It would become a dead letter, or something else is given beside it.
    """
    subscription = handler.subscription
    if subscription is None or subscription.name is None:
        raise InvalidInput(f"{handler.name} is called with no records: it was declared without topic=")
    if call.args or call.headers or call.key is not None or call.scheduled_ms is not None:
        raise InvalidInput("a record has its own value, headers and key: give it alone")
    name = subscription.name
    consumed = ConsumedRecord(
        offset=record.offset,
        timestamp_ms=round(record.timestamp.timestamp() * 1000),
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )

    async def take(serving: Serving) -> None:
        sink = serving.engine.subscriptions.topics[name].sink(record.partition)
        await sink.open()
        await sink.take([consumed])

    await service.of(take)
    tables = service.store.tables
    if not tables.invocations:
        raise InvalidInput(next(iter(tables.dead_letters.values())).reason)
    return next(iter(tables.invocations))


def _milliseconds(at: datetime | None) -> int | None:
    if at is not None and at.tzinfo is None:
        raise InvalidInput(f"scheduled_at: {at} has no time zone; use datetime(…, tzinfo=UTC)")
    return None if at is None else round(at.timestamp() * 1000)


def _result(
    service: SimulatedService, handler: Handler, row: Invocation
) -> tuple[Any, AwakeablesError | None]:
    match row.result:
        case Resolution() as resolution:
            return shown(resolution), None
        case Rejection() as rejected:
            details = details_of(rejected)
            return None, TerminalError(rejected.reason, code=rejected.code, details=details)
        case _:
            return None, why_open(service, handler.name, row, NOBODY_ANSWERS)


def _key_of(handler: Handler, record: KafkaRecord) -> str | None:
    """The key of an object that a record is for, if it is for one and has one."""
    if handler.subscription is None or not handler.keyed:
        return None
    try:
        return object_key(handler.subscription, record)
    except Unusable:  # of which delivering it makes an error
        return None


def shown(resolution: Resolution) -> Any:
    """A result or a value of the state, as it is shown: JSON values, or bytes."""
    return readable(resolution.content) if resolution.is_json else resolution.content


def _of_handler(handler: Handler, state: State[Any], value: Any) -> Any:
    """A value for the state, if the handler's object has declared it and it fits."""
    if state.of != handler.service:
        raise InvalidInput(
            f"the state {state.name!r} was declared by {state.of!r}, not by {handler.service!r}"
        )
    stored(state, value)
    return value


def _app_of(function: Callable[..., Any], elsewhere: App | None) -> tuple[App, Handler]:
    """Make an app for a single handler, and of an object for all of its handlers."""
    for of, declared in declarations(function):
        if isinstance(of, KeyedGroup):
            return _Handlers(declared, of, elsewhere), declared
    service = Service("testing")
    name = str(getattr(function, "__name__", ""))
    topic = next((declared.subscription for _, declared in declarations(function)), None)
    try:
        handler = Handler(service.name, name, function, topic=topic)
    except DeclarationError:
        # Its own service may use another name; if the function itself is invalid, this raises again.
        handler = Handler(service.name, "handler", function, topic=topic)
    service.add(handler)
    return _Handlers(handler, service, elsewhere), handler


class _Handlers(App):
    """One handler, and those that it calls, each in its own service."""

    def __init__(self, tested: Handler, service: Service | KeyedGroup, elsewhere: App | None) -> None:
        super().__init__("testing", services=[service])
        self._tested = tested
        self._elsewhere = elsewhere

    def find(self, function: Callable[..., Any]) -> Handler:
        if function is self._tested.function:
            return self._tested
        try:
            return super().find(function)
        except NotFound:
            for group in groups(function):
                if isinstance(group, RemoteService):
                    self._learn(group)
                    return super().find(function)
            for service, handler in declarations(function):
                if isinstance(service, Service | KeyedGroup) and (
                    self.services.setdefault(service.name, service) is service
                ):
                    return service.handlers[handler.name]
            raise

    def _learn(self, remote: RemoteService) -> None:
        """Have a remote service learn from the function what handlers it has.

        Raises:
            NotFound: The function does not have it, or there is none.
        """
        elsewhere = self._elsewhere
        if elsewhere is None or remote.name not in elsewhere.services:
            raise NotFound(f"service {remote.name!r} runs elsewhere: tests need functions=[…] with it")
        if self.services.setdefault(remote.name, remote) is remote:
            teach(remote, elsewhere)


def _input(handler: Handler, args: tuple[Any, ...]) -> bytes | None:
    """The validated input, as it would arrive over HTTP."""
    if len(args) > 1 or (args and args[0] is not None and not handler.takes_input):
        takes = "one input" if handler.takes_input else "no input"
        raise InvalidInput(f"{handler.name} takes {takes}, and was given {', '.join(map(excerpt, args))}")
    return given_input(handler, *args)
